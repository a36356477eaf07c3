"""How good logits are once over- or under-confidence is taken out of them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.probability import Targets, log_probabilities
from regraft.values import FloatArray

# Sharpness beyond which no sensible model is; the ends of the search.
_FLATTEST, _SHARPEST = 0.02, 20.0
_PRECISION = 0.01  # of the logarithm of the sharpness: a loss has four digits then
# Deviation of the temperature's logarithm before any image is seen: half or twice the logits is not unusual, a tenth is.
PRIOR = 0.7
_GOLDEN = (math.sqrt(5) - 1) / 2


def tempered_loss(logits_NK: FloatArray, truth: Targets, weights: NDArray[Any] | None = None) -> float:
    """The smallest mean negative log-likelihood that dividing all logits by one temperature can reach, in nats.

    Several labels per image: also the mean over the labels. `weights`, (N,) or (N, K), weigh the terms. What is left is how
    well classes are told apart; how sure the answers are can be mended afterwards (Guo et al., 2017), and so should not choose.
    NaN where a logit is not finite.
    """
    if not np.isfinite(logits_NK).all():
        return math.nan
    return _loss(logits_NK, truth, weights, _sharpness(logits_NK, truth, weights))


def tempered_losses(logits_NK: FloatArray, truth: Targets, weights: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """The loss of each image (N,) at the temperature of `tempered_loss`; several labels: its mean over the labels."""
    losses = _losses(logits_NK, truth, weights, _sharpness(logits_NK, truth, weights))
    return losses if truth.ndim == 1 else losses.mean(axis=1)


def fit_temperature(logits_NK: FloatArray, truth: Targets) -> float:
    """The temperature to divide logits by, from images that those logits were not fitted to (Guo et al., 2017).

    The most probable one where its logarithm is normal around 0 with a deviation of `PRIOR`: a few hundred images outweigh
    that, and a handful that are all answered right do not make the answers certain. 1 where a logit is not finite.
    """
    if not np.isfinite(logits_NK).all():
        return 1.0

    def surprise(log_sharpness: float) -> float:
        loss = len(truth) * _loss(logits_NK, truth, None, math.exp(log_sharpness))
        return loss + log_sharpness**2 / (2 * PRIOR**2)

    return math.exp(-_lowest(surprise))


def _sharpness(logits_NK: FloatArray, truth: Targets, weights: NDArray[Any] | None) -> float:
    # Convex in the sharpness, and so with a single dip in its logarithm.
    return math.exp(_lowest(lambda log_sharpness: _loss(logits_NK, truth, weights, math.exp(log_sharpness))))


def _lowest(function: Callable[[float], float]) -> float:
    """Where a function of the sharpness's logarithm with a single dip is lowest, by golden section."""
    low, high = math.log(_FLATTEST), math.log(_SHARPEST)
    one, other = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_one, at_other = function(one), function(other)
    while high - low > _PRECISION:
        if at_one <= at_other:
            high, other, at_other = other, one, at_one
            one = high - _GOLDEN * (high - low)
            at_one = function(one)
        else:
            low, one, at_one = one, other, at_other
            other = low + _GOLDEN * (high - low)
            at_other = function(other)
    return one if at_one <= at_other else other


def _loss(logits_NK: FloatArray, truth: Targets, weights: NDArray[Any] | None, sharpness: float) -> float:
    return float(_losses(logits_NK, truth, weights, sharpness).mean())


def _losses(logits_NK: FloatArray, truth: Targets, weights: NDArray[Any] | None, sharpness: float) -> NDArray[np.float64]:
    scaled_NK = logits_NK.astype(np.float64) * sharpness
    if truth.ndim == 1:
        losses = -log_probabilities(scaled_NK)[np.arange(len(truth)), truth]
    else:
        losses = np.logaddexp(0.0, scaled_NK) - truth * scaled_NK
    return losses if weights is None else losses * weights
