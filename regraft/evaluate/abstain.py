"""When a model should rather not answer: thresholds on the calibrated confidence and on the distance from known images."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.interval import wilson
from regraft.values import AbstainRule

# This share of images like those fitted on lies within the distance that is answered: docs/measurements.md#none-of-these
USUAL = 0.98
# A confidence that no answer reaches.
NEVER = 2.0
UNSURE, UNLIKE = "not sure enough", "unlike the images it was fitted on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """No answer below `confidence` or above `distance`; None: no threshold on that side."""

    confidence: float | None = None
    distance: float | None = None

    def why(self, confidence: float, distance: float | None) -> str:
        """The reason for no answer, "" for one."""
        if self.distance is not None and distance is not None and distance > self.distance:
            return UNLIKE
        return UNSURE if self.confidence is not None and confidence < self.confidence else ""

    def answered(self, confidence_N: NDArray[np.float64], distance_N: NDArray[np.float64] | None) -> NDArray[np.bool_]:
        """(N,) whether each image is answered."""
        near_N = np.ones(len(confidence_N), np.bool_)
        if self.distance is not None and distance_N is not None:
            near_N = distance_N <= self.distance
        return near_N if self.confidence is None else near_N & (confidence_N >= self.confidence)


def choose_thresholds(
    confidence_N: NDArray[np.float64],
    distance_N: NDArray[np.float64] | None,
    right_N: NDArray[np.bool_],
    *,
    max_error: float | None = None,
    coverage: float | None = None,
) -> Thresholds:
    """Thresholds from N images that the model was not fitted on.

    The distance leaves out the farthest 2 % (less where more is to be covered). The confidence is the lowest at which at most
    the share `max_error` of the answers is wrong, or that of the last image of the share `coverage` with the surest answers.
    Such a threshold suits these very images best: on others the share of mistakes is a little larger. Where no threshold
    leaves so few mistakes, nothing is answered (`NEVER`).
    """
    usual = max(USUAL, coverage or 0.0)
    distance = None if distance_N is None or not len(distance_N) else float(np.quantile(distance_N, usual, method="higher"))
    near_N = Thresholds(distance=distance).answered(confidence_N, distance_N)
    confidence = _confidence(confidence_N[near_N], right_N[near_N], len(right_N), max_error, coverage)
    return Thresholds(confidence=confidence, distance=distance)


def _confidence(
    confidence_M: NDArray[np.float64],
    right_M: NDArray[np.bool_],
    images: int,
    max_error: float | None,
    coverage: float | None,
) -> float | None:
    """The threshold among the M of all images that are near enough."""
    order = np.argsort(-confidence_M, kind="stable")
    sorted_M = confidence_M[order]
    if coverage is not None:
        last = min(len(sorted_M), math.ceil(coverage * images))
        return float(sorted_M[last - 1]) if last else NEVER
    if max_error is None:
        return None
    wrong_M = np.cumsum(~right_M[order])
    # Images of equal confidence are answered together or not at all.
    ends_M = np.append(np.diff(sorted_M) != 0, True) if len(sorted_M) else np.zeros(0, np.bool_)
    good = np.flatnonzero(ends_M & (wrong_M <= max_error * np.arange(1, len(order) + 1)))
    return float(sorted_M[good[-1]]) if len(good) else NEVER


def judge_rule(
    thresholds: Thresholds,
    confidence_N: NDArray[np.float64],
    distance_N: NDArray[np.float64] | None,
    right_N: NDArray[np.bool_],
    *,
    on: str,
    max_error: float | None = None,
    coverage: float | None = None,
) -> AbstainRule:
    """What thresholds do on N images, named by `on`, that did not choose them."""
    answered_N = thresholds.answered(confidence_N, distance_N)
    wrong = int(np.count_nonzero(answered_N & ~right_N))
    return AbstainRule(
        confidence=thresholds.confidence,
        distance=thresholds.distance,
        max_error=max_error,
        coverage=coverage,
        on=on,
        covered=wilson(int(answered_N.sum()), len(right_N)),
        error_answered=wilson(wrong, int(answered_N.sum())),
        error_all=wilson(int(np.count_nonzero(~right_N)), len(right_N)),
    )
