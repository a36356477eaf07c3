"""What the processes of one training tell each other in a step, so that all of them take the same one.

Gradients are added up in a few messages, laid out the same in every step, after the backward pass. torch's
DistributedDataParallel is not around the network, because it sends them during that pass: a rank whose memory runs out halfway
would leave the others waiting, one that has no image of a short last batch could not take part, and its layout, which follows
from the first step it sees, would give a training that goes on from its middle other last bits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.ranks import Ranks
from regraft.train.lessons import Learner
from regraft.train.memory_limit import halves

# Numbers in one message: so much memory is taken for it, too.
_MESSAGE = 1 << 24


@dataclass(frozen=True, slots=True)
class Said:
    """What one rank has to say of a step, or all of them together.

    `failed`: whose memory ran out; `loss`, `right`: sums over images; `asks`: of being told to stop; `learned`: the parameters
    that have a gradient.
    """

    failed: float
    loss: float
    right: float
    asks: tuple[float, float, float]
    learned: tuple[bool, ...]


class Together:
    """What is summed over the ranks of the parameters and the statistics of a learner."""

    def __init__(self, learner: Learner, ranks: Ranks) -> None:
        self.ranks, self._device, self._spread = ranks, learner.device, learner.spread
        # FSDP2 takes the mean over ranks of what is to be a sum.
        self.scale = float(ranks.size) if learner.spread else 1.0
        self.trained = [value for group in learner.groups for value in group.parameters.values()]
        known = {id(value) for value in self.trained}
        # What moves by itself: the running statistics of norms.
        self.moving = [value for value in learner.state.values() if id(value) not in known and value.dtype != torch.bool]
        # A norm cannot tell the spread of one image.
        self._least = 2 if learner.moves_statistics else 1

    def own(self, count: int) -> NDArray[np.int64]:
        """This rank's positions in a batch; none on some ranks where a batch is short."""
        taking = min(self.ranks.size, max(1, count // self._least))
        return np.arange(self.ranks.rank, count if self.ranks.rank < taking else 0, taking, dtype=np.int64)

    def most_of_one(self, count: int) -> int:
        """How many images of a batch one rank has at most."""
        return -(-count // min(self.ranks.size, max(1, count // self._least)))

    def parts(self, own: int, count: int, most: int) -> list[NDArray[np.int64]]:
        """This rank's `own` images of a batch of `count` in parts of at most `most`.

        Where parameters are spread every rank has as many parts: some may be empty.
        """
        if self._spread:
            return np.array_split(np.arange(own), -(-self.most_of_one(count) // most))
        return halves(np.arange(own), most) if own else []

    def all_said(self, failed: bool, loss: float, right: float, asks: Sequence[float]) -> Said:
        """What all ranks say together, in one message."""
        learned = [value.grad is not None for value in self.trained]
        whole = torch.tensor([failed, loss, right, *asks, *learned], dtype=torch.float64).to(self._device)
        ended, loss, right, *rest = self.ranks.total(whole).tolist()
        return Said(ended, loss, right, (rest[0], rest[1], rest[2]), tuple(count > 0 for count in rest[3:]))

    def statistics(self) -> list[Tensor]:
        """Copies of what moves by itself, as it is before a step."""
        return [value.detach().clone() for value in self.moving]

    @torch.no_grad()
    def put_back(self, before: Sequence[Tensor]) -> None:
        """Statistics as they were."""
        for value, old in zip(self.moving, before, strict=True):
            value.copy_(old)

    @torch.no_grad()
    def add_up(self, said: Said, before: Sequence[Tensor], share: float) -> None:
        """The gradients of all ranks in every rank's parameters, and statistics moved by the mean of what moved them.

        `share` is this rank's part of the images, `before` what `statistics` gave.
        """
        learned = [value for value, counts in zip(self.trained, said.learned, strict=True) if counts]
        if self._spread:
            # Those that are spread have been added up on their way; the loss was scaled for their mean.
            learned = [value for value in learned if type(value) is nn.Parameter]
        for value in learned:
            if value.grad is None:
                value.grad = torch.zeros_like(value)
            elif self._spread:
                value.grad /= self.scale
        moved = [share * _floating(value - old) for value, old in zip(self.moving, before, strict=True)]
        added([*(value.grad for value in learned if value.grad is not None), *moved], self.ranks)
        for statistic, old, change in zip(self.moving, before, moved, strict=True):
            statistic.copy_(old + (change if statistic.is_floating_point() else change.round()))


def _floating(value: Tensor) -> Tensor:
    return value if value.is_floating_point() else value.float()


def added(values: Sequence[Tensor], ranks: Ranks) -> None:
    """Replace each tensor by its sum over all ranks, many of them in one message."""
    for message in _messages(values):
        flat = torch.cat([value.reshape(-1) for value in message])
        ranks.total(flat)
        for value, part in zip(message, torch.split(flat, [value.numel() for value in message]), strict=True):
            value.copy_(part.view(value.shape))


def _messages(values: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    for kind in sorted({value.dtype for value in values}, key=str):
        held, count = list[Tensor](), 0
        for value in (one for one in values if one.dtype == kind):
            if held and count + value.numel() > _MESSAGE:
                yield held
                held, count = [], 0
            held.append(value)
            count += value.numel()
        yield held


@torch.no_grad()
def begin_alike(learner: Learner, ranks: Ranks) -> None:
    """The weights of rank 0 on all ranks: those of a network of one's own may be drawn anew in each process."""
    if ranks.alone:
        return
    values = [value.detach() for value in learner.state.values() if value.dtype != torch.bool]
    for value in values:
        if not ranks.first:
            value.zero_()
    added(values, ranks)
