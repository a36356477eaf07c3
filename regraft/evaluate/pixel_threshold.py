"""From which probability on a pixel is called the object: chosen on images that are not judged with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataUnusable
from regraft.evaluate.compare import mean_and_error
from regraft.segments import LEVELS, Counts, PixelCounts

_HALF = LEVELS // 2
# In the middle between two levels, so that rounding to levels moves no pixel across: the one before level 128 is 1/2.
THRESHOLDS = tuple((level - 0.5) / (LEVELS - 1) for level in range(1, LEVELS))


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdChoice:
    """The threshold, and the mean IoU that it and 1/2 have on the images that chose it, named by `on`.

    `curve` is the mean IoU at each of `THRESHOLDS`.
    """

    threshold: float
    on: str
    images: int
    iou: float
    iou_at_half: float
    curve: tuple[float, ...]


def scores_at(counts: PixelCounts, threshold: float) -> NDArray[np.float64]:
    """(N,) the object's IoU in each image with the object from `threshold` on, to the next of `THRESHOLDS`.

    1 where there is no object and none is found, NaN where no pixel counts. Raises ValueError without levels.
    """
    if counts.levels_N2L is None:
        raise ValueError("expected counts with levels of probability")
    return _ious(counts.levels_N2L)[:, _level(threshold)]


def choose_threshold(levels_N2L: Counts, groups: Sequence[str] | None = None) -> float:
    """The threshold with the best mean IoU over images, of equal ones the nearest to 1/2.

    1/2 unless that one is better by more than the standard error of the difference on the same images (groups of them, where
    given): what a handful of images prefers says little of the next ones.
    """
    known_N = levels_N2L.sum(axis=(1, 2)) > 0
    ious_NL = _ious(levels_N2L[known_N])
    if not len(ious_NL):
        return 0.5
    mean_L = ious_NL.mean(axis=0)
    near_L = -np.abs(np.arange(LEVELS) - _HALF)
    # Level 0 would call everything the object, whatever its probability.
    best = 1 + max(range(LEVELS - 1), key=lambda index: (round(float(mean_L[1 + index]), 12), near_L[1 + index]))
    own = None if groups is None else [group for group, known in zip(groups, known_N, strict=True) if known]
    gain, error = mean_and_error(ious_NL[:, best] - ious_NL[:, _HALF], own)
    return THRESHOLDS[best - 1] if gain > error else 0.5


def judged_threshold(levels_N2L: Counts, threshold: float, on: str) -> ThresholdChoice:
    """What `threshold` is worth on the images that chose it. Raises DataUnusable where no pixel counts."""
    ious_NL = _ious(levels_N2L[levels_N2L.sum(axis=(1, 2)) > 0])
    if not len(ious_NL):
        raise DataUnusable(expected="images with known pixels", got="none", fix="give images with masks")
    mean_L = ious_NL.mean(axis=0)
    return ThresholdChoice(
        threshold=threshold,
        on=on,
        images=len(ious_NL),
        iou=float(mean_L[_level(threshold)]),
        iou_at_half=float(mean_L[_HALF]),
        curve=tuple(float(value) for value in mean_L[1:]),
    )


def _level(threshold: float) -> int:
    """The first level that lies above the threshold."""
    return min(max(math.ceil(threshold * (LEVELS - 1) + 0.5 - 1e-9), 0), LEVELS - 1)


def _ious(levels_N2L: Counts) -> NDArray[np.float64]:
    """(N, L) the object's IoU where it begins at each level."""
    called_N2L = levels_N2L[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
    union_NL = levels_N2L[:, 1].sum(axis=1, keepdims=True) + called_N2L[:, 0]
    ious_NL = np.ones(union_NL.shape)
    np.divide(called_N2L[:, 1], union_NL, out=ious_NL, where=union_NL > 0)
    return np.where(levels_N2L.sum(axis=(1, 2))[:, None] > 0, ious_NL, np.nan)
