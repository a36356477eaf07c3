"""One process at a time: a lock that ends with the process, however that ends."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regraft.errors import RunLocked


@contextmanager
def holding(
    path: Path,
    flags: int,
    *,
    expected: str,
    got: str,
    fix: str = "wait until it ends, or give another folder with --out",
) -> Iterator[None]:
    """Hold the lock on a file or folder, opened with `flags`; go without where there are none (Windows, some network shares).

    Raises RunLocked, with these words, where somebody else holds it; OSError where `path` cannot be opened.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(path, flags, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLocked(expected=expected, got=got, fix=fix) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
