"""Features brought to mean 0 and standard deviation 1, block by block, so that a memory-mapped array stays on disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regraft.cache.store import HALVES
from regraft.errors import DataUnusable
from regraft.ranks import ALONE, Ranks
from regraft.values import FloatArray

BLOCK_VALUES = 1 << 21  # 16 MB in float64: large enough for full speed, small beside everything else
CONSTANT = 1e-6  # spread relative to the mean below which a float32 column holds nothing but rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardiser:
    """x -> (x - mean) / scale, per column. Columns that do not vary have scale 1 and `constant` set."""

    mean_D: NDArray[np.float64]
    scale_D: NDArray[np.float64]
    constant_D: NDArray[np.bool_]

    def __call__(self, features_ND: FloatArray) -> NDArray[np.float64]:
        """The standardised features, (N, D) float64; constant columns are exactly 0, whatever they hold."""
        standard_ND = np.asarray(widened(features_ND[:]), dtype=np.float64) - self.mean_D
        standard_ND /= self.scale_D
        standard_ND[:, self.constant_D] = 0.0
        return standard_ND


@dataclass(frozen=True, slots=True)
class _Moments:
    """How many rows, the mean of every column, and the sum of the squared distances from it."""

    count: int
    mean_D: NDArray[np.float64]
    squares_D: NDArray[np.float64]

    def merged(self, count: int, mean_D: NDArray[np.float64], squares_D: NDArray[np.float64]) -> "_Moments":
        """With those of other rows, by the formula of Chan, Golub and LeVeque (1983), which does not cancel."""
        if not count:
            return self
        delta_D, total = mean_D - self.mean_D, self.count + count
        squares_D = self.squares_D + (squares_D + delta_D**2 * (self.count * count / total))
        return _Moments(total, self.mean_D + delta_D * (count / total), squares_D)


def standardise(features_ND: FloatArray, ranks: Ranks = ALONE) -> Standardiser:
    """Mean and standard deviation of every column of `features_ND`, (N, D), accumulated in float64.

    Each of the `ranks` reads its part of the rows; all of them get the same.
    Raises DataUnusable, on every rank, for values that are not finite or an empty array.
    """
    check_shape(features_ND)
    width = features_ND.shape[1]
    moments = _Moments(0, np.zeros(width), np.zeros(width))
    refused: NotFinite | None = None
    try:
        for rows in row_blocks(features_ND, within=part_of(len(features_ND), ranks)):
            block_ND = np.asarray(widened(features_ND[rows]), dtype=np.float64)
            check_finite(block_ND, rows.start)
            block_mean_D = block_ND.mean(axis=0)
            moments = moments.merged(len(block_ND), block_mean_D, ((block_ND - block_mean_D) ** 2).sum(axis=0))
    except NotFinite as error:
        if ranks.alone:
            raise
        refused = error
    if not ranks.alone:
        moments = _over_ranks(moments, refused, ranks)
    deviation_D = np.sqrt(moments.squares_D / moments.count)
    constant_D = deviation_D <= CONSTANT * np.abs(moments.mean_D)
    return Standardiser(mean_D=moments.mean_D, scale_D=np.where(constant_D, 1.0, deviation_D), constant_D=constant_D)


def _over_ranks(moments: _Moments, refused: "NotFinite | None", ranks: Ranks) -> _Moments:
    """The moments of all rows, merged in the order of the ranks; one collective. What one rank refuses, all refuse."""
    width = len(moments.mean_D)
    packed_SV = torch.zeros(ranks.size, 4 + 2 * width, dtype=torch.float64)
    if refused is None:
        packed_SV[ranks.rank] = torch.from_numpy(np.r_[moments.count, 0, 0, 0, moments.mean_D, moments.squares_D])
    else:
        packed_SV[ranks.rank, 1:4] = torch.tensor([1.0, refused.row, refused.column])
    whole = _Moments(0, np.zeros(width), np.zeros(width))
    for one in ranks.total(packed_SV).numpy():
        if one[1]:
            raise refused or NotFinite("a value that is not finite", int(one[2]), int(one[3]))
        whole = whole.merged(int(one[0]), one[4 : 4 + width], one[4 + width :])
    return whole


def part_of(count: int, ranks: Ranks) -> range:
    """This rank's rows among `count`: one after the other, because that is how they are read fast."""
    return range(count * ranks.rank // ranks.size, count * (ranks.rank + 1) // ranks.size)


def row_blocks(features_ND: FloatArray, stride: int = 1, within: range | None = None) -> Iterator[slice]:
    """Slices that together cover every `stride`-th row (of those `within`), each of about `BLOCK_VALUES` values."""
    rows = max(1, BLOCK_VALUES // max(1, features_ND.shape[1])) * stride
    wanted = range(len(features_ND)) if within is None else within
    for start in range(-(-wanted.start // stride) * stride, wanted.stop, rows):
        yield slice(start, min(start + rows, wanted.stop), stride)


def widened(block: NDArray[Any]) -> NDArray[Any]:
    """A block of rows as numbers: HALVES, the bits of bfloat16, as the float32 that they stand for; others as they are."""
    if block.dtype != HALVES:
        return block
    return torch.from_numpy(np.ascontiguousarray(block)).view(torch.bfloat16).float().numpy()


def check_shape(features_ND: FloatArray) -> None:
    """Raise DataUnusable unless the array has rows and columns."""
    if features_ND.ndim != 2 or 0 in features_ND.shape:
        raise DataUnusable(
            expected="features as a table of at least one row and one column",
            got=f"an array of shape {features_ND.shape}",
            fix="give one row of features per image",
        )


class NotFinite(DataUnusable):
    """Features hold a value that is NaN or infinite."""

    def __init__(self, value: str, row: int, column: int) -> None:
        self.row, self.column = row, column
        super().__init__(
            expected="finite features",
            got=f"{value} in row {row}, column {column}",
            fix="compute the features again in float32 with `--device cpu`; "
            "if it comes back, the network's weights are damaged",
        )


def check_finite(block_ND: NDArray[np.float64], first_row: int) -> None:
    """Raise NotFinite that names the first value that is NaN or infinite; `first_row` is the block's place in the whole."""
    # A sum is NaN or infinite when any value is: one pass, no mask of the block's size in the usual case.
    if np.isfinite(block_ND.sum()) or np.isfinite(block_ND).all():
        return
    row, column = np.argwhere(~np.isfinite(block_ND))[0]
    raise NotFinite(str(block_ND[row, column]), int(first_row + row), int(column))
