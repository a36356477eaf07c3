"""Image files: opened without waiting, only regular ones, and none that is too large; on disk, or inside of a larger file."""

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.data.container import inspect
from regraft.data.problem import Problem, Reader
from regraft.values import ImagePath, Member

if TYPE_CHECKING:
    from regraft.data.shards.ranges import Stretch

# The limit on pixels allows 256 MB of them uncompressed; twice that leaves room for 16 bits and alpha.
MAX_FILE_BYTES = 512 * 2**20
# Small files are read whole and then inspected; large ones are inspected first, so that a bomb never reaches memory.
READ_FIRST = 2**20


def open_file(path: Path) -> io.FileIO:
    """Open for reading without ever waiting: a FIFO without a writer would block for good. Raises Problem."""
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        return io.FileIO(os.open(path, flags))
    except FileNotFoundError:
        raise Problem("missing", expected="an image file", got="no such file", fix="check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, IsADirectoryError):
            raise Problem("not_a_file", expected="an image file", got="a folder", fix="give a file") from None
        got = (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
        raise Problem("unreadable", expected="a file that may be read", got=got, fix="check its permissions") from None


def open_image(path: ImagePath) -> "io.FileIO | Stretch":
    """Open an image, wherever it is. Raises Problem."""
    if not isinstance(path, Member):
        return open_file(path)
    from regraft.data.shards.containers import open_member  # Most images are files.

    return open_member(path)


def checked_size(file: "io.FileIO | Stretch") -> int:
    """The bytes of a regular file. Raises Problem for anything else, and for more than MAX_FILE_BYTES."""
    size = _regular_size(file) if isinstance(file, io.FileIO) else file.size
    if size > MAX_FILE_BYTES:
        raise Problem("file_too_large", expected=f"at most {MAX_FILE_BYTES:,} bytes", got=f"{size:,} bytes")
    return size


def _regular_size(file: io.FileIO) -> int:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise Problem("not_a_file", expected="a regular file", got="a folder, pipe or device", fix="give an image file")
    return status.st_size


def read_file(path: ImagePath) -> bytes:
    """All bytes of an image file, whose header is sound where it is a large one. Raises Problem."""
    with open_image(path) as file:
        size = checked_size(file)
        if size > READ_FIRST:
            inspect(on_disk(file), size)
            file.seek(0)
        try:
            return file.read(size)
        except OSError as error:
            raise Problem("unreadable", expected="a file that can be read to its end", got=str(error.strerror)) from None


def on_disk(file: "io.FileIO | Stretch") -> Reader:
    """Read from a file, its first block once."""
    head = file.read(4096) or b""

    def read(offset: int, count: int) -> bytes:
        if offset + count <= len(head):
            return head[offset : offset + count]
        file.seek(offset)
        return file.read(count) or b""

    return read
