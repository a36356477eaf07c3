"""Whether the probabilities of pixels mean what they say, and the temperature that makes them.

Bins and errors are those of `evaluate.calibration`: of several classes the probability of the answer and whether it is right;
of an object its probability and whether it is there. The pixels of one image are anything but independent, so intervals are
over images.
"""

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataUnusable
from regraft.evaluate.calibration import ECE_BINS, ReliabilityBin, expected_calibration_error
from regraft.evaluate.compare import student
from regraft.evaluate.interval import wilson
from regraft.evaluate.probability import negative_log_likelihoods, probabilities
from regraft.evaluate.temperature import fit_temperature
from regraft.segments import IGNORE, LEVELS, Counts, PixelCalibrated
from regraft.values import FloatArray, Interval, Predictions


def sample_pixels(
    logits_CHW: FloatArray, labels_HW: NDArray[np.uint8] | NDArray[np.int64], count: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(P, C) logits and (P,) labels of at most `count` pixels of an image, drawn from those that are not ignored."""
    known_P = np.flatnonzero(np.asarray(labels_HW).ravel() != IGNORE)
    if len(known_P) > count:
        known_P = np.sort(np.random.default_rng(seed).choice(known_P, count, replace=False))
    logits_PC = logits_CHW.reshape(len(logits_CHW), -1)[:, known_P].T
    return np.ascontiguousarray(logits_PC, np.float32), np.asarray(labels_HW).ravel()[known_P].astype(np.int64)


def calibrate_pixels(
    logits_PC: FloatArray, labels_P: NDArray[np.int64], on: str, images: int, *, temperature: float | None = None
) -> PixelCalibrated:
    """The temperature that suits these pixels best, or the one given, and what it does to them.

    Logits must not come from a network fitted to these pixels. One channel: the logit of the object, and binary entropy. Raises
    DataUnusable without pixels.
    """
    if not len(labels_P):
        raise DataUnusable(expected="pixels to calibrate with", got="none that counts", fix="give images with masks")
    before = _predictions(logits_PC, labels_P)
    assert before.targets is not None
    found = fit_temperature(before.logits_NK, before.targets) if temperature is None else temperature
    after = _predictions(logits_PC / np.float32(found), labels_P)
    return PixelCalibrated(
        temperature=found,
        on=on,
        images=images,
        pixels=len(labels_P),
        nll_before=_loss(before),
        nll_after=_loss(after),
        ece_before=expected_calibration_error(before),
        ece_after=expected_calibration_error(after),
    )


def calibration_error_of_levels(levels_N2L: Counts) -> float:
    """The expected calibration error of an object's probabilities over all pixels, from levels; NaN where there are none.

    The edges of the 15 bins are levels themselves, so the bins are exact and the claims to 1/510.
    """
    counts_B, claimed_B, true_B = (sums_UB.sum(axis=0) for sums_UB in _binned_levels(levels_N2L))
    return float(np.abs(true_B - claimed_B).sum() / counts_B.sum()) if counts_B.sum() else float("nan")


def reliability_of_levels(levels_N2L: Counts, unit_N: NDArray[np.int64] | None = None) -> tuple[ReliabilityBin, ...]:
    """The reliability curve of an object's probabilities. `unit_N` numbers the draws that images belong to."""
    return _bins(*(_joined(sums_NB, unit_N) for sums_NB in _binned_levels(levels_N2L)))


def reliability_of_pixels(
    logits_PC: FloatArray, labels_P: NDArray[np.int64], unit_P: NDArray[np.int64]
) -> tuple[ReliabilityBin, ...]:
    """The reliability curve of sampled pixels; `unit_P` numbers the image, or group of images, of each."""
    chances_PC = probabilities(logits_PC, multi_label=logits_PC.shape[1] == 1)
    claimed_P = chances_PC.max(axis=1)
    true_P = labels_P == (1 if logits_PC.shape[1] == 1 else chances_PC.argmax(axis=1))
    inner = np.linspace(0.0, 1.0, ECE_BINS + 1)[1:-1]
    cells_P = np.unique(unit_P, return_inverse=True)[1] * ECE_BINS + np.searchsorted(inner, claimed_P, side="left")
    rows = len(np.unique(unit_P))
    weights = (np.ones(len(claimed_P)), claimed_P, true_P.astype(np.float64))
    return _bins(*(np.bincount(cells_P, w, rows * ECE_BINS).reshape(rows, ECE_BINS).astype(np.float64) for w in weights))


def _predictions(logits_PC: FloatArray, labels_P: NDArray[np.int64]) -> Predictions:
    """Pixels as if they were images: an object's as of one label that may apply."""
    channels = logits_PC.shape[1]
    return Predictions(
        names=("",) * len(labels_P),
        classes=tuple(str(channel) for channel in range(channels)),
        logits_NK=logits_PC,
        targets=labels_P[:, None] == 1 if channels == 1 else labels_P,
        multi_label=channels == 1,
    )


def _loss(predictions: Predictions) -> float:
    assert predictions.targets is not None
    return float(negative_log_likelihoods(predictions, predictions.targets).mean())


def _binned_levels(levels_N2L: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(N, B) pixels, their probabilities added up, and how many are of the object; bins are closed on the right."""
    level_L = np.arange(LEVELS)
    bin_L = np.maximum(-(-level_L * ECE_BINS // (LEVELS - 1)) - 1, 0)
    into_LB = (bin_L[:, None] == np.arange(ECE_BINS)).astype(np.float64)
    pixels_NL = levels_N2L.sum(axis=1)
    return pixels_NL @ into_LB, (pixels_NL * (level_L / (LEVELS - 1))) @ into_LB, levels_N2L[:, 1] @ into_LB


def _joined(sums_NB: NDArray[np.float64], unit_N: NDArray[np.int64] | None) -> NDArray[np.float64]:
    if unit_N is None:
        return sums_NB
    numbers_N = np.unique(unit_N, return_inverse=True)[1]
    sums_UB = np.zeros((numbers_N.max(initial=-1) + 1, sums_NB.shape[1]))
    np.add.at(sums_UB, numbers_N, sums_NB)
    return sums_UB


def _bins(
    counts_UB: NDArray[np.float64], claimed_UB: NDArray[np.float64], true_UB: NDArray[np.float64]
) -> tuple[ReliabilityBin, ...]:
    """Bins that hold a pixel. The interval of a share is Student's, by the linearised variance of a ratio over the draws."""
    edges = np.linspace(0.0, 1.0, ECE_BINS + 1)
    found = []
    for b in np.flatnonzero(counts_UB.sum(axis=0)):
        here_U = counts_UB[:, b] > 0
        count, draws = counts_UB[:, b].sum(), int(here_U.sum())
        share = float(true_UB[:, b].sum() / count)
        spread = ((true_UB[:, b] - share * counts_UB[:, b])[here_U] ** 2).sum()
        half = student(draws - 1) * float(np.sqrt(spread * draws / (draws - 1)) / count) if draws > 1 else 1.0
        low, high = max(0.0, share - half), min(1.0, share + half)
        if share in (0.0, 1.0):  # no draw differs from the others yet
            at_end = wilson(round(share * draws), draws)
            low, high = at_end.low, at_end.high
        accuracy = Interval(value=share, low=low, high=high, n=int(count))
        confidence = float(claimed_UB[:, b].sum() / count)
        found.append(ReliabilityBin(low=float(edges[b]), high=float(edges[b + 1]), confidence=confidence, accuracy=accuracy))
    return tuple(found)
