"""The entries of a tar archive, from one pass over its headers; nothing of it is ever unpacked.

Read strictly: ustar, the old format, and the extensions of pax and GNU for long names and sizes. An archive whose headers
cannot be relied on is refused with the place of the first that is wrong; an entry that is no plain file, or has a name that
leads elsewhere, is given with what is wrong with it, for the caller to set aside. Only stretches of the file are named, and
they lie inside of it, one behind the other.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from regraft.data.names import count_of, printable, shown
from regraft.data.shards.ranges import Ranges
from regraft.errors import DataUnusable

BLOCK: Final = 512
MOST_ENTRIES: Final = 1_000_000
# Names and attributes; those of a real archive take less than a kilobyte.
_MOST_EXTENSION: Final = 1 << 20
_LONGEST_NAME: Final = 4096
_ZERO = bytes(BLOCK)
_KINDS: Final = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_SPARSE, _FOLDERS, _FILES = (b"S",), (b"5", b"D"), (b"0", b"\0", b"7")
_SET_ID = 0o6000
_OCTAL = re.compile(rb" *([0-7]*)(?: *\0| *$)")
_DRIVE = re.compile(r"[A-Za-z]:")
# The first bytes of what is called .tar and is none.
_OTHERS: Final = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
    (b"PK", "zip", ""),
    (b"7z\xbc\xaf\x27\x1c", "7z", ""),
    (b"Rar!", "rar", ""),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive: its name with forward slashes, and where its bytes are.

    `trouble` is the code of a rejection and what is wrong: "link", "special", "sparse", "set_id", "unsafe_name", "truncated".
    """

    name: str
    offset: int
    size: int
    trouble: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """All files of an archive, in their order; `notes` say where it was cut short."""

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()


def list_tar(ranges: Ranges, place: str) -> Listed:
    """The files of the archive at `place`. Raises DataUnusable with the name and the byte of what is wrong; OSError."""
    check_plain(ranges.read(0, BLOCK), place)
    reader = _Reader(ranges, place)
    entries = tuple(reader.entries())
    return Listed(entries, tuple(reader.notes))


def check_plain(first: bytes, place: str) -> None:
    """Raise DataUnusable where a file begins as one that is compressed, or as another archive."""
    for magic, kind, tool in _OTHERS:
        if first.startswith(magic):
            raise DataUnusable(
                expected="a plain tar archive, whose images can be read where they lie",
                got=f"{printable(place)}: {kind}",
                fix=f"unpack the compression and keep the archive: {tool} FILE"
                if tool
                else "unpack it, and give the folder; `regraft shard` makes tar archives of it",
            )


