"""How sure a figure is: 95 % intervals for proportions, and for any statistic of the images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

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
    share, z2 = successes / n, Z_95 * Z_95
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * float(np.sqrt(share * (1 - share) / n + z2 / (4 * n * n)))
    # At 0 and at n the end equals the share itself, but for rounding.
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == n else min(1.0, center + half)
    return Interval(value=share, low=low, high=high, n=n)


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
