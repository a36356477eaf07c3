"""Image files written byte by byte: what Pillow cannot write, or would refuse to."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Chunk = tuple[bytes, bytes]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, depth: int, colour: int) -> bytes:
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    rows: Sequence[bytes],
    *,
    before: Sequence[Chunk] = (),
    after: Sequence[Chunk] = (),
) -> bytes:
    """A PNG from its raw rows; `before` and `after` are further chunks around the pixels."""
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [*before, (b"IDAT", pixels), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + png_header(width, height, depth, colour) + b"".join(png_chunk(*chunk) for chunk in chunks)


def interlaced_png(pixels: NDArray[np.uint8], *, passes: int = 7) -> bytes:
    """An Adam7 PNG of (height, width, 3) pixels; fewer than seven passes make it a truncated one."""
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    raw = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in steps[:passes] for row in pixels[y::dy, x::dx] if row.size)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    body = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(tags: dict[int, int | tuple[int, ...]], pixels: bytes, *, order: str = "<") -> bytes:
    """An uncompressed one-strip TIFF: `tags` beside the strip's own; whole numbers of 32 bits, tuples of 16."""
    tags = {259: 1, 273: 8, 279: len(pixels), **tags}
    at = 8 + len(pixels)
    extra, entries = b"", b""
    end = at + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        kind, values = (3, value) if isinstance(value, tuple) else (4, (value,))
        body = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(body) > 4:
            extra += body
            body = struct.pack(order + "I", end + len(extra) - len(body))
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + body.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return head + pixels + struct.pack(order + "H", len(tags)) + entries + b"\0" * 4 + extra


def exif(orientation: int, *, order: str = "<") -> bytes:
    """An EXIF block that holds nothing but an orientation."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return b"Exif\0\0" + head + struct.pack(order + "HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + b"\0" * 4


def linear_profile(*, grey: bool = False) -> bytes:
    """An ICC profile whose samples are proportional to light; primaries and white are those of sRGB (D50)."""

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(number(value) for value in values)

    text = b"desc\0\0\0\0" + struct.pack(">I", 7) + b"linear\0" + b"\0" * 79
    straight = b"curv" + b"\0" * 8
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(0.9642, 1.0, 0.8249)}
    if grey:
        tags[b"kTRC"] = straight
    else:
        tags |= {
            b"rXYZ": xyz(0.4360, 0.2225, 0.0139),
            b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
            b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
        }
        tags |= {b"rTRC": straight, b"gTRC": straight, b"bTRC": straight}
    at, table, body = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    space = b"GRAY" if grey else b"RGB "
    head = b"\0" * 4 + b"lcms" + b"\x02\x40\0\0" + b"mntr" + space + b"XYZ " + b"\0" * 12 + b"acsp" + b"\0" * 28
    head += number(0.9642) + number(1.0) + number(0.8249)
    head = head.ljust(128, b"\0") + struct.pack(">I", len(tags))
    return struct.pack(">I", at + len(body)) + head[4:] + table + body


def seen_of_linear(samples: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The sRGB levels (0..255) of samples that are proportional to light."""
    light = samples / 255.0
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
