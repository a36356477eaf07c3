"""Features brought to mean 0 and standard deviation 1, block by block, so that a memory-mapped array stays on disk."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataUnusable
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
        standard_ND = np.asarray(features_ND, dtype=np.float64) - self.mean_D
        standard_ND /= self.scale_D
        standard_ND[:, self.constant_D] = 0.0
        return standard_ND


def standardise(features_ND: FloatArray) -> Standardiser:
    """Mean and standard deviation of every column of `features_ND`, (N, D), accumulated in float64.

    The block sums are merged by the formula of Chan, Golub and LeVeque (1983), which does not cancel.
    Raises DataUnusable for values that are not finite or an empty array.
    """
    check_shape(features_ND)
    count, mean_D, squares_D = 0, np.zeros(features_ND.shape[1]), np.zeros(features_ND.shape[1])
    for rows in row_blocks(features_ND):
        block_ND = np.asarray(features_ND[rows], dtype=np.float64)
        check_finite(block_ND, rows.start)
        block_mean_D, size = block_ND.mean(axis=0), len(block_ND)
        delta_D = block_mean_D - mean_D
        squares_D += ((block_ND - block_mean_D) ** 2).sum(axis=0) + delta_D**2 * (count * size / (count + size))
        mean_D += delta_D * (size / (count + size))
        count += size
    deviation_D = np.sqrt(squares_D / count)
    constant_D = deviation_D <= CONSTANT * np.abs(mean_D)
    return Standardiser(mean_D=mean_D, scale_D=np.where(constant_D, 1.0, deviation_D), constant_D=constant_D)


def row_blocks(features_ND: FloatArray, stride: int = 1) -> Iterator[slice]:
    """Slices that together cover every `stride`-th row, each of about `BLOCK_VALUES` values."""
    rows = max(1, BLOCK_VALUES // max(1, features_ND.shape[1])) * stride
    for start in range(0, len(features_ND), rows):
        yield slice(start, min(start + rows, len(features_ND)), stride)


def check_shape(features_ND: FloatArray) -> None:
    """Raise DataUnusable unless the array has rows and columns."""
    if features_ND.ndim != 2 or 0 in features_ND.shape:
        raise DataUnusable(
            expected="features as a table of at least one row and one column",
            got=f"an array of shape {features_ND.shape}",
            fix="give one row of features per image",
        )


def check_finite(block_ND: NDArray[np.float64], first_row: int) -> None:
    """Raise DataUnusable that names the first value that is NaN or infinite; `first_row` is the block's place in the whole."""
    # A sum is NaN or infinite when any value is: one pass, no mask of the block's size in the usual case.
    if np.isfinite(block_ND.sum()) or np.isfinite(block_ND).all():
        return
    row, column = np.argwhere(~np.isfinite(block_ND))[0]
    raise DataUnusable(
        expected="finite features",
        got=f"{block_ND[row, column]} in row {first_row + row}, column {column}",
        fix="compute the features again in float32 with `--device cpu`; if it comes back, the network's weights are damaged",
    )
