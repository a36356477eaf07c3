"""Preconditioned L-BFGS on several convex problems that share one matrix.

    J_p(theta) = loss_p(theta X^T) + l2/2 |theta without its bias column|^2        for p = 1 ... P

* What the images say, gradients of the loss along lines, comes from `Terms`: of logits in memory, or of passes over the rows.
* The first guess of the inverse Hessian is H ~ C (x) S, with C the (K, K) mean curvature of the loss by the logits and
  S the covariance of the features (the Kronecker factors of Martens and Grosse, 2015). In the eigenbases of both it is
  diagonal, with entries gamma_k lambda_r + l2, so a new l2 costs nothing.
* Remembered steps keep the curvature of the loss alone; the l2 of the day is added when they are used. So the memory
  stays valid along a regularisation path.

Letters: P problems, K logits of each, N images, R columns of X, the last one for the bias.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from regraft.train.design import Design
from regraft.train.line import Penalised
from regraft.train.loss import at
from regraft.train.terms import Terms

CURVATURE_EVERY = 10  # iterations after which C is estimated anew
CURVATURE_FLOOR = 1e-5  # of the largest: bounds the steps in directions where the loss has gone flat
PAIRS, MEMORY_BYTES = 10, 1 << 28  # remembered steps: fewer than PAIRS where they would take more memory


@dataclass(frozen=True, slots=True)
class _Pair:
    """One step of all problems and the change of the loss's gradient over it. Problems that stood still hold zeros."""

    step_PKR: Tensor
    change_PKR: Tensor


@dataclass(frozen=True, slots=True)
class _Preconditioner:
    """(C (x) S + l2)^-1 for every problem, with C = Q diag(gamma) Q^T and S = B diag(lambda) B^T (B None: the identity)."""

    vectors_PKK: Tensor
    values_PKR: Tensor
    basis_RR: Tensor | None

    def apply(self, q_PKR: Tensor, pick: Tensor | None) -> Tensor:
        vectors_PKK = at(self.vectors_PKK, pick)
        q_PKR = vectors_PKK.transpose(1, 2) @ q_PKR
        if self.basis_RR is None:
            return vectors_PKK @ (q_PKR / at(self.values_PKR, pick))
        return vectors_PKK @ ((q_PKR @ self.basis_RR / at(self.values_PKR, pick)) @ self.basis_RR.T)


