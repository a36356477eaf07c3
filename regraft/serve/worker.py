"""Threads that run the network: each takes what is waiting, a batch at a time, and an item that fails fails alone."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    answer: Future[Answer]


class Worker(Generic[Item, Answer]):
    """Answers items in batches of at most `batch`, in the order in which they came.

    `run` gives an answer for each item. A batch is run as soon as it is full, after `wait` seconds, or at once where `coming()`
    is not more than what is here already: waiting is only worth it where others are on their way.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Answer]],
        *,
        batch: int,
        wait: float,
        coming: Callable[[], int] = lambda: 0,
        ran: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self._run, self._batch, self._wait, self._coming, self._ran = run, batch, wait, coming, ran
        self._queue: queue.SimpleQueue[_Waiting[Item, Answer] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self, threads: int = 1) -> None:
        """`run` is called on so many threads at a time."""
        self._threads = [threading.Thread(target=self._work, name="network", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Answer what waits, then end; returns when that is done."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def submit(self, item: Item) -> "Future[Answer]":
        """The answer to come. A future that is cancelled before its turn costs nothing more."""
        answer: Future[Answer] = Future()
        self._queue.put(_Waiting(item, answer))
        return answer

    def _work(self) -> None:
        open_ = True
        while open_:
            first = self._queue.get()
            if first is None:
                return
            batch, open_ = self._gather(first)
            taken = [one for one in batch if one.answer.set_running_or_notify_cancel()]
            if taken:
                start = time.perf_counter()
                self._answer(taken)
                self._ran(len(taken), time.perf_counter() - start)

    def _gather(self, first: _Waiting[Item, Answer]) -> tuple[list[_Waiting[Item, Answer]], bool]:
        """A batch that begins with `first`, and whether more may come after it."""
        batch, until = [first], time.monotonic() + self._wait
        while len(batch) < self._batch:
            left = until - time.monotonic()
            try:
                wait = left > 0 and self._coming() > len(batch)
                following = self._queue.get(timeout=left) if wait else self._queue.get_nowait()
            except queue.Empty:
                return batch, True
            if following is None:
                return batch, False
            batch.append(following)
        return batch, True

    def _answer(self, taken: Sequence[_Waiting[Item, Answer]]) -> None:
        try:
            answers = self._run([one.item for one in taken])
        except Exception as error:
            if len(taken) == 1:
                taken[0].answer.set_exception(error)
                return
            # One of them is at fault, or all are too many at once: each half by itself.
            self._answer(taken[: len(taken) // 2])
            self._answer(taken[len(taken) // 2 :])
            return
        for one, answer in zip(taken, answers, strict=True):
            one.answer.set_result(answer)
