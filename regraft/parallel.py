"""Several processes become one group, work, and part; and whoever fails, all of them end, knowing who it was.

    with joined() as ranks:
        ...

`python -m regraft fit` does so by itself where torchrun has started it more than once. On one machine the processes meet in a
private folder and talk over the loopback interface: nothing of theirs listens beyond it.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import torch
import torch.distributed

from regraft.board import (
    Board,
    FolderBoard,
    Leaving,
    Process,
    StoreBoard,
    announce,
    failure_among,
    leaving_of,
    process_of,
    take_leave,
)
from regraft.errors import Interrupted, NotWritable, PeerFailed, RegraftError, UsageError, first_line
from regraft.heartbeat import Heartbeat
from regraft.launch import Launch, finished, gone, launched, tidy
from regraft.ranks import Ranks, here

# Seconds after which a process that does nothing is taken for lost, unless the environment says otherwise.
LIMIT, LIMIT_NAME = 50.0, "REGRAFT_PEER_SECONDS"
# The heartbeat says when to stop waiting: a collective may wait as long as somebody works.
_FOR_EVER = timedelta(days=7)
# Seconds for all processes to arrive; for the others' last words; for the main thread to leave before it is cut off.
_TO_ARRIVE, _LAST_WORDS, _TO_LEAVE = 120.0, 2.0, 2.0
_OF_THE_GROUP = ("gloo", "nccl", "connection", "c10d", "peer", "socket", "store")


class _Group:
    """The processes that this one has joined."""

    def __init__(
        self, launch: Launch, board: Board, store: torch.distributed.Store, others: dict[int, Process], backend: str
    ) -> None:
        self.launch, self.board, self.others = launch, board, others
        self._store, self._backend = store, backend
        self.lost: Leaving | None = None
        self.ended = threading.Event()
        self.parted = False
        self._in_main = threading.current_thread() is threading.main_thread()
        limit = float(os.environ.get(LIMIT_NAME, LIMIT))
        self.heartbeat = Heartbeat(board, launch.rank, others, limit=limit, lost=self._lost)

    def begin(self) -> None:
        """Make the connections; the heartbeat is there before them, for they may wait for somebody, too."""
        self.heartbeat.start()
        rank, size = self.launch.rank, self.launch.size
        torch.distributed.init_process_group(self._backend, store=self._store, rank=rank, world_size=size, timeout=_FOR_EVER)

    def _lost(self, found: Leaving) -> None:
        """On the heartbeat's thread: the main one may wait in a collective that never ends, where no exception reaches it."""
        self.lost = found
        if self._in_main and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # which would end it without a word
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if self.ended.wait(_TO_LEAVE):
            return
        error = peer_failed(found)
        with suppress(Exception):
            self.say_leaving(error)
        text = str(error)
        if self.launch.first_to_say(text):
            print(text, file=sys.stderr, flush=True)
        tidy(self.launch)
        os._exit(error.exit_code)

    def say_leaving(self, error: BaseException | None) -> None:
        rank = self.launch.rank
        if isinstance(error, PeerFailed) and self.lost is not None:
            leaving = Leaving(rank, error.exit_code, self.lost.words, self.lost.of)
        else:
            leaving = Leaving(rank, _code_of(error), _words_of(error), rank)
        take_leave(self.board, leaving)

    def judged(self, error: BaseException, signals: "_Signals") -> BaseException:
        """The error itself where it is this process's own, PeerFailed where it follows from another one's failure."""
        if self.parted or (self.lost is None and not _may_follow(error)):
            return error
        # Whoever ends a group's connection is about to say why, or dies. SIGTERM comes when torchrun has seen somebody fail.
        until = time.monotonic() + (_LAST_WORDS if isinstance(error, Exception) else 0.2)
        while self.lost is None:
            self.lost = failure_among(self.board, self.others)
            if self.lost is not None or time.monotonic() > until:
                break
            time.sleep(0.02)
        if self.lost is None and isinstance(error, Exception):
            # Ctrl-C or SIGTERM for all: this one heard of it by the end of another one's connection.
            if (told := signals.as_error()) is not None:
                return told
            self.lost = next((left for rank in self.others if (left := leaving_of(self.board, rank)) and left.told), None)
        return error if self.lost is None else peer_failed(self.lost)

    def wait_for_words(self) -> None:
        """All raise the same: nobody leaves before the others have said so, lest torchrun ends them first."""
        until = time.monotonic() + _LAST_WORDS
        while time.monotonic() < until and any(leaving_of(self.board, rank) is None for rank in self.others):
            time.sleep(0.01)

    def tidy_for_the_dead(self) -> None:
        """Those that were killed do not take away their share of the folder."""
        first = self.launch.rank - self.launch.local_rank
        for rank, process in self.others.items():
            if process.is_dead() and leaving_of(self.board, rank) is None:
                gone(self.launch, rank - first)


