"""The data term of the convex problem, for several problems at once.

Letters: P problems solved together, K logits of each, N images. Images run along the last axis, so that every sum over
classes is a sum of long vectors. `weights_PN` gives each problem its images: rows sum to 1, and 0 leaves an image out, which
is how cross-validation folds share one pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

TINY = 1e-30


class Loss(Protocol):
    """A convex loss of logits with its derivatives."""

    @property
    def weights_PN(self) -> Tensor: ...

    @property
    def logits(self) -> int:
        """K, the logits of each problem."""
        ...

    def part(self, problems: slice) -> "Loss":
        """The same loss for some of the problems."""
        ...

    def rows(self, rows: slice) -> "Loss":
        """The same loss of some of the images: its sums over them are parts of the whole."""
        ...

    def residual(self, logits_PKN: Tensor, problems: Tensor | None) -> Tensor:
        """The derivative by the logits, weights * (probability - target), of the given problems (None: all)."""
        ...

    def curvature(self, logits_PKN: Tensor, rows: slice) -> Tensor:
        """The mean second derivative by the logits over the images `rows`, (P, K, K)."""
        ...

    def centred(self, values_PKR: Tensor) -> Tensor:
        """Without the part that the loss cannot see."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """sum_n w_n [logsumexp_k z_kn - z_(y_n)n]: one problem per weighting of the images."""

    weights_PN: Tensor
    targets_N: Tensor
    logits: int

    def part(self, problems: slice) -> "Softmax":
        return Softmax(weights_PN=self.weights_PN[problems], targets_N=self.targets_N, logits=self.logits)

    def rows(self, rows: slice) -> "Softmax":
        return Softmax(weights_PN=self.weights_PN[:, rows], targets_N=self.targets_N[rows], logits=self.logits)

    def residual(self, logits_PKN: Tensor, problems: Tensor | None) -> Tensor:
        residual_PKN = torch.softmax(logits_PKN, dim=1)
        truth_P1N = self.targets_N.expand(len(logits_PKN), 1, -1)
        residual_PKN.scatter_add_(1, truth_P1N, residual_PKN.new_full((1, 1, 1), -1.0).expand_as(truth_P1N))
        return residual_PKN.mul_(at(self.weights_PN, problems)[:, None])

    def curvature(self, logits_PKN: Tensor, rows: slice) -> Tensor:
        """mean[diag(p) - p p^T]; its null vector is (1, ..., 1)."""
        probability_PKN = torch.softmax(logits_PKN[..., rows], dim=1)
        weighted_PKN = probability_PKN * _normalised(self.weights_PN[:, None, rows])
        return torch.diag_embed(weighted_PKN.sum(dim=2)) - weighted_PKN @ probability_PKN.transpose(1, 2)

    def centred(self, values_PKR: Tensor) -> Tensor:
        """Adding the same to every class changes no probability and only costs penalty, so the mean over classes is 0."""
        return values_PKR - values_PKR.mean(dim=1, keepdim=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigmoid:
    """sum_n w_n [log(1 + exp z_n) - t_n z_n]: one problem of a single logit per label and weighting."""

    weights_PN: Tensor
    targets_PN: Tensor
    logits: int = 1

    def part(self, problems: slice) -> "Sigmoid":
        return Sigmoid(weights_PN=self.weights_PN[problems], targets_PN=self.targets_PN[problems])

    def rows(self, rows: slice) -> "Sigmoid":
        return Sigmoid(weights_PN=self.weights_PN[:, rows], targets_PN=self.targets_PN[:, rows])

    def residual(self, logits_PKN: Tensor, problems: Tensor | None) -> Tensor:
        residual_P1N = torch.sigmoid(logits_PKN).sub_(at(self.targets_PN, problems)[:, None])
        return residual_P1N.mul_(at(self.weights_PN, problems)[:, None])

    def curvature(self, logits_PKN: Tensor, rows: slice) -> Tensor:
        probability_P1N = torch.sigmoid(logits_PKN[..., rows])
        spread_P1N = probability_P1N * (1 - probability_P1N)
        return (_normalised(self.weights_PN[:, None, rows]) * spread_P1N).sum(dim=2, keepdim=True)

    def centred(self, values_PKR: Tensor) -> Tensor:
        return values_PKR


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLoss:
    """The loss of images that are taken a block at a time.

    `rows` makes it of a block, so that the weights of every problem and image never stand in memory together.
    """

    logits: int
    rows: Callable[[slice], Loss]
    centred: Callable[[Tensor], Tensor]


def at(values: Tensor, pick: Tensor | None) -> Tensor:
    """Those of the leading axis, or all of them, uncopied, for None."""
    return values if pick is None else values[pick]


def _normalised(weights_P1N: Tensor) -> Tensor:
    return weights_P1N / weights_P1N.sum(dim=2, keepdim=True).clamp_min(TINY)
