"""What lies far beyond the rest, by a rule that what lies far beyond the rest cannot spoil."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

# 1 / the 75 % point of the normal distribution: makes the median of absolute deviations a standard deviation.
_NORMAL = 1.4826022185056018
# The share of data sets that have something beyond the limit by chance alone, where the logarithms are normal.
FALSE_SETS = 0.02
# A median of deviations knows the spread as well as a standard deviation of 0.37 times as many values (Rousseeuw and Croux,
# 1993); of those, half are on the side that counts.
_EFFICIENCY = 0.37 / 2
_FEWEST = 20
# Values nearer to each other than this, in logarithms, are the same to a person.
_LEAST_SPREAD = 0.02


def beyond(values_N: NDArray[np.float64], side: int) -> NDArray[np.bool_]:
    """(N,) which positive values are far above (`side` 1) or far below (-1) the rest; none of fewer than 20.

    Of the logarithms: more than t spreads from the median, where the spread is 1.48 times the median distance of the values on
    that side. t is the point of Student's distribution which, were the logarithms normal, one set in fifty would pass
    anywhere, whatever N: 4.6 spreads for 10,000 images, and more for few, whose spread is not well known.
    """
    count = len(values_N)
    if count < _FEWEST:
        return np.zeros(count, np.bool_)
    distance_N = side * np.log(np.maximum(values_N, np.finfo(np.float64).tiny))
    distance_N -= np.median(distance_N)
    # Of the half on that side; where most are equal, it has no spread of its own.
    spread = max(_NORMAL * float(np.median(distance_N[distance_N >= 0])), _LEAST_SPREAD)
    limit = -float(stdtrit(_EFFICIENCY * count, FALSE_SETS / count))
    return np.asarray(distance_N > limit * spread)
