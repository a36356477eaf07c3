"""The process around a command: heavy libraries imported without pauses, and an end that does not wait for nothing."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


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


def entry() -> None:
    """The console script: run the command line, then leave without taking apart what the system takes back at once.

    Tearing torch's modules down one by one takes longer than many a command. What has to happen at the end does: exit
    handlers run, the streams are flushed.
    """
    from regraft.cli.main import main

    code = main()
    with suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
