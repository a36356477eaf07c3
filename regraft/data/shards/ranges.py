"""Any stretch of a file, here or on another machine, by threads at the same time; nothing is kept on disk.

A file of this machine is read at offsets. Of one elsewhere whole windows are fetched and a few are kept: images are asked for
in order, and a request for each would take longer than the bytes do.
"""

import io
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Final, Protocol

from regraft.data.opening import open_file
from regraft.data.problem import Problem
from regraft.errors import DataUnusable, UsageError, first_line
from regraft.recipe import is_url

# Large enough that a request's delay is little beside its bytes; so many of one file are kept.
WINDOW: Final = 8 << 20
KEPT_WINDOWS: Final = 4
# Stores that hold files by name. Others of fsspec's run code, unpack archives or chain one another.
STORES: Final = ("s3", "s3a", "gs", "gcs", "http", "https", "memory", "abfs", "az", "sftp", "hf")
_FETCHING: Final = 4


class Ranges(Protocol):
    """A file: its bytes, and any stretch of it. Fewer bytes come back at its end. Raises OSError."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, count: int) -> bytes: ...


class LocalRanges:
    """A regular file of this machine. `stamp` tells whether the file of that name is still the one that was opened."""

    def __init__(self, path: Path) -> None:
        """Raises Problem where it cannot be opened, or is no regular file."""
        self._file = open_file(path)
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Problem("not_a_file", expected="a regular file", got="a folder, pipe or device", fix="give a file")
        self.size, self.stamp = status.st_size, stamp_of(status)
        self._lock = Lock()

    def read(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return self._whole(offset, count)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count) or b""

    def _whole(self, offset: int, count: int) -> bytes:
        data = os.pread(self._file.fileno(), count, offset)
        # One call gives at most 2 GiB, and less where a signal comes in.
        while len(data) < count and (more := os.pread(self._file.fileno(), count - len(data), offset + len(data))):
            data += more
        return data


def stamp_of(status: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when a file is written anew."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class RemoteRanges:
    """A file that fsspec can reach, in windows; the one after those that are read in order is fetched ahead."""

    stamp = None

    def __init__(self, url: str) -> None:
        """Raises DataUnusable where there is no such file, UsageError where a package for its store is missing."""
        self._url = url
        self._system, self._path = store_of(url)
        self.size = self._ask_size()
        self._windows: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._lock = Lock()

    def _ask_size(self) -> int:
        try:
            size = self._system.info(self._path).get("size")
        except Exception as error:
            raise unreachable(self._url, error) from error
        if not isinstance(size, int):
            raise DataUnusable(
                expected="a file whose size is told", got=f"{self._url}: none told", fix="download it, and give the folder"
            )
        return size

    def read(self, offset: int, count: int) -> bytes:
        end = min(offset + count, self.size)
        if offset >= end:
            return b""
        parts = []
        for number in range(offset // WINDOW, (end - 1) // WINDOW + 1):
            data, start = self._window(number).result(), number * WINDOW
            parts.append(data[max(0, offset - start) : end - start])
        return b"".join(parts)

    def _window(self, number: int) -> Future[bytes]:
        with self._lock:
            in_order = number - 1 in self._windows
            found = self._kept(number)
            if in_order and (number + 1) * WINDOW < self.size:
                self._kept(number + 1)
                self._windows.move_to_end(number)
            while len(self._windows) > KEPT_WINDOWS:
                self._windows.popitem(last=False)
        return found

    def _kept(self, number: int) -> Future[bytes]:
        known = self._windows.get(number)
        if known is None or (known.done() and known.exception() is not None):
            known = self._windows[number] = _fetching().submit(self._fetch, number)
        self._windows.move_to_end(number)
        return known

    def _fetch(self, number: int) -> bytes:
        start, end = number * WINDOW, min((number + 1) * WINDOW, self.size)
        try:
            data: bytes = self._system.cat_file(self._path, start=start, end=end)
        except Exception as error:
            raise OSError(f"{self._url}: {type(error).__name__}: {first_line(error)}") from error
        if len(data) != end - start:
            raise OSError(f"{self._url}: {len(data):,} bytes in place of {end - start:,}; a server has to serve ranges")
        return data


_threads: dict[int, ThreadPoolExecutor] = {}


def _fetching() -> ThreadPoolExecutor:
    """Threads of this process: a copy of it, made by fork, has none of them."""
    pid = os.getpid()
    if pid not in _threads:
        _threads.clear()
        _threads[pid] = ThreadPoolExecutor(_FETCHING, thread_name_prefix="fetch")
    return _threads[pid]


def open_ranges(place: str) -> LocalRanges | RemoteRanges:
    """The file at a path or URL. Raises Problem, DataUnusable, UsageError."""
    return RemoteRanges(place) if is_url(place) else LocalRanges(Path(place))


def store_of(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it. Raises UsageError, DataUnusable."""
    scheme = url.partition("://")[0].lower()
    if scheme not in STORES or "::" in url:
        raise UsageError(
            expected=f"a URL of {', '.join(f'{name}://' for name in STORES)} or file://",
            got=url,
            fix="copy the shards to one of these, or to this machine",
        )
    try:
        import fsspec
    except ImportError:
        raise _missing("fsspec", url) from None
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise _missing(first_line(error), url) from None
    except Exception as error:
        raise unreachable(url, error) from error
    return system, str(path)


def _missing(what: str, url: str) -> UsageError:
    return UsageError(
        expected=f"the packages that read {url.partition('://')[0]}://",
        got=f"not installed: {what}",
        fix="pip install 'regraft[scale]'; for other stores than s3:// and http://, fsspec's own package as well",
    )


def unreachable(url: str, error: Exception) -> DataUnusable:
    """The error for a URL at which nothing can be read."""
    missing = isinstance(error, FileNotFoundError)
    got = f"nothing at {url}" if missing else f"{url}: {type(error).__name__}: {first_line(error)}"
    fix = "check the URL" if missing else "check the URL, the network and your keys"
    return DataUnusable(expected="shards that can be read", got=got, fix=fix)


class Stretch(io.RawIOBase):
    """Some bytes of a larger file as a file of its own: `size` bytes, read through `read_at`."""

    def __init__(self, read_at: Callable[[int, int], bytes], size: int, start: int = 0) -> None:
        super().__init__()
        self._read_at, self.size, self._start, self._at = read_at, size, start, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self._at)
        data = self._read_at(self._start + self._at, left if size is None or size < 0 else min(size, left))
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def unreadable(error: object) -> Problem:
    """The problem of an image in a file that cannot be read any more."""
    return Problem("unreadable", expected="a file that can be read", got=first_line(error), fix="check the file that holds it")
