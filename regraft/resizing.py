"""Rows of values brought to another size as they come, so that the whole is never in memory.

Letters in names give shapes: C channels, R rows, h w the size they come in, H W the size that is wanted.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
# Numbers in a strip: 8 MB, little enough for several copies at a time.
_STRIP: Final = 2_000_000


def resized_rows(rows: Iterable[Values], size: tuple[int, int], wanted: tuple[int, int]) -> Iterator[Values]:
    """Values (C, h, w) that come in `rows`, resized bilinearly to `wanted` (H, W), in strips (C, R, W).

    Centres of pixels are at halves and borders are continued, as in torch's `interpolate` with `align_corners=False`.
    """
    (height, width), (out_height, out_width) = size, wanted
    columns = _places(width, out_width)
    lows, highs, shares = _places(height, out_height)
    kept: NDArray[np.float32] | None = None
    base = done = 0
    for part in _pieces(rows, max(out_width * -(-out_height // height), width)):
        wide = _lerp(part, *columns)
        have = wide if kept is None else np.concatenate([kept, wide], axis=1)
        end = base + have.shape[1]
        ready = out_height if end == height else int(np.searchsorted(highs, end))
        for first, last in pairwise([*range(done, ready, _rows_of(have, out_width)), ready]):
            low, high, share = lows[first:last] - base, highs[first:last] - base, shares[first:last, np.newaxis]
            yield _mixed(have[:, low], have[:, high], share)
        done = ready
        keep = min(int(lows[done]), end - 1) if done < out_height else end
        kept, base = have[:, keep - base :].copy(), keep


def _rows_of(values: Values, width: int) -> int:
    return max(1, _STRIP // (len(values) * width))


def _pieces(rows: Iterable[Values], width: int) -> Iterator[Values]:
    """The same rows, few enough at a time for what is to be made of them, `width` numbers for each."""
    for part in rows:
        step = _rows_of(part, width)
        for first in range(0, part.shape[1], step):
            yield part[:, first : first + step]


def _places(length: int, wanted: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each of `wanted` pixels the two of `length` that it lies between, and the share of the second."""
    at = np.clip((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0, length - 1)
    low = np.floor(at).astype(np.intp)
    return low, np.minimum(low + 1, length - 1), (at - low).astype(np.float32)


def _lerp(rows: Values, low: NDArray[np.intp], high: NDArray[np.intp], share: NDArray[np.float32]) -> Values:
    """Along the last axis."""
    if len(low) == rows.shape[2] and not share.any():
        return rows
    return _mixed(rows[:, :, low], rows[:, :, high], share)


def _mixed(one: Values, other: Values, share: NDArray[np.float32]) -> Values:
    """`one` + share * (`other` - `one`), in the memory of both."""
    other -= one
    other *= share
    one += other
    return one
