"""Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from regraft.data.names import printable
from regraft.progress import Progress, Task

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

# Seconds between two lines where there is no terminal: enough to see that it lives, few enough for a log.
LINE_EVERY = 10.0


def watcher(*, bars: bool = True) -> Progress:
    """What suits standard error; `bars=False` where standard output is on the same terminal at the same time."""
    return BarWatch() if bars and sys.stderr.isatty() else LineWatch(sys.stderr)


def lines_of(text: str) -> Iterator[str]:
    """The lines of `text`, safe to print."""
    return (printable(line) for line in text.splitlines())


class LineWatch:
    """Writes plain lines, for logs and pipes. Tasks that end before the first line is due say nothing."""

    def __init__(self, stream: TextIO, every: float = LINE_EVERY) -> None:
        self._stream, self._every = stream, every

    @contextmanager
    def task(self, name: str, total: int, unit: str) -> Iterator[Task]:
        yield _LineTask(self, name, total, unit, self._every)

    def note(self, text: str) -> None:
        for line in lines_of(text):
            print(line, file=self._stream, flush=True)


class _LineTask:
    def __init__(self, watch: LineWatch, name: str, total: int, unit: str, every: float) -> None:
        self._watch, self._name, self._total, self._unit, self._every = watch, name, total, unit, every
        self._start = self._last = time.monotonic()
        self._done, self._lock = 0, threading.Lock()

    def advance(self, count: int = 1) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._last < self._every:
                return
            self._last = now
            self._watch.note(progress_line(self._name, self._done, self._total, self._unit, now - self._start))


def progress_line(name: str, done: int, total: int, unit: str, seconds: float) -> str:
    """How far a task is after `seconds`; a `total` of 0 is not known."""
    unit = plural(unit)
    rate = done / seconds if seconds > 0 else 0.0
    counted = f"{done:,} of {total:,} {unit}" if total else f"{done:,} {unit}"
    left = f", {duration((total - done) / rate)} left" if total and rate else ""
    return f"{name}: {counted}, {rate:,.0f} {unit}/s{left}"


def plural(unit: str) -> str:
    """'images' for 'image' and for 'images'."""
    return unit if unit.endswith("s") else f"{unit}s"


def duration(seconds: float) -> str:
    """'8 s', '3 min 20 s', '1 h 5 min'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class BarWatch:
    """Draws bars with rich."""

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True, highlight=False)

    @contextmanager
    def task(self, name: str, total: int, unit: str) -> Iterator[Task]:
        with self._bars(unit) as bars:
            yield _BarTask(bars, bars.add_task(name, total=total or None, rate=""), unit)

    def _bars(self, unit: str) -> "Bars":
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn(plural(unit), markup=False),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
        )
        return Bars(*columns, console=self._console, transient=True)

    def note(self, text: str) -> None:
        for line in lines_of(text):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _BarTask:
    def __init__(self, bars: "Bars", identity: "TaskID", unit: str) -> None:
        self._bars, self._identity, self._unit = bars, identity, plural(unit)

    def advance(self, count: int = 1) -> None:
        speed = self._bars.tasks[0].speed
        rate = f"{speed:,.0f} {self._unit}/s" if speed else ""
        self._bars.update(self._identity, advance=count, rate=rate)
