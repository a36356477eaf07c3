"""95 % intervals for figures that are functions of sums over images: means, ratios, and means of ratios."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.compare import student

# At most so many numbers are drawn, so many of them at a time; never fewer than 200 resamples.
_NUMBERS, _AT_ONCE, _FEWEST = 20_000_000, 2_000_000, 200
Figures = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def ends_of_figures(figures: Figures, sums_UX: NDArray[np.float64], *, draws: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """(2, F) lower and upper ends of F figures, by the bias-corrected and accelerated bootstrap (BCa; Efron 1987).

    `sums_UX` holds what each of U draws (an image, or a group of them) adds to X sums; `figures` makes (..., F) figures of
    (..., X) sums. As many draws as there are of few are too much alike and have the tails of Student's distribution: both are
    allowed for as by Hesterberg (2015, "What Teachers Should Know About the Bootstrap"). Resamples without the figure (NaN)
    are left out. NaN ends where there is one draw alone, or where the figure is never defined.
    """
    size, total_X = len(sums_UX), sums_UX.sum(axis=0)
    value_F = figures(total_X)
    if size < 2:
        return np.full((2, len(value_F)), np.nan)
    drawn_BF = np.concatenate([figures(part) for part in _drawn(sums_UX, draws, seed)])
    lean_F = _lean(figures(total_X - sums_UX))
    point = np.sqrt(size / (size - 1)) * student(size - 1)
    columns = zip(value_F, drawn_BF.T, lean_F, strict=True)
    return np.array([_ends(value, drawn_B, lean, float(point)) for value, drawn_B, lean in columns]).reshape(-1, 2).T


def _drawn(sums_UX: NDArray[np.float64], draws: int, seed: int) -> list[NDArray[np.float64]]:
    """(B, X) sums of U draws with replacement, in parts: how often each was drawn is drawn at once (multinomial)."""
    size, random = len(sums_UX), np.random.default_rng(seed)
    draws = min(draws, max(_FEWEST, _NUMBERS // size))
    part = max(1, _AT_ONCE // size)
    sizes = [min(part, draws - start) for start in range(0, draws, part)]
    shares_U = np.full(size, 1 / size)
    return [random.multinomial(size, shares_U, size=count).astype(np.float64) @ sums_UX for count in sizes]


def _lean(without_UF: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F,) the acceleration, from the figures without each of the draws."""
    moves_UF = np.nan_to_num(_mean(without_UF) - without_UF)
    spread_F = (moves_UF**2).sum(axis=0)
    lean_F: NDArray[np.float64] = np.divide(
        (moves_UF**3).sum(axis=0), 6 * spread_F**1.5, out=np.zeros_like(spread_F), where=spread_F > 0
    )
    return lean_F


def _mean(values_UF: NDArray[np.float64]) -> NDArray[np.float64]:
    known_UF = ~np.isnan(values_UF)
    sums_F = np.where(known_UF, values_UF, 0.0).sum(axis=0)
    return np.asarray(sums_F / np.maximum(known_UF.sum(axis=0), 1), dtype=np.float64)


def _ends(value: float, drawn_B: NDArray[np.float64], lean: float, point: float) -> tuple[float, float]:
    from scipy.special import ndtr, ndtri

    drawn_B = drawn_B[~np.isnan(drawn_B)]
    if np.isnan(value) or not len(drawn_B):
        return float("nan"), float("nan")
    # Equal ones count half; rounding must not tell them apart.
    below = float((drawn_B < value - 1e-12).mean() + (drawn_B <= value + 1e-12).mean()) / 2
    least = 1 / (len(drawn_B) + 1)
    bias = ndtri(min(max(below, least), 1 - least))
    moved = bias + np.array([-point, point])
    # Of two or three draws the correction would turn back on itself: then the end is that of the resamples.
    low, high = np.quantile(drawn_B, ndtr(bias + moved / np.maximum(1 - lean * moved, 1e-3)))
    return min(float(low), value), max(float(high), value)
