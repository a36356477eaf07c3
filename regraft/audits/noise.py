"""How many labels are wrong, and how likely each of them is: one model of label noise, fitted to out-of-fold logits.

A given label is the truth, which the logits foretell once they are sharpened by one number s, or with a small probability it is
any other one:

    P(y | x) = (1 - e) p_y + e (1 - p_y) / (K - 1),    p = softmax(s logits)

Several labels per image: each yes or no is a label of its own, with one rate for labels that are missing and one for those
that should not be there. Both s and the rates are where the likelihood is largest. This is the noise model of Natarajan et al.
(2013) around the temperature of Guo et al. (2017). Confident learning (Northcutt et al., 2021) counts every sure disagreement
instead, hard images included; the two are compared in docs/measurements.md#labels.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.interval import Z_95
from regraft.evaluate.probability import Targets, known_truth
from regraft.values import FloatArray, Interval, Predictions

# The search: sharpness, and odds of noise against the model. A tenth between neighbours, a seventh for the odds.
_SHARPNESS_S = np.geomspace(0.1, 10.0, 47)
_LOG_ODDS_W = np.concatenate([[-np.inf], np.linspace(np.log(1e-6), 0.0, 97)])
# Half the 95 % point of chi-square with one degree of freedom: a profile likelihood interval.
_DROP_95 = 1.920729
# More logits than these are thinned out evenly before the fit: a second's work, and rates of a thousandth still show.
_MOST_LOGITS = 2_000_000
# Log-odds are counted in cells this wide.
_CELL, _FARTHEST = 0.05, 40.0
_TINY = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelNoise:
    """The fitted model. `wrong` is the expected share of wrong labels, of `wrong.n` labels, with its 95 % interval.

    `log_odds` are log w, where a label with log-odds m is wrong with probability 1 / (1 + exp(m - log w)): of a label that was
    given, and for multi-label data also of one that was not. `sharpness` is s.
    """

    sharpness: float
    log_odds: tuple[float, ...]
    wrong: Interval


def fit_noise(predictions: Predictions) -> LabelNoise:
    """The noise of the labels of `predictions`, which must come from heads that had not seen these images.

    The interval is that of the profile likelihood, all shares that some s and rates reach which are not too unlikely, and of
    chance within it; in simulations it held the number of wrong labels in 91 % of sets. It takes the model for right:
    overconfident answers to hard images count as noise, and labels mixed up between two classes do not. Where the interval
    holds no noise at all, there is none. Raises DataUnusable without known labels or with logits that are not finite.
    """
    truth = known_truth(predictions)
    n = truth.size
    if predictions.logits_NK.shape[1] < 2 and not predictions.multi_label:
        return LabelNoise(sharpness=1.0, log_odds=(-np.inf,), wrong=Interval(value=0.0, low=0.0, high=0.0, n=n))
    step = -(-predictions.logits_NK.size // _MOST_LOGITS)
    logits_NK, some = predictions.logits_NK[::step], truth[::step]
    tables = [_tables(logits_NK, some, float(sharpness)) for sharpness in _SHARPNESS_S]
    likelihood_SR = np.stack([likelihood.ravel() for likelihood, _ in tables])
    wrong_SR = np.stack([wrong.ravel() for _, wrong in tables]) / some.size
    likely_SR = likelihood_SR >= likelihood_SR.max() - _DROP_95
    # The first of the rates are none at all.
    rates = 1 if likely_SR[:, 0].any() else likelihood_SR.shape[1]
    best, rate = (int(place) for place in np.unravel_index(likelihood_SR[:, :rates].argmax(), (len(tables), rates)))
    fitted = LabelNoise(
        sharpness=float(_SHARPNESS_S[best]),
        log_odds=tuple(float(_LOG_ODDS_W[place]) for place in np.unravel_index(rate, tables[0][0].shape)),
        wrong=Interval(
            value=float(wrong_SR[best, rate]), low=float(wrong_SR[likely_SR].min()), high=float(wrong_SR[likely_SR].max()), n=n
        ),
    )
    return replace(fitted, wrong=_widened(fitted.wrong, doubts(predictions, fitted)))


def _widened(wrong: Interval, doubts: NDArray[np.float64]) -> Interval:
    """With what each label adds, which is either wrong or not."""
    chance = (Z_95 / doubts.size) ** 2 * float((doubts * (1 - doubts)).sum())
    low = wrong.value - float(np.hypot(wrong.value - wrong.low, np.sqrt(chance)))
    high = wrong.value + float(np.hypot(wrong.high - wrong.value, np.sqrt(chance)))
    return replace(wrong, low=max(0.0, low), high=min(1.0, high))


def log_odds_of(logits_NK: FloatArray, truth: Targets, sharpness: float) -> NDArray[np.float64]:
    """How likely given labels are against all others, log p_y - log(1 - p_y): (N,), or (N, K) for multi-label data."""
    scaled_NK = logits_NK.astype(np.float64) * sharpness
    if truth.ndim == 2:
        return np.where(truth, scaled_NK, -scaled_NK)
    rows_N = np.arange(len(truth))
    own_N = scaled_NK[rows_N, truth]
    scaled_NK[rows_N, truth] = -np.inf
    others_N = scaled_NK.max(axis=1)
    own_N -= others_N + np.log(np.exp(scaled_NK - others_N[:, None]).sum(axis=1))
    return own_N


def doubts(predictions: Predictions, noise: LabelNoise) -> NDArray[np.float64]:
    """The probability that each label is wrong: (N,), or (N, K) for multi-label data, missing labels included."""
    truth = known_truth(predictions)
    if predictions.logits_NK.shape[1] < 2 and truth.ndim == 1:
        return np.zeros(len(truth))
    log_odds = log_odds_of(predictions.logits_NK, truth, noise.sharpness)
    noise_odds = noise.log_odds[0] if truth.ndim == 1 else np.where(truth, noise.log_odds[0], noise.log_odds[1])
    return _sigmoid(noise_odds - log_odds)


def _tables(logits_NK: FloatArray, truth: Targets, sharpness: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-likelihood and expected number of wrong labels for every odds of noise: (W,), or (W, W) for multi-label data."""
    log_odds = log_odds_of(logits_NK, truth, sharpness)
    if truth.ndim == 1:
        others = logits_NK.shape[1] - 1
        share_W = others * np.exp(_LOG_ODDS_W)
        fit_W, wrong_W = _sums(log_odds)
        return fit_W - len(truth) * np.log1p(share_W), wrong_W
    given, absent = (_sums(log_odds[truth]), _sums(log_odds[~truth]))
    kept = _kept(np.exp(_LOG_ODDS_W)[:, None], np.exp(_LOG_ODDS_W)[None, :])
    likelihood = given[0][:, None] + absent[0][None, :]
    for share, count in zip(kept, (truth.sum(), (~truth).sum()), strict=True):
        likelihood = likelihood + count * np.log(share)
    return likelihood, given[1][:, None] + absent[1][None, :]


def _kept(given: NDArray[np.float64], absent: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The shares of true labels that are given, 1 - a, and of others that are not, 1 - b, from w = b / (1 - a), a / (1 - b)."""
    rest = np.maximum(1 - given * absent, _TINY)
    return np.maximum((1 - absent) / rest, _TINY), np.maximum((1 - given) / rest, _TINY)


def _sums(log_odds: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of all labels, for every odds w of noise: sum log(p + w (1 - p)), and sum of the probabilities of being wrong. (W,)"""
    cells = np.round(np.clip(log_odds, -_FARTHEST, _FARTHEST) / _CELL).astype(np.int64)
    values, counts = np.unique(cells, return_counts=True)
    against_C = np.exp(-values * _CELL)
    noise_WC = np.exp(_LOG_ODDS_W)[:, None] * against_C
    fit_WC = np.log1p(noise_WC) - np.log1p(against_C)
    noise_WC /= 1 + noise_WC
    return fit_WC @ counts, noise_WC @ counts


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -values))
