"""The processes that work on one fit: which one this is, and what they know together.

One process alone is the usual case; then everything here gives back what it is given, and torch is not even asked. Several
are started by torchrun; `joined` makes them one group (regraft.parallel), and from then on `here()` is this process's place
in it. Whoever calls `total`, `rows`, `shared` or `wait` has to be called so on every rank, in the same order.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `size`: number `rank`, 0 being the one that writes and talks."""

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mine(self, count: int) -> NDArray[np.int64]:
        """This rank's positions among `count` things: every `size`-th, so that no rank has more than one more than another."""
        return np.arange(self.rank, count, self.size, dtype=np.int64)

    def total(self, value: "Tensor") -> "Tensor":
        """The sum over all ranks, in place where there are several; the same bits on every rank."""
        if self.alone:
            return value
        import torch.distributed

        torch.distributed.all_reduce(value)
        return value

    def rows(self, own: NDArray[Any]) -> NDArray[Any]:
        """What every rank has for its positions `mine(count)`, put together: (count, ...) on every rank, none padded."""
        if self.alone:
            return own
        import torch.distributed

        parts: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(parts, np.ascontiguousarray(own))
        whole = np.empty((sum(len(part) for part in parts), *own.shape[1:]), own.dtype)
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    def shared(self, make: Callable[[], Value]) -> Value:
        """What rank 0 makes, on every rank. The others do not call `make`."""
        if self.alone:
            return make()
        import torch.distributed

        box = [make() if self.first else None]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def wait(self) -> None:
        """Go on once every rank is here."""
        if not self.alone:
            import torch.distributed

            torch.distributed.barrier()


ALONE = Ranks()


def here() -> Ranks:
    """This process's place in the group that it joined; alone where it joined none."""
    torch = sys.modules.get("torch.distributed")  # not imported: nobody has joined anything
    if torch is None or not torch.is_available() or not torch.is_initialized():
        return ALONE
    return Ranks(torch.get_rank(), torch.get_world_size())


def asked_for() -> int:
    """How many processes torchrun has started for this command, 1 where it did not."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
