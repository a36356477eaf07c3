"""Intervals against published values and other packages, and by how often they cover the truth."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quick import takes_at_most
from scipy import stats
from sklearn.metrics import f1_score

from regraft.evaluate import bootstrap, expected_calibration_error, macro_f1_interval, score, wilson
from regraft.evaluate import macro_f1 as f1
from regraft.evaluate.calibration import calibration_error_interval
from regraft.evaluate.compare import mean_interval
from regraft.evaluate.interval import paired_shares, share_interval
from regraft.evaluate.metrics import precision_interval, recall_interval
from regraft.values import Predictions

BENCH = Path(__file__).resolve().parent.parent / "bench"


def make(n: int, classes: int = 4, *, seed: int = 0, signal: float = 1.5, multi_label: bool = False) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    targets = rng.random((n, classes)) < 0.4 if multi_label else truth
    logits = rng.normal(0, 1, (n, classes)) + signal * (targets - 0.5 if multi_label else np.eye(classes)[truth])
    return Predictions(
        names=tuple(map(str, range(n))),
        classes=tuple(f"c{k}" for k in range(classes)),
        logits_NK=logits,
        targets=targets,
        multi_label=multi_label,
    )


def answers_of(predictions: Predictions) -> NDArray[Any]:
    return predictions.logits_NK > 0 if predictions.multi_label else predictions.logits_NK.argmax(axis=1)


def plain_f1(truth: NDArray[Any], answers: NDArray[Any]) -> float:
    """Macro F1 as written in a textbook."""
    if truth.ndim == 1:
        truth, answers = (np.equal.outer(side, np.arange(4)) for side in (truth, answers))
    whole = truth.sum(axis=0) + answers.sum(axis=0)
    return float((2 * (truth & answers).sum(axis=0)[whole > 0] / whole[whole > 0]).mean())


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """bench/intervals.py, a script and in no package."""
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.delitem(sys.modules, "intervals", raising=False)
    module = __import__("intervals")
    monkeypatch.setitem(sys.modules, "intervals", module)
    return module


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3 (score interval)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    mirrored = wilson(n - successes, n)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - interval.high, 1 - interval.low))
    assert (interval.value, interval.n) == (successes / n, n)


@pytest.mark.parametrize(("share", "n"), [(0.5, 100), (0.9, 200), (0.92, 381), (0.99, 2000), (0.7, 60)])
def test_wilson_covers_the_truth_in_95_percent_of_samples(share: float, n: int) -> None:
    draws = np.random.default_rng(n).binomial(n, share, 4000)
    ends = {int(k): wilson(int(k), n) for k in np.unique(draws)}
    covered = np.mean([ends[int(k)].low <= share <= ends[int(k)].high for k in draws])
    assert 0.93 <= covered <= 0.97


def test_wilson_stays_in_range_and_says_when_it_knows_nothing() -> None:
    for n in range(1, 60):
        for k in range(n + 1):
            interval = wilson(k, n)
            assert 0 <= interval.low <= interval.value <= interval.high <= 1
            assert interval.low < interval.high
    unknown = wilson(0, 0)
    assert math.isnan(unknown.value)
    assert (unknown.low, unknown.high) == (0, 1)
    with pytest.raises(ValueError, match="got 3 of 2"):
        wilson(3, 2)


def test_bootstrap_of_a_mean_agrees_with_its_standard_error_and_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(300):
        values = rng.normal(2.0, 1.0, 80)
        interval = bootstrap(lambda rows, values=values: float(values[rows].mean()), 80, seed=seed, resamples=200)
        covered += interval.low <= 2.0 <= interval.high
    assert 0.91 <= covered / 300 <= 0.98
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(80), rel=0.2)


def test_bootstrap_depends_on_its_seed_alone() -> None:
    values = np.random.default_rng(0).normal(size=50)
    runs = [bootstrap(lambda rows: float(values[rows].mean()), 50, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_macro_f1_interval_covers_the_macro_f1_of_the_population() -> None:
    rng = np.random.default_rng(11)
    truth = rng.integers(0, 3, 20_000)
    logits = np.eye(3)[np.where(rng.random(20_000) < 0.8, truth, rng.integers(0, 3, 20_000))]
    classes, covered = ("a", "b", "c"), 0

    def draw(rows: np.ndarray) -> Predictions:
        return Predictions(names=tuple(map(str, rows)), classes=classes, logits_NK=logits[rows], targets=truth[rows])

    wanted = macro_f1_interval(draw(np.arange(20_000)), resamples=1).value
    for seed in range(150):
        interval = macro_f1_interval(draw(rng.choice(20_000, 200)), seed=seed, resamples=200)
        covered += interval.low <= wanted <= interval.high
    assert 0.90 <= covered / 150 <= 0.99


def test_a_statistic_that_is_never_defined_has_no_interval() -> None:
    interval = bootstrap(lambda rows: float("nan"), 5, resamples=20)
    assert math.isnan(interval.value)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


# -- shares


def test_images_of_one_group_tell_no_more_than_their_group() -> None:
    right = np.random.default_rng(0).random(120) < 0.8
    alone = wilson(int(right.sum()), 120)
    assert share_interval(right, tuple(map(str, range(120)))) == share_interval(right) == alone
    copied = share_interval(np.repeat(right, 5), tuple(f"g{i}" for i in range(120) for _ in range(5)))
    assert (copied.value, copied.n) == (pytest.approx(alone.value), 600)
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), abs=0.003)
    assert share_interval(np.ones(50, bool), ("a",) * 50).low == 0
    sure = share_interval(np.ones(50, bool), tuple(f"g{i // 5}" for i in range(50)))
    assert (sure.value, sure.high) == (1, 1)
    assert sure.low < wilson(10, 10).low


@pytest.mark.parametrize("counts", [(60, 12, 5, 23), (80, 3, 0, 17), (90, 0, 0, 10), (10, 30, 2, 8)])
def test_the_ends_of_a_paired_difference_are_just_not_refuted(counts: tuple[int, int, int, int]) -> None:
    """Tango's test with the restricted likelihood maximised by brute force."""
    both, gained, lost, neither = counts
    n = sum(counts)
    found = paired_shares(np.repeat([1, 0, 1, 0], counts).astype(bool), np.repeat([1, 1, 0, 0], counts).astype(bool))
    assert found.value == pytest.approx((gained - lost) / n)

    def z(difference: float) -> float:
        lost_share = np.linspace(max(0.0, -difference), (1 - difference) / 2, 400_001)[1:-1]
        gained_share = lost_share + difference
        likelihood = gained * np.log(gained_share) + lost * np.log(lost_share)
        likelihood += (both + neither) * np.log(1 - lost_share - gained_share)
        best = lost_share[np.argmax(likelihood)]
        return float((gained - lost - n * difference) / math.sqrt(n * (2 * best + difference - difference**2)))

    assert z(found.high) == pytest.approx(-1.96, abs=0.01)
    assert z(found.low) == pytest.approx(1.96, abs=0.01)


