"""The processes that work on one fit: which one this is, and what they know together.

One process alone is the usual case; then everything here gives back what it is given, and torch is not even asked. Several
are started by torchrun; `joined` makes them one group (regraft.parallel), and from then on `here()` is this process's place
in it. Whoever calls `total`, `rows`, `each`, `shared`, `first_then` or `wait` has to be called so on every rank, in the same
order.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft.errors import RegraftError

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
        parts = self.each(np.ascontiguousarray(own))
        whole = np.empty((sum(len(part) for part in parts), *own.shape[1:]), own.dtype)
        for rank, part in enumerate(parts):
            whole[rank :: self.size] = part
        return whole

    def each(self, value: Value) -> list[Value]:
        """What every rank has, in the order of the ranks, on every rank."""
        if self.alone:
            return [value]
        import torch.distributed

        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def shared(self, make: Callable[[], Value]) -> Value:
        """What rank 0 makes, on every rank. The others do not call `make`; inside of it rank 0 is alone.

        Raises on every rank the RegraftError that `make` raises.
        """
        if self.alone:
            return make()
        import torch.distributed

        made, error = _tried(make) if self.first else (None, None)
        box: list[Any] = [made, error]
        torch.distributed.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        value: Value = box[0]
        return value

    def first_then(self, make: Callable[[], Value]) -> Value:
        """What each rank makes for itself, rank 0 before the others: what it downloads or writes down is there for them.

        Raises on every rank the RegraftError that `make` raises on rank 0.
        """
        if self.alone:
            return make()
        made: list[Value] = []
        self.shared(lambda: made.append(make()))
        if self.first:
            return made[0]
        with _by_itself():
            return make()

    def wait(self) -> None:
        """Go on once every rank is here."""
        if not self.alone:
            import torch.distributed

            torch.distributed.barrier()


ALONE = Ranks()
# Whether this process does something now that the others have no part in.
_ITSELF: ContextVar[bool] = ContextVar("by itself", default=False)


@contextmanager
def _by_itself() -> Iterator[None]:
    token = _ITSELF.set(True)
    try:
        yield
    finally:
        _ITSELF.reset(token)


def _tried(make: Callable[[], Value]) -> tuple[Value | None, RegraftError | None]:
    try:
        with _by_itself():
            return make(), None
    except RegraftError as error:
        error.of_all = True
        return None, error


def here() -> Ranks:
    """This process's place in the group that it joined; alone where it joined none, and inside of `Ranks.shared`."""
    if _ITSELF.get():
        return ALONE
    torch = sys.modules.get("torch.distributed")  # not imported: nobody has joined anything
    if torch is None or not torch.is_available() or not torch.is_initialized():
        return ALONE
    return Ranks(torch.get_rank(), torch.get_world_size())


def on_this_machine() -> int:
    """How many of them share this machine's processors, 1 where torchrun did not start this one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