_GROUPS: list[_Group] = []


class _Signals:
    """Ctrl-C and SIGTERM, noted and no more: torchrun sends one as soon as it sees somebody fail, and then nobody had a say."""

    def __init__(self) -> None:
        self._noted: list[int] = []
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._note) for one in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.append(number)

    def as_error(self) -> BaseException | None:
        """What the first signal would have raised."""
        if self._noted:
            one = signal.Signals(self._noted[0])
            try:
                signal.signal(one, self._before[one])
                signal.raise_signal(one)
            except BaseException as error:
                return error
            finally:
                signal.signal(one, self._note)
        return None

    def restore(self) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)


@contextmanager
def joined(device: str = "auto", *, note: Callable[[str], None] = lambda _: None, ending: bool = False) -> Iterator[Ranks]:
    """This process's place among those that torchrun has started; inside, `regraft.ranks.here()` is the same.

    On GPUs each process of a machine has its own. `note` hears what a person should know. `ending`: the process has nothing
    else to do, and does not listen to signals once an error is on its way.

    Raises PeerFailed, exit code 9, in place of whatever follows from the failure of another process; that process's own error
    is raised there. A process whose main thread waits where no exception reaches it says so on standard error and leaves with
    that code. UsageError where torchrun has not started this process, or there are too few GPUs.
    """
    group = _met(device, note)
    _GROUPS.append(group)
    try:
        group.begin()
        yield here()
    except BaseException as error:
        signals = _Signals()
        group.ended.set()
        told = group.judged(error, signals)
        _leave(group, told)
        if not ending:
            signals.restore()
        if told is error:
            raise
        raise told from error
    else:
        if not group.parted:
            part()
        group.ended.set()
        _leave(group, None)
        if group.launch.rank == 0:
            finished(group.launch)
    finally:
        _GROUPS.remove(group)


def part() -> None:
    """Wait for everybody, then dissolve the group: from here on each process is alone, and may end when it likes."""
    ranks = here()
    if ranks.alone:
        return
    ranks.wait()
    for group in _GROUPS:
        group.heartbeat.stop()
        group.parted = True
    torch.distributed.destroy_process_group()


def check_common(folder: Path) -> None:
    """Raise UsageError on every rank where one of them does not see what rank 0 writes to a folder."""
    ranks = here()
    if ranks.alone:
        return

    def write() -> Path:
        token = folder / f".regraft-{uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            token.touch()
        except OSError as error:
            fix = "choose a folder that may be written with --cache"
            raise NotWritable(expected=f"to keep features under {folder}", got=str(error), fix=fix) from error
        return token

    token = ranks.shared(write)
    missing = [rank for rank, there in enumerate(ranks.each(token.exists())) if not there]
    if ranks.first:
        token.unlink(missing_ok=True)
    if missing:
        error = UsageError(
            expected="a cache that all processes share",
            got=f"{folder}, of which rank {', '.join(map(str, missing))} does not see what rank 0 writes to it",
            fix="name a folder on storage that all machines share with --cache",
        )
        error.of_all = True
        raise error


def peer_failed(left: Leaving) -> PeerFailed:
    """What the other processes say where one failed."""
    return PeerFailed(
        expected="every process of this fit to work to the end",
        got=f"rank {left.of}: {left.words}",
        fix="see to its cause, then run the same command again with --resume; torchrun --max-restarts N does so by itself",
    )


