"""A linear head as the convex problem it is, solved to its optimum.

One label per image, multinomial logistic regression on standardised features x:

    J(W, b) = sum_n w_n [logsumexp_k z_nk - z_n,y(n)] / sum_n w_n + l2/2 |W|^2,        z_n = W x_n + b

Several labels per image, one binary problem per label k, each with its own optimum:

    J_k(w, b) = sum_n w_n [log(1 + exp z_n) - t_nk z_n] / sum_n w_n + l2/2 |w|^2,      z_n = w x_n + b

A mean, so l2 keeps its meaning for any N; b is free. Scikit-learn's LogisticRegression minimises
C sum_n w_n loss_n + |W|^2 / 2: the same optimum with C = 1 / (l2 sum_n w_n). Two classes are a multinomial with K = 2, whose
optimum has w_1 = -w_0; in terms of the difference v = w_1 - w_0 its penalty is l2/4 |v|^2, so scikit-learn's binary problem
has C = 2 / (l2 sum_n w_n).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.errors import DataUnusable, NotConverged, UsageError
from regraft.ranks import ALONE, Ranks
from regraft.train.design import Design, by_first, make_design
from regraft.train.held import Held, as_array
from regraft.train.lbfgs import Solver
from regraft.train.loss import BlockLoss, Loss, Sigmoid, Softmax
from regraft.train.standardise import Standardiser, check_shape, row_blocks
from regraft.train.terms import terms_of
from regraft.values import FloatArray

Targets = NDArray[np.integer[Any]] | NDArray[np.bool_]
DECREMENT = 1e-9  # nats: an estimate of J minus its minimum at which a final solution may stop
LIMIT = 3000  # iterations
ROUNDS = 5  # of solving and checking with logits free of accumulated rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearHead:
    """K linear classifiers on standardised features, and how exactly their optimum was reached.

    `gradient_norm` is max |grad J| over all weights and biases, in nats per unit of standardised weight.
    """

    weight_KD: NDArray[np.float64]
    bias_K: NDArray[np.float64]
    standardiser: Standardiser
    l2: float
    gradient_norm: float
    iterations: int

    def unstandardised(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (K, D) and biases (K,) for features as they come: logits = features @ weight.T + bias."""
        weight_KD = self.weight_KD / self.standardiser.scale_D
        return weight_KD, self.bias_K - weight_KD @ self.standardiser.mean_D

    def logits(self, features_ND: FloatArray) -> NDArray[np.float64]:
        """(N, K) logits of features as they come."""
        parts = [self.standardiser(features_ND[rows]) @ self.weight_KD.T + self.bias_K for rows in row_blocks(features_ND)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.bias_K)))


def solve_head(
    features_ND: FloatArray,
    targets: Targets,
    *,
    classes: int,
    l2: float,
    weights_N: FloatArray | None = None,
    start: LinearHead | None = None,
    tolerance: float = 1e-5,
    ranks: Ranks = ALONE,
) -> LinearHead:
    """The head that minimises J for one strength `l2`; see the module for J.

    `features_ND` are raw, (N, D), and may be memory-mapped; they are standardised over their N rows. `targets` are (N,) class
    indices, or (N, K) booleans for several labels per image. `weights_N` weigh the images (None: equally). `start` is a
    head to start from; it changes the time taken, not the answer. Several `ranks` call it with the same and get the same: each
    reads its part of the rows.
    Raises NotConverged when max |grad J| stays above `tolerance`, DataUnusable for values that cannot be used.
    """
    check_shape(features_ND)
    check_targets(targets, len(features_ND), classes, multi_label=targets.ndim == 2)
    if not l2 > 0:
        raise UsageError(expected="an l2 above 0", got=str(l2), fix="give for example 0.001")
    if by_first(features_ND, ranks):
        return ranks.shared(
            lambda: solve_head(
                features_ND, targets, classes=classes, l2=l2, weights_N=weights_N, start=start, tolerance=tolerance
            )
        )
    design = make_design(features_ND, ranks=ranks)
    weights_11N = check_weights(weights_N, len(features_ND))[None, None]
    loss = make_loss(targets, weights_11N, classes, design)
    theta = None if start is None else lowered(design, start.weight_KD, start.bias_K)
    return solve_design(design, loss, theta, classes=classes, l2=l2, tolerance=tolerance)


