"""The process around a command: heavy libraries imported without pauses, and an end that does not wait for nothing."""

import atexit
import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of glibc's malloc.h
_ARENAS = 2
_LARGE = 4 << 20  # bytes: of an image of 1.4 megapixels


@contextmanager
def importing() -> Iterator[None]:
    """Around the import of torch: no collection of garbage while hundreds of modules come to life, nor ever over them.

    The modules stay to the end of the process anyhow; a third of the time of the import goes into finding that out.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def share_memory() -> None:
    """Let the threads of this process take memory from two places, not from eight for each core.

    What one of them has given back another can then use: 0.1 GB of 2 in a fit of 70,000 images. Where the C library is another
    than glibc, nothing happens.
    """
    _tell_malloc(_M_ARENA_MAX, _ARENAS)


def give_back_large_blocks() -> None:
    """Let the memory of a large image go back to the system as soon as it is not needed.

    By itself glibc keeps ever larger blocks once one has been freed, and a process that lives for months and is sent images of
    all sizes keeps the room of the largest ones, in pieces. For commands that train it would be a loss: they want it again.
    """
    _tell_malloc(_M_MMAP_THRESHOLD, _LARGE)


def _tell_malloc(option: int, value: int) -> None:
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(option, value)


def entry() -> None:
    """The console script: run the command line, then leave without taking apart what the system takes back at once.

    Tearing torch's modules down one by one takes longer than many a command. What has to happen at the end does: exit
    handlers run, the streams are flushed.
    """
    from regraft.cli.main import main

    share_memory()
    code = main()
    with suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
