"""Limits of time that a slow or busy machine cannot break, and slow code cannot keep."""

import gc
import time
from collections.abc import Callable

# What `unit` takes on the machine on which the limits were set.
REFERENCE = 0.004
TRIES = 7


def unit() -> float:
    """Processor seconds of a fixed piece of work: how fast the machine is at this moment."""
    start = time.thread_time()
    total = 0
    for number in range(60_000):
        total += number * number % 7
    assert total
    return time.thread_time() - start


def takes_at_most(seconds: float, work: Callable[[], object], *, clock: Callable[[], float] = time.process_time) -> None:
    """One of a few tries of `work` stays within `seconds` of the machine the limits were set on.

    The fastest try counts, for whatever disturbs a process only ever adds to its time; and a slower machine has longer,
    as much as it is slower at a piece of work measured beside each try.  Garbage collection waits: in a process that has
    held many networks one collection takes longer than the work.
    """
    spent = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(TRIES):
            slower = max(1.0, unit() / REFERENCE)
            start = clock()
            work()
            spent.append((clock() - start) / slower)
            if spent[-1] <= seconds:
                return
    finally:
        if collecting:
            gc.enable()
    raise AssertionError(f"took {min(spent):.3g} s at best, of {seconds:g} s")
