"""One step of training: a batch, its gradients, and where they lead."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.errors import Diverged
from regraft.progress import Progress
from regraft.strategies import Training
from regraft.train.chance import seeded
from regraft.train.lessons import Learner, Lessons
from regraft.train.memory_limit import halves, is_out_of_memory, release, too_large
from regraft.train.mixing import mixed

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
    return kind(groups, fused=learner.device == "cuda")


@dataclass(frozen=True, slots=True)
class Taken:
    """What a step found: the mean loss of its images in nats, and how many were answered right; parts of one count as such."""

    loss: float
    right: float


class Stepper:
    """Takes steps. `most` is how many images go through the network at a time, fewer once memory has run out."""

    def __init__(
        self, learner: Learner, lessons: Lessons, how: Training, optimizer: torch.optim.Optimizer, seed: int, progress: Progress
    ) -> None:
        self.learner, self.lessons, self.how = learner, lessons, how
        self.optimizer, self.seed, self.progress = optimizer, seed, progress
        self.most = how.batch_size + 1  # a single image left over joins the last batch

    def step(self, rows: NDArray[np.int64], epoch: int, index: int, factor: float) -> Taken:
        """Learn from the images `rows` at `factor` times the groups' rates. Raises Diverged, the weights as they were."""
        for group, own in zip(self.optimizer.param_groups, self.learner.groups, strict=True):
            group["lr"] = own.lr * factor
        taken = self.gradients(rows, epoch, index)
        trained = [value for group in self.learner.groups for value in group.parameters.values()]
        length = nn.utils.clip_grad_norm_(trained, self.how.clip).item()
        if not (math.isfinite(taken.loss) and math.isfinite(length)):
            self.optimizer.zero_grad(set_to_none=True)
            raise self._diverged(taken.loss, rows, epoch, index)
        self.optimizer.step()
        return taken

    def gradients(self, rows: NDArray[np.int64], epoch: int, index: int) -> Taken:
        """Leave the gradients of the mean loss of `rows` in the parameters.

        Where memory runs out the images go through in smaller parts; the mean is over all of them as before.
        """
        while True:
            try:
                return self._in_parts(rows, epoch, index)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.most < 2 or len(rows) < 2:
                    raise too_large(error) from error
            self.optimizer.zero_grad(set_to_none=True)
            release()
            self.most = -(-min(self.most, len(rows)) // 2)
            moving = "; batch norms see fewer images at a time, which changes them" if self.learner.moves_statistics else ""
            self.progress.note(f"memory ran out: going on with {self.most} images at a time, each step over as many{moving}")

    def _in_parts(self, rows: NDArray[np.int64], epoch: int, index: int) -> Taken:
        learner, how = self.learner, self.how
        self.optimizer.zero_grad(set_to_none=True)
        batch = mixed(self.lessons.read(rows, epoch), (self.seed, epoch, index), mixup=how.mixup, cutmix=how.cutmix)
        objective = self.lessons.objective
        truth = objective.truth(self.lessons, rows, epoch, learner.device)
        loss, hits = torch.zeros(()), 0.0
        for number, part in enumerate(halves(np.arange(len(rows)), self.most)):
            positions = torch.from_numpy(part).to(learner.device)
            others = None if batch.partners is None else truth[batch.partners.to(learner.device)][positions]
            inputs = [value[part].to(learner.device) for value in batch.inputs]
            with seeded(self.seed, epoch, index, number):
                with learner.precision.computing(learner.device):
                    value = learner.module(*inputs)
                losses, own = objective.losses(value, truth[positions], others, batch.share, how.label_smoothing)
                torch.autograd.backward(losses.sum() / len(rows))
            loss = loss + own.sum().cpu()
            hits += float(objective.right(value, truth[positions]).sum())
        return Taken(float(loss) / len(rows), hits)

    def _diverged(self, loss: float, rows: NDArray[np.int64], epoch: int, index: int) -> Diverged:
        what = "gradients without end" if math.isfinite(loss) else f"a loss of {loss}"
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        names = [self.lessons.names[row] for row in rows[:_NAMED]] if self.lessons.names else []
        more = f" and {len(rows) - len(names)} more" if names and len(rows) > len(names) else ""
        batch = f", on {', '.join(names)}{more}" if names else ""
        return Diverged(
            expected="a loss and gradients that are numbers",
            got=f"{what} in epoch {epoch}, step {index + 1}, at rate {lr:.2g}{batch}",
            fix=f"give a smaller rate, for example --lr {lr / 10:.1g}; if that changes nothing, the weights hold no numbers",
        )


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
