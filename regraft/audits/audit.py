"""Everything that an audit looks for, from what one pass over the images left behind."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regraft.audits.classes import imbalance_of, mixed_classes
from regraft.audits.labels import suspect_labels
from regraft.audits.noise import fit_noise
from regraft.audits.oddities import find_oddities, outliers_of
from regraft.audits.shortcuts import find_shortcuts
from regraft.data.look import Looks
from regraft.evaluate.metrics import score
from regraft.evaluate.probability import known_truth
from regraft.findings import Audit, Copies, Leak, Outlier, Similar
from regraft.values import Predictions, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of the N training images and the M test images after them.

    `looks` are theirs, (N + M,); `answers` those of a solved head that had not seen the image it answers for; `folds_N` are the
    folds of the training images. `distant` are positions of training images, `distances` how far each is from the others'.
    """

    train: Sequence[Sample]
    test: Sequence[Sample]
    looks: Looks
    answers: Predictions
    folds_N: NDArray[np.int64]
    distant: NDArray[np.int64]
    distances: NDArray[np.float64]


def audit_samples(
    seen: Seen,
    copies: tuple[Copies, ...],
    tested: Predictions | None,
    *,
    kept_together: int,
    similar: tuple[Similar, ...] = (),
) -> Audit:
    """The findings, the worst first within each kind; `seconds` are left for whoever measures them.

    `copies` are groups of images that show the same, `similar` those that are almost the same to the network, `tested` the
    model's own answers to the test images.
    """
    samples = (*seen.train, *seen.test)
    parts = ["train"] * len(seen.train) + ["test"] * len(seen.test)
    names, labels = names_of(seen.train, seen.test), [", ".join(sample.labels) for sample in samples]
    truth = known_truth(seen.answers)
    noise = fit_noise(seen.answers)
    looks = seen.looks
    return Audit(
        images=len(samples),
        copies=copies,
        leak=_leak(copies, names[len(seen.train) :], tested),
        suspects=suspect_labels(seen.answers, parts, noise),
        wrong=noise.wrong,
        mixed=mixed_classes(seen.answers),
        outliers=_outliers(seen, names, labels),
        odd=find_oddities(
            names,
            labels,
            width_N=looks["width"],
            height_N=looks["height"],
            contrast_N=looks["contrast"],
            sharpness_N=looks["sharpness"],
        ),
        shortcuts=find_shortcuts(
            sides_of(looks[: len(seen.train)]),
            truth[: len(seen.train)],
            seen.folds_N,
            [sample.group or ("image", i) for i, sample in enumerate(seen.train)],
            classes=seen.answers.classes,
        ),
        imbalance=imbalance_of(seen.answers.classes, truth),
        kept_together=kept_together,
        similar=similar,
    )


def sides_of(looks: Looks) -> dict[str, NDArray[np.float64]]:
    """What can be known of images without a look at what they show, by the names that `shortcuts` has words for."""
    width_N, height_N = looks["width"].astype(np.float64), looks["height"].astype(np.float64)
    return {
        "image size": np.stack([width_N, height_N], axis=1),
        "file format": looks["format"].astype(np.float64),
        "bytes per pixel": looks["bytes"] / (width_N * height_N),
        "mean colour": looks["mean"].astype(np.float64),
        "border colour": looks["border"].astype(np.float64),
    }


def _outliers(seen: Seen, names: Sequence[str], labels: Sequence[str]) -> tuple[Outlier, ...]:
    rows = [int(row) for row in seen.distant]
    return outliers_of(seen.distances, [names[row] for row in rows], [labels[row] for row in rows])


def names_of(train: Sequence[Sample], test: Sequence[Sample]) -> list[str]:
    """What to call each image: its name, or its path where a separate test set has a name that a training image has too."""
    taken = {sample.name for sample in train}
    return [*(s.name for s in train), *(str(s.path) if s.name in taken else s.name for s in test)]


def _leak(copies: tuple[Copies, ...], names: Sequence[str], tested: Predictions | None) -> Leak | None:
    """Test images that show what a training image shows, and the scores on all others; `names` are those of `tested`."""
    if tested is None:
        return None
    twin_of: dict[str, str] = {}
    for group in copies:
        if group.across_parts:
            learned = next(name for name, part in zip(group.names, group.parts, strict=True) if part == "train")
            twin_of |= {name: learned for name, part in zip(group.names, group.parts, strict=True) if part == "test"}
    if not twin_of:
        return None
    clean = np.array([name not in twin_of for name in names])
    return Leak(
        names=tuple(twin_of), twins=tuple(twin_of.values()), scores_without=score(_of(tested, clean)) if clean.any() else None
    )


def _of(predictions: Predictions, rows_N: NDArray[np.bool_]) -> Predictions:
    """Those of some images."""
    assert predictions.targets is not None
    rows = [int(row) for row in np.flatnonzero(rows_N)]
    return replace(
        predictions,
        names=tuple(predictions.names[row] for row in rows),
        logits_NK=predictions.logits_NK[rows_N],
        targets=predictions.targets[rows_N],
        groups=None if predictions.groups is None else tuple(predictions.groups[row] for row in rows),
    )
