"""Image classification: labels to targets, logits to answers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.probability import probabilities
from regraft.values import FloatArray, Predictions, Sample


def targets_of(samples: Sequence[Sample], classes: Sequence[str], multi_label: bool) -> NDArray[np.int64] | NDArray[np.bool_]:
    """(N,) class indices, or (N, K) booleans for multi-label data. Classes are matched by name."""
    index = {name: k for k, name in enumerate(classes)}
    if not multi_label:
        return np.array([index[sample.labels[0]] for sample in samples], np.int64)
    targets_NK = np.zeros((len(samples), len(classes)), bool)
    for row, sample in enumerate(samples):
        targets_NK[row, [index[label] for label in sample.labels]] = True
    return targets_NK


def predictions_of(
    samples: Sequence[Sample], classes: tuple[str, ...], multi_label: bool, logits_NK: FloatArray
) -> Predictions:
    """Logits of labelled images together with the truth."""
    return Predictions(
        names=tuple(sample.name for sample in samples),
        classes=classes,
        logits_NK=logits_NK,
        targets=targets_of(samples, classes, multi_label),
        multi_label=multi_label,
        groups=groups_of(samples),
    )


def groups_of(samples: Sequence[Sample]) -> tuple[str, ...] | None:
    """What each image is drawn with: its group, itself where it has none; None where no image has one."""
    if all(sample.group is None for sample in samples):
        return None
    # A name begins with no slash: no group is taken for an image.
    return tuple(sample.group or f"/{sample.name}" for sample in samples)


def top_classes(
    logits_NK: FloatArray, classes: Sequence[str], multi_label: bool, top_k: int
) -> list[tuple[tuple[str, float], ...]]:
    """For each image its `top_k` classes with probabilities, best first; ties in the order of `classes`."""
    shares_NK = probabilities(logits_NK, multi_label)
    order_NK = np.argsort(-shares_NK, axis=1, kind="stable")[:, :top_k]
    return [tuple((classes[k], float(row[k])) for k in order) for row, order in zip(shares_NK, order_NK, strict=True)]
