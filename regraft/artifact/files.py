"""Opens a file once, and only if it is a plain one."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from regraft.artifact.magic import HEAD_BYTES, recognise
from regraft.errors import SavedModelRefused

REFETCH = "copy the whole run folder again from where it was made, or make it again with regraft fit"
# Without O_NONBLOCK the open of a FIFO waits for a writer that may never come.
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def is_file(path: Path) -> bool:
    """Whether a regular file is there; False also where that cannot be told, so that opening it says why."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def refusal(path: Path, *, expected: str, got: str, fix: str = REFETCH) -> SavedModelRefused:
    """The error about one file of a saved model."""
    return SavedModelRefused(expected=expected, got=f"{path}: {got}", fix=fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A regular file held open, and its size in bytes at that moment. Links are followed; what they lead to is checked."""

    path: Path
    raw: FileIO
    size: int

    def fill(self, buffer: memoryview) -> None:
        """Fill the whole of `buffer` from where the file stands; raises SavedModelRefused when it ends before."""
        done = 0
        while done < len(buffer):
            count = self.raw.readinto(buffer[done:])
            if not count:
                raise refusal(self.path, expected=f"{self.size:,} bytes", got="the file became shorter while it was read")
            done += count

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes from where the file stands."""
        buffer = bytearray(count)
        self.fill(memoryview(buffer))
        return bytes(buffer)

    def foreign(self, expected: str, otherwise: str) -> SavedModelRefused:
        """The error for a file of another kind, named where it is recognised, else described by `otherwise`."""
        self.raw.seek(0)
        head = self.read(min(HEAD_BYTES, self.size))
        self.raw.seek(max(0, self.size - 1))
        what, cure = recognise(head, self.read(min(1, self.size))) or (otherwise, REFETCH)
        return refusal(self.path, expected=expected, got=what, fix=cure)


@contextmanager
def open_regular(path: Path, expected: str) -> Iterator[OpenFile]:
    """Open `path` for reading, once; what it is gets asked of the open file, not of the name, which may change meanwhile.

    Raises SavedModelRefused when it is missing, unreadable or anything but a regular file.
    """
    try:
        descriptor = os.open(path, _READ_FLAGS)
        try:
            size = _regular_size(descriptor, path, expected)
            with FileIO(descriptor, closefd=False) as raw:
                yield OpenFile(path=path, raw=raw, size=size)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise refusal(
            path, expected=expected, got="no such file", fix="check the path; regraft fit makes such a folder"
        ) from None
    except PermissionError:
        raise refusal(path, expected=expected, got="no permission to read it", fix="change its permissions") from None
    except OSError as error:
        raise refusal(path, expected=expected, got=error.strerror or str(error)) from None


def _regular_size(descriptor: int, path: Path, expected: str) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise refusal(path, expected=expected, got=_KINDS.get(stat.S_IFMT(status.st_mode), "not a regular file"))
    return status.st_size