@dataclass(slots=True)
class Solver:
    """The state of P problems, moved from one strength to the next by `solve`. It works on a copy of the `theta_PKR` given.

    `theta_PKR` are the weights with the bias last; `terms` stand at these weights.
    """

    design: Design
    terms: Terms
    theta_PKR: Tensor
    _pull_PKR: Tensor = field(init=False)
    _pairs: list[_Pair] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.theta_PKR = self.terms.centred(self.theta_PKR).clone()
        self._pull_PKR = self.terms.begin(self.theta_PKR)

    def refresh(self) -> None:
        """Compute the gradient from the weights anew, without what rounding has added on the way."""
        if self.terms.drifting:
            self._pull_PKR = self.terms.begin(self.theta_PKR)

    def release(self) -> None:
        """Keep the weights alone; `refresh` before the next `solve`."""
        self.terms.forget()
        self._pull_PKR, self._pairs = torch.empty(0), []

    def gradient(self, l2: float) -> Tensor:
        """The gradient of every J_p, (P, K, R)."""
        return self._pull_PKR + self._penalty(l2) * self.theta_PKR

    def solve(self, l2: float, *, tolerance: float, decrement: float, limit: int) -> int:
        """Lower every J_p until its gradient's size is at most `tolerance` and it is about `decrement` above its minimum.

        The size is the design's (max |grad J_p|, or more); the height is estimated as half the Newton decrement. Problems that
        are done are left alone. Returns the iterations; after `limit` of them it stops, and the caller judges the gradient.
        """
        penalty_R = self._penalty(l2)
        active = torch.arange(len(self.theta_PKR))
        for iteration in range(limit):
            if iteration % CURVATURE_EVERY == 0:
                preconditioner = self._preconditioner(penalty_R)
            pick = None if len(active) == len(self.theta_PKR) else active
            gradient = at(self._pull_PKR, pick) + penalty_R * at(self.theta_PKR, pick)
            direction = self._direction(gradient, penalty_R, preconditioner, pick)
            slope_P = torch.linalg.vecdot(gradient.flatten(1), direction.flatten(1))
            going_P = (self.design.size(gradient) > tolerance) | (-slope_P / 2 > decrement)
            direction, slope_P, going_P = self.terms.agreed(direction, slope_P, going_P)
            if not going_P.any():
                return iteration
            if not going_P.all():
                active = pick = active[going_P]
                direction, slope_P = direction[going_P], slope_P[going_P]
            self._step(direction, slope_P, penalty_R, pick)
        return limit

    def _step(self, direction: Tensor, slope_P: Tensor, penalty_R: Tensor, pick: Tensor | None) -> None:
        theta, pull = at(self.theta_PKR, pick), at(self._pull_PKR, pick)
        line = Penalised(
            slope_P=slope_P,
            penalty_slope_P=(theta * direction * penalty_R).sum(dim=(1, 2)),
            penalty_bend_P=(direction**2 * penalty_R).sum(dim=(1, 2)),
        )
        step_P, new_pull = self.terms.move(theta, direction, line, pick)
        moved = direction * step_P[:, None, None]
        self._remember(moved, new_pull - pull, pick)
        rows = slice(None) if pick is None else pick
        self.theta_PKR[rows] = theta + moved
        self._pull_PKR[rows] = new_pull

    def _direction(self, gradient: Tensor, penalty_R: Tensor, preconditioner: _Preconditioner, pick: Tensor | None) -> Tensor:
        """The two-loop recursion of Nocedal (1980), problem by problem."""
        q, stack = gradient.clone(), []
        for pair in reversed(self._pairs):
            step = at(pair.step_PKR, pick)
            change = torch.addcmul(at(pair.change_PKR, pick), penalty_R, step)
            bend_P = (step * change).sum(dim=(1, 2), keepdim=True)
            inverse_P = torch.where(bend_P > 0, bend_P.clamp_min(1e-37).reciprocal(), 0.0)
            share_P = inverse_P * (step * q).sum(dim=(1, 2), keepdim=True)
            q -= share_P * change
            stack.append((step, change, inverse_P, share_P))
        q = preconditioner.apply(q, pick)
        for step, change, inverse_P, share_P in reversed(stack):
            q += (share_P - inverse_P * (change * q).sum(dim=(1, 2), keepdim=True)) * step
        return self.terms.centred(q.neg_())

    def _preconditioner(self, penalty_R: Tensor) -> _Preconditioner:
        gamma_PK, vectors_PKK = torch.linalg.eigh(self.terms.curvature(self.theta_PKR))
        gamma_PK = gamma_PK.clamp_min(CURVATURE_FLOOR * gamma_PK[:, -1:]).clamp_min(1e-12)
        values_PKR = (gamma_PK[..., None] * self.design.eigen_R + penalty_R).clamp_min(1e-30)
        return _Preconditioner(vectors_PKK, values_PKR, self.design.basis_RR)

    def _penalty(self, l2: float) -> Tensor:
        penalty_R = self.theta_PKR.new_full((self.theta_PKR.shape[-1],), l2)
        penalty_R[-1] = 0.0
        return penalty_R

    def _remember(self, moved: Tensor, change: Tensor, pick: Tensor | None) -> None:
        room = MEMORY_BYTES // (2 * self.theta_PKR.nbytes)
        if len(self._pairs) >= min(max(room, 3), PAIRS):
            self._pairs.pop(0)
        self._pairs.append(_Pair(self._spread(moved, pick), self._spread(change, pick)))

    def _spread(self, values: Tensor, pick: Tensor | None) -> Tensor:
        """`values` of the problems `pick` among zeros for the others."""
        if pick is None:
            return values
        whole_PKR = torch.zeros_like(self.theta_PKR)
        whole_PKR[pick] = values
        return whole_PKR
