"""Seconds per stage of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """`with clock("features"):` adds the seconds of a block under a name."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage in the order of their first use, and `total` since the clock was made."""
        return {**self._seconds, "total": time.perf_counter() - self._start}
