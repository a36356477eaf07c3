"""A process among others: what it says when it leaves, and whose failure an error follows from."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch.distributed

from regraft.errors import Interrupted, PeerFailed, RegraftError, first_line
from regraft.launch import Launch, gone, tidy
from regraft.parallel.board import Board, Leaving, Process, failure_among, leaving_of, take_leave
from regraft.parallel.heartbeat import Heartbeat

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store  # where its type is said

# Seconds after which a process that does nothing is taken for lost, unless the environment says otherwise.
LIMIT, LIMIT_NAME = 50.0, "REGRAFT_PEER_SECONDS"
# The heartbeat says when to stop waiting: a collective may wait as long as somebody works.
_FOR_EVER = timedelta(days=7)
# Seconds for the others' last words; for the main thread to leave before it is cut off.
_LAST_WORDS, _TO_LEAVE = 2.0, 2.0
_OF_THE_GROUP = ("gloo", "nccl", "connection", "c10d", "peer", "socket", "store")


class Group:
    """The processes that this one has joined."""

    def __init__(self, launch: Launch, board: Board, store: "Store", others: dict[int, Process], backend: str) -> None:
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
        self.lost, error = found, peer_failed(found)
        with suppress(Exception):
            self.say_leaving(error)  # at once: this heartbeat is the next one that is missed
        if self._in_main and signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # which would end it without a word
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if self.ended.wait(_TO_LEAVE):
            return
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

    def judged(self, error: BaseException, signals: "Signals") -> BaseException:
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


class Signals:
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


def peer_failed(left: Leaving) -> PeerFailed:
    """What the other processes say where one failed."""
    return PeerFailed(
        expected="every process of this fit to work to the end",
        got=f"rank {left.of}: {left.words}",
        fix="see to its cause, then run the same command again with --resume; torchrun --max-restarts N does so by itself",
    )


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
