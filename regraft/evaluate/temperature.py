"""How good logits are once over- or under-confidence is taken out of them."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.probability import Targets, log_probabilities
from regraft.values import FloatArray

# Sharpness beyond which no sensible model is; the ends of the search.
_FLATTEST, _SHARPEST = 0.02, 20.0
_PRECISION = 0.01  # of the logarithm of the sharpness: a loss has four digits then
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


def _sharpness(logits_NK: FloatArray, truth: Targets, weights: NDArray[Any] | None) -> float:
    # Convex in the sharpness, and so with a single dip in its logarithm: golden section.
    low, high = math.log(_FLATTEST), math.log(_SHARPEST)
    one, other = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_one, at_other = (_loss(logits_NK, truth, weights, math.exp(x)) for x in (one, other))
    while high - low > _PRECISION:
        if at_one <= at_other:
            high, other, at_other = other, one, at_one
            one = high - _GOLDEN * (high - low)
            at_one = _loss(logits_NK, truth, weights, math.exp(one))
        else:
            low, one, at_one = one, other, at_other
            other = low + _GOLDEN * (high - low)
            at_other = _loss(logits_NK, truth, weights, math.exp(other))
    return math.exp(one if at_one <= at_other else other)


def _loss(logits_NK: FloatArray, truth: Targets, weights: NDArray[Any] | None, sharpness: float) -> float:
    return float(_losses(logits_NK, truth, weights, sharpness).mean())


def _losses(logits_NK: FloatArray, truth: Targets, weights: NDArray[Any] | None, sharpness: float) -> NDArray[np.float64]:
    scaled_NK = logits_NK.astype(np.float64) * sharpness
    if truth.ndim == 1:
        losses = -log_probabilities(scaled_NK)[np.arange(len(truth)), truth]
    else:
        losses = np.logaddexp(0.0, scaled_NK) - truth * scaled_NK
    return losses if weights is None else losses * weights
