"""Two models on the same images: paired differences with their intervals, and an exact test."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.compare import draws, mean_and_error, mean_interval
from regraft.evaluate.interval import paired_shares
from regraft.evaluate.macro_f1 import macro_f1_difference
from regraft.evaluate.metrics import score
from regraft.evaluate.probability import decisions, known_truth, negative_log_likelihoods, right
from regraft.values import Interval, Predictions, Scores

SIGNIFICANT = 0.05
_ENOUGH = 10  # images that tell two models apart; docs/measurements.md#intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs on the images that both answered; pairs are in the order of `runs`.

    `parts` are the predictions that were compared ("test", "cross-validation", "validation"), `images` how many both have and
    `alone` how many only one has; `scores` are those on the shared images. `accuracy`, `macro_f1` and `nll` are differences,
    the second run's figure less the first's, with paired 95 % intervals: in 0..1 and in nats. `right_alone` names the images
    that one of them alone answered right. `p_value` is that of McNemar's exact test, of whether these fall to both sides alike.
    """

    runs: tuple[str, str]
    parts: tuple[str, str]
    images: int
    alone: tuple[int, int]
    scores: tuple[Scores, Scores]
    accuracy: Interval
    macro_f1: Interval
    nll: Interval
    p_value: float
    right_alone: tuple[tuple[str, ...], tuple[str, ...]]
    notes: tuple[str, ...] = ()

    @property
    def better(self) -> Literal["first", "second"] | None:
        """Which of the two is right more often, where chance does not explain it: both the interval and the test say so."""
        if not self.p_value < SIGNIFICANT or self.accuracy.low <= 0 <= self.accuracy.high:
            return None
        return "second" if self.accuracy.value > 0 else "first"

    @property
    def verdict(self) -> str:
        """That in a sentence: "runs/b is better by 2.1 points (95 % interval 0.3 to 3.9)"."""
        ahead = self.accuracy.value >= 0
        gain, low, high = (100 * end for end in (self.accuracy.value, self.accuracy.low, self.accuracy.high))
        gain, low, high = (gain, low, high) if ahead else (-gain, -high, -low)
        name, span = self.runs[ahead], f"(95 % interval {low:.1f} to {high:.1f})"
        if self.better:
            return f"{name} is better by {gain:.1f} points {span}"
        if gain == 0:
            return f"the difference is not significant: both are right equally often {span}"
        return f"the difference is not significant: {name} is ahead by {gain:.1f} points {span}"


def paired(
    first: Predictions,
    second: Predictions,
    *,
    runs: tuple[str, str] = ("first", "second"),
    parts: tuple[str, str] = ("test", "test"),
    alone: tuple[int, int] = (0, 0),
    notes: tuple[str, ...] = (),
) -> Comparison:
    """Compare predictions of the same images in the same order, with the same classes and targets.

    Where images belong to groups, a group counts as one draw, in the intervals and in the test. Raises DataUnusable as `score`
    does, ValueError where the images differ.
    """
    truth, groups = known_truth(first), first.groups
    if first.names != second.names or first.classes != second.classes or not np.array_equal(truth, known_truth(second)):
        raise ValueError("expected predictions of the same images with the same classes and targets")
    answers = (decisions(first), decisions(second))
    right_N = (right(truth, answers[0]), right(truth, answers[1]))
    nll_N = negative_log_likelihoods(second, truth) - negative_log_likelihoods(first, truth)
    return Comparison(
        runs=runs,
        parts=parts,
        images=len(first.names),
        alone=alone,
        scores=(score(first), score(second)),
        accuracy=paired_shares(right_N[0], right_N[1], groups),
        macro_f1=macro_f1_gain(first, second),
        nll=mean_interval(nll_N, groups),
        p_value=mcnemar(right_N[0], right_N[1], groups),
        right_alone=(_names(first, right_N[0] & ~right_N[1]), _names(first, right_N[1] & ~right_N[0])),
        notes=notes,
    )


def mcnemar(first_N: NDArray[np.bool_], second_N: NDArray[np.bool_], groups: tuple[str, ...] | None = None) -> float:
    """Two-sided p value of whether two models are right equally often, from (N,) whether each is right.

    The exact test of McNemar (1947): of the images that one alone answers right, a binomial number falls to each. 1 where there
    are none. With `groups` its form for clustered pairs (Yang, Sun and Hardin, 2010), with Student's t for few groups.
    """
    from scipy.special import bdtr, stdtr

    one, other = int(np.count_nonzero(first_N & ~second_N)), int(np.count_nonzero(second_N & ~first_N))
    if one + other == 0:
        return 1.0
    if groups is None:
        return min(1.0, 2 * float(bdtr(min(one, other), one + other, 0.5)))
    mean, error = mean_and_error(second_N.astype(np.float64) - first_N, groups)
    if not error:
        return 0.0 if mean else 1.0
    return float(2 * stdtr(draws(len(first_N), groups) - 1, -abs(mean) / error)) if math.isfinite(error) else math.nan


def macro_f1_gain(first: Predictions, second: Predictions) -> Interval:
    """How much larger macro F1 is in the second, on the same images, with its 95 % interval by `macro_f1_difference`.

    Few images that one model alone answers right are too few to draw again: there the interval is at least as wide as that of
    the difference in accuracy, which does not rest on resampling.
    """
    found, truth = macro_f1_difference(first, second), known_truth(first)
    right_N = (right(truth, decisions(first)), right(truth, decisions(second)))
    if np.count_nonzero(right_N[0] != right_N[1]) >= _ENOUGH:
        return found
    shares = paired_shares(right_N[0], right_N[1], first.groups)
    low, high = found.value + shares.low - shares.value, found.value + shares.high - shares.value
    return replace(found, low=min(found.low, low), high=max(found.high, high))


def _names(predictions: Predictions, chosen_N: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(predictions.names[row] for row in np.flatnonzero(chosen_N))