def _met(device: str, note: Callable[[str], None]) -> _Group:
    """This process among the others, once all are there."""
    launch = launched()
    if launch is None or launch.size == 1:
        raise UsageError(
            expected="several processes that torchrun has started",
            got="one process by itself",
            fix="torchrun --standalone --nproc-per-node 2 -m regraft fit DATA",
        )
    backend = _backend(device, launch)
    if launch.one_machine:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ[name] = _loopback()
        store: torch.distributed.Store = torch.distributed.FileStore(str(launch.folder() / "store"), launch.size)
        board: Board = FolderBoard(launch.folder())
    else:
        # Two connections: one would keep the heartbeat waiting while the other one waits.
        store, board = _agents_store(launch), StoreBoard(_agents_store(launch))
        if launch.rank == 0:
            note("several machines: what the processes send each other is neither encrypted nor authenticated;")
            note("keep it on a network that nobody else is on")
    announce(board, launch.rank)
    return _Group(launch, board, store, _arrived(board, launch), backend)


def _agents_store(launch: Launch) -> torch.distributed.Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and launch.rank == 0
    store = torch.distributed.TCPStore(
        address, port, launch.size, hosts, timedelta(seconds=_TO_ARRIVE), wait_for_workers=False, multi_tenant=True
    )
    return torch.distributed.PrefixStore(f"regraft/{launch.attempt}", store)


def _arrived(board: Board, launch: Launch) -> dict[int, Process]:
    """Where the other ranks run, once all are there. Asked for again and again: what waits in torch hears no signal."""
    until = time.monotonic() + _TO_ARRIVE
    found: dict[int, Process] = {}
    while True:
        for rank in set(range(launch.size)) - {launch.rank, *found}:
            if (process := process_of(board, rank)) is not None:
                found[rank] = process
        if len(found) == launch.size - 1:
            return found
        if (lost := failure_among(board, found)) is not None:
            raise peer_failed(lost)
        if time.monotonic() > until:
            missing = min(set(range(launch.size)) - {launch.rank, *found})
            raise peer_failed(Leaving(missing, 9, f"it has not come within {_TO_ARRIVE:.0f} s", missing))
        time.sleep(0.02)


def _backend(device: str, launch: Launch) -> str:
    """What the processes talk through; on GPUs each takes its own."""
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return "gloo"
    if launch.local_rank >= torch.cuda.device_count():
        raise UsageError(
            expected="a GPU for each process of a machine",
            got=f"{launch.local_size} processes and {torch.cuda.device_count()} GPU(s)",
            fix="torchrun --nproc-per-node gpu starts one for each; or use --device cpu",
        )
    torch.cuda.set_device(launch.local_rank)
    # What stands in main memory goes one way, what stands on GPUs the other.
    return "cpu:gloo,cuda:nccl"


def _loopback() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), "lo")


def _leave(group: _Group, error: BaseException | None) -> None:
    """The last word, and no more heartbeats. The connections are left to the system: closing them would wait for the others."""
    group.heartbeat.stop()
    with suppress(Exception):
        group.say_leaving(error)
        if isinstance(error, RegraftError) and error.of_all:
            group.wait_for_words()
        group.tidy_for_the_dead()


def _may_follow(error: BaseException) -> bool:
    """Whether an error may be that of a collective, or SIGTERM, be it that a training has heard of it."""
    if isinstance(error, Interrupted):
        return error.number == signal.SIGTERM
    if not isinstance(error, Exception):
        return not isinstance(error, KeyboardInterrupt)
    known = isinstance(error, torch.distributed.DistError)
    return known or (isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _OF_THE_GROUP))


def _code_of(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, RegraftError):
        return error.exit_code
    if isinstance(error, Interrupted):
        return 128 + error.number
    # What is no Exception is somebody's wish: Ctrl-C, or SIGTERM.
    return 130 if isinstance(error, KeyboardInterrupt) else 1 if isinstance(error, Exception) else 143


def _words_of(error: BaseException | None) -> str:
    if error is None:
        return "it was done"
    if isinstance(error, RegraftError):
        return f"it expected {error.expected}, got {first_line(error.got)}"
    if not isinstance(error, Exception):
        return "it was told to end"
    return f"{type(error).__name__}: {first_line(error)}"
