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
from regraft.evaluate.interval import Z_95, wilson
from regraft.evaluate.probability import Targets, decisions, known_truth
from regraft.values import Interval, Predictions

# Images that every class is lent while others are drawn; docs/measurements.md#intervals.
PSEUDO = 0.5
# At most so many numbers are drawn: many kinds of images get fewer resamples, though never fewer than 200.
_NUMBERS, _FEWEST = 1_500_000, 200
# Numbers drawn at a time: images in groups are as many kinds as there are groups.
_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """Draws (images or groups) that count alike taken together: P kinds, `weights_P` of each, `size` draws in all.

    `hits_PX` and `whole_PX`, sparse, are what one of a kind adds to each class: X = K for one model; X = 2 K for two on the
    same images, whose figure is then the difference: the second's macro F1 less the first's.
    """

    hits_PX: Any
    whole_PX: Any
    weights_P: NDArray[np.float64]
    size: int
    models: int


def macro_f1_interval(predictions: Predictions, *, seed: int = 0, resamples: int = 1000) -> Interval:
    """Macro F1 with its 95 % interval by `bca`. Raises DataUnusable as `score` does."""
    answers, classes = (decisions(predictions),), len(predictions.classes)
    kinds = kinds_of(known_truth(predictions), answers, classes, predictions.groups)
    return bca(kinds, len(predictions.names), seed=seed, resamples=resamples)


def macro_f1_difference(first: Predictions, second: Predictions, *, seed: int = 0, resamples: int = 4000) -> Interval:
    """By how much macro F1 is larger in the second, on the same images in the same order, with its 95 % interval by `bca`."""
    answers, classes = (decisions(first), decisions(second)), len(first.classes)
    kinds = kinds_of(known_truth(first), answers, classes, first.groups)
    return bca(kinds, len(first.names), seed=seed, resamples=resamples)


