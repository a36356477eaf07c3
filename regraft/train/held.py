"""The matrix of the convex problem, in the coordinates in which it is cheapest to solve; here one that memory holds.

With more images than features these are the standardised features themselves. With fewer, they are the at most N
coordinates of the images in the space that they span: X = R V^T with V's columns orthonormal. By the representer theorem the
optimum lies in that space, and |W| = |W V|, so solving there is exact. A last column of ones carries the bias.

A matrix that memory should not hold, or that several ranks share, is not made: see `streamed`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regraft.ranks import ALONE, Ranks
from regraft.train.standardise import Standardiser, part_of, row_blocks
from regraft.values import FloatArray

DOUBLE_BELOW = 1 << 20  # values; problems this small take no noticeable time in float64
SAMPLE = 4  # the preconditioner's covariance is estimated from at most this many images per feature
LARGEST_BASIS = 6000  # columns above which an eigenbasis costs more than it saves


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The working matrix and what is known of its second moments.

    `x_NR` has a last column of ones. `basis_RR` (None: the identity) and `eigen_R` are the eigenvectors and eigenvalues of
    about X^T X / N; they only steer the solver. `turned` says that the columns are not features: `lift` takes weights
    (K, R - 1) to weights on standardised features (K, D), `lower` takes them back.
    """

    x_NR: Tensor
    basis_RR: Tensor | None
    eigen_R: Tensor
    turned: bool
    lift: Callable[[Tensor], Tensor]
    lower: Callable[[Tensor], Tensor]
    standardiser: Standardiser

    @property
    def rows(self) -> range:
        """The images whose rows this process works on: all."""
        return range(len(self.x_NR))

    @property
    def ranks(self) -> Ranks:
        """Who works on them: this process alone."""
        return ALONE

    @property
    def width(self) -> int:
        """R, the columns with the bias."""
        return self.x_NR.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the products with the matrix."""
        return self.x_NR.dtype

    @property
    def fine(self) -> torch.dtype:
        """The type of the weights."""
        return self.x_NR.dtype

    def steering(self) -> "Steering | None":
        """What may steer the solver on other images of the same features; None where the columns are not features."""
        return None if self.turned else Steering(basis_RR=self.basis_RR, eigen_R=self.eigen_R)

    def size(self, gradient_PKR: Tensor) -> Tensor:
        """max |gradient| of each problem on standardised features, (P,), or a bound of it where the coordinates are turned."""
        if self.turned:
            return gradient_PKR.square().sum(dim=2).amax(dim=1).sqrt()
        return gradient_PKR.abs().amax(dim=(1, 2))

    def exact_size(self, gradient_PKR: Tensor) -> float:
        """max |gradient| over all problems, by the standardised features and the biases."""
        return max(float(self.lift(gradient_PKR.flatten(0, 1)[:, :-1]).abs().max()), float(gradient_PKR[..., -1].abs().max()))

    def logits(self, theta_PKR: Tensor) -> Tensor:
        """(P, K, N): all problems in one matrix product."""
        flat_MN = theta_PKR.reshape(-1, theta_PKR.shape[-1]) @ self.x_NR.T
        return flat_MN.view(*theta_PKR.shape[:2], -1)

    def pull_back(self, residual_PKN: Tensor) -> Tensor:
        """(P, K, R): the gradient by the weights that a gradient by the logits means."""
        flat_MR = residual_PKN.reshape(-1, residual_PKN.shape[-1]) @ self.x_NR
        return flat_MR.view(*residual_PKN.shape[:2], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """Second moments of features, (D + 1) with the bias: of one set of images they steer the solver on another like it."""

    basis_RR: Tensor | None
    eigen_R: Tensor


def spans(features_ND: FloatArray) -> bool:
    """Whether the problem is solved in the space that so few images span."""
    return len(features_ND) <= min(int(features_ND.shape[1]), LARGEST_BASIS)


def hold(features_ND: FloatArray, standardiser: Standardiser, steering: Steering | None = None) -> Held:
    """The design in memory, one float32 copy of the features, or for N <= D about N x D float64 for a moment.

    With `steering` the second moments need not be computed, where they would be.
    """
    if spans(features_ND):
        return _spanned(features_ND, standardiser)
    count, width = features_ND.shape
    dtype = exact_type(features_ND)
    # Before the copy is made: the eigenvectors' workspace and the copy then never stand in memory together.
    moments = steering or second_moments(features_ND, standardiser, dtype)
    x_NR = torch.ones(count, width + 1, dtype=dtype)
    for rows in row_blocks(features_ND):
        x_NR[rows, :width] = torch.from_numpy(standardiser(features_ND[rows])).to(dtype)
    return Held(
        x_NR=x_NR,
        basis_RR=None if moments.basis_RR is None else moments.basis_RR.to(dtype),
        eigen_R=moments.eigen_R.to(dtype),
        turned=False,
        lift=lambda w: w,
        lower=lambda w: w,
        standardiser=standardiser,
    )


def exact_type(features_ND: FloatArray) -> torch.dtype:
    """The type of the products: float64 where they are small."""
    return torch.float64 if features_ND.size <= DOUBLE_BELOW else torch.float32


def second_moments(features_ND: FloatArray, standardiser: Standardiser, dtype: torch.dtype, ranks: Ranks = ALONE) -> Steering:
    """Eigenvectors and eigenvalues of the covariance, estimated on evenly spaced images; the bias stands alone."""
    count, width = features_ND.shape
    eigen_R = torch.ones(width + 1, dtype=dtype)
    if width > LARGEST_BASIS:
        return Steering(basis_RR=None, eigen_R=eigen_R)
    stride = max(1, count // (SAMPLE * width))
    gram_DD = torch.zeros(width, width, dtype=dtype)
    for rows in row_blocks(features_ND, stride, part_of(count, ranks)):
        sample_ND = torch.from_numpy(standardiser(features_ND[rows])).to(dtype)
        gram_DD.addmm_(sample_ND.T, sample_ND)
    eigen_D, basis_DD = torch.linalg.eigh(ranks.total(gram_DD) / len(range(0, count, stride)))
    basis_RR = torch.zeros(width + 1, width + 1, dtype=dtype)
    basis_RR[:-1, :-1], basis_RR[-1, -1] = basis_DD, 1.0
    eigen_R[:-1] = eigen_D.clamp_min(0)
    return Steering(basis_RR=basis_RR, eigen_R=eigen_R)


def _spanned(features_ND: FloatArray, standardiser: Standardiser) -> Held:
    """X X^T = U S^2 U^T gives R = U S and V = X^T U S^-1. In float64: S is the root of what the product rounds."""
    count = len(features_ND)
    standard = standardiser(features_ND)
    # numpy computes half of a product with itself, and mirrors it.
    square_R, left_NR = torch.linalg.eigh(torch.from_numpy(standard @ standard.T))
    standard_ND = torch.from_numpy(standard)
    kept = square_R > (square_R[-1] * count * torch.finfo(torch.float64).eps).clamp_min(1e-300)
    square_R, left_NR = square_R[kept], left_NR[:, kept]
    x_NR = torch.cat([left_NR * square_R.sqrt(), torch.ones(count, 1, dtype=torch.float64)], dim=1)
    eigen_R = torch.cat([square_R / count, torch.ones(1, dtype=torch.float64)])
    shrunk_NR = left_NR / square_R.sqrt()
    dtype = torch.float64 if x_NR.numel() <= DOUBLE_BELOW else torch.float32
    return Held(
        x_NR=x_NR.to(dtype),
        basis_RR=None,
        eigen_R=eigen_R.to(dtype),
        turned=True,
        lift=lambda w: (w.double() @ shrunk_NR.T) @ standard_ND,  # w V^T, without making V
        lower=lambda w: (w.double() @ standard_ND.T) @ shrunk_NR,
        standardiser=standardiser,
    )


def as_array(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A float64 numpy array of its own."""
    return np.array(values.numpy(), dtype=np.float64)
