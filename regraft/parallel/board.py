"""Where the processes of one fit leave each other word outside of collectives: who is there, who is alive, who left and why."""

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store  # where its type is said

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Board(Protocol):
    """Short texts by name; the last one written under a name counts."""

    def write(self, name: str, text: str) -> None: ...

    def read(self, name: str) -> str | None: ...


class FolderBoard:
    """Texts as files: for the processes of one machine. Nothing listens, and a process that died has left what it wrote."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, text: str) -> None:
        temporary = self._folder / f"{name}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(self._folder / name)

    def read(self, name: str) -> str | None:
        try:
            return (self._folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None


class StoreBoard:
    """Texts in the store of torchrun's agent: for processes of several machines."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    def write(self, name: str, text: str) -> None:
        self._store.set(name, text)

    def read(self, name: str) -> str | None:
        return self._store.get(name).decode() if self._store.check([name]) else None


@dataclass(frozen=True, slots=True)
class Process:
    """Where a rank runs."""

    host: str
    pid: int

    @property
    def local(self) -> bool:
        return self.host == _host()

    def is_dead(self) -> bool:
        """Whether it is a process of this machine, and has ended."""
        if not self.local:
            return False
        with suppress(OSError, IndexError):
            return _stat(self.pid)[0] == "Z"
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def seconds(self) -> float:
        """Seconds of processor time that it has used; 0.0 where that cannot be told from here."""
        if self.local:
            with suppress(OSError, IndexError, ValueError):
                fields = _stat(self.pid)
                return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS
        return 0.0


def _stat(pid: int) -> list[str]:
    """The fields of Linux's /proc/PID/stat from the state on; the name before them may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


@dataclass(frozen=True, slots=True)
class Leaving:
    """How a rank left: its exit code, and in words why. `of`: the rank whose failure made it leave, or its own."""

    rank: int
    code: int
    words: str
    of: int

    @property
    def well(self) -> bool:
        return self.code == 0

    @property
    def told(self) -> bool:
        """Whether somebody ended it on purpose."""
        return self.code in (130, 143)


def announce(board: Board, rank: int) -> None:
    """Say where this process runs."""
    board.write(f"here-{rank}", json.dumps(asdict(Process(_host(), os.getpid()))))


def process_of(board: Board, rank: int) -> Process | None:
    """Where a rank runs, once it has said so."""
    text = board.read(f"here-{rank}")
    return None if text is None else Process(**json.loads(text))


def take_leave(board: Board, leaving: Leaving) -> None:
    """Say why this process leaves; the first word counts."""
    if board.read(f"left-{leaving.rank}") is None:
        board.write(f"left-{leaving.rank}", json.dumps(asdict(leaving)))


def leaving_of(board: Board, rank: int) -> Leaving | None:
    """Why a rank has left, where it has."""
    text = board.read(f"left-{rank}")
    return None if text is None else Leaving(**json.loads(text))


def failure_among(board: Board, others: Mapping[int, Process]) -> Leaving | None:
    """The first cause of trouble among other ranks, as far as it can be seen now: one that failed, or died without a word.

    One that left because of somebody else's failure counts where that other one has said nothing.
    """
    second = None
    for rank, process in sorted(others.items()):
        dead = process.is_dead()  # asked first: whoever leaves says so before
        left = leaving_of(board, rank)
        if left is None and dead:
            return Leaving(rank, 9, f"its process {process.pid} on {process.host} was killed, or ran out of memory", rank)
        if left is not None and not left.well and not left.told:
            if left.of == rank:
                return left
            second = second or left
    return second


def _host() -> str:
    return socket.gethostname()
