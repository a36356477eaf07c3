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


def covariance_of_means(values_NS: NDArray[np.float64], group_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """(S, S): the covariance of the S column means of values of the same images, which `group_N` numbers the groups of.

    Its diagonal is the square of `mean_and_error`'s standard error.
    """
    _, group_N = np.unique(group_N, return_inverse=True)
    groups = int(group_N.max()) + 1
    sums_GS = np.zeros((groups, values_NS.shape[1]))
    np.add.at(sums_GS, group_N, values_NS - values_NS.mean(axis=0))
    return np.asarray(sums_GS.T @ sums_GS * (groups / max(1, groups - 1)) / len(values_NS) ** 2)
