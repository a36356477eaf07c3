"""Two thumbnails laid on each other, for a crop of a few per cent, and what then still differs.

Gauss-Newton on shift and stretch along each side (Lucas and Kanade, "An iterative image registration technique with an
application to stereo vision", 1981), for many pairs at once. Letters: P pairs, H W pixels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# One may be shifted against the other by this share of the side, and stretched by it: 5 % off one edge is half of each.
MOST = 0.06
# Left out along each edge, where one of the two may show nothing: a share of the side.
_MARGIN = 1 / 16
# Holds the parameters where a picture says nothing of them, as a share of what it says on average.
_DAMPING = 2e-3
# Points are looked up in steps of this part of a pixel.
_FINE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far pairs differ once laid on each other, (P,) each, in standard deviations of the first image where nothing is said.

    `whole` is the root mean square of the difference, `worst` that of the worst of 7 x 7 places; `likeness` the correlation,
    `detail` that of what lies above the mean of the surroundings.
    """

    whole: Floats
    worst: Floats
    likeness: Floats
    detail: Floats


def turn(images_PHW: NDArray[np.uint8], ways_P: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Each image flipped and turned by its way, as `candidates.ways_of` counts them; further axes stay last."""
    out = images_PHW.copy()
    for way in np.unique(ways_P):
        mine = images_PHW[ways_P == way]
        mine = mine.swapaxes(1, 2) if way >= 4 else mine
        mine = mine[:, :, ::-1] if way & 1 else mine
        out[ways_P == way] = mine[:, ::-1] if way & 2 else mine
    return out


def align(one_PHW: Floats, other_PHW: Floats, *, start_P4: Floats | None = None, steps: int) -> Floats:
    """Shift and stretch that lay the second on the first, (P, 4): down, then across, as shares of the side.

    A point at u in -1..1 of the first is looked for at u + 2 (shift + stretch u) of the second.
    """
    side = one_PHW.shape[1]
    inner = _inner(side)
    place_H = _places(side)[inner]
    before, after = slice(inner.start - 1, inner.stop - 1), slice(inner.start + 1, inner.stop + 1)
    first, second = smooth(one_PHW, 1)[:, inner, inner], smooth(other_PHW, 1)
    found = np.zeros((len(one_PHW), 4), np.float32) if start_P4 is None else start_P4
    for _ in range(steps):
        seen = move(second, found)
        slopes = np.empty((len(seen), 4, *first.shape[1:]), np.float32)
        slopes[:, 0] = (seen[:, after, inner] - seen[:, before, inner]) * (side / 2)
        slopes[:, 1] = slopes[:, 0] * place_H[:, np.newaxis]
        slopes[:, 2] = (seen[:, inner, after] - seen[:, inner, before]) * (side / 2)
        slopes[:, 3] = slopes[:, 2] * place_H
        flat = _level(slopes.reshape(len(seen), 4, first.shape[1] * first.shape[2]))
        missing = _level((first - seen[:, inner, inner]).reshape(len(seen), 1, first.shape[1] * first.shape[2]))
        square = (flat @ flat.transpose(0, 2, 1)).astype(np.float64)
        # The 1 is for blank ones, where there is nothing to lay on anything.
        held = _DAMPING * np.trace(square, axis1=1, axis2=2) + 1
        step = np.linalg.solve(square + held[:, np.newaxis, np.newaxis] * np.eye(4), flat @ missing.transpose(0, 2, 1))
        found = np.clip(found + step[:, :, 0].astype(np.float32), -MOST, MOST)
    return found


def move(images_PHW: Floats, shifts_P4: Floats) -> Floats:
    """Images as they look through shift and stretch, interpolated by cubics (Keys, 1981).

    What lies outside repeats the edge.
    """
    side = images_PHW.shape[1]
    # A point may not lie outside: half a pixel from the edge is the middle of the last one.
    at_P2H = shifts_P4[:, 0::2, np.newaxis] + shifts_P4[:, 1::2, np.newaxis] * _places(side)
    at_P2H = np.clip((at_P2H + np.arange(side, dtype=np.float32) / side) * (side * _FINE), 0, (side - 1) * _FINE)
    weights = _weights(side)[np.rint(at_P2H).astype(np.intp)]
    moved: Floats = weights[:, 0] @ images_PHW @ weights[:, 1].transpose(0, 2, 1)
    return moved


def inverse(shifts_P4: Floats) -> Floats:
    """Shift and stretch that lay the first on the second."""
    back = np.empty_like(shifts_P4)
    scale_P2 = 1 + 2 * shifts_P4[:, 1::2]
    back[:, 0::2], back[:, 1::2] = -shifts_P4[:, 0::2] / scale_P2, -shifts_P4[:, 1::2] / scale_P2
    return back


def difference(one_PHW: Floats, other_PHW: Floats) -> Difference:
    """What differs between images that lie on each other, away from their edges."""
    side = one_PHW.shape[1]
    inner = _inner(side)
    around = _box(side)
    first, second = one_PHW[:, inner, inner], other_PHW[:, inner, inner]
    scale = np.maximum(first.std(axis=(1, 2)), 1)
    squares = (first - second) ** 2
    cells = first.shape[1] // 7
    worst = squares.reshape(len(first), 7, cells, 7, cells).mean(axis=(2, 4)).max(axis=(1, 2))
    fine = [_fine(image, around)[:, inner, inner] for image in (one_PHW, other_PHW)]
    return Difference(
        whole=np.sqrt(squares.mean(axis=(1, 2))) / scale,
        worst=np.sqrt(worst) / scale,
        likeness=_correlation(first, second),
        detail=_correlation(fine[0], fine[1]),
    )


def smooth(images_PHW: Floats, times: int) -> Floats:
    """Blurred by 1 2 1 along both sides, so many times."""
    blur = np.linalg.matrix_power(_binomial(images_PHW.shape[1]), times)
    blurred: Floats = blur @ images_PHW @ blur.T
    return blurred


def halve(images_PHW: Floats) -> Floats:
    """Half as large, each pixel the mean of four."""
    rows = images_PHW[:, ::2] + images_PHW[:, 1::2]
    return np.divide(rows[:, :, ::2] + rows[:, :, 1::2], 4, dtype=np.float32)


def _inner(side: int) -> slice:
    margin = round(side * _MARGIN)
    return slice(margin, side - margin)


def _places(side: int) -> Floats:
    """The middle of each pixel in -1..1."""
    places: Floats = ((np.arange(side) + 0.5) * 2 / side - 1).astype(np.float32)
    return places


@lru_cache(maxsize=4)
def _weights(side: int) -> Floats:
    """What each pixel gives to a point at each _FINE-th of a pixel, (points, side); rows sum to 1."""
    at = np.arange((side - 1) * _FINE + 1) / _FINE
    away = np.abs(np.subtract.outer(at, np.arange(side)))
    near = (1.5 * away - 2.5) * away**2 + 1
    far = ((2.5 - 0.5 * away) * away - 4) * away + 2
    weights = np.where(away < 1, near, np.where(away < 2, far, 0))
    rows: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return rows


@lru_cache(maxsize=4)
def _binomial(side: int) -> Floats:
    """Blurring by 1 2 1, as a matrix; the edge is repeated."""
    blur = 0.5 * np.eye(side) + 0.25 * np.eye(side, k=1) + 0.25 * np.eye(side, k=-1)
    blur[0, 0] = blur[-1, -1] = 0.75
    return blur.astype(np.float32)


def _fine(images_PHW: Floats, around: Floats) -> Floats:
    """What lies above the mean of the surroundings."""
    return np.subtract(images_PHW, around @ images_PHW @ around.T, dtype=np.float32)


@lru_cache(maxsize=4)
def _box(side: int) -> Floats:
    """The mean over five neighbours, as a matrix; fewer at the edges."""
    near = np.abs(np.subtract.outer(np.arange(side), np.arange(side))) <= 2
    box: Floats = (near / near.sum(axis=1, keepdims=True)).astype(np.float32)
    return box


def _level(values: Floats) -> Floats:
    levelled: Floats = values - values.mean(axis=-1, keepdims=True)
    return levelled


def _correlation(one_PHW: Floats, other_PHW: Floats) -> Floats:
    one, other = (_level(images.reshape(len(images), images.shape[1] * images.shape[2])) for images in (one_PHW, other_PHW))
    lengths = np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    correlation: Floats = (one * other).sum(axis=1) / np.maximum(lengths, 1)
    return correlation
