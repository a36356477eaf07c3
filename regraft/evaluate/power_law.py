"""How an error falls with the number of images: a power law, and what it says of more images with how much certainty.

    err(n) = a + b n^-c,        a >= 0, b >= 0, c in EXPONENTS

the form that learning curves of classifiers follow over the range that matters (Cortes et al. 1993, "Learning curves"; Hestness
et al. 2017, "Deep learning scaling is predictable, empirically"). For a given c it is linear in a and b, so that c is the only
unknown to search for: the least-squares law is exact on a grid, and no optimiser can end in the wrong place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.values import PowerLaw

# From slower than any curve that was seen to that of a model whose form is right and has only noise left to average out.
EXPONENTS = (0.1, 1.0)
FEWEST_POINTS = 3
_GRID = np.linspace(*EXPONENTS, 37)
_DRAWS = 400  # for each exponent of the grid: enough for two digits of the ends of a band


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fits:
    """The least-squares law of every exponent c of the grid, in a and in d = b n0^-c, the falling part at the largest n.

    `means_C2` are (a, d) without regard to their signs, `roots_C22` a square root of their covariance, `misfits_C` chi
    squared. d and not b, because a flat prior for it means the same for every exponent.
    """

    means_C2: NDArray[np.float64]
    roots_C22: NDArray[np.float64]
    misfits_C: NDArray[np.float64]


def fit_power_law(images: Sequence[float], errors_S: NDArray[np.float64], covariance_SS: NDArray[np.float64]) -> PowerLaw:
    """The law nearest to the errors (S,), shares, at numbers of images (S,), by generalised least squares with a, b >= 0.

    Raises ValueError for fewer than three points.
    """
    sizes_S, root_SS = _checked(images, errors_S, covariance_SS)
    best: tuple[float, PowerLaw] | None = None
    for exponent in np.linspace(*EXPONENTS, 91):
        falling_S = (sizes_S / sizes_S[-1]) ** -exponent
        for columns in ((1, 1), (0, 1), (1, 0)):  # both parts, or one held at its bound
            shape_S2 = np.stack([np.ones_like(falling_S), falling_S], axis=1) * columns
            solved, *_ = np.linalg.lstsq(np.linalg.solve(root_SS, shape_S2), np.linalg.solve(root_SS, errors_S), rcond=None)
            if (solved < 0).any():
                continue
            misfit = float((np.linalg.solve(root_SS, errors_S - shape_S2 @ solved) ** 2).sum())
            if best is None or misfit < best[0] * (1 - 1e-9):
                scale = float(solved[1]) * float(sizes_S[-1]) ** exponent
                best = misfit, PowerLaw(floor=float(solved[0]), scale=scale, exponent=float(exponent))
    assert best is not None, "a positive constant fits shares"
    return best[1]


def draw_errors(
    images: Sequence[float],
    errors_S: NDArray[np.float64],
    covariance_SS: NDArray[np.float64],
    at: Sequence[float],
    *,
    seed: int,
) -> NDArray[np.float64]:
    """(draws, M): errors at numbers of images `at` under laws drawn from what the points leave possible.

    The posterior of (a, d, c) under flat priors on a >= 0, d >= 0 (the falling part at the largest number of images) and c in
    EXPONENTS, with normal errors of `covariance_SS`; where no law comes as near to the points as these errors would let it,
    they are taken to be larger by what is missing. The draws of one seed are the same ones every time.
    Raises ValueError for fewer than three points.
    """
    sizes_S, root_SS = _checked(images, errors_S, covariance_SS)
    fits = _fits(sizes_S, errors_S, root_SS)
    spare = len(sizes_S) - 2
    inflation = max(1.0, float(fits.misfits_C.min()) / spare)
    noise_CB2 = np.random.default_rng((seed, 0x1EA7)).standard_normal((len(_GRID), _DRAWS, 2)) * np.sqrt(inflation)
    draws_CB2 = fits.means_C2[:, None] + np.einsum("cij,cbj->cbi", fits.roots_C22, noise_CB2)
    weights_C = np.exp(-(fits.misfits_C - fits.misfits_C.min()) / (2 * inflation)) * np.abs(np.linalg.det(fits.roots_C22))
    allowed_CB = (draws_CB2 >= 0).all(axis=2)
    weights_CB = np.where(allowed_CB, weights_C[:, None], 0.0)
    if not weights_CB.any():
        return _constants(errors_S, root_SS, len(at), seed)
    # Systematic resampling: equal weights, for quantiles that are simple ones.
    places = (np.arange(weights_CB.size // 4) + 0.5) / (weights_CB.size // 4)
    chosen = np.searchsorted(np.cumsum(weights_CB) / weights_CB.sum(), places)
    exponents, (floors, falling) = np.repeat(_GRID, _DRAWS)[chosen], draws_CB2.reshape(-1, 2)[chosen].T
    ratios_M = np.asarray(at, dtype=np.float64) / sizes_S[-1]
    return np.asarray(floors[:, None] + falling[:, None] * ratios_M ** -exponents[:, None])


def _constants(errors_S: NDArray[np.float64], root_SS: NDArray[np.float64], places: int, seed: int) -> NDArray[np.float64]:
    """Draws for points that rise, so that no law that falls comes near: levels that do not change, as far as they are known."""
    ones_S, white_S = np.linalg.solve(root_SS, np.ones_like(errors_S)), np.linalg.solve(root_SS, errors_S)
    precision = float(ones_S @ ones_S)
    level = float(ones_S @ white_S) / precision
    inflation = max(1.0, float(((white_S - level * ones_S) ** 2).sum()) / (len(errors_S) - 1))
    noise_B = np.random.default_rng((seed, 0x1EA7)).standard_normal(len(_GRID) * _DRAWS // 4)
    return np.repeat((level + noise_B * np.sqrt(inflation / precision))[:, None], places, axis=1)


def _fits(sizes_S: NDArray[np.float64], errors_S: NDArray[np.float64], root_SS: NDArray[np.float64]) -> _Fits:
    falling_CS = (sizes_S / sizes_S[-1]) ** -_GRID[:, None]
    shape_CS2 = np.stack([np.ones_like(falling_CS), falling_CS], axis=2)
    white_CS2, white_S = np.linalg.solve(root_SS, shape_CS2), np.linalg.solve(root_SS, errors_S)
    covariance_C22 = np.linalg.inv(white_CS2.transpose(0, 2, 1) @ white_CS2)
    means_C2 = np.einsum("cij,csj,s->ci", covariance_C22, white_CS2, white_S)
    misfits_C = ((white_S - np.einsum("csi,ci->cs", white_CS2, means_C2)) ** 2).sum(axis=1)
    return _Fits(means_C2=means_C2, roots_C22=np.linalg.cholesky(covariance_C22), misfits_C=misfits_C)


def _checked(
    images: Sequence[float], errors_S: NDArray[np.float64], covariance_SS: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sizes as an array, and a square root of the covariance."""
    sizes_S = np.asarray(images, dtype=np.float64)
    if len(np.unique(sizes_S)) < FEWEST_POINTS or errors_S.shape != sizes_S.shape or (np.diff(sizes_S) < 0).any():
        raise ValueError(f"expected {FEWEST_POINTS} numbers of images or more, ascending, got {list(images)}")
    return sizes_S, np.asarray(np.linalg.cholesky(covariance_SS), np.float64)
