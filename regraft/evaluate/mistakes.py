"""The answers that were wrong and sure of it: where wrong labels and blind spots show first."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.probability import confidences, decisions, known_truth, probabilities, right
from regraft.values import Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One image answered wrong. `truth` and `predicted` hold one class; for multi-label data any number of labels.

    `confidence` is the probability of the answer; for multi-label data that of its worst wrong yes or no.
    """

    name: str
    truth: tuple[str, ...]
    predicted: tuple[str, ...]
    confidence: float


def mistakes(predictions: Predictions, n: int) -> tuple[Mistake, ...]:
    """At most `n` wrong answers, the most confident first, equally confident ones by name. Raises DataUnusable unlabelled."""
    truth, answers = known_truth(predictions), decisions(predictions)
    sureness_N = _sureness(predictions, truth != answers)
    wrong = np.flatnonzero(~right(truth, answers))
    order = sorted(wrong, key=lambda row: (-sureness_N[row], predictions.names[row]))[:n]
    return tuple(
        Mistake(
            name=predictions.names[row],
            truth=labels(predictions.classes, truth[row]),
            predicted=labels(predictions.classes, answers[row]),
            confidence=float(sureness_N[row]),
        )
        for row in order
    )


def labels(classes: tuple[str, ...], target: np.int64 | NDArray[np.bool_]) -> tuple[str, ...]:
    """The class names that one target stands for: a class index, or (K,) booleans."""
    if np.ndim(target) == 0:
        return (classes[int(target)],)
    return tuple(classes[k] for k in np.flatnonzero(target))


def _sureness(predictions: Predictions, wrong: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not predictions.multi_label:
        return confidences(predictions)
    present_NK = probabilities(predictions.logits_NK, multi_label=True)
    return np.asarray(np.where(wrong, np.maximum(present_NK, 1 - present_NK), 0.0).max(axis=1), dtype=np.float64)
