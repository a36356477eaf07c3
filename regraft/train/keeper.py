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

from torch import Tensor

from regraft.errors import Interrupted

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
    """Whether somebody has asked for the end, by which signal; and when the last state was kept."""

    asked: int | None = None
    kept_at: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether it is time for another state."""
        return self.asked is not None or time.monotonic() - self.kept_at > EVERY

    def check(self) -> None:
        """After a state was kept. Raises Interrupted where the end was asked for."""
        self.kept_at = time.monotonic()
        if self.asked is not None:
            raise Interrupted(self.asked)


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """Inside, Ctrl-C and SIGTERM wait for the end of the step; the second one does what it always did, at once."""
    stopping = Stopping()
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
