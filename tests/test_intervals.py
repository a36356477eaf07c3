"""Intervals against published values, and by how often they cover the truth."""

import math

import numpy as np
import pytest

from regraft.evaluate import bootstrap, macro_f1_interval, wilson
from regraft.values import Predictions


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
