"""What an image file claims to be, read from its bytes alone: format, size, and whether its end is there.

Nothing here decodes a pixel. Every function reads through a `Reader`, so the same code serves bytes in memory and a file
on disk of which only a few blocks are touched. A problem is raised as `Problem`; `decode` adds the file's name to it.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from regraft.data.problem import BLOCK, MAX_JUNK, MAX_METADATA, MAX_SCANS, Problem, Reader, check_size, damaged, truncated
from regraft.data.sniff import sniff


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of itself. `width` and `height` in pixels as stored, before any EXIF orientation."""

    format: str
    width: int
    height: int


def in_memory(data: bytes) -> Reader:
    """Read from bytes."""

    def read(offset: int, count: int) -> bytes:
        return data[offset : offset + count]

    return read


def inspect(read: Reader, size: int) -> Header:
    """Sniff the format of `size` bytes, check the claimed size, and that the end of the image is there.

    Raises Problem with code "empty", "not_an_image", "too_many_pixels", "too_much_metadata", "too_costly", "truncated" or
    "damaged".
    """
    if size == 0:
        raise Problem("empty", expected="an image file", got="an empty file")
    kind = sniff(read(0, 64))
    width, height = _READERS[kind](read, size)
    check_size(width, height)
    return Header(format=kind, width=width, height=height)


def _jpeg(read: Reader, size: int) -> tuple[int, int]:
    width = height = junk = 0
    progressive = False
    at = 2
    while True:
        segment = read(at, 9)
        if len(segment) < 4:
            raise truncated("a JPEG that ends before its first scan")
        code = segment[1]
        if segment[0] != 0xFF or code in (0x00, 0xFF):
            at, junk = at + 1, junk + 1
            if junk > MAX_JUNK:
                raise damaged("a JPEG with no marker where one must be")
        elif code == 0x01 or 0xD0 <= code <= 0xD8:
            at += 2
        elif code == 0xD9:
            raise damaged("a JPEG that ends before its first scan")
        else:
            if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC) and len(segment) == 9:
                height, width = struct.unpack(">HH", segment[5:9])
                progressive = code in (0xC2, 0xC6, 0xCA, 0xCE)
            at += 2 + int.from_bytes(segment[2:4], "big")
            if code == 0xDA:
                break
    check_size(width, height)
    _check_scans(read, at, size, progressive)
    return width, height


def _check_scans(read: Reader, start: int, size: int, progressive: bool) -> None:
    if not _contains(read, start, size, b"\xff\xd9"):
        raise truncated("a JPEG without its end")
    if progressive:
        scans = sum(read(at, BLOCK).count(b"\xff\xda") for at in range(start, size, BLOCK))
        if scans > MAX_SCANS:
            raise Problem("too_costly", expected=f"at most {MAX_SCANS} scans in a progressive JPEG", got=f"{scans} scans")


def _contains(read: Reader, start: int, size: int, needle: bytes) -> bool:
    """Whether `needle` occurs from `start` on. The tail first: that is where an end marker nearly always is."""
    if needle in read(max(start, size - BLOCK), BLOCK):
        return True
    overlap = len(needle) - 1
    return any(needle in read(at, BLOCK + overlap) for at in range(start, size - BLOCK, BLOCK))


def _png(read: Reader, size: int) -> tuple[int, int]:
    head = read(8, 16)
    if len(head) < 16:
        raise truncated(f"a PNG of {size} bytes")
    if head[4:8] != b"IHDR":
        raise damaged("a PNG that does not start with its header")
    width, height = struct.unpack(">II", head[8:16])
    check_size(width, height)
    _walk_png(read, size)
    return width, height


def _walk_png(read: Reader, size: int) -> None:
    """Step from chunk to chunk to IEND, or to the second frame of an animation: only the first frame is ever used."""
    at, metadata, pixels = 8, 0, False
    while len(chunk := read(at, 8)) == 8:
        length, kind = int.from_bytes(chunk[:4], "big"), chunk[4:]
        if kind == b"IEND" or (kind == b"fcTL" and pixels):
            if at + 12 + length > size:
                break
            if not pixels:
                raise damaged("a PNG without pixels")
            return
        if kind in (b"IDAT", b"fdAT"):
            pixels = True
        elif (metadata := metadata + length) > MAX_METADATA and at + length <= size:
            raise Problem(
                "too_much_metadata",
                expected=f"at most {MAX_METADATA:,} bytes beside the pixels",
                got=f"{metadata:,} bytes or more",
            )
        at += 12 + length
    raise truncated("a PNG without its end")


