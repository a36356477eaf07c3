"""Two faults of PNG files that Pillow lets pass, and that would show another picture than was saved."""

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from regraft.data.problem import Reader, damaged, truncated

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel by colour type
# Adam7: first column, first row, column step, row step of each pass.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def check_checksums(data: bytes) -> None:
    """Check every chunk of pixels, as libpng does: one flipped bit can change the rest of the picture. Raises Problem."""
    view = memoryview(data)
    for start, end in _pixel_chunks(data):
        if zlib.crc32(view[start - 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
            raise damaged("a PNG whose checksum does not fit its pixels")


def check_rows(data: bytes, image: Image.Image) -> None:
    """Refuse a PNG with fewer rows than it claims: Pillow leaves the others black. Raises Problem.

    Unpacking twice would cost a third of decoding, so it is done only where rows may be missing: the last is all zero, or
    the file is interlaced and its last rows are spread over the picture.
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if not interlaced and image.crop((0, height - 1, width, height)).getbbox(alpha_only=False):
        return
    bits = depth * _SAMPLES[colour]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    needed = sum(_pass_bytes(width, height, bits, *step) for step in passes)
    unpacker, found = zlib.decompressobj(), 0
    for start, end in _pixel_chunks(data):
        packed = data[start:end]
        while packed and found < needed:
            found += len(unpacker.decompress(packed, 2**20))
            packed = unpacker.unconsumed_tail
    if found < needed:
        raise truncated("a PNG with fewer rows than it claims")


def find_exif(read: Reader) -> bytes:
    """The EXIF block of a PNG that `container.inspect` has passed, wherever it stands; empty where there is none."""
    at, found = 8, b""
    while (kind := read(at, 8)[4:]) not in (b"IEND", b""):
        length = int.from_bytes(read(at, 4), "big")
        if kind == b"eXIf":
            found = read(at + 8, length)
        at += 12 + length
    return found


def _pass_bytes(width: int, height: int, bits: int, left: int, top: int, across: int, down: int) -> int:
    columns, rows = -(-(width - left) // across), -(-(height - top) // down)
    return rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0


def _pixel_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of the body of each IDAT chunk, up to IEND or the next frame of an animation."""
    at = 8
    while (kind := data[at + 4 : at + 8]) not in (b"IEND", b"fdAT", b""):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if kind == b"IDAT":
            yield at + 8, end
        at = end + 4
