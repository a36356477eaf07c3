"""Whether probabilities mean what they say.

Both the curve and its error use 15 bins of equal width on 0..1, each closed on the right: the commonest definition (Guo et al.
2017, "On Calibration of Modern Neural Networks"), so that figures compare with those of papers and of other packages. What is
binned is the probability of the answer and whether the answer is right; for multi-label data it is the probability of every
label of every image and whether the image has it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.compare import units
from regraft.evaluate.interval import wilson
from regraft.evaluate.probability import confidences, decisions, known_truth, probabilities, right
from regraft.values import Interval, Predictions

ECE_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Answers with a probability in (low, high]: their mean probability, and the share that is right with its interval."""

    low: float
    high: float
    confidence: float
    accuracy: Interval


def reliability(predictions: Predictions) -> tuple[ReliabilityBin, ...]:
    """The bins that hold at least one answer, in order. Raises DataUnusable without labelled images."""
    claimed_M, true_M = _claims(predictions)
    edges = np.linspace(0.0, 1.0, ECE_BINS + 1)
    counts, claimed, true = _sums(claimed_M, true_M)
    return tuple(
        ReliabilityBin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            confidence=float(claimed[b] / counts[b]),
            accuracy=wilson(int(true[b]), int(counts[b])),
        )
        for b in np.flatnonzero(counts)
    )


def expected_calibration_error(predictions: Predictions) -> float:
    """ECE: over the bins, the mean |share right - mean probability|, weighted by the answers in each."""
    counts, claimed, true = _sums(*_claims(predictions))
    return float(np.abs(true - claimed).sum() / counts.sum())


def calibration_error_interval(predictions: Predictions, *, seed: int = 0, draws: int = 1000) -> Interval:
    """The ECE with a 95 % interval for that of ever more such images. Raises DataUnusable without labelled images.

    The plain ECE is too large by chance, and a bootstrap of it twice so, so the interval turns a test around: it holds the
    multiples of the gaps that were seen whose own ECE, with the scatter of this many images, would come out like the one seen.
    Each bin's gap scatters normally, with the covariance of the images (or groups). The ECE that comes out grows with the
    multiple (Anderson's theorem, 1955), so the ends are found by bisection. They are moved to take in the plain ECE.
    """
    gaps_UB = _gaps(predictions)
    n, size = len(predictions.names), len(gaps_UB)
    mean_B = gaps_UB.sum(axis=0)
    value = float(np.abs(mean_B).sum())
    if size < 2:
        return Interval(value=value, low=float("nan"), high=float("nan"), n=n)
    deviations_UB = gaps_UB - mean_B / size
    scatter_BB = deviations_UB.T @ deviations_UB * (size / (size - 1))
    # A bin with few answers and no mistake yet still scatters as its claims say.
    lacking_B = _claimed_variances(predictions) - scatter_BB.diagonal()
    values_B, vectors_BB = np.linalg.eigh(scatter_BB + np.diag(np.maximum(lacking_B, 0.0)))
    normal_DB = np.random.default_rng(seed).standard_normal((draws, ECE_BINS))
    noise_DB = normal_DB * np.sqrt(np.maximum(values_B, 0.0)) @ vectors_BB.T

    def out_of(multiple: float, quantile: float) -> float:
        return float(np.quantile(np.abs(multiple * mean_B + noise_DB).sum(axis=1), quantile))

    low = _rising(lambda multiple: out_of(multiple, 0.975) - value)
    high = _rising(lambda multiple: out_of(multiple, 0.025) - value)
    return Interval(value=value, low=min(low, 1.0) * value, high=min(max(high, 1.0) * value, 1.0), n=n)


def _claimed_variances(predictions: Predictions) -> NDArray[np.float64]:
    """Of each bin: the variance of its gap, as a share of all claims, if the claims were true."""
    claimed_M, _ = _claims(predictions)
    variances_B = np.bincount(_bins(claimed_M), weights=claimed_M * (1 - claimed_M), minlength=ECE_BINS)
    return np.asarray(variances_B / len(claimed_M) ** 2)


def _gaps(predictions: Predictions) -> NDArray[np.float64]:
    """Of each draw (an image or a group) and bin: truths less claims, added up, as a share of all claims."""
    claimed_M, true_M = _claims(predictions)
    n = len(predictions.names)
    unit_N = units(n, predictions.groups)
    cells_M = np.repeat(unit_N, len(claimed_M) // n) * ECE_BINS + _bins(claimed_M)
    sums = np.bincount(cells_M, weights=true_M - claimed_M, minlength=(unit_N.max() + 1) * ECE_BINS)
    return sums.reshape(-1, ECE_BINS) / len(claimed_M)


def _rising(excess: Callable[[float], float], steps: int = 12) -> float:
    """Where a rising function of a multiple of 0 or more passes 0; 0 where it is above from the start."""
    low, high = 0.0, 1.0
    if excess(low) >= 0:
        return 0.0
    while excess(high) < 0 and high < 1e6:
        low, high = high, 2 * high
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return (low + high) / 2


def chance_calibration_error(predictions: Predictions) -> float:
    """The ECE to expect of perfect probabilities on this many images: it is never zero, as shares in a bin scatter.

    Each bin's sum of right answers is taken as normal with the variance of its Bernoulli draws, so E|.| = sqrt(2 var / pi).
    """
    return float(np.sqrt(2 * _claimed_variances(predictions) / np.pi).sum())


def claims(predictions: Predictions) -> tuple[float, float, float]:
    """Mean probability claimed, share true, and the standard error of the share if the claims were perfect."""
    claimed_M, true_M = _claims(predictions)
    error = np.sqrt((claimed_M * (1 - claimed_M)).sum()) / len(claimed_M)
    return float(claimed_M.mean()), float(true_M.mean()), float(error)


def _claims(predictions: Predictions) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    truth = known_truth(predictions)
    if predictions.multi_label:
        return probabilities(predictions.logits_NK, multi_label=True).ravel(), truth.astype(np.bool_).ravel()
    return confidences(predictions), right(truth, decisions(predictions))


def _bins(claimed_M: NDArray[np.float64]) -> NDArray[np.intp]:
    inner_edges = np.linspace(0.0, 1.0, ECE_BINS + 1)[1:-1]
    return np.searchsorted(inner_edges, claimed_M, side="left")


def _sums(
    claimed_M: NDArray[np.float64], true_M: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Of each bin: answers, their probabilities added up, and how many are true."""
    bins_M = _bins(claimed_M)
    counts = np.bincount(bins_M, minlength=ECE_BINS).astype(np.int64)
    claimed, true = (np.bincount(bins_M, weights=weights, minlength=ECE_BINS) for weights in (claimed_M, true_M))
    return counts, claimed.astype(np.float64), true.astype(np.float64)