def _gif(read: Reader, size: int) -> tuple[int, int]:
    head = read(0, 13)
    if len(head) < 13:
        raise truncated(f"a GIF of {size} bytes")
    width, height = struct.unpack("<HH", head[6:10])
    at = 13 + _palette_bytes(head[10])
    start = at
    while (kind := read(at, 1)) != b",":
        if kind in (b"", b";"):
            raise truncated("a GIF without an image")
        # Anything but an extension is skipped, as Pillow and browsers do.
        at = _skip_blocks(read, at + 2) if kind == b"!" else at + 1
        if at - start > MAX_METADATA:
            raise Problem("too_much_metadata", expected=f"at most {MAX_METADATA:,} bytes before the first frame", got="more")
    frame = read(at + 1, 9)
    if len(frame) < 9:
        raise truncated("a GIF that ends in its first frame")
    left, top, frame_width, frame_height = struct.unpack("<HHHH", frame[:8])
    width, height = max(width, left + frame_width), max(height, top + frame_height)
    check_size(width, height)
    end = _skip_blocks(read, at + 11 + _palette_bytes(frame[8]))
    if end >= size:
        raise truncated("a GIF that ends in its first frame")
    return width, height


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _skip_blocks(read: Reader, at: int) -> int:
    """The offset after a run of GIF sub-blocks. Read in large pieces: a frame has thousands of blocks of 255 bytes."""
    base, piece = at, read(at, BLOCK)
    while True:
        if at - base >= len(piece):
            base, piece = at, read(at, BLOCK)
            if not piece:
                raise truncated("a GIF that ends inside its first frame")
        length = piece[at - base]
        at += 1 + length
        if not length:
            return at


def _webp(read: Reader, size: int) -> tuple[int, int]:
    head = read(0, 30)
    if len(head) < 30 or int.from_bytes(head[4:8], "little") + 8 > size:
        raise truncated(f"a WebP of {size} bytes that says it has more")
    kind = head[12:16]
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    raise damaged(f"a WebP whose first chunk is {kind!r}")


def _bmp(read: Reader, size: int) -> tuple[int, int]:
    head = read(0, 54)
    if len(head) < 26:
        raise truncated(f"a BMP of {size} bytes")
    start, header_size = struct.unpack("<II", head[10:18])
    if header_size == 12:
        width, height, _, bits = struct.unpack("<HHHH", head[18:26])
        return width, height
    if len(head) < 54:
        raise truncated(f"a BMP of {size} bytes")
    width, height, _, bits, compression = struct.unpack("<iiHHI", head[18:34])
    height = abs(height)
    check_size(width, height)
    # The last row may lack its padding.
    needed = start + (width * bits + 31) // 32 * 4 * (height - 1) + (width * bits + 7) // 8
    if compression in (0, 3) and needed > size:
        raise truncated(f"a BMP of {size:,} bytes that needs {needed:,}")
    # A pair of bytes stands for 255 pixels at most, and Pillow unpacks them in Python: seconds for a lie of 89 megapixels.
    if compression in (1, 2) and width * height > 255 * size:
        raise damaged(f"a packed BMP of {size:,} bytes for {width} x {height} pixels")
    return width, height


def _tiff(read: Reader, size: int) -> tuple[int, int]:
    head = read(0, 16)
    order, big = ("<" if head[:2] == b"II" else ">"), 43 in head[2:4]
    if len(head) < 16:
        raise truncated(f"a TIFF of {size} bytes")
    (at,) = struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])
    count_bytes, entry_bytes = (8, 20) if big else (2, 12)
    if at + count_bytes > size:
        raise truncated("a TIFF whose directory lies beyond its end")
    count = int.from_bytes(read(at, count_bytes), "little" if order == "<" else "big")
    if count > BLOCK or at + count_bytes + count * entry_bytes > size:
        raise truncated("a TIFF whose directory goes on beyond its end")
    tags = _tiff_tags(read(at + count_bytes, count * entry_bytes), order, big)
    if 256 not in tags or 257 not in tags:
        raise damaged("a TIFF that does not tell its size")
    # One tile is decoded as a whole, however small the image that it belongs to.
    check_size(tags.get(322) or 1, tags.get(323) or 1)
    return tags[256], tags[257]


def _tiff_tags(entries: bytes, order: str, big: bool) -> dict[int, int]:
    """The whole numbers among the directory's tags that fit into their entry: width, height, tile size."""
    tags = {}
    step, at = (20, 12) if big else (12, 8)
    codes = {1: "B", 3: "H", 4: "I", 16: "Q"} if big else {1: "B", 3: "H", 4: "I"}
    for start in range(0, len(entries), step):
        tag, kind = struct.unpack_from(order + "HH", entries, start)
        if kind in codes and tag in (256, 257, 322, 323):
            (tags[tag],) = struct.unpack_from(order + codes[kind], entries, start + at)
    return tags


_READERS: dict[str, Callable[[Reader, int], tuple[int, int]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
    "BMP": _bmp,
    "TIFF": _tiff,
}