def test_precision_and_recall_have_the_interval_of_their_share() -> None:
    for row in score(make(90, signal=0.5)).per_class:
        hits = round(row.recall * row.support)
        assert recall_interval(row) == wilson(hits, row.support)
        assert precision_interval(row) == wilson(hits, row.predicted)
    (row, *_) = score(replace(make(3), targets=np.array([1, 1, 1]), logits_NK=np.eye(4)[[1, 1, 1]])).per_class
    assert (recall_interval(row).n, precision_interval(row).n) == (0, 0)


# -- means


def test_the_interval_of_a_mean_is_students_where_nothing_is_skewed() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 40)
    values = np.concatenate([values, 0.6 - values])  # symmetric about 0.3
    wanted = stats.t.interval(0.95, 79, values.mean(), stats.sem(values))
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx(wanted)
    lone = mean_interval(values[:1])
    assert math.isnan(lone.low)
    assert math.isnan(lone.high)


def test_the_interval_of_a_skewed_mean_covers_it_where_students_does_not() -> None:
    rng, covered, plain = np.random.default_rng(0), 0, 0
    for _ in range(1500):
        values = rng.lognormal(0, 1.2, 60)
        found, truth = mean_interval(values), math.exp(0.72)
        covered += found.low <= truth <= found.high
        plain += abs(values.mean() - truth) <= stats.t.ppf(0.975, 59) * stats.sem(values)
    assert plain / 1500 < 0.90
    assert covered / 1500 > plain / 1500 + 0.02