def bca(kinds: Kinds, n: int, *, seed: int = 0, resamples: int = 1000) -> Interval:
    """The figure of `kinds` with the bias-corrected and accelerated bootstrap (BCa; Efron, 1987) over its draws.

    A class of few images may have been answered without a mistake by luck, and no resample would then show one; so while
    resampling every class is lent `PSEUDO` images that are answered as well as all images on average. `n` is the number of
    images. NaN ends where there is one draw alone.
    """
    value = float(_figure(kinds, *_sums(kinds)))
    if kinds.size < 2 or np.isnan(value):
        return Interval(value=value, low=float("nan"), high=float("nan"), n=n)
    lent = _lent(kinds, PSEUDO)
    low, high = _ends(lent, resampled(lent, seed, min(resamples, max(_NUMBERS // len(lent.weights_P), _FEWEST))))
    if kinds.models == 1 and value == 1.0:
        # Without a mistake anywhere there is none to draw again: as of a share of which all were right.
        low = min(low, wilson(kinds.size, kinds.size).low)
    # What was lent may carry an end past the value where hardly anything is right or wrong.
    return Interval(value=value, low=min(low, value), high=max(high, value), n=n)


def kinds_of(truth: Targets, answers: Sequence[Targets], classes: int, groups: Sequence[str] | None = None) -> Kinds:
    """The kinds of images by their truth and the answers of one or two models; or the groups that they were drawn in."""
    from scipy.sparse import csr_array, hstack

    weights_P, rows = np.ones(len(truth)), np.arange(len(truth))
    if groups is None:
        rows, counts_P = np.unique(_keys(truth, answers, classes), axis=0, return_index=True, return_counts=True)[1:]
        weights_P = counts_P.astype(np.float64)
    counted = [_counts(truth[rows], answer[rows], classes) for answer in answers]
    hits_PX, whole_PX = (hstack(side, format="csr") for side in zip(*counted, strict=True))
    if groups is not None:
        gather = csr_array((weights_P, (units(len(truth), groups), rows)))
        hits_PX, whole_PX, weights_P = gather @ hits_PX, gather @ whole_PX, np.ones(gather.shape[0])
    size = len(truth) if groups is None else len(weights_P)
    return Kinds(hits_PX=hits_PX, whole_PX=whole_PX, weights_P=weights_P, size=size, models=len(answers))


def resampled(kinds: Kinds, seed: int, resamples: int) -> NDArray[np.float64]:
    """(B,) the figure of `resamples` times `size` draws with replacement; NaN where no class is left.

    How many there are of each kind is drawn at once (multinomial): the same distribution as drawing image by image.
    """
    shares_P, random = kinds.weights_P / kinds.weights_P.sum(), np.random.default_rng(seed)
    part = max(1, _AT_ONCE // len(shares_P))
    found = []
    for start in range(0, resamples, part):
        drawn_BP = random.multinomial(kinds.size, shares_P, size=min(part, resamples - start)).astype(np.float64)
        found.append(_figure(kinds, drawn_BP @ kinds.hits_PX, drawn_BP @ kinds.whole_PX))
    return np.concatenate(found)


def macro_f1(truth: Targets, answers: Targets, classes: int) -> float:
    """Macro F1 of `answers`; NaN where no class has one."""
    kinds = kinds_of(truth, (answers,), classes)
    return float(_figure(kinds, *_sums(kinds)))


def _keys(truth: Targets, answers: Sequence[Targets], classes: int) -> NDArray[Any]:
    """(N,) or (N, bytes): what is equal where truth and answers are."""
    if truth.ndim == 2:
        return np.packbits(np.hstack([truth, *answers]), axis=1)
    key_N = truth.astype(np.int64)
    for answer in answers:
        key_N = key_N * classes + answer
    return key_N


def _counts(truth: Targets, answers: Targets, classes: int) -> tuple[Any, Any]:
    """(N, K) sparse: what each image adds to the hits and to the whole of each class."""
    from scipy.sparse import csr_array

    if truth.ndim == 2:
        return csr_array((truth & answers).astype(np.float64)), csr_array(truth.astype(np.float64) + answers)
    rows_N, shape = np.arange(len(truth)), (len(truth), classes)
    of = csr_array((np.ones(len(truth)), (rows_N, truth)), shape=shape)
    called = csr_array((np.ones(len(truth)), (rows_N, answers)), shape=shape)
    return of * called, of + called


def _figure(kinds: Kinds, hits_BX: NDArray[Any], whole_BX: NDArray[Any]) -> NDArray[np.float64]:
    """(B,) macro F1, or how much larger that of the second model is."""
    figures = [_mean_f1(*side) for side in zip(*_sides(kinds, hits_BX, whole_BX), strict=True)]
    return figures[0] if kinds.models == 1 else figures[1] - figures[0]


def _mean_f1(hits_BK: NDArray[Any], whole_BK: NDArray[Any]) -> NDArray[np.float64]:
    has_BK = whole_BK > 0
    sums_B = np.divide(2.0 * hits_BK, whole_BK, out=np.zeros(has_BK.shape), where=has_BK).sum(axis=-1)
    counts_B = np.asarray(has_BK.sum(axis=-1), dtype=np.float64)
    return np.asarray(np.divide(sums_B, counts_B, out=np.full(counts_B.shape, np.nan), where=counts_B > 0))


def _sides(kinds: Kinds, *arrays: NDArray[Any]) -> list[list[NDArray[Any]]]:
    return [np.split(array, kinds.models, axis=-1) for array in arrays]


def _sums(kinds: Kinds) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return kinds.weights_P @ kinds.hits_PX, kinds.weights_P @ kinds.whole_PX


def _lent(kinds: Kinds, pseudo: float) -> Kinds:
    """The same with `pseudo` images more of each class, right and wrong as all images are on average."""
    from scipy.sparse import eye_array, hstack, vstack

    _, whole_X = _sums(kinds)
    one_CK = eye_array(len(whole_X) // kinds.models, format="csr")
    # Of a class that no model has met there is nothing to be lent.
    one_CK = one_CK[np.flatnonzero(np.any(np.split(whole_X > 0, kinds.models), axis=0))]
    hits, whole, weights = [kinds.hits_PX], [kinds.whole_PX], [kinds.weights_P]
    for right, rate in _rates(kinds).items():
        hits.append(hstack([side * one_CK for side in right], format="csr"))
        whole.append(hstack([2 * one_CK] * kinds.models, format="csr"))
        weights.append(np.full(one_CK.shape[0], pseudo * rate))
    return replace(
        kinds, hits_PX=vstack(hits, format="csr"), whole_PX=vstack(whole, format="csr"), weights_P=np.concatenate(weights)
    )


def _rates(kinds: Kinds) -> dict[tuple[int, ...], float]:
    """How often the models are right (1) and wrong (0), together; half a right and half a wrong image are added."""
    sums = _sides(kinds, *_sums(kinds))
    images = sum(side.sum() for side in sums[1]) / 2 / kinds.models + 1
    alone = [float((side.sum() + 0.5) / images) for side in sums[0]]
    if kinds.models == 1:
        return {(1,): alone[0], (0,): 1 - alone[0]}
    classes = kinds.hits_PX.shape[1] // 2
    both_P = kinds.hits_PX[:, :classes].minimum(kinds.hits_PX[:, classes:]).sum(axis=1)
    both = float((kinds.weights_P @ both_P + 0.5) / images)
    first, second = max(alone[0] - both, 0.0), max(alone[1] - both, 0.0)
    return {(1, 1): both, (1, 0): first, (0, 1): second, (0, 0): max(1 - both - first - second, 0.0)}


def _ends(kinds: Kinds, drawn_B: NDArray[np.float64]) -> tuple[float, float]:
    from scipy.special import ndtr, ndtri

    drawn_B = drawn_B[~np.isnan(drawn_B)]
    centre = float(_figure(kinds, *_sums(kinds)))
    # Equal ones count half; rounding must not tell them apart.
    below = float((drawn_B < centre - 1e-12).mean() + (drawn_B <= centre + 1e-12).mean()) / 2
    least = 1 / (len(drawn_B) + 1)
    bias = ndtri(min(max(below, least), 1 - least))
    moves_P = _moves(kinds)
    spread = float(kinds.weights_P @ moves_P**2)
    lean = float(kinds.weights_P @ moves_P**3) / (6 * spread**1.5) if spread > 0 else 0.0
    points = bias + np.array([-Z_95, Z_95])
    low, high = np.quantile(drawn_B, ndtr(bias + points / (1 - lean * points)))
    return float(low), float(high)


def _moves(kinds: Kinds) -> NDArray[np.float64]:
    """(P,) how far one draw of each kind moves the figure (its influence function), up to a factor; the weighted mean is 0."""
    hits_X, whole_X = _sums(kinds)
    counts_M = np.count_nonzero(whole_X.reshape(kinds.models, -1), axis=1)
    signs_M = np.array([1.0] if kinds.models == 1 else [-1.0, 1.0])
    each_X = np.repeat(signs_M / np.maximum(counts_M, 1), len(whole_X) // kinds.models)
    scale_X = np.divide(each_X, whole_X, out=np.zeros(len(whole_X)), where=whole_X > 0)
    pull_X = np.divide(2 * hits_X * scale_X, whole_X, out=np.zeros(len(whole_X)), where=whole_X > 0)
    return np.asarray(2 * (kinds.hits_PX @ scale_X) - kinds.whole_PX @ pull_X, dtype=np.float64)