@dataclass(slots=True)
class _Extended:
    """What extension headers say of the entry after them."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False


class _Reader:
    """Walks from header to header."""

    def __init__(self, ranges: Ranges, place: str) -> None:
        self._ranges, self._place = ranges, place
        self.notes: list[str] = []

    def entries(self) -> Iterator[Entry]:
        at, count, coming, common = 0, 0, _Extended(), _Extended()
        while header := self._header(at):
            count += 1
            if count > MOST_ENTRIES:
                self._refuse(at, f"more than {MOST_ENTRIES:,} entries", "make several archives of it")
            kind, size, body = header[156:157], self._size(header, at), at + BLOCK
            if kind in (b"x", b"X", b"g"):
                self._extend(common if kind == b"g" else coming, self._pax(body, size), body)
            elif kind == b"L":
                coming.name = self._text(self._payload(body, size).split(b"\0", 1)[0], body)
            elif kind != b"K":
                size = coming.size if coming.size is not None else common.size if common.size is not None else size
                if (entry := self._entry(header, kind, size, at, coming, common)) is not None:
                    yield entry
                coming = _Extended()
                # Neither of them has bytes, whatever the header says.
                size = 0 if kind in _FOLDERS or kind in (b"1", b"2", b"3", b"4", b"6") else size
            at = self._after_map(header, body) if kind in _SPARSE else body
            at += -(-size // BLOCK) * BLOCK

    def _after_map(self, header: bytes, at: int) -> int:
        """Where the bytes of a sparse file begin: behind the blocks that go on with the map of its holes (GNU)."""
        more = header[482:483]
        while more.strip(b"\0") and at < self._ranges.size:
            more, at = self._ranges.read(at, BLOCK)[504:505], at + BLOCK
        return at

    def _header(self, at: int) -> bytes | None:
        """The header at a byte; None at the end."""
        header = self._ranges.read(at, BLOCK)
        if header == _ZERO:
            return None
        if len(header) < BLOCK:
            if at == 0:
                self._refuse(0, f"a file of {self._ranges.size:,} bytes", "get a sound copy of it, or remove it")
            if not self.notes:
                self.notes.append(f"{printable(self._place)} has no end mark: it may have been cut short")
            return None
        if not _sums_up(header):
            self._refuse(at, "no header of a tar archive where one has to be", "get a sound copy of it, or remove it")
        return header

    def _size(self, header: bytes, at: int) -> int:
        size = _number(header[124:136])
        if size is None or size < 0:
            self._refuse(at, f"a size that is none: {shown(repr(header[124:136]))}", "get a sound copy of it, or remove it")
        return size

    def _payload(self, at: int, size: int) -> bytes:
        if size > _MOST_EXTENSION:
            self._refuse(at, f"a name or attributes of {size:,} bytes", "remove it: no archive of images needs that")
        data = self._ranges.read(at, size)
        if len(data) < size:
            self._refuse(at, "the archive ends inside of a header", "get a sound copy of it, or remove it")
        return data

    def _pax(self, at: int, size: int) -> dict[str, bytes]:
        """The records "length key=value" of an extended header (POSIX.1-2001, pax)."""
        data, found, start = self._payload(at, size).rstrip(b"\0"), dict[str, bytes](), 0
        while start < len(data):
            length, _, _ = data[start : start + 20].partition(b" ")
            end = start + int(length) if length.isdigit() else start
            key, equals, value = data[start + len(length) + 1 : end].partition(b"=")
            if not equals or end > len(data) or not value.endswith(b"\n"):
                self._refuse(at + start, "an extended header that is none", "get a sound copy of it, or remove it")
            found[key.decode("utf-8", "replace")] = value[:-1]
            start = end
        return found

    def _extend(self, coming: _Extended, records: dict[str, bytes], at: int) -> None:
        if "path" in records:
            coming.name = self._text(records["path"], at)
        if "size" in records:
            if not records["size"].isdigit() or len(records["size"]) > 18:
                self._refuse(at, f"a size that is none: {shown(repr(records['size']))}", "get a sound copy of it, or remove it")
            coming.size = int(records["size"])
        coming.sparse |= any(key.startswith("GNU.sparse.") for key in records)

    def _text(self, name: bytes, at: int) -> str:
        if len(name) > _LONGEST_NAME:
            self._refuse(at, f"a name of {len(name):,} bytes", "remove it: no file system takes that")
        return name.decode("utf-8", "surrogateescape")

    def _entry(self, header: bytes, kind: bytes, size: int, at: int, coming: _Extended, common: _Extended) -> Entry | None:
        """The entry of a header, None for a folder."""
        name = coming.name or common.name or self._text(_plain_name(header), at)
        if kind in _FOLDERS or (kind in (b"0", b"\0") and name.endswith("/")):
            return None
        trouble = _trouble(header, kind, name, sparse=coming.sparse or common.sparse)
        offset = at + BLOCK
        if trouble is None and offset + size > self._ranges.size:
            got = f"its archive ends {offset + size - self._ranges.size:,} bytes before it does"
            trouble = ("truncated", got)
            self.notes.append(f"{printable(self._place)} is cut short in {shown(name)}, at byte {self._ranges.size:,}")
        return Entry(_without_dot(name), offset, size, trouble)

    def _refuse(self, at: int, got: str, fix: str) -> NoReturn:
        raise DataUnusable(expected="a sound tar archive", got=f"{printable(self._place)}: {got}, at byte {at:,}", fix=fix)


def _trouble(header: bytes, kind: bytes, name: str, *, sparse: bool) -> tuple[str, str] | None:
    """Why an entry is none to read, or None."""
    if kind in (b"1", b"2"):
        return "link", f"{_KINDS[kind]} in an archive"
    if kind in _KINDS:
        return "special", f"{_KINDS[kind]} in an archive"
    if kind in _SPARSE or sparse:
        return "sparse", "a file with holes in an archive"
    if kind not in _FILES:
        return "special", f"an entry of the unknown type {kind!r}"
    if (_number(header[100:108]) or 0) & _SET_ID:
        return "set_id", "a file that would run as another user (set-uid)"
    return unsafe_name(name)


def unsafe_name(name: str) -> tuple[str, str] | None:
    """Why a name in an archive is none of a file below its folder, or None."""
    if ".." not in name and "\\" not in name and ":" not in name and "\0" not in name and name.strip("/.") and name[0] != "/":
        return None  # nearly all of them
    if not name.strip("/.") or "\0" in name:
        return "unsafe_name", "a name that is empty or has a NUL"
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return "unsafe_name", "an absolute name"
    if ".." in name.replace("\\", "/").split("/"):
        return "unsafe_name", "a name that leads out of its folder"
    return None


def _without_dot(name: str) -> str:
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _plain_name(header: bytes) -> bytes:
    """The name in the header itself. A NUL ends it; ustar has a second part before it."""
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0", 1)[0]):
        return prefix + b"/" + name
    return name


def _sums_up(header: bytes) -> bool:
    """Whether the bytes of a header, with blanks for the sum itself, add up to the sum that it has."""
    own = header[148:156]
    said = _number(own)
    if said is None:
        return False
    # The low half of Adler-32 is one more than the sum, modulo 65521: a twentieth of the time of adding up.
    if zlib.adler32(header) & 0xFFFF == (1 + said + sum(own) - len(own) * ord(" ")) % 65521:
        return True
    rest = header[:148] + header[156:]
    # Some old programs took bytes for signed.
    return said == sum(byte - 256 if byte > 127 else byte for byte in rest) + len(own) * ord(" ")


def _number(field: bytes) -> int | None:
    """A number of a header: octal digits, or since GNU big-endian after a mark in the first byte. None for anything else."""
    if field[0] in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big")
        return value - (1 << 8 * (len(field) - 1)) if field[0] == 0xFF else value
    digits = _OCTAL.match(field)
    return int(digits[1] or b"0", 8) if digits else None


def said_of(troubled: list[Entry]) -> str:
    """A few of the entries that were left out, each with its reason."""
    first = "; ".join(f"{shown(entry.name)} ({entry.trouble[1] if entry.trouble else ''})" for entry in troubled[:5])
    return f"{count_of(len(troubled), 'entry', 'entries')} that no set of images needs, never opened: {first}"
