"""The line search of several problems at once, by slopes alone.

Each J_p is convex along its ray, so the sign of the slope says on which side of the minimum a step has landed, and no value
of J is needed: in float32 slopes keep their digits where differences of nearly equal values lose them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from regraft.train.loss import Loss, at

SLOPE_KEPT = 0.25  # a step is taken once the slope's size has fallen to this share
LINE_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalised:
    """Every problem's slope where its ray begins, and the penalty's part of the slope after a step t: a + t b."""

    slope_P: Tensor
    penalty_slope_P: Tensor
    penalty_bend_P: Tensor


def search(first_P: Tensor, slope_P: Tensor, slope_at: Callable[[Tensor, Tensor | None], Tensor], kept: float) -> Tensor:
    """Steps where the slope is at most `kept` of `slope_P`, what it was, (P,).

    The steps `first_P` first, then secant steps inside the bracket.
    `slope_at` gives every problem's slope after the steps given to it; only those of some problems (None: all) are new.
    """
    step_P, bracket = first_P, _Bracket(slope_P)
    now_P = slope_at(step_P, None)
    for _ in range(LINE_STEPS):
        steep_P = now_P.abs() > kept * slope_P.abs()
        if not steep_P.any():
            break
        step_P = torch.where(steep_P, bracket.next(step_P, now_P), step_P)
        now_P = slope_at(step_P, steep_P.nonzero()[:, 0])
    return step_P


@dataclass(frozen=True, slots=True, kw_only=True)
class Ray:
    """Every problem's logits Z along its direction A.

    slope(t) = <residual(Z + t A), A> + a + t b, with a and b the penalty's part.
    """

    logits_PKN: Tensor
    along_PKN: Tensor
    line: Penalised

    def at(self, step_P: Tensor) -> Tensor:
        """The logits after a step."""
        return torch.addcmul(self.logits_PKN, self.along_PKN, step_P[:, None, None])

    def search(self, loss: Loss, pick: Tensor | None) -> tuple[Tensor, Tensor]:
        """Steps that `search` finds, (P,), and the loss's residual there.

        Step 1 first, which is right for most Newton-like directions.
        """
        residual_PKN = torch.empty(0)

        def slope_at(step_P: Tensor, again: Tensor | None) -> Tensor:
            nonlocal residual_PKN
            if again is None:
                residual_PKN = loss.residual(self.at(step_P), pick)
            else:
                logits = torch.addcmul(at(self.logits_PKN, again), at(self.along_PKN, again), step_P[again, None, None])
                residual_PKN[again] = loss.residual(logits, again if pick is None else pick[again])
            data_P = (residual_PKN * self.along_PKN).sum(dim=(1, 2))
            return data_P + self.line.penalty_slope_P + step_P * self.line.penalty_bend_P

        first_P = torch.ones_like(self.line.slope_P)
        return search(first_P, self.line.slope_P, slope_at, SLOPE_KEPT), residual_PKN


class _Bracket:
    """For each problem the nearest steps known to lie before and after the minimum along its ray."""

    def __init__(self, slope_P: Tensor) -> None:
        self.low_P, self.low_slope_P = torch.zeros_like(slope_P), slope_P
        self.high_P, self.high_slope_P = torch.full_like(slope_P, torch.inf), torch.ones_like(slope_P)

    def next(self, step_P: Tensor, slope_P: Tensor) -> Tensor:
        """Take in the slopes at `step_P` and propose the next steps: the secant's, kept near."""
        before_P = slope_P < 0
        beyond_P = step_P + slope_P * (step_P - self.low_P) / (self.low_slope_P - slope_P)
        beyond_P = torch.nan_to_num(beyond_P, nan=torch.inf).clamp(1.5 * step_P, 10 * step_P)
        self.low_P = torch.where(before_P, step_P, self.low_P)
        self.low_slope_P = torch.where(before_P, slope_P, self.low_slope_P)
        self.high_P = torch.where(before_P, self.high_P, step_P)
        self.high_slope_P = torch.where(before_P, self.high_slope_P, slope_P)
        width_P = self.high_P - self.low_P
        inside_P = self.low_P - self.low_slope_P * width_P / (self.high_slope_P - self.low_slope_P)
        inside_P = inside_P.clamp(self.low_P + 0.1 * width_P, self.high_P - 0.1 * width_P)
        return torch.where(self.high_P.isinf(), beyond_P, inside_P)
