"""What lets a training stop at any instant and go on: checkpoints, when to write them, and being told to stop."""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from regraft.errors import Interrupted
from regraft.ranks import ALONE, Ranks, here

# Seconds after which a step is followed by a checkpoint, beside the one after each epoch.
EVERY = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The state of a training between two steps: tensors by name, and facts that JSON can hold."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def without_nan(value: Any) -> Any:
    """Facts for JSON: figures that are no numbers become null."""
    if isinstance(value, dict):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The other way round, for the fields of a value."""
    return {name: math.nan if value is None else value for name, value in fields.items()}


class Keeper(Protocol):
    """Where states are kept. `recall` gives the newest of a phase, None where there is none of it."""

    def keep(self, state: Kept) -> None: ...

    def recall(self) -> Kept | None: ...


class Nowhere:
    """Keeps nothing."""

    def keep(self, state: Kept) -> None:
        pass

    def recall(self) -> Kept | None:
        return None


@dataclass(slots=True)
class Stopping:
    """Whether somebody has asked for the end, by which signal; and when the last state was kept.

    Several ranks go by what they have told each other, so that all of them stop at the same step: the signal reaches each at
    another time, or only one of them, and the clock is that of rank 0.
    """

    asked: int | None = None
    kept_at: float = field(default_factory=time.monotonic)
    ranks: Ranks = ALONE
    heard: tuple[int | None, bool] = (None, False)

    def asks(self) -> tuple[float, float, float]:
        """What this rank has to say: whether it was told to stop by Ctrl-C, by SIGTERM, and whether a state is due."""
        return (
            float(self.asked == signal.SIGINT),
            float(self.asked == signal.SIGTERM),
            float(self.ranks.first and self._late()),
        )

    def hear(self, asks: tuple[float, float, float]) -> None:
        """The sum of what all ranks have to say."""
        interrupted, terminated, late = (count > 0 for count in asks)
        self.heard = (signal.SIGTERM if terminated else signal.SIGINT if interrupted else None), late

    def ask_all(self) -> None:
        """Between steps: have the ranks tell each other now."""
        if not self.ranks.alone:
            interrupted, terminated, late = self.ranks.rows(np.array([self.asks()])).sum(axis=0).tolist()
            self.hear((interrupted, terminated, late))

    def due(self) -> bool:
        """Whether it is time for another state."""
        asked, late = (self.asked, self._late()) if self.ranks.alone else self.heard
        return asked is not None or late

    def check(self) -> None:
        """After a state was kept. Raises Interrupted where the end was asked for."""
        self.kept_at = time.monotonic()
        asked = self.asked if self.ranks.alone else self.heard[0]
        if asked is not None:
            self.ranks.wait()  # for rank 0, which writes: the end of any other may be the end of all
            raise Interrupted(asked)

    def _late(self) -> bool:
        return time.monotonic() - self.kept_at > EVERY


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """Inside, Ctrl-C and SIGTERM wait for the end of the step; the second one does what it always did, at once."""
    stopping = Stopping(ranks=here())
    if threading.current_thread() is not threading.main_thread():
        yield stopping  # signals belong to the main thread
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        if stopping.asked is None:
            stopping.asked = number
            return
        handler = before[signal.Signals(number)]
        signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.raise_signal(number)

    try:
        for number in before:
            signal.signal(number, ask)
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
