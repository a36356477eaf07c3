"""Figures on the same images beside one another: means with standard errors that know of groups."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def mean_and_error(values_N: NDArray[np.float64], groups: Sequence[Hashable] | None = None) -> tuple[float, float]:
    """The mean of `values_N`, (N,), and its standard error; NaN where there are too few to tell.

    Images of one group are one draw, not many: their deviations are added up before they are squared (the cluster-robust
    variance of Liang and Zeger, 1986). Where every image is a group of its own, this is s / sqrt(N). Of differences between two
    models on the same images it is the paired standard error.
    """
    count = len(values_N)
    if not count:
        return float("nan"), float("nan")
    mean = float(values_N.mean())
    numbers: dict[Hashable, int] = {}
    group_N = [numbers.setdefault(group, len(numbers)) for group in (range(count) if groups is None else groups)]
    sums_G = np.bincount(group_N, weights=values_N - mean)
    if len(sums_G) < 2:
        return mean, float("nan")
    return mean, float(np.sqrt((sums_G**2).sum() * len(sums_G) / (len(sums_G) - 1)) / count)
