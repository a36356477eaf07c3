"""How long work tells how far it is, without knowing who watches."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, count: int = 1) -> None: ...


class Progress(Protocol):
    """Something that watches: a progress bar, a log, nothing. `note` is one line that a person should read."""

    def task(self, name: str, total: int, unit: str) -> AbstractContextManager[Task]: ...

    def note(self, text: str) -> None: ...


class _SilentTask:
    def advance(self, count: int = 1) -> None:
        pass


class Silent:
    """Watches nothing; the default of the library."""

    @contextmanager
    def task(self, name: str, total: int, unit: str) -> Iterator[Task]:
        yield _SilentTask()

    def note(self, text: str) -> None:
        pass
