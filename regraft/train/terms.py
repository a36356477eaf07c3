"""What the images say to the solver: the data term of every problem, its gradient along lines and its curvature.

In memory, the logits of every image are kept. One product X theta^T gives those of every problem, one more the gradient: two
per iteration, whatever P, and logits along a direction are linear in the step, so that the line search needs none.

In passes, nothing is kept of an image. One pass gives the gradient at new weights, and with it the slope there, for
the slope along a direction d is <gradient, d>: where the first step of a line search is right, an iteration is one pass over
the rows, whatever P. Only the curvature is taken from a sample that stays in memory.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from regraft.train.held import Held
from regraft.train.line import SLOPE_KEPT, Penalised, Ray, search
from regraft.train.loss import BlockLoss, Loss, at
from regraft.train.streamed import CURVATURE_ROWS, Streamed

# Where a pass is dear: 3/5 of the passes of SLOPE_KEPT and step 1, for as many iterations (docs/scale.md).
FIRST_STEPS, SLOPE_KEPT_IN_PASSES = (0.1, 1.0), 0.5
# Which rows, their logits (P, K, n), and of which problems (None: all); called with what a pass has found.
Watch = Callable[[slice, Tensor, Tensor | None], None]


class Terms(Protocol):
    """The data terms of P problems, standing at some weights."""

    @property
    def drifting(self) -> bool:
        """Whether rounding adds up from move to move, until the next `begin`."""
        ...

    def begin(self, theta_PKR: Tensor) -> Tensor:
        """Stand at these weights: (P, K, R) the gradient there."""
        ...

    def forget(self) -> None:
        """Keep nothing until the next `begin`."""
        ...

    def move(self, theta: Tensor, direction: Tensor, line: Penalised, pick: Tensor | None) -> tuple[Tensor, Tensor]:
        """Search along `direction` from `theta`, where problems `pick` stand: the steps taken, and the gradient there."""
        ...

    def curvature(self, theta_PKR: Tensor) -> Tensor:
        """About the mean second derivative by the logits, (P, K, K)."""
        ...

    def centred(self, values_PKR: Tensor) -> Tensor:
        """Without the part that the loss cannot see."""
        ...

    def agreed(self, direction: Tensor, slope_P: Tensor, going_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same on every rank."""
        ...


