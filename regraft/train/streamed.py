"""The matrix of a convex problem that is never made: its rows are read a block at a time, on every pass over them.

The features stay as they are on disk, float32 or bfloat16. Standardising is folded into the weights: with standardised
x = (f - mean) / scale, the logits are (w / scale) f + (b - (w / scale) mean), and what a residual means for w is what it means
for w / scale, divided by scale. The sums are those of float32 products over blocks, added up in float64, and the mean is taken
off each block as it is read, so that nothing cancels: the result is more exact than that of the matrix in memory.

Several ranks have each a part of the rows, and add up what they found (`Ranks.total`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regraft.cache.store import HALVES
from regraft.cache.stream import in_threads
from regraft.ranks import Ranks
from regraft.train.held import Steering, exact_type, second_moments
from regraft.train.standardise import Standardiser, part_of, row_blocks, widened
from regraft.values import FloatArray

BLOCK_VALUES = 1 << 20  # of a block of features, and of its logits: 4 MB, of which a processor's cache holds much
AHEAD = 2  # blocks that are read while one is worked on
CURVATURE_ROWS = 8192  # images, evenly spaced, that tell the curvature of the loss: it only steers
FINE_BELOW = 2048  # columns up to which weights and steering are float64: cheap beside the pass over the rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """The rows of this rank, `rows` of all, and what is known of all of them.

    `features_ND` are raw, all rows. `kept_ND` are this rank's, standardised, where memory holds them. `basis_RR`, `eigen_R` and
    `standardiser` are as in `Held`; `sample_SD` are the rows `sampled`, standardised. `dtype` is that of the products with
    the features, `fine` that of the weights. `thrifty` is a problem that one process alone would not hold in memory either.
    """

    features_ND: FloatArray
    rows: range
    kept_ND: Tensor | None
    sampled: slice
    sample_SD: Tensor
    basis_RR: Tensor | None
    eigen_R: Tensor
    standardiser: Standardiser
    dtype: torch.dtype
    fine: torch.dtype
    ranks: Ranks
    thrifty: bool

    @property
    def width(self) -> int:
        """R, the columns with the bias."""
        return int(self.features_ND.shape[1]) + 1

    def steering(self) -> Steering | None:
        """What may steer the solver on other images of the same features."""
        return Steering(basis_RR=self.basis_RR, eigen_R=self.eigen_R)

    def lift(self, weights: Tensor) -> Tensor:
        """The columns are the features."""
        return weights

    def lower(self, weights: Tensor) -> Tensor:
        """The columns are the features."""
        return weights

    def size(self, gradient_PKR: Tensor) -> Tensor:
        """max |gradient| of each problem, (P,)."""
        return gradient_PKR.abs().amax(dim=(1, 2))

    def exact_size(self, gradient_PKR: Tensor) -> float:
        """max |gradient| over all problems, as rank 0 has it."""
        size = gradient_PKR.abs().max().reshape(1)
        return float(self.ranks.total(size if self.ranks.first else size.zero_()))

    def blocks(self, logits: int) -> Iterator[tuple[slice, Tensor]]:
        """This rank's rows in order: which of all rows, and their features without the mean, (n, D) of `dtype`.

        So many at a time that neither they nor `logits` numbers of each are more than BLOCK_VALUES. Read ahead on a thread.
        """
        step = max(1, BLOCK_VALUES // max(self.width, logits))
        places = [slice(i, min(i + step, self.rows.stop)) for i in range(self.rows.start, self.rows.stop, step)]
        if self.kept_ND is not None:
            first = self.rows.start
            return ((rows, self.kept_ND[rows.start - first : rows.stop - first]) for rows in places)
        return zip(places, in_threads(self._read, places, ahead=AHEAD), strict=True)

    def _read(self, rows: slice) -> Tensor:
        raw_ND, mean_D = self.features_ND[rows], self.standardiser.mean_D.astype(np.float32)
        if raw_ND.dtype == HALVES:
            return torch.from_numpy(widened(raw_ND)).sub_(torch.from_numpy(mean_D))
        # A float64 block keeps its digits until the mean is off.
        return torch.from_numpy(np.subtract(raw_ND, mean_D).astype(np.float32, copy=False))

    def folded(self, theta_MR: Tensor) -> tuple[Tensor, Tensor]:
        """Weights on standardised features with the bias last, as weights (M, D) and biases (M, 1) on what `blocks` gives."""
        weight_MD = theta_MR[:, :-1] * self._inverse_D()
        bias_M1 = theta_MR[:, -1:] - (weight_MD @ self._left_D())[:, None]
        return weight_MD.to(self.dtype), bias_M1.to(self.dtype)

    def unfolded(self, pull_MR: Tensor) -> Tensor:
        """(M, R) the gradient by weights on standardised features, from that by weights on what `blocks` gives."""
        pull_MD, bias_M1 = pull_MR[:, :-1], pull_MR[:, -1:]
        return torch.cat([(pull_MD - bias_M1 * self._left_D()) * self._inverse_D(), bias_M1], dim=1)

    def _inverse_D(self) -> Tensor:
        """1 / scale, and 0 where a column does not vary, whatever it holds."""
        known = self.standardiser
        inverse_D = np.where(known.constant_D, 0.0, 1.0 if self.kept_ND is not None else 1.0 / known.scale_D)
        return torch.from_numpy(inverse_D).to(self.fine)

    def _left_D(self) -> Tensor:
        """What is left of the mean: nothing but its rounding to float32."""
        mean_D = self.standardiser.mean_D
        left_D = np.zeros_like(mean_D) if self.kept_ND is not None else mean_D - mean_D.astype(np.float32)
        return torch.from_numpy(left_D).to(self.fine)


def stream(features_ND: FloatArray, standardiser: Standardiser, steering: Steering | None, ranks: Ranks, most: int) -> Streamed:
    """The design of this rank's part of `features_ND`; all `ranks` together. A part stays in memory up to `most` values."""
    count, width = features_ND.shape
    rows, in_memory = part_of(count, ranks), -(-features_ND.size // ranks.size) <= most
    dtype = exact_type(features_ND) if in_memory else torch.float32
    fine = torch.float64 if width <= FINE_BELOW else dtype
    moments = steering or second_moments(features_ND, standardiser, fine, ranks)
    thrifty = features_ND.size > most
    stride = max(1, count // CURVATURE_ROWS)
    # Several ranks take the rows that one process would. In passes, a pattern of the folds must not hit them.
    stride = _prime_from(stride) if thrifty and stride > 1 else stride
    sampled = slice(-(-rows.start // stride) * stride, rows.stop, stride)
    return Streamed(
        features_ND=features_ND,
        rows=rows,
        kept_ND=_standardised(features_ND, slice(rows.start, rows.stop), standardiser, dtype) if in_memory else None,
        sampled=sampled,
        sample_SD=_standardised(features_ND, sampled, standardiser, dtype),
        basis_RR=None if moments.basis_RR is None else moments.basis_RR.to(fine),
        eigen_R=moments.eigen_R.to(fine),
        standardiser=standardiser,
        dtype=dtype,
        fine=fine,
        ranks=ranks,
        thrifty=thrifty,
    )


def _prime_from(stride: int) -> int:
    """The next prime number above any usual number of folds: folds that take turns are then all among every so many rows."""
    prime = max(7, stride)
    while any(prime % factor == 0 for factor in range(2, math.isqrt(prime) + 1)):
        prime += 1
    return prime


def _standardised(features_ND: FloatArray, rows: slice, standardiser: Standardiser, dtype: torch.dtype) -> Tensor:
    wanted = range(*rows.indices(len(features_ND)))
    kept_ND = torch.empty(len(wanted), features_ND.shape[1], dtype=dtype)
    for block in row_blocks(features_ND, wanted.step, wanted):
        first = (block.start - wanted.start) // wanted.step
        standard_ND = torch.from_numpy(standardiser(features_ND[block]))
        kept_ND[first : first + len(standard_ND)] = standard_ND
    return kept_ND
