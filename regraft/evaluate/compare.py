"""Figures on the same images beside one another: means with standard errors and intervals that know of groups."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.values import Interval


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
    sums_G = np.bincount(units(count, groups), weights=values_N - mean)
    if len(sums_G) < 2:
        return mean, float("nan")
    return mean, float(np.sqrt((sums_G**2).sum() * len(sums_G) / (len(sums_G) - 1)) / count)


def mean_interval(values_N: NDArray[np.float64], groups: Sequence[Hashable] | None = None) -> Interval:
    """The mean of `values_N` with a 95 % interval, corrected for skewness; NaN ends where there are too few to tell.

    Student's interval by the error of `mean_and_error`, moved by Hall's transformation (1992): losses have a long tail to the
    right, and the plain interval of few of them ends too low.
    """
    count, size = len(values_N), draws(len(values_N), groups)
    mean, error = mean_and_error(values_N, groups)
    point = student(size - 1)
    sums_G = np.bincount(units(count, groups), weights=values_N - mean)
    spread = float(np.sqrt((sums_G**2).mean()))
    lean = float((sums_G**3).mean()) / spread**3 / float(np.sqrt(size)) if spread > 0 else 0.0
    low, high = (mean - error * _hall(side * point, lean) for side in (1, -1))
    return Interval(value=mean, low=low, high=high, n=count)


def _hall(point: float, lean: float) -> float:
    """The inverse of g(t) = t + a t^2 / 3 + a^2 t^3 / 27 + a / 6, a being the skewness of the mean."""
    return point if abs(lean) < 1e-9 else 3 / lean * float(np.cbrt(1 + lean * (point - lean / 6)) - 1)


def units(count: int, groups: Sequence[Hashable] | None) -> NDArray[np.int64]:
    """(N,) the number of each image's draw, from 0 in the order of their first images: every image its own without `groups`."""
    if groups is None:
        return np.arange(count, dtype=np.int64)
    numbers: dict[Hashable, int] = {}
    return np.fromiter((numbers.setdefault(group, len(numbers)) for group in groups), dtype=np.int64, count=count)


def draws(count: int, groups: Sequence[Hashable] | None) -> int:
    """How many draws `count` images are."""
    return count if groups is None else len(set(groups))


def student(freedom: int) -> float:
    """The two-sided 95 % point of Student's t; NaN without a degree of freedom."""
    # Here, since no command but those that need an interval should wait for it.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975)) if freedom > 0 else float("nan")


def covariance_of_means(values_NS: NDArray[np.float64], group_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """(S, S): the covariance of the S column means of values of the same images, which `group_N` numbers the groups of.

    Its diagonal is the square of `mean_and_error`'s standard error.
    """
    _, group_N = np.unique(group_N, return_inverse=True)
    groups = int(group_N.max()) + 1
    sums_GS = np.zeros((groups, values_NS.shape[1]))
    np.add.at(sums_GS, group_N, values_NS - values_NS.mean(axis=0))
    return np.asarray(sums_GS.T @ sums_GS * (groups / max(1, groups - 1)) / len(values_NS) ** 2)