@dataclass(slots=True)
class InMemory:
    """Of a matrix in memory, with the logits of every image, (P, K, N)."""

    design: Held
    loss: Loss
    logits_PKN: Tensor = field(init=False)
    drifting = True

    def begin(self, theta_PKR: Tensor) -> Tensor:
        self.logits_PKN = self.design.logits(theta_PKR)
        return self.design.pull_back(self.loss.residual(self.logits_PKN, None))

    def forget(self) -> None:
        self.logits_PKN = torch.empty(0)

    def move(self, theta: Tensor, direction: Tensor, line: Penalised, pick: Tensor | None) -> tuple[Tensor, Tensor]:
        ray = Ray(logits_PKN=at(self.logits_PKN, pick), along_PKN=self.design.logits(direction), line=line)
        step_P, residual = ray.search(self.loss, pick)
        new_pull = self.design.pull_back(residual)
        self.logits_PKN[slice(None) if pick is None else pick] = ray.at(step_P)
        return step_P, new_pull

    def curvature(self, theta_PKR: Tensor) -> Tensor:
        rows = slice(None, None, max(1, self.logits_PKN.shape[-1] // CURVATURE_ROWS))
        return self.loss.curvature(self.logits_PKN, rows)

    def centred(self, values_PKR: Tensor) -> Tensor:
        return self.loss.centred(values_PKR)

    def agreed(self, direction: Tensor, slope_P: Tensor, going_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return direction, slope_P, going_P


@dataclass(slots=True)
class Passes:
    """Of rows that are read on every pass, by one rank or several: one collective for each pass, one for each iteration.

    The second, `agreed`, makes every rank follow rank 0, should processors of two kinds round differently.
    """

    design: Streamed
    loss: BlockLoss
    watch: Watch | None = None
    # Each problem's last step: where one was too long, so is mostly the next, and to try it first saves a pass.
    _steps_P: Tensor = field(init=False)
    drifting = False

    def begin(self, theta_PKR: Tensor) -> Tensor:
        self._steps_P = theta_PKR.new_ones(len(theta_PKR))
        return self._pull(theta_PKR, None)

    def forget(self) -> None:
        """There is nothing to forget."""

    def move(self, theta: Tensor, direction: Tensor, line: Penalised, pick: Tensor | None) -> tuple[Tensor, Tensor]:
        pull = torch.empty_like(theta)

        def slope_at(step_P: Tensor, again: Tensor | None) -> Tensor:
            which = slice(None) if again is None else again
            problems = pick if again is None else again if pick is None else pick[again]
            pull[which] = self._pull(theta[which] + direction[which] * step_P[which, None, None], problems)
            return (pull * direction).sum(dim=(1, 2)) + line.penalty_slope_P + step_P * line.penalty_bend_P

        stand = slice(None) if pick is None else pick
        # Of what one process would hold in memory, several ranks take the same steps as it does, and so get the same head.
        thrifty = self.design.thrifty
        first_P = self._steps_P[stand].clamp(*FIRST_STEPS) if thrifty else torch.ones_like(line.slope_P)
        step_P = search(first_P, line.slope_P, slope_at, SLOPE_KEPT_IN_PASSES if thrifty else SLOPE_KEPT)
        self._steps_P[stand] = step_P
        return step_P, pull

    def curvature(self, theta_PKR: Tensor) -> Tensor:
        design, ranks = self.design, self.design.ranks
        loss = self.loss.rows(design.sampled)
        flat_MR = theta_PKR.reshape(-1, theta_PKR.shape[-1]).to(design.dtype)
        logits_MS = torch.addmm(flat_MR[:, -1:], flat_MR[:, :-1], design.sample_SD.T)
        mean_PKK = loss.curvature(logits_MS.view(*theta_PKR.shape[:2], -1), slice(None)).to(design.fine)
        if ranks.alone:
            return mean_PKK
        weight_P = loss.weights_PN.sum(dim=1, dtype=design.fine)[:, None]
        summed = ranks.total(torch.cat([mean_PKK.flatten(1) * weight_P, weight_P], dim=1))
        return (summed[:, :-1] / summed[:, -1:].clamp_min(1e-30)).view_as(mean_PKK)

    def centred(self, values_PKR: Tensor) -> Tensor:
        return self.loss.centred(values_PKR)

    def agreed(self, direction: Tensor, slope_P: Tensor, going_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ranks = self.design.ranks
        if ranks.alone:
            return direction, slope_P, going_P
        packed_PV = torch.cat([direction.flatten(1), slope_P[:, None], going_P[:, None].to(slope_P.dtype)], dim=1)
        packed_PV = ranks.total(packed_PV if ranks.first else packed_PV.zero_())
        return packed_PV[:, :-2].view_as(direction), packed_PV[:, -2], packed_PV[:, -1] > 0

    def _pull(self, theta: Tensor, problems: Tensor | None) -> Tensor:
        """One pass: the gradient of the given problems at `theta`."""
        weight_MD, bias_M1 = self.design.folded(theta.flatten(0, 1))
        pull_MR = torch.zeros(len(weight_MD), self.design.width, dtype=torch.float64)
        for rows, block_ND in self.design.blocks(len(weight_MD)):
            logits = torch.addmm(bias_M1, weight_MD, block_ND.T).view(*theta.shape[:2], -1)
            if self.watch is not None:
                self.watch(rows, logits, problems)
            residual_MN = self.loss.rows(rows).residual(logits, problems).flatten(0, 1)
            pull_MR[:, :-1] += residual_MN @ block_ND
            pull_MR[:, -1] += residual_MN.sum(dim=1, dtype=torch.float64)
        pull_MR = self.design.unfolded(pull_MR.to(self.design.fine))
        return self.design.ranks.total(pull_MR).view_as(theta)


def terms_of(design: Held | Streamed, loss: Loss | BlockLoss, watch: Watch | None = None) -> Terms:
    """The terms of a design and of the loss that was made for it; only passes can be watched."""
    if isinstance(design, Held):
        assert not isinstance(loss, BlockLoss), "made for another design"
        return InMemory(design, loss)
    assert isinstance(loss, BlockLoss), "made for another design"
    return Passes(design, loss, watch)
