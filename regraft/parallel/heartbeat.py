"""Whether the other processes of a fit are at work: what a collective that waits cannot tell.

Every process says once in a while how far it is, on a thread of its own. It is at work while it uses the processor, and while
it waits inside of torch for others: one may have to wait for hours, for an image folder to be read, say. One whose thread says
nothing any more (stopped, or its machine gone), or that neither works nor waits (asleep, or a disk that does not answer), is
lost after `limit` seconds; so are all where everybody only waits.
"""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from regraft.parallel.board import Board, Leaving, Process, failure_among, leaving_of

EVERY = 1.0
# Processor time in a second that is work, of the threads that are counted; and where they cannot be told apart, of all.
_WORK, _WORK_OF_ALL = 0.001, 0.02
_BUSY = 0.3
_TASKS = Path("/proc/self/task")


@dataclass(slots=True)
class _Seen:
    """The last word of another rank, and for how many rounds it has been that. `seconds`: of processor time by then."""

    word: str = ""
    rounds: int = 0
    seconds: float = 0.0


class Heartbeat:
    """Says that this process is at work, and calls `lost` once, on its own thread, when another one is not any more."""

    def __init__(
        self,
        board: Board,
        rank: int,
        others: Mapping[int, Process],
        *,
        limit: float,
        lost: Callable[[Leaving], None],
        every: float = EVERY,
    ) -> None:
        self._board, self._rank, self._others, self._lost = board, rank, others, lost
        self._every, self._limit = min(every, limit / 5), limit
        self._pulse = _Pulse(threading.main_thread().ident or 0)
        self._seen = {other: _Seen() for other in others}
        self._waiting = 0  # rounds in which everybody waited
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                found = self._round()
            except Exception:  # the store of another machine is gone, and with it whoever holds it
                found = self._unheard()
            if found is not None and not self._stop.is_set():
                self._lost(found)
                return

    def _round(self) -> Leaving | None:
        word = self._pulse.word(self._every)
        self._board.write(f"beat-{self._rank}", word)
        if (found := failure_among(self._board, self._others)) is not None:
            return found
        words = [word, *(self._word_of(rank) for rank in self._others)]
        # Rounds and not the clock: a machine that slept, or was too busy to come to this line, has counted nothing.
        if (silent := max(self._seen, key=lambda rank: self._seen[rank].rounds)) is not None and self._over(silent):
            return Leaving(silent, 9, f"it has done nothing for {self._limit:.0f} s", silent)
        self._waiting = self._waiting + 1 if all(one.endswith("waiting") for one in words) else 0
        if self._waiting * self._every > self._limit:
            return Leaving(self._rank, 9, f"every process has waited for the others for {self._limit:.0f} s", self._rank)
        return None

    def _word_of(self, rank: int) -> str:
        """What a rank said last; keeps how long ago it said something new."""
        seen, process = self._seen[rank], self._others[rank]
        word, seconds = self._board.read(f"beat-{rank}") or "", process.seconds()
        # A long call that lets no other Python thread run keeps its heartbeat quiet, too: that is work.
        busy = seconds - seen.seconds > _BUSY * self._every and word == seen.word
        if word != seen.word or busy or leaving_of(self._board, rank) is not None:
            seen.word, seen.rounds = word, 0
        else:
            seen.rounds += 1
        seen.seconds = seconds
        return word

    def _over(self, rank: int) -> bool:
        return self._seen[rank].rounds * self._every > self._limit

    def _unheard(self) -> Leaving | None:
        for seen in self._seen.values():
            seen.rounds += 1
        first = min(self._others)
        return Leaving(first, 9, f"nothing has been heard of it for {self._limit:.0f} s", first) if self._over(first) else None


class _Pulse:
    """What this process says of itself: a number that goes on while it works or waits in torch, and which of the two it is."""

    def __init__(self, main: int) -> None:
        self._main, self._count, self._used = main, 0, 0.0

    def word(self, every: float) -> str:
        used, least = _used()
        # A thread that has ended takes its time with it: less is a sign of life, too.
        works = abs(used - self._used) > least * every
        waits = not works and _in_torch(self._main)
        self._used = used
        self._count += works or waits
        return f"{self._count} {'waiting' if waits else 'working'}"


def _used() -> tuple[float, float]:
    """Seconds of processor time that this process has used, without this thread, and how much more of it in a second is work.

    Without gloo's own thread, too, which looks a hundred times in a second for what has come, where Linux tells threads apart.
    """
    total, own = 0.0, str(threading.get_native_id())
    try:
        for task in _TASKS.iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                if task.name != own and not (task / "comm").read_text().startswith("gloo"):
                    total += int((task / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return time.process_time() - time.thread_time(), _WORK_OF_ALL
    # No file at all is as little an answer as none that can be read.
    return (total, _WORK) if total else (time.process_time() - time.thread_time(), _WORK_OF_ALL)


def _in_torch(thread: int) -> bool:
    """Whether a thread's innermost line of Python is one of torch's: what it waits for is then a call of torch's."""
    torch = sys.modules.get("torch")
    frame = sys._current_frames().get(thread)
    if torch is None or torch.__file__ is None or frame is None:
        return False
    return frame.f_code.co_filename.startswith(str(Path(torch.__file__).parent))
