"""Every cross-validation fold solved at one strength after the other, and judged on the rows it has not seen."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.errors import NotConverged
from regraft.train.convex import Targets, block_loss, make_loss
from regraft.train.design import Design
from regraft.train.held import Held
from regraft.train.lbfgs import Solver
from regraft.train.loss import BlockLoss
from regraft.train.streamed import Streamed
from regraft.train.terms import InMemory, terms_of
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
JUDGED_VALUES = 1 << 21  # logits judged together, in float64


class FoldSolver:
    """All folds along a path; what is kept of it are the warm starts and the best strength so far.

    `weights_LN` weigh the images, (1, N), or (K, N) where each label has its own. A fold's problem has weight 0 on its rows.
    On several ranks each judges its own rows, and the sums decide.
    """

    def __init__(
        self,
        design: Design,
        targets: Targets,
        folds_N: NDArray[np.int64],
        weights_LN: NDArray[np.float64],
        classes: int,
    ) -> None:
        self.design, self.targets, self.weights_LN, self.classes = design, targets, weights_LN, classes
        self.decrement = DECREMENT if design.dtype == torch.float32 else DECREMENT_SMALL
        held_FN = np.unique(folds_N)[:, None] == folds_N
        self.known_NK = _known(targets, held_FN, classes)
        self.problems: InGroups | Together = (
            InGroups(design, targets, held_FN, weights_LN, classes)
            if isinstance(design, Held)
            else Together(design, targets, held_FN, weights_LN, classes)
        )
        self._best: tuple[Strength, NDArray[np.float32], Tensor] | None = None

    def best(self) -> tuple[Strength, NDArray[np.float32], Tensor]:
        """The strength of the smallest likelihood, its out-of-fold logits (N, K), and the folds' mean weights (K, R)."""
        if self._best is None:
            raise NotConverged(
                expected="a finite cross-validated likelihood at some strength",
                got="none",
                fix="give larger strengths, or look for features of extreme size",
            )
        strength, logits_MK, theta_KR = self._best
        if self.design.ranks.alone:
            return self._best
        rows = self.design.rows
        whole_NK = np.zeros((len(self.targets), self.classes), dtype=np.float32)
        whole_NK[rows.start : rows.stop] = logits_MK
        return strength, self.design.ranks.total(torch.from_numpy(whole_NK)).numpy(), theta_KR

    def try_strength(self, l2: float, features: str) -> Strength:
        """Solve every fold at `l2`, starting from where it is, and judge the rows held out."""
        logits_MK = self.problems.solve(l2, self.decrement)
        strength = self._judge(logits_MK, l2, features)
        if np.isfinite(strength.nll) and (self._best is None or strength.nll < self._best[0].nll - INDIFFERENT):
            # The mean over folds: close to the solution for all rows, where the refit starts.
            theta = self.problems.theta().view(-1, self.classes, self.design.width).mean(dim=0)
            self._best = strength, logits_MK.copy(), theta
        return strength

    def _judge(self, logits_MK: NDArray[np.float32], l2: float, features: str) -> Strength:
        sums = np.zeros(3)
        for weight_NL, nll_NL, right_N in self._losses(logits_MK):
            sums += (weight_NL * nll_NL).sum(), weight_NL.sum(), right_N.sum()
        loss, total, right = self.design.ranks.total(torch.from_numpy(sums)).numpy()
        nll = float(loss / total)
        # Labels of one image are not independent: the error is that of a ratio of sums over images.
        errors = sum(
            float(((weight_NL * (nll_NL - nll)).sum(axis=1) ** 2).sum()) for weight_NL, nll_NL, _ in self._losses(logits_MK)
        )
        squares = float(self.design.ranks.total(torch.tensor([errors], dtype=torch.float64)))
        return Strength(
            features=features,
            l2=l2,
            nll=nll,
            nll_se=float(np.sqrt(squares) / total),
            accuracy=float(right / len(self.targets)),
        )

    def _losses(
        self, logits_MK: NDArray[np.float32]
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]]:
        """Of this rank's rows, a block at a time: weights, negative log-likelihoods, and whether every label is right."""
        step = max(1, JUDGED_VALUES // self.classes)
        first, stop = self.design.rows.start, self.design.rows.stop
        for start in range(first, stop, step):
            rows = slice(start, min(start + step, stop))
            block_NK = logits_MK[start - first : rows.stop - first].astype(np.float64)
            nll_NL, right_N = losses_of(block_NK, self.targets[rows], self.classes)
            weight_NL = self.weights_LN[:, rows].T * self.known_NK[rows]
            yield weight_NL, np.where(weight_NL > 0, nll_NL, 0.0), right_N


class InGroups:
    """The folds' problems on a matrix in memory: as many at a time as have room for the logits of every image."""

    def __init__(
        self,
        design: Held,
        targets: Targets,
        held_FN: NDArray[np.bool_],
        weights_LN: NDArray[np.float64],
        classes: int,
    ) -> None:
        self.held, self.classes = [np.flatnonzero(row_N) for row_N in held_FN], classes
        loss = make_loss(targets, ~held_FN[:, None] * weights_LN, classes, design)
        assert not isinstance(loss, BlockLoss), "the design is in memory"
        self.solvers: list[Solver] = []
        size = max(1, BATCH_VALUES // (len(targets) * loss.logits))
        self.logits, self.several = loss.logits, len(loss.weights_PN) > size
        for start in range(0, len(loss.weights_PN), size):
            part = loss.part(slice(start, start + size))
            theta = torch.zeros(len(part.weights_PN), part.logits, design.width, dtype=design.fine)
            self.solvers.append(Solver(design, InMemory(design, part), theta))
            self._rest(self.solvers[-1])

    def theta(self) -> Tensor:
        """The weights of all problems, (P, K, R); the folds' problems follow one another."""
        return torch.cat([solver.theta_PKR for solver in self.solvers])

    def solve(self, l2: float, decrement: float) -> NDArray[np.float32]:
        """Solve all at `l2`: the logits of every row by the heads that have not seen it, (N, K)."""
        logits_NK = np.empty((sum(map(len, self.held)), self.classes), dtype=np.float32)
        first = 0
        for solver in self.solvers:
            terms = solver.terms
            assert isinstance(terms, InMemory), "made above"
            if not terms.logits_PKN.numel():
                solver.refresh()
            solver.solve(l2, tolerance=TOLERANCE, decrement=decrement, limit=LIMIT)
            for offset, (rows, columns) in enumerate(self._places(first, len(solver.theta_PKR))):
                logits_NK[rows, columns] = terms.logits_PKN[offset][:, rows].T.float().numpy()
            first += len(solver.theta_PKR)
            self._rest(solver)
        return logits_NK

    def _places(self, first: int, count: int) -> Iterator[tuple[NDArray[np.int64], slice]]:
        """The held-out rows and the logit columns of problems `first` onwards."""
        per_fold = self.classes // self.logits
        for problem in range(first, first + count):
            column = problem % per_fold * self.logits
            yield self.held[problem // per_fold], slice(column, column + self.logits)

    def _rest(self, solver: Solver) -> None:
        if self.several:
            solver.release()


class Together:
    """The folds' problems in passes over the rows, all of them in each. On the way a pass finds the logits held out."""

    def __init__(
        self,
        design: Streamed,
        targets: Targets,
        held_FN: NDArray[np.bool_],
        weights_LN: NDArray[np.float64],
        classes: int,
    ) -> None:
        self.first, self.fold_N = design.rows.start, held_FN.argmax(axis=0)
        folds = len(held_FN)

        def weights(rows: slice) -> NDArray[np.float64]:
            return ~held_FN[:, None, rows] * weights_LN[:, rows]

        # A fold at a time, so that the weights of all of them never stand in memory.
        totals_FL1 = np.stack([(~held_N * weights_LN).sum(axis=1, keepdims=True) for held_N in held_FN])
        loss = block_loss(targets, weights, totals_FL1, classes, design)
        self.logits, per_fold = loss.logits, classes // loss.logits
        # Which problem, and which of its logits, gives each column of the rows that a fold holds out.
        self.problem_FK = np.arange(folds)[:, None] * per_fold + np.arange(classes) // loss.logits
        self.out_of_fold_MK = np.zeros((len(design.rows), classes), dtype=np.float32)
        theta = torch.zeros(folds * per_fold, loss.logits, design.width, dtype=design.fine)
        self.solver = Solver(design, terms_of(design, loss, self._note), theta)

    def theta(self) -> Tensor:
        """As in `InGroups`."""
        return self.solver.theta_PKR

    def solve(self, l2: float, decrement: float) -> NDArray[np.float32]:
        """As in `InGroups`, of this rank's rows; the next call writes over it."""
        self.solver.solve(l2, tolerance=TOLERANCE, decrement=decrement, limit=LIMIT)
        return self.out_of_fold_MK

    def _note(self, rows: slice, logits_PKn: Tensor, pick: Tensor | None) -> None:
        """Keep what heads that have not seen a row say of it. A problem's last pass is at the weights where it then stands."""
        place_P = np.full(self.problem_FK.max() + 1, -1)
        place_P[slice(None) if pick is None else pick.numpy()] = np.arange(len(logits_PKn))
        place_nK = place_P[self.problem_FK][self.fold_N[rows]]
        logit_K = np.arange(place_nK.shape[1]) % self.logits
        found_nK = logits_PKn.numpy()[place_nK, logit_K, np.arange(len(place_nK))[:, None]]
        kept_nK = self.out_of_fold_MK[rows.start - self.first : rows.stop - self.first]
        np.copyto(kept_nK, found_nK, where=place_nK >= 0, casting="same_kind")


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
