"""How sure a figure is: 95 % intervals for proportions, and for any statistic of the images."""

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.compare import draws, mean_and_error, mean_interval, student
from regraft.values import Interval

Z_95 = 1.959963984540054  # two-sided 95 % point of the normal distribution


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval for a proportion (1927). With n = 0 the value is NaN and the interval 0 to 1.

    Chosen over the textbook p ± 1.96 se because it stays within 0..1 and keeps its coverage for few images and shares near 1.
    It takes the images as independent draws.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n, got {successes} of {n}")
    if n == 0:
        return Interval(value=float("nan"), low=0.0, high=1.0, n=0)
    low, high = _score_ends(successes / n, n)
    return Interval(value=successes / n, low=low, high=high, n=n)


def _score_ends(share: float, n: float) -> tuple[float, float]:
    z2 = Z_95 * Z_95
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At 0 and at n the end equals the share itself, but for rounding.
    return 0.0 if share == 0 else max(0.0, center - half), 1.0 if share == 1 else min(1.0, center + half)


def share_interval(true_N: NDArray[np.bool_], groups: Sequence[Hashable] | None = None) -> Interval:
    """The share of (N,) truths with Wilson's interval; with `groups`, of as many images drawn alone as would tell as much.

    That number is p (1 - p) / se^2 with the standard error of `mean_and_error`, corrected for few groups as by Korn and
    Graubard (1998): never more than the images, and no more than the groups where all are alike.
    """
    successes, n = int(np.count_nonzero(true_N)), len(true_N)
    size = draws(n, groups)
    if size == n:
        return wilson(successes, n)
    share, error = mean_and_error(true_N.astype(np.float64), groups)
    if size < 2:
        return Interval(value=share, low=0.0, high=1.0, n=n)
    telling = share * (1 - share) / error**2 if error > 0 else float(size)
    low, high = _score_ends(share, min(float(n), telling * (Z_95 / student(size - 1)) ** 2))
    return Interval(value=share, low=low, high=high, n=n)


def paired_shares(
    first_N: NDArray[np.bool_], second_N: NDArray[np.bool_], groups: Sequence[Hashable] | None = None
) -> Interval:
    """How much larger the share of truths is in the second than in the first, of the same images, with its 95 % interval.

    Tango's score interval for paired proportions (1998), which keeps its coverage for few images that differ; with `groups` the
    interval of the mean difference (`mean_interval`).
    """
    n = len(first_N)
    if draws(n, groups) != n:
        return mean_interval(second_N.astype(np.float64) - first_N, groups)
    gained, lost = int(np.count_nonzero(second_N & ~first_N)), int(np.count_nonzero(first_N & ~second_N))
    high = _tango_high(gained, lost, n)
    return Interval(value=(gained - lost) / n, low=-_tango_high(lost, gained, n), high=high, n=n)


def _tango_high(gained: int, lost: int, n: int) -> float:
    """The largest difference that is not refuted by a score test at 5 %."""

    def refuted(difference: float) -> bool:
        # The likeliest share of losses if that were the difference.
        b = (2 * n - gained + lost) * difference - gained - lost
        share = (math.sqrt(max(b * b + 8 * n * lost * difference * (1 - difference), 0.0)) - b) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        return (gained - lost - n * difference) ** 2 > Z_95**2 * max(variance, 0.0)

    low, high = (gained - lost) / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], n: int, *, seed: int = 0, resamples: int = 1000) -> Interval:
    """Percentile bootstrap: `statistic` of `n` rows, recomputed on `resamples` draws of n rows with replacement.

    `statistic` takes row indices, (n,). The b-th draw depends on (seed, b) alone. Draws where the statistic is NaN are left
    out; if it always is, so are value and ends.
    """
    value = statistic(np.arange(n, dtype=np.int64))
    draws = [statistic(np.random.default_rng((seed, b)).integers(n, size=n)) for b in range(resamples)]
    defined = np.asarray(draws)[~np.isnan(draws)]
    low, high = np.quantile(defined, [0.025, 0.975]) if len(defined) else (np.nan, np.nan)
    return Interval(value=float(value), low=float(low), high=float(high), n=n)
