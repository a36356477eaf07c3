"""Macro F1 and how sure it is: the mean over the classes of the harmonic mean of precision and recall.

With `hits` images of a class answered right and `whole` = images of it + images called it, its F1 is 2 hits / whole. A class
without either has no F1, and is left out of the mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.compare import units
from regraft.evaluate.interval import Z_95
from regraft.evaluate.probability import Targets, decisions, known_truth
from regraft.values import Interval, Predictions

# Images that every class is lent while others are drawn; docs/measurements.md#intervals.
PSEUDO = 0.5
# At most so many numbers are drawn: many kinds of images get fewer resamples, though never fewer than 200.
_NUMBERS, _FEWEST = 1_500_000, 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """Draws (images or groups) that count alike taken together: P kinds, `weights_P` of each, `size` draws in all.

    `hits_PK` and `whole_PK`, sparse, are what one of a kind adds to each class.
    """

    hits_PK: Any
    whole_PK: Any
    weights_P: NDArray[np.float64]
    size: int


def macro_f1_interval(predictions: Predictions, *, seed: int = 0, resamples: int = 1000) -> Interval:
    """Macro F1 with its 95 % interval. Raises DataUnusable as `score` does.

    The bias-corrected and accelerated bootstrap (BCa; Efron, 1987) over the images, or over the groups they were drawn in. A
    class of few images may have been answered without a mistake by luck, and no resample would then show one; so while
    resampling every class is lent `PSEUDO` images that are answered as well as all images on average.
    """
    truth, answers = known_truth(predictions), decisions(predictions)
    kinds = kinds_of(truth, answers, len(predictions.classes), predictions.groups)
    value, n = mean_f1(kinds.weights_P @ kinds.hits_PK, kinds.weights_P @ kinds.whole_PK), len(truth)
    if kinds.size < 2 or np.isnan(value):
        return Interval(value=value, low=float("nan"), high=float("nan"), n=n)
    lent = _lent(kinds, PSEUDO)
    low, high = _bca(lent, resampled(lent, seed, min(resamples, max(_NUMBERS // len(lent.weights_P), _FEWEST))))
    # What was lent may carry an end past the value where hardly anything is right or wrong.
    return Interval(value=value, low=min(low, value), high=max(high, value), n=n)


def kinds_of(truth: Targets, answers: Targets, classes: int, groups: Sequence[str] | None = None) -> Kinds:
    """The kinds of images by truth and answer, or of the groups that they were drawn in."""
    if groups is None:
        key = truth * classes + answers if truth.ndim == 1 else np.packbits(np.hstack([truth, answers]), axis=1)
        first_P, counts_P = np.unique(key, axis=0, return_index=True, return_counts=True)[1:]
        hits_PK, whole_PK = _counts(truth[first_P], answers[first_P], classes)
        return Kinds(hits_PK=hits_PK, whole_PK=whole_PK, weights_P=counts_P.astype(np.float64), size=len(truth))
    from scipy.sparse import csr_array

    unit_N = units(len(truth), groups)
    gather = csr_array((np.ones(len(truth)), (unit_N, np.arange(len(truth)))))
    hits_NK, whole_NK = _counts(truth, answers, classes)
    size = gather.shape[0]
    return Kinds(hits_PK=gather @ hits_NK, whole_PK=gather @ whole_NK, weights_P=np.ones(size), size=size)


def resampled(kinds: Kinds, seed: int, resamples: int) -> NDArray[np.float64]:
    """(B,) macro F1 of `resamples` times `size` draws with replacement; NaN where no class is left.

    How many there are of each kind is drawn at once (multinomial): the same distribution as drawing image by image.
    """
    shares_P = kinds.weights_P / kinds.weights_P.sum()
    drawn_BP = np.random.default_rng(seed).multinomial(kinds.size, shares_P, size=resamples).astype(np.float64)
    return np.array([mean_f1(*rows) for rows in zip(drawn_BP @ kinds.hits_PK, drawn_BP @ kinds.whole_PK, strict=True)])


def influence(truth: Targets, answers: Targets, classes: int) -> NDArray[np.float64]:
    """(N,) how far each image moves macro F1 from that of all (its influence function); their mean is 0.

    To first order macro F1 is a constant plus the mean of these, so that its standard error is theirs.
    """
    hits_NK, whole_NK = _counts(truth, answers, classes)
    return _moves(Kinds(hits_PK=hits_NK, whole_PK=whole_NK, weights_P=np.ones(len(truth)), size=len(truth)))


def mean_f1(hits_K: NDArray[Any], whole_K: NDArray[Any]) -> float:
    """The mean F1 of the classes that have one; NaN where none has."""
    has_K = whole_K > 0
    return float((2 * hits_K[has_K] / whole_K[has_K]).mean()) if has_K.any() else float("nan")


def _counts(truth: Targets, answers: Targets, classes: int) -> tuple[Any, Any]:
    """(N, K) sparse: what each image adds to the hits and to the whole of each class."""
    from scipy.sparse import csr_array

    if truth.ndim == 2:
        return csr_array((truth & answers).astype(np.float64)), csr_array(truth.astype(np.float64) + answers)
    rows_N, shape = np.arange(len(truth)), (len(truth), classes)
    of = csr_array((np.ones(len(truth)), (rows_N, truth)), shape=shape)
    called = csr_array((np.ones(len(truth)), (rows_N, answers)), shape=shape)
    return of * called, of + called


def _lent(kinds: Kinds, pseudo: float) -> Kinds:
    """The same with `pseudo` images more of each class, found and rightly called at the average rate of all."""
    from scipy.sparse import eye_array, vstack

    hits_K, whole_K = kinds.weights_P @ kinds.hits_PK, kinds.weights_P @ kinds.whole_PK
    rate = (hits_K.sum() + 0.5) / (whole_K.sum() / 2 + 1)
    one_CK = eye_array(len(whole_K), format="csr")[np.flatnonzero(whole_K > 0)]
    many = one_CK.shape[0]
    return replace(
        kinds,
        hits_PK=vstack([kinds.hits_PK, one_CK, 0 * one_CK], format="csr"),
        whole_PK=vstack([kinds.whole_PK, 2 * one_CK, one_CK], format="csr"),
        # One that is missed and one that is wrongly called for each that goes wrong.
        weights_P=np.concatenate([kinds.weights_P, np.full(many, pseudo * rate), np.full(many, 2 * pseudo * (1 - rate))]),
    )


def _bca(kinds: Kinds, drawn_B: NDArray[np.float64]) -> tuple[float, float]:
    from scipy.special import ndtr, ndtri

    drawn_B = drawn_B[~np.isnan(drawn_B)]
    centre = mean_f1(kinds.weights_P @ kinds.hits_PK, kinds.weights_P @ kinds.whole_PK)
    # Equal ones count half; rounding must not tell them apart.
    below = float((drawn_B < centre - 1e-12).mean() + (drawn_B <= centre + 1e-12).mean()) / 2
    bias = ndtri(min(max(below, 1 / len(drawn_B)), 1 - 1 / len(drawn_B)))
    moves_P = _moves(kinds)
    spread = float(kinds.weights_P @ moves_P**2)
    lean = float(kinds.weights_P @ moves_P**3) / (6 * spread**1.5) if spread > 0 else 0.0
    points = bias + np.array([-Z_95, Z_95])
    low, high = np.quantile(drawn_B, ndtr(bias + points / (1 - lean * points)))
    return float(low), float(high)


def _moves(kinds: Kinds) -> NDArray[np.float64]:
    """(P,) the influence of one draw of each kind; their weighted mean is 0."""
    hits_K, whole_K = kinds.weights_P @ kinds.hits_PK, kinds.weights_P @ kinds.whole_PK
    scale_K = np.where(whole_K > 0, 1 / np.maximum(whole_K, 1e-300), 0.0)
    moves_P = 2 * (kinds.hits_PK @ scale_K) - kinds.whole_PK @ (2 * hits_K * scale_K * scale_K)
    return np.asarray(moves_P * (kinds.weights_P.sum() / max(np.count_nonzero(whole_K), 1)), dtype=np.float64)
