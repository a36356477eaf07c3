"""Every cross-validation fold solved at one strength after the other, and judged on the rows it has not seen."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.errors import NotConverged
from regraft.train.convex import Targets, make_loss
from regraft.train.design import Design
from regraft.train.lbfgs import Solver
from regraft.values import Strength

# When a fold is solved well enough to be judged. On 2,000 images with 4,048 features the likelihood at the best strength then
# differs by 1e-5 from that of solutions 1,000 times as exact, in a third of their iterations. Small problems, which are
# solved in float64 and are the ones that separate perfectly, can afford more.
TOLERANCE, DECREMENT, DECREMENT_SMALL = 1e-3, 1e-6, 1e-8
LIMIT = 300  # iterations for one strength
# Nats: a weaker penalty has to gain at least this to be preferred. On classes that fall apart by themselves the likelihood
# goes on falling by less and less while the weights grow without end, and with them the answer's sensitivity to rounding.
INDIFFERENT = 1e-3
BATCH_VALUES = 24_000_000  # logits solved together: about 100 MB in each of a handful of arrays


class FoldSolver:
    """All folds along a path; what is kept of it are the warm starts and the best strength so far.

    `weights_LN` weigh the images, (1, N), or (K, N) where each label has its own. A fold's problem has weight 0 on its rows.
    """

    def __init__(
        self,
        design: Design,
        targets: Targets,
        folds_N: NDArray[np.int64],
        weights_LN: NDArray[np.float64],
        classes: int,
    ) -> None:
        self.targets, self.weights_LN, self.classes = targets, weights_LN, classes
        self.decrement = DECREMENT if design.x_NR.dtype == torch.float32 else DECREMENT_SMALL
        names = np.unique(folds_N)
        held_FN = names[:, None] == folds_N
        self.held = [np.flatnonzero(row_N) for row_N in held_FN]
        loss = make_loss(targets, ~held_FN[:, None] * weights_LN, classes, design)
        self.solvers: list[Solver] = []
        size = max(1, BATCH_VALUES // (len(folds_N) * loss.logits))
        for start in range(0, len(loss.weights_PN), size):
            part = loss.part(slice(start, start + size))
            theta = design.x_NR.new_zeros(len(part.weights_PN), part.logits, design.x_NR.shape[1])
            self.solvers.append(Solver(design, part, theta))
            self._rest(self.solvers[-1], len(loss.weights_PN) > size)
        self.known_NK = _known(targets, held_FN, classes)
        self._best: tuple[Strength, NDArray[np.float32], Tensor] | None = None

    def best(self) -> tuple[Strength, NDArray[np.float32], Tensor]:
        """The strength of the smallest likelihood, its out-of-fold logits (N, K), and the folds' mean weights (K, R)."""
        if self._best is None:
            raise NotConverged(
                expected="a finite cross-validated likelihood at some strength",
                got="none",
                fix="give larger strengths, or look for features of extreme size",
            )
        return self._best

    def try_strength(self, l2: float, features: str) -> Strength:
        """Solve every fold at `l2`, starting from where it is, and judge the rows held out."""
        logits_NK = np.empty((len(self.targets), self.classes), dtype=np.float32)
        first = 0
        for solver in self.solvers:
            if not solver.logits_PKN.numel():
                solver.refresh()
            solver.solve(l2, tolerance=TOLERANCE, decrement=self.decrement, limit=LIMIT)
            for offset, (rows, columns) in enumerate(self._places(first, len(solver.theta_PKR), solver.loss.logits)):
                logits_NK[rows, columns] = solver.logits_PKN[offset][:, rows].T.float().numpy()
            first += len(solver.theta_PKR)
            self._rest(solver, len(self.solvers) > 1)
        strength = self._judge(logits_NK, l2, features)
        if np.isfinite(strength.nll) and (self._best is None or strength.nll < self._best[0].nll - INDIFFERENT):
            self._best = strength, logits_NK, self._mean_theta()
        return strength

    def _places(self, first: int, count: int, logits: int) -> Iterator[tuple[NDArray[np.int64], slice]]:
        """The held-out rows and the logit columns of problems `first` onwards; the folds' problems follow one another."""
        per_fold = self.classes // logits
        for problem in range(first, first + count):
            column = problem % per_fold * logits
            yield self.held[problem // per_fold], slice(column, column + logits)

    def _judge(self, logits_NK: NDArray[np.float32], l2: float, features: str) -> Strength:
        nll_NL, right_N = losses_of(logits_NK.astype(np.float64), self.targets, self.classes)
        weight_NL = self.weights_LN.T * self.known_NK
        nll_NL = np.where(weight_NL > 0, nll_NL, 0.0)
        total = weight_NL.sum()
        nll = float((weight_NL * nll_NL).sum() / total)
        # Labels of one image are not independent: the error is that of a ratio of sums over images.
        error_N = (weight_NL * (nll_NL - nll)).sum(axis=1)
        return Strength(
            features=features, l2=l2, nll=nll, nll_se=float(np.sqrt((error_N**2).sum()) / total), accuracy=float(right_N.mean())
        )

    def _mean_theta(self) -> Tensor:
        """The mean over folds: close to the solution for all rows, where the refit starts."""
        theta = torch.cat([solver.theta_PKR for solver in self.solvers])
        return theta.view(len(self.held), self.classes, -1).mean(dim=0)

    @staticmethod
    def _rest(solver: Solver, several: bool) -> None:
        if several:
            solver.release()


def losses_of(logits_NK: NDArray[np.float64], targets: Targets, classes: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The negative log-likelihood in nats, (N, 1) or for several labels (N, K), and whether every label is right, (N,)."""
    if targets.ndim == 2:
        nll_NK = np.logaddexp(0.0, np.where(targets, -logits_NK, logits_NK))
        return nll_NK, ((logits_NK > 0) == targets.astype(bool)).all(axis=1)
    rows = np.arange(len(targets))
    top_N1 = logits_NK.max(axis=1, keepdims=True)
    total_N = np.log(np.exp(logits_NK - top_N1).sum(axis=1)) + top_N1[:, 0]
    return (total_N - logits_NK[rows, targets])[:, None], logits_NK.argmax(axis=1) == targets


def _known(targets: Targets, held_FN: NDArray[np.bool_], classes: int) -> NDArray[np.bool_]:
    """Where the truth is something the fold's training rows have an example of: (N, 1), or (N, K) for several labels."""
    known = np.ones((len(targets), 1 if targets.ndim == 1 else classes), dtype=bool)
    for held_N in held_FN:
        train, rows = targets[~held_N], np.flatnonzero(held_N)
        if targets.ndim == 1:
            known[rows, 0] = np.isin(targets[rows], train)
        else:
            truth = targets[rows].astype(bool)
            known[rows] = np.where(truth, train.any(axis=0), ~train.all(axis=0))
    return known