def solve_design(
    design: Design,
    loss: Loss | BlockLoss,
    start_KR: Tensor | None,
    *,
    classes: int,
    l2: float,
    tolerance: float,
    decrement: float = DECREMENT,
) -> LinearHead:
    """`solve_head` for a design that is at hand and a loss of one weighting of the images."""
    shape = (classes // loss.logits, loss.logits, design.width)
    theta = torch.zeros(shape, dtype=design.fine) if start_KR is None else start_KR.to(design.fine).reshape(shape)
    solver = Solver(design, terms_of(design, loss), theta)
    iterations, gradient_norm = 0, np.inf
    for _ in range(ROUNDS):
        iterations += solver.solve(l2, tolerance=tolerance, decrement=decrement, limit=LIMIT - iterations)
        solver.refresh()
        gradient_norm = design.exact_size(solver.gradient(l2))
        if gradient_norm <= tolerance:
            break
    else:
        raise NotConverged(
            expected=f"a gradient of at most {tolerance:g} in {LIMIT} iterations at l2 {l2:g}",
            got=f"{gradient_norm:.2g} after {iterations}",
            fix="give a larger l2 or tolerance; features with a few huge values make the problem hard",
        )
    weight_KR = solver.theta_PKR.reshape(classes, -1)
    return LinearHead(
        weight_KD=as_array(design.lift(weight_KR[:, :-1])),
        bias_K=as_array(weight_KR[:, -1]),
        standardiser=design.standardiser,
        l2=l2,
        gradient_norm=gradient_norm,
        iterations=iterations,
    )


def lowered(design: Design, weight_KD: NDArray[np.float64], bias_K: NDArray[np.float64]) -> Tensor:
    """Weights on standardised features as (K, R) in the coordinates of `design`."""
    return torch.cat([design.lower(torch.from_numpy(weight_KD)), torch.from_numpy(bias_K)[:, None]], dim=1)


def make_loss(targets: Targets, weights_FLN: NDArray[np.float64], classes: int, design: Design) -> Loss | BlockLoss:
    """The loss of every weighting of the images: F problems, or F x K (weighting first) for several labels per image.

    `weights_FLN` is (F, 1, N), or for several labels also (F, K, N).
    """
    totals_FL1 = weights_FLN.sum(axis=2, keepdims=True)
    if isinstance(design, Held):
        return _loss(targets, weights_FLN / totals_FL1, classes, design.dtype)
    return block_loss(targets, lambda rows: weights_FLN[..., rows], totals_FL1, classes, design)


def block_loss(
    targets: Targets,
    weights: Callable[[slice], NDArray[np.float64]],
    totals_FL1: NDArray[np.float64],
    classes: int,
    design: Design,
) -> BlockLoss:
    """The same, where the weights are made for a block of the rows at a time, and `totals_FL1` are their sums over all rows."""
    none = _loss(targets[:0], weights(slice(0, 0)), classes, design.dtype)
    return BlockLoss(
        logits=none.logits,
        rows=lambda rows: _loss(targets[rows], weights(rows) / totals_FL1, classes, design.dtype),
        centred=none.centred,
    )


def _loss(targets: Targets, shares_FLN: NDArray[np.float64], classes: int, dtype: torch.dtype) -> Loss:
    shares = torch.from_numpy(shares_FLN).to(dtype)
    if targets.ndim == 1:
        return Softmax(weights_PN=shares[:, 0], targets_N=torch.from_numpy(targets.astype(np.int64)), logits=classes)
    truth_KN = torch.from_numpy(np.ascontiguousarray(targets.T)).to(dtype)
    weights_PN = shares.expand(-1, classes, -1).reshape(len(shares) * classes, len(targets))
    return Sigmoid(weights_PN=weights_PN, targets_PN=truth_KN.repeat(len(shares), 1))


def check_targets(targets: Targets, count: int, classes: int, *, multi_label: bool) -> None:
    """Raise DataUnusable unless there is one usable target per row of features."""
    integers = np.issubdtype(targets.dtype, np.integer)
    if multi_label:
        wanted = f"({count}, {classes}) booleans"
        fits = targets.shape == (count, classes) and targets.dtype == np.bool_
    else:
        wanted = f"{count} class indices from 0 to {classes - 1}, two classes or more"
        fits = classes > 1 and integers and targets.shape == (count,) and targets.min() >= 0 and targets.max() < classes
    if not fits:
        span = f" from {targets.min()} to {targets.max()}" if integers and targets.size else ""
        raise DataUnusable(
            expected=f"targets as {wanted}",
            got=f"shape {targets.shape} of {targets.dtype}{span}",
            fix="give one target per row of features, in the same order",
        )


def check_weights(weights_N: FloatArray | None, count: int) -> NDArray[np.float64]:
    """The images' weights in float64, ones for None. Raises DataUnusable for weights that cannot weigh."""
    if weights_N is None:
        return np.ones(count)
    weights = np.asarray(weights_N, dtype=np.float64)
    if weights.shape != (count,) or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0:
        raise DataUnusable(
            expected=f"{count} finite weights of at least 0, some above 0",
            got=f"shape {weights.shape}, from {weights.min()} to {weights.max()}" if weights.size else "no weights",
            fix="give one weight per image, or None to weigh all the same",
        )
    return weights