# -- macro F1


@pytest.mark.parametrize("multi_label", [False, True])
def test_drawing_counts_is_drawing_images(multi_label: bool) -> None:
    predictions = make(90, multi_label=multi_label)
    truth, answers = predictions.targets, answers_of(predictions)
    assert isinstance(truth, np.ndarray)
    general = bootstrap(lambda rows: plain_f1(truth[rows], answers[rows]), 90, resamples=1500)
    kinds = f1.kinds_of(truth, (answers,), 4)
    drawn = f1.resampled(kinds, 1, 6000)
    assert kinds.size == 90
    assert len(kinds.weights_P) < 90
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx((general.low, general.high), abs=0.012)


def test_drawing_groups_is_drawing_all_their_images() -> None:
    predictions = make(120)
    truth, answers = predictions.targets, answers_of(predictions)
    assert isinstance(truth, np.ndarray)
    group = np.random.default_rng(3).permutation(120) % 30
    members = np.argsort(group, kind="stable").reshape(30, 4)

    def of(groups: NDArray[np.int64]) -> float:
        rows = members[groups].ravel()
        return plain_f1(truth[rows], answers[rows])

    general = bootstrap(of, 30, resamples=1500)
    kinds = f1.kinds_of(truth, (answers,), 4, tuple(map(str, group)))
    assert kinds.size == 30
    assert np.quantile(f1.resampled(kinds, 1, 6000), [0.025, 0.975]) == pytest.approx((general.low, general.high), abs=0.012)


def test_the_interval_of_macro_f1_is_that_of_scipy_where_nothing_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = make(100, 3, signal=2.0)
    truth, answers = predictions.targets, answers_of(predictions)
    assert isinstance(truth, np.ndarray)
    wanted = stats.bootstrap(
        (truth, answers),
        plain_f1,
        paired=True,
        vectorized=False,
        n_resamples=500,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    monkeypatch.setattr(f1, "PSEUDO", 0.0)
    found = macro_f1_interval(predictions, resamples=5000)
    assert found.value == pytest.approx(f1_score(truth, answers, average="macro"))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.02)


def test_a_class_without_a_mistake_is_not_certain_of_itself() -> None:
    truth = np.repeat([0, 1, 2], [3, 3, 3])
    perfect = replace(make(9, 3), targets=truth, logits_NK=np.eye(3)[truth])
    found = macro_f1_interval(perfect)
    assert (found.value, found.high) == (1, 1)
    assert 0.5 < found.low < 0.95
    lone = macro_f1_interval(replace(make(1), groups=None))
    assert math.isnan(lone.low)


def test_ten_thousand_images_take_a_moment() -> None:
    predictions = make(10_000, 10, signal=3.0)
    takes_at_most(0.1, lambda: macro_f1_interval(predictions))


# -- calibration


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_the_interval_of_the_calibration_error_covers_that_of_the_population(sharpness: float) -> None:
    rng, covered, zero = np.random.default_rng(1), 0, 0

    def draw(n: int) -> Predictions:
        """Answers whose probabilities are true at sharpness 1."""
        logits = rng.normal(0, 1.5, (n, 3))
        powers = np.exp(logits)
        truth = (powers.cumsum(axis=1) > rng.random((n, 1)) * powers.sum(axis=1, keepdims=True)).argmax(axis=1)
        return replace(make(n, 3), logits_NK=sharpness * logits, targets=truth)

    wanted = 0.0 if sharpness == 1 else expected_calibration_error(draw(200_000))
    for _ in range(150):
        found = calibration_error_interval(draw(300))
        assert found.low <= found.value <= found.high
        zero += found.low == 0
        covered += found.low <= wanted <= found.high
    assert covered / 150 > 0.9
    assert zero / 150 > 0.9 if sharpness == 1 else zero == 0


# -- all together


def test_intervals_cover_the_truth_of_a_population(bench: ModuleType) -> None:
    """A short form of the table in docs/measurements.md#intervals: 400 simulations have a standard error of 1.1 points."""
    case = next(case for case in bench.CASES if case.classes == 3)
    found = bench.coverage(case, 100, 400, ("accuracy", "macro F1", "difference of accuracy"))
    assert all(0.92 <= share <= 0.98 for share in found.values()), found
