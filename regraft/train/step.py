"""One step of training: a batch, its gradients, and where they lead."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.errors import Diverged
from regraft.progress import Progress
from regraft.ranks import Ranks, here
from regraft.strategies import DEFAULT_LR, Training
from regraft.train.chance import seeded
from regraft.train.keeper import Stopping
from regraft.train.lessons import Learner, Lessons
from regraft.train.memory_limit import is_out_of_memory, release, too_large
from regraft.train.mixing import joined, paired
from regraft.train.objective import outputs_of
from regraft.train.spread import in_full
from regraft.train.together import Together

_NAMED = 5  # images of a batch named in a message


def make_optimizer(learner: Learner, how: Training) -> torch.optim.Optimizer:
    """The optimiser of all groups, at their own rates."""
    groups = [
        {"params": list(group.parameters.values()), "lr": group.lr, "weight_decay": group.weight_decay}
        for group in learner.groups
    ]
    if how.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    # Decay apart from the gradient (AdamW), or as part of it (Adam).
    kind = torch.optim.AdamW if how.optimizer == "adamw" else torch.optim.Adam
    # One pass over each weight: a quarter of the time on processors, too. MPS and others may not have it, and it takes memory
    # without gaps for granted.
    whole = learner.spread or all(_is_dense(value) for group in learner.groups for value in group.parameters.values())
    return kind(groups, fused=whole and learner.device.partition(":")[0] in ("cpu", "cuda"))


def _is_dense(value: Tensor) -> bool:
    """Whether the values of a tensor lie in memory one after the other, in whatever order."""
    # So torch itself decides whether a copy can keep the layout.
    return torch.empty_like(value, device="meta").stride() == value.stride()


@dataclass(frozen=True, slots=True)
class Taken:
    """What a step found: the mean loss of its images in nats, and how many were answered right; parts of one count as such.

    Of two images that were mixed, right is what is right for the larger part.
    """

    loss: float
    right: float


class Stepper:
    """Takes steps. `most` is how many images go through the network at a time, fewer once memory has run out.

    Of several ranks each takes its share of every batch; None: those of the group that this process has joined. All of them
    have to take every step.
    """

    def __init__(
        self,
        learner: Learner,
        lessons: Lessons,
        how: Training,
        optimizer: torch.optim.Optimizer,
        seed: int,
        progress: Progress,
        ranks: Ranks | None = None,
    ) -> None:
        self.learner, self.lessons, self.how = learner, lessons, how
        self.optimizer, self.seed, self.progress = optimizer, seed, progress
        self.most = how.batch_size + 1  # a single image left over joins the last batch
        self.together = Together(learner, here() if ranks is None else ranks)
        self.stopping: Stopping | None = None  # what a step of several ranks asks them about

    def step(self, rows: NDArray[np.int64], epoch: int, index: int, factor: float) -> Taken:
        """Learn from the images `rows` at `factor` times the groups' rates. Raises Diverged, the weights as they were."""
        for group, own in zip(self.optimizer.param_groups, self.learner.groups, strict=True):
            group["lr"] = own.lr * factor
        taken = self.gradients(rows, epoch, index)
        trained = [value for group in self.learner.groups for value in group.parameters.values()]
        length = in_full(nn.utils.clip_grad_norm_(trained, self.how.clip)).item()
        if not (math.isfinite(taken.loss) and math.isfinite(length)):
            self.optimizer.zero_grad(set_to_none=True)
            raise self._diverged(taken.loss, rows, epoch, index)
        self.optimizer.step()
        return taken

    def gradients(self, rows: NDArray[np.int64], epoch: int, index: int) -> Taken:
        """Leave the gradients of the mean loss of `rows` in the parameters.

        Where memory runs out, on whichever rank, the images go through in smaller parts; the mean is over all of them as
        before.
        """
        ranks, most_of_one = self.together.ranks, self.together.most_of_one(len(rows))
        before = [] if ranks.alone else self.together.statistics()
        while True:
            found, why = None, ""
            try:
                found = self._in_parts(rows, epoch, index)
            except Exception as error:
                if not is_out_of_memory(error) or self.learner.spread:
                    raise
                why = str(error)
            # Outside of the handler, which holds on to everything that the failed attempt had made.
            if not ranks.alone:
                found = self._of_all(found, before, len(rows))
            if found is not None:
                return Taken(found.loss / len(rows), found.right)
            if self.most < 2 or most_of_one < 2:
                raise too_large(MemoryError(why))
            self.optimizer.zero_grad(set_to_none=True)
            release()
            self.most = -(-min(self.most, most_of_one) // 2)
            moving = "; batch norms see fewer images at a time, which changes them" if self.learner.moves_statistics else ""
            self.progress.note(f"memory ran out: going on with {self.most} images at a time, each step over as many{moving}")

    def _of_all(self, found: Taken | None, before: list[Tensor], count: int) -> Taken | None:
        """The sums of all ranks, and their gradients in the parameters; None where memory ran out on one of them."""
        together, taken = self.together, found or Taken(0.0, 0.0)
        asks = self.stopping.asks() if self.stopping else (0.0, 0.0, 0.0)
        said = together.all_said(found is None, taken.loss, taken.right, asks)
        if self.stopping:
            self.stopping.hear(said.asks)
        if said.failed:
            together.put_back(before)
            return None
        together.add_up(said, before, len(together.own(count)) / count)
        return Taken(said.loss, said.right)

    def _in_parts(self, rows: NDArray[np.int64], epoch: int, index: int) -> Taken:
        """The sums over this rank's images, and the gradients of its part of the mean."""
        learner, how, rank, scale = self.learner, self.how, self.together.ranks.rank, self.together.scale
        self.optimizer.zero_grad(set_to_none=True)
        batch = self._batch(rows, epoch, index)
        objective, loss, hits = self.lessons.objective, torch.zeros(()), 0.0
        for number, part in enumerate(self.together.parts(batch.count, len(rows), self.most)):
            if not len(part):
                self._pass_for_nothing(rows, epoch)
                continue
            positions = torch.from_numpy(part).to(learner.device)
            truth, others = batch.truth[positions], None if batch.others is None else batch.others[positions]
            inputs = [value[part].to(learner.device) for value in batch.inputs]
            # What is dropped of one rank's images is not what is dropped of another's.
            with seeded(self.seed, epoch, index, number, *((rank,) if rank else ())):
                with learner.precision.computing(learner.device):
                    value = learner.module(*inputs)
                losses, own = objective.losses(value, truth, others, batch.share, how.label_smoothing)
                torch.autograd.backward(losses.sum() / len(rows) * scale)
            loss = loss + own.sum().cpu()
            hits += float(objective.right(value, truth if others is None or batch.share >= 0.5 else others).sum())
        return Taken(float(loss), hits)

    def _pass_for_nothing(self, rows: NDArray[np.int64], epoch: int) -> None:
        """What other ranks wait for where this one has no image: both passes, and no gradient."""
        inputs = [value.to(self.learner.device) for value in self.lessons.read(rows[:2], epoch)]
        with seeded(self.seed), self.learner.precision.computing(self.learner.device):
            outputs = outputs_of(self.learner.module(*inputs))
        torch.autograd.backward(torch.stack([value.sum() for value in outputs]).sum() * 0.0)

    def _batch(self, rows: NDArray[np.int64], epoch: int, index: int) -> "_Batch":
        """This rank's images of a batch, mixed with those that the whole batch mixes them with."""
        lessons, how, device, own = self.lessons, self.how, self.learner.device, self.together.own(len(rows))
        pairing = paired(len(rows), (self.seed, epoch, index), mixup=how.mixup, cutmix=how.cutmix)
        if not len(own):
            return _Batch(0, (), None, None, 1.0)
        if pairing is None:
            read = rows if len(own) == len(rows) else rows[own]
            return _Batch(len(own), lessons.read(read, epoch), lessons.objective.truth(lessons, read, epoch, device), None, 1.0)
        partners = pairing.partners[own]
        needed = np.union1d(own, partners)  # a partner's own rank may be another
        values = lessons.read(rows[needed], epoch)
        truth = lessons.objective.truth(lessons, rows[needed], epoch, device)
        mine, theirs = (torch.from_numpy(np.searchsorted(needed, some)) for some in (own, partners))
        whole = len(own) == len(rows)
        kept = values if whole else tuple(value[mine] for value in values)
        inputs, share = joined(kept, tuple(value[theirs] for value in values), pairing)
        others = truth[theirs.to(device)]
        return _Batch(len(own), inputs, truth if whole else truth[mine.to(device)], others, share)

    def _diverged(self, loss: float, rows: NDArray[np.int64], epoch: int, index: int) -> Diverged:
        what = "gradients without end" if math.isfinite(loss) else f"a loss of {loss}"
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        smaller = min(lr / 10, DEFAULT_LR[self.how.optimizer])
        names = [self.lessons.names[row] for row in rows[:_NAMED]] if self.lessons.names else []
        more = f" and {len(rows) - len(names)} more" if names and len(rows) > len(names) else ""
        batch = f", on {', '.join(names)}{more}" if names else ""
        return Diverged(
            expected="a loss and gradients that are numbers",
            got=f"{what} in epoch {epoch}, step {index + 1}, at rate {lr:.2g}{batch}",
            fix=f"start anew with a smaller rate: --lr {smaller:.1g} --overwrite; where that changes nothing, "
            "the network's own weights hold no numbers",
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """Images of a batch with what is right for them, and for `others` that they are mixed with, to a part of 1 - `share`."""

    count: int
    inputs: tuple[Tensor, ...]
    truth: Any
    others: Any
    share: float


class Averaged:
    """An exponential moving average of everything that trains (Polyak and Juditsky, 1992), kept beside it."""

    def __init__(self, learner: Learner, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.live: dict[str, Tensor] = {name: value for group in learner.groups for name, value in group.parameters.items()}
        self.mean = {name: value.detach().clone() for name, value in self.live.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """After a step. The first steps count more, so that where it began is soon forgotten."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.mean.values()), list(self.live.values()), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """The averages where the weights were, and the other way round."""
        for name, value in self.live.items():
            kept = value.detach().clone()
            value.copy_(self.mean[name])
            self.mean[name].copy_(kept)
