"""Classes that cannot be told apart, and classes of very unequal size."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.interval import Z_95
from regraft.evaluate.probability import Targets, known_truth
from regraft.findings import Imbalance, Mixed
from regraft.values import FloatArray, Interval, Predictions

# Halfway between guessing (1/2) and always knowing.
_MIXED_BELOW = 0.75
# Fewer images of a class say too little.
_FEWEST = 10
_UNEQUAL = 10


def mixed_classes(predictions: Predictions) -> tuple[Mixed, ...]:
    """Pairs of classes that are told apart no better than halfway between guessing and knowing, the worst first.

    Shown one image of each, which is which? The share of such pairs that is answered right (by the difference of the two
    logits, ties half: the area under the ROC curve) does not depend on how many images each class has, nor on what the answers
    lean to. Two classes are mixed where the upper end of its 95 % interval (DeLong et al., 1988) stays below 3/4. Several
    labels per image: of images that have one of the two and not the other. Classes with fewer than 10 such images are left out.
    Raises DataUnusable without known labels.
    """
    truth, logits_NK = known_truth(predictions), predictions.logits_NK
    found = [
        Mixed(one=predictions.classes[a], other=predictions.classes[b], accuracy=accuracy)
        for a, b in _confused(truth, logits_NK)
        if (accuracy := _told_apart(truth, logits_NK, a, b)).high < _MIXED_BELOW
    ]
    return tuple(sorted(found, key=lambda pair: (pair.accuracy.value, pair.one, pair.other)))


def imbalance_of(classes: tuple[str, ...], targets: Targets) -> Imbalance | None:
    """The largest and smallest class (the first of equal ones) where one has ten times the images of the other, else None.

    `targets` is (N,) class indices or (N, K) booleans. A class without images counts as the smallest.
    """
    if len(classes) < 2 or not len(targets):
        return None
    counts_K = targets.sum(axis=0) if targets.ndim == 2 else np.bincount(targets.astype(np.int64), minlength=len(classes))
    most, fewest = int(counts_K.argmax()), int(counts_K.argmin())
    if counts_K[most] < _UNEQUAL * max(int(counts_K[fewest]), 1):
        return None
    return Imbalance(largest=classes[most], most=int(counts_K[most]), smallest=classes[fewest], fewest=int(counts_K[fewest]))


def _confused(truth: Targets, logits_NK: FloatArray) -> list[tuple[int, int]]:
    """Pairs that may be mixed: the larger logit is right for less than 3/4 of the images, each class counting half.

    That share is at most the area under the curve wherever the curve is concave, and is had without sorting: of 1,000 classes
    few of the half million pairs are left.
    """
    classes = logits_NK.shape[1]
    right_KK = np.full((classes, classes), np.nan)
    for a in range(classes):
        rows_n = truth == a if truth.ndim == 1 else truth[:, a]
        own_nK, others_nK = logits_NK[rows_n, a][:, None], logits_NK[rows_n]
        beaten_nK = (own_nK > others_nK) + 0.5 * (own_nK == others_nK)
        counted_nK = np.ones_like(beaten_nK) if truth.ndim == 1 else ~truth[rows_n]
        counts_K = counted_nK.sum(axis=0)
        if counts_K.max(initial=0) >= _FEWEST:
            sums_K = (beaten_nK * counted_nK).sum(axis=0)
            right_KK[a] = np.where(counts_K >= _FEWEST, sums_K / np.maximum(counts_K, 1), np.nan)
    return [(a, b) for a, b in combinations(range(classes), 2) if (right_KK[a, b] + right_KK[b, a]) / 2 < _MIXED_BELOW]


def _told_apart(truth: Targets, logits_NK: FloatArray, a: int, b: int) -> Interval:
    ones_N = truth == a if truth.ndim == 1 else truth[:, a] & ~truth[:, b]
    others_N = truth == b if truth.ndim == 1 else truth[:, b] & ~truth[:, a]
    margin_N = logits_NK[:, a].astype(np.float64) - logits_NK[:, b]
    return area_under_curve(margin_N[ones_N], margin_N[others_N])


def area_under_curve(ones_n: NDArray[np.float64], others_m: NDArray[np.float64]) -> Interval:
    """The share of pairs of one of `ones_n` and one of `others_m` in which the former is larger, ties half, with its interval.

    The standard error is DeLong's, from the placements: for each value, the share of the others that it is on the right side
    of. Both need two values or more.
    """
    n, m = len(ones_n), len(others_m)
    below_n, above_m = _share_below(ones_n, others_m), 1 - _share_below(others_m, ones_n)
    area = float(below_n.mean())
    error = float(np.sqrt(below_n.var(ddof=1) / n + above_m.var(ddof=1) / m))
    if not 0 < area < 1:
        return Interval(value=area, low=area, high=area, n=n + m)
    # On the logit scale, where it covers better for few images (Pepe, 2003).
    logit, half = np.log(area / (1 - area)), Z_95 * error / (area * (1 - area))
    low, high = 1 / (1 + np.exp(-(logit + np.array([-half, half]))))
    return Interval(value=area, low=float(low), high=float(high), n=n + m)


def _share_below(values_n: NDArray[np.float64], others_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) shares of `others_m` that are smaller, equal ones counting half."""
    ordered_m = np.sort(others_m)
    twice_n = np.searchsorted(ordered_m, values_n, "left") + np.searchsorted(ordered_m, values_n, "right")
    return np.asarray(twice_n / (2 * len(others_m)))
