"""Writing so that what was written is on the disk, and failing so that nothing is left half done."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from regraft.errors import NotWritable, OutOfSpace
from regraft.lock import holding

# EFBIG: a limit on the size of files, set by the user or by the file system.
_FULL = {errno.ENOSPC, errno.EFBIG, errno.ENOMEM, getattr(errno, "EDQUOT", errno.ENOSPC)}
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk. Raises OSError; `path` must not exist."""
    with os.fdopen(os.open(path, _WRITE_FLAGS, 0o666), "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk. Windows keeps them in order by itself and opens no folders."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file if it is there; a failure is left to the next save, which removes it."""
    with suppress(OSError):
        path.unlink()


def locked(folder: Path) -> AbstractContextManager[None]:
    """Keep other saves out of `folder`. Raises RunLocked."""
    flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
    return holding(folder, flags, expected=f"no other process saving to {folder}", got="one that is doing so now")


@contextmanager
def reporting(folder: Path, needed: int) -> Iterator[None]:
    """Turn an OSError of writing `needed` bytes to `folder` into OutOfSpace or NotWritable; what was there is untouched."""
    try:
        yield
    except OSError as error:
        what = f"{error.strerror or error}: {error.filename or folder}"
        if error.errno in _FULL:
            raise OutOfSpace(
                expected=f"room for {needed:,} bytes in {folder}",
                got=what,
                fix="free some space or quota, or give another folder with --out; the model that was there is untouched",
            ) from None
        raise NotWritable(
            expected=f"to write {needed:,} bytes to {folder}",
            got=what,
            fix="check its permissions and its disk, or give another folder with --out; the model that was there is untouched",
        ) from None
