"""95 % intervals for figures that are functions of sums over images: means, ratios, and means of ratios."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.compare import student

# At most so many numbers are drawn, so many of them at a time; never fewer than 200 resamples.
_NUMBERS, _AT_ONCE, _FEWEST = 20_000_000, 2_000_000, 200
Figures = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def ends_of_figures(figures: Figures, sums_UX: NDArray[np.float64], *, draws: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """(2, F) lower and upper ends of F figures, by a percentile bootstrap that allows for few draws.

    `sums_UX` holds what each of U draws (an image, or a group of them) adds to X sums; `figures` makes (..., F) figures of
    (..., X) sums. Resamples of few draws are too much alike, and their tails are those of Student's distribution: the
    percentiles are moved outwards for both (Hesterberg 2015, "What Teachers Should Know About the Bootstrap"). Where the
    jackknife's standard error is the larger one, the ends are moved out as much again: of a class in a handful of images
    resamples know too little, and the jackknife errs on the safe side (Efron and Stein 1981). Resamples without the figure
    (NaN) are left out. NaN ends where there is one draw alone, or where the figure is never defined.
    """
    size, total_X = len(sums_UX), sums_UX.sum(axis=0)
    value_F = figures(total_X)
    if size < 2:
        return np.full((2, len(value_F)), np.nan)
    drawn_BF = np.concatenate([figures(part) for part in _drawn(sums_UX, draws, seed)])
    error_F = _jackknife(figures(total_X - sums_UX))
    point = float(np.sqrt(size / (size - 1)) * student(size - 1))
    columns = zip(value_F, drawn_BF.T, error_F, strict=True)
    return np.array([_ends(value, drawn_B, error, point, size) for value, drawn_B, error in columns]).reshape(-1, 2).T


def _drawn(sums_UX: NDArray[np.float64], draws: int, seed: int) -> list[NDArray[np.float64]]:
    """(B, X) sums of U draws with replacement, in parts: how often each was drawn is drawn at once (multinomial)."""
    size, random = len(sums_UX), np.random.default_rng(seed)
    draws = min(draws, max(_FEWEST, _NUMBERS // size))
    part = max(1, _AT_ONCE // size)
    sizes = [min(part, draws - start) for start in range(0, draws, part)]
    shares_U = np.full(size, 1 / size)
    return [random.multinomial(size, shares_U, size=count).astype(np.float64) @ sums_UX for count in sizes]


def _jackknife(without_UF: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F,) standard errors, from the figures without each of the draws."""
    size, known_UF = len(without_UF), ~np.isnan(without_UF)
    mean_F = np.where(known_UF, without_UF, 0.0).sum(axis=0) / np.maximum(known_UF.sum(axis=0), 1)
    squares_F = np.where(known_UF, without_UF - mean_F, 0.0) ** 2
    return np.asarray(np.sqrt(squares_F.sum(axis=0) * (size - 1) / size))


def _ends(value: float, drawn_B: NDArray[np.float64], error: float, point: float, size: int) -> tuple[float, float]:
    from scipy.special import ndtr

    drawn_B = drawn_B[~np.isnan(drawn_B)]
    if np.isnan(value) or not len(drawn_B):
        return float("nan"), float("nan")
    low, high = np.quantile(drawn_B, [ndtr(-point), ndtr(point)])
    spread = float(drawn_B.std()) * float(np.sqrt(size / (size - 1)))
    wider = max(1.0, error / spread) if spread > 0 else 1.0
    return value - wider * max(value - float(low), 0.0), value + wider * max(float(high) - value, 0.0)
