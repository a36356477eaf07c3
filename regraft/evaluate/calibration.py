"""Whether probabilities mean what they say.

Both the curve and its error use 15 bins of equal width on 0..1, each closed on the right: the commonest definition (Guo et al.
2017, "On Calibration of Modern Neural Networks"), so that figures compare with those of papers and of other packages. What is
binned is the probability of the answer and whether the answer is right; for multi-label data it is the probability of every
label of every image and whether the image has it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def chance_calibration_error(predictions: Predictions) -> float:
    """The ECE to expect of perfect probabilities on this many images: it is never zero, as shares in a bin scatter.

    Each bin's sum of right answers is taken as normal with the variance of its Bernoulli draws, so E|.| = sqrt(2 var / pi).
    """
    claimed_M, _ = _claims(predictions)
    variances = np.bincount(_bins(claimed_M), weights=claimed_M * (1 - claimed_M), minlength=ECE_BINS)
    return float(np.sqrt(2 * variances / np.pi).sum() / len(claimed_M))


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
