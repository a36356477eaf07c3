"""The one way to an image inside of a larger file. What is open is kept, a bounded number of files and of bytes in a process.

Safe to call from many threads; a copy of the process made by fork begins with nothing open.
"""

import os
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeVar

from regraft.data.problem import Problem, truncated
from regraft.data.shards.groups import read_images
from regraft.data.shards.ranges import LocalRanges, Ranges, RemoteRanges, Stretch, open_ranges, stamp_of, unreadable
from regraft.errors import RegraftError
from regraft.values import Member

if TYPE_CHECKING:
    import pyarrow as pa

Value = TypeVar("Value")

# Files of this machine cost a number each, those elsewhere the windows that are kept of them.
MOST_OPEN: Final = 64
MOST_REMOTE: Final = 6
# Rows of Parquet and Arrow are decoded in groups; so much of them is kept, and always the group asked for last.
MOST_BYTES: Final = 256 << 20


# A file and which state of it, a group of rows, and a column.
_Key = tuple[str, object, int, str]


class _Kept:
    """What is open in this process."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.files: OrderedDict[str, Ranges] = OrderedDict()
        self.groups: OrderedDict[_Key, tuple[pa.ChunkedArray, int]] = OrderedDict()
        self.bytes = 0
        self.decoding: dict[str, Lock] = {}


_kept = _Kept()


def _begin_anew() -> None:
    global _kept
    _kept = _Kept()


if hasattr(os, "register_at_fork"):
    # A lock that another thread held would stay held for good.
    os.register_at_fork(after_in_child=_begin_anew)


def opened(place: str, *, anew: bool = False) -> Ranges:
    """The file at a path or URL, kept open. One that was written anew meanwhile is opened again, as with `anew`.

    Raises Problem, DataUnusable, UsageError.
    """
    with _kept.lock:
        known = None if anew else _kept.files.get(place)
    if known is not None and _is_current(known, place):
        with _kept.lock:
            if place in _kept.files:
                _kept.files.move_to_end(place)
        return known
    found = open_ranges(place)
    with _kept.lock:
        _kept.files[place] = found
        # Whoever still reads from one that is dropped here keeps it open.
        for kind, most in ((LocalRanges, MOST_OPEN), (RemoteRanges, MOST_REMOTE)):
            of_kind = [name for name, file in _kept.files.items() if isinstance(file, kind)]
            for name in of_kind[: max(0, len(of_kind) - most)]:
                del _kept.files[name]
    return found


def _is_current(known: Ranges, place: str) -> bool:
    if not isinstance(known, LocalRanges):
        return True
    try:
        return stamp_of(os.stat(place)) == known.stamp  # noqa: PTH116
    except OSError:
        return False


def open_member(member: Member) -> Stretch:
    """One image as a file of its own, of which only what is asked for is read. Raises Problem."""
    if member.trouble is not None:
        code, what = member.trouble
        raise Problem(code, expected="a plain image file", got=what, fix="make the shards anew without it")
    if member.kind != "tar":
        data = _cell(member)
        return Stretch(lambda offset, count: data[offset : offset + count], len(data))
    ranges = _or_problem(lambda: opened(member.container))

    def read(offset: int, count: int) -> bytes:
        data = _or_problem(lambda: ranges.read(offset, count))
        if len(data) < min(count, member.offset + member.size - offset):
            raise truncated("its archive has become shorter")
        return data

    return Stretch(read, member.size, member.offset)


def _or_problem(do: Callable[[], Value]) -> Value:
    """The same, with whatever fails as a Problem of this image."""
    try:
        return do()
    except (OSError, RegraftError) as error:
        raise unreadable(error.got if isinstance(error, RegraftError) else error) from None


def _cell(member: Member) -> bytes:
    """The bytes of an image in a row. Raises Problem."""
    array = _group(member)
    if not 0 <= member.offset < len(array):
        raise truncated("its file has fewer rows now")
    cell = array[member.offset].as_py()
    if cell is None:
        raise Problem("empty", expected="the bytes of an image", got="a row without any", fix="embed the images in the file")
    return bytes(cell)


def _group(member: Member) -> "pa.ChunkedArray":
    """The images of a group of rows, decoded by one thread at a time for each file."""
    import pyarrow as pa

    ranges = _or_problem(lambda: opened(member.container))
    key = member.container, getattr(ranges, "stamp", None) or id(ranges), member.group, member.column
    with _kept.lock:
        known = _kept.groups.get(key)
        if known is not None:
            _kept.groups.move_to_end(key)
            return known[0]
        one_at_a_time = _kept.decoding.setdefault(member.container, Lock())
    with one_at_a_time:
        with _kept.lock:
            known = _kept.groups.get(key)
        if known is not None:
            return known[0]
        try:
            array = read_images(ranges, member.container, member.kind, member.group, member.column)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise unreadable(error) from None
        with _kept.lock:
            _keep(key, array)
    return array


def _keep(key: _Key, array: "pa.ChunkedArray") -> None:
    """Keep a group, and let go of those asked for longest ago, or of what the file held before. With the lock held."""
    size = int(array.nbytes)
    _kept.groups[key] = array, size
    _kept.bytes += size
    stale = [other for other in _kept.groups if other[0] == key[0] and other[1] != key[1]]
    for other in stale:
        _kept.bytes -= _kept.groups.pop(other)[1]
    while len(_kept.groups) > 1 and _kept.bytes > MOST_BYTES:
        _, (_, gone) = _kept.groups.popitem(last=False)
        _kept.bytes -= gone
