"""Files that must be refused, each with the code of the refusal."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from faults.image_bytes import interlaced_png, png, png_chunk, png_header, tiff
from faults.mkimages import blocks, encode
from PIL import Image

RGB8 = {258: (8, 8, 8), 262: 2, 277: 3}
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """A file and the code it must be refused with."""

    name: str
    data: bytes
    code: str


def hostile() -> list[Hostile]:
    """Every file to be refused, but for truncated ones."""
    found = [*claims(), *foreign(), *lies(), *costly()]
    return [Hostile(name=name, data=data, code=code) for name, data, code in found]


def claims() -> Iterator[tuple[str, bytes, str]]:
    """Claimed sizes: 90, 169, 196 and 3,600 megapixels, lines, the largest a format can say; and nothing at all."""
    sizes = ((9500, 9500), (13000, 13000), (14000, 14000), (60000, 60000), (100_000_000, 1), (1, 100_000_000), (65535, 65535))
    for width, height in sizes:
        for kind, data in claimed(width, height):
            yield f"{width}x{height}.{kind}", data, "too_many_pixels"
    for width, height in ((0, 0), (0, 7), (7, 0)):
        for kind, data in claimed(width, height):
            if kind != "WEBP":  # its sizes are stored less one
                yield f"{width}x{height}.{kind}", data, "damaged"
    small = encode(Image.new("P", (4, 4)), "GIF")
    at = small.index(b",", 13)
    yield "extent.GIF", small[: at + 1] + struct.pack("<HHHH", 65000, 65000, 500, 500) + small[at + 9 :], "too_many_pixels"
    tile = {256: 4, 257: 4, 322: 60000, 323: 60000, 324: 8, 325: 48}
    yield "tile.TIFF", tiff(RGB8 | tile, bytes(48)), "too_many_pixels"


def claimed(width: int, height: int) -> Iterator[tuple[str, bytes]]:
    """A small file of each format that claims this size, where the format can say it."""
    pixels = zlib.compress(bytes(1000))
    yield "PNG", PNG_MAGIC + png_header(width, height, 8, 2) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    yield "TIFF", tiff(RGB8 | {256: width, 257: height, 278: height}, bytes(48))
    yield "TIFF", tiff(RGB8 | {256: width, 257: height, 278: height}, bytes(48), order=">")
    bmp = bytearray(encode(Image.fromarray(blocks()), "BMP"))
    bmp[18:26] = struct.pack("<ii", width, height)
    yield "BMP", bytes(bmp)
    if max(width, height) < 65536:
        jpeg = bytearray(encode(Image.fromarray(blocks()), "JPEG"))
        at = jpeg.index(b"\xff\xc0") + 5
        jpeg[at : at + 4] = struct.pack(">HH", height, width)
        yield "JPEG", bytes(jpeg)
        gif = bytearray(encode(Image.new("P", (4, 4)), "GIF"))
        gif[6:10] = struct.pack("<HH", width, height)
        at = gif.index(b",", 13)
        gif[at + 5 : at + 9] = struct.pack("<HH", width, height)
        yield "GIF", bytes(gif)
    if min(width, height) > 0 and max(width, height) < 1 << 24:
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size
        yield "WEBP", b"RIFF" + struct.pack("<I", len(body)) + body


def foreign() -> Iterator[tuple[str, bytes, str]]:
    """Other kinds of files, as they come under the name of an image."""
    heads = {
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "dos-eps": b"\xc5\xd0\xd3\xc6" + bytes(26),
        "mp4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
        "avif": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1",
        "heic": b"\0\0\0\x20ftypheic\0\0\0\0heicmif1",
        "psd": b"8BPS\0\1" + bytes(20),
        "fits": b"SIMPLE  =                    T",
        "jpeg2000": b"\0\0\0\x0cjP  \r\n\x87\n",
        "codestream": b"\xff\x4f\xff\x51" + bytes(20),
        "ico": b"\0\0\1\0\1\0" + bytes(16),
        "zip": b"PK\3\4" + bytes(26),
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "text": b"cat\n",
        "zeros": bytes(5000),
        "one-byte": b"\xff",
    }
    for name, data in heads.items():
        yield f"{name}.jpg", data, "not_an_image"
    yield "nothing.jpg", b"", "empty"
    for kind in ("PPM", "TGA", "ICO", "PCX", "SGI", "IM", "JPEG2000", "PDF", "EPS", "DDS"):
        yield f"{kind}.png", encode(Image.new("RGB", (16, 16)), kind), "not_an_image"


def lies() -> Iterator[tuple[str, bytes, str]]:
    """Headers and checksums that do not fit what follows, and samples without a known white."""
    sound = encode(Image.fromarray(blocks()), "PNG")
    at = sound.index(b"IDAT") + 10
    yield "flipped-pixels.PNG", sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :], "damaged"
    at = sound.index(b"IEND") - 5
    yield "wrong-checksum.PNG", sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :], "damaged"
    yield "flipped-header.PNG", sound[:23] + b"\x21" + sound[24:], "damaged"
    yield "no-pixels.PNG", PNG_MAGIC + png_header(4, 4, 8, 2) + png_chunk(b"IEND", b""), "damaged"
    yield "pixels-first.PNG", PNG_MAGIC + png_chunk(b"IDAT", b"") + png_header(4, 4, 8, 2) + png_chunk(b"IEND", b""), "damaged"
    yield "few-rows.PNG", png(8, 8, 8, 0, [bytes(8)] * 3), "truncated"
    yield "few-rows-seen.PNG", png(8, 8, 8, 0, [b"\xff" * 8] * 7), "truncated"
    for passes in (1, 4, 6):
        yield f"interlaced-{passes}.PNG", interlaced_png(blocks()[:31], passes=passes), "truncated"
    yield "bad-depth.PNG", png(4, 4, 7, 2, [bytes(12)] * 4), "damaged"
    yield "few-strips.TIFF", tiff(RGB8 | {256: 4, 257: 40, 278: 4}, bytes(48)), "truncated"
    yield "looped-directory.TIFF", b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 330, 4, 1, 8, 8), "damaged"
    yield "far-directory.TIFF", b"II*\0\xff\xff\xff\x7f" + bytes(40), "truncated"
    yield "no-scan.JPEG", b"\xff\xd8\xff\xd9" + bytes(20), "damaged"
    yield "junk.JPEG", b"\xff\xd8\xff" + bytes(100_000), "damaged"
    yield "wrong-chunk.WEBP", b"RIFF" + struct.pack("<I", 40) + b"WEBPABCD" + bytes(32), "damaged"
    for name, dtype in (("float", np.float32), ("whole", np.int32)):
        yield f"{name}.TIFF", encode(Image.fromarray(np.zeros((4, 4), dtype)), "TIFF"), "pixel_type"
    signed = {256: 4, 257: 4, 258: (16,), 262: 1, 277: 1, 278: 4, 339: (2,)}
    yield "signed-16.TIFF", tiff(signed, bytes(32)), "pixel_type"


def costly() -> Iterator[tuple[str, bytes, str]]:
    """Small files that would take much memory or time."""
    pixels, end = png_chunk(b"IDAT", zlib.compress(bytes(52))), png_chunk(b"IEND", b"")
    start = PNG_MAGIC + png_header(4, 4, 8, 2)
    text = png_chunk(b"tEXt", b"Comment\0" + b"x" * 2**20)
    yield "text.PNG", start + text * 12 + pixels + end, "too_much_metadata"
    yield "text-after.PNG", start + pixels + text * 12 + end, "too_much_metadata"
    bomb = zlib.compress(bytes(50 * 2**20), 9)
    yield "itxt.PNG", start + png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb) + pixels + end, "damaged"
    yield "ztxt.PNG", start + png_chunk(b"zTXt", b"Comment\0\0" + bomb) + pixels + end, "damaged"
    yield "profile.PNG", start + png_chunk(b"iCCP", b"x\0\0" + bomb) + pixels + end, "damaged"
    bmp = bytearray(encode(Image.new("L", (4, 4)), "BMP"))
    bmp[18:26], bmp[30:34] = struct.pack("<ii", 9000, 9000), struct.pack("<I", 1)
    yield "packed.BMP", bytes(bmp), "damaged"
    gif = encode(Image.new("P", (4, 4)), "GIF")
    at = gif.index(b",", 13)
    yield "comments.GIF", gif[:at] + b"!\xfe" + (b"\xff" + b"x" * 255) * 40_000 + b"\0" + gif[at:], "too_much_metadata"
    jpeg = encode(Image.fromarray(blocks()), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    yield "scans.JPEG", jpeg[:last] + jpeg[last:-2] * 1000 + jpeg[-2:], "too_costly"


def many_frames(kind: str, count: int = 10_000) -> bytes:
    """An animation of `count` frames whose first is `blocks()`; GIF and APNG are put together by hand to be fast."""
    first = Image.fromarray(blocks())
    if kind == "GIF":
        gif = encode(first, "GIF")
        frame = encode(Image.new("P", (2, 2)), "GIF")
        return gif[:-1] + frame[frame.index(b",", 13) : -1] * count + b";"
    sound = encode(first, "PNG")
    at = sound.index(b"IDAT") - 4
    control = struct.pack(">IIIIHHBB", 48, 32, 0, 0, 1, 10, 0, 0)
    rest = io.BytesIO()
    for number in range(count):
        rest.write(png_chunk(b"fcTL", struct.pack(">I", 2 * number + 1) + control))
        rest.write(png_chunk(b"fdAT", struct.pack(">I", 2 * number + 2) + zlib.compress(bytes(32 * 145))))
    head = sound[:at] + png_chunk(b"acTL", struct.pack(">II", count, 0)) + png_chunk(b"fcTL", bytes(4) + control)
    return head + sound[at:-12] + rest.getvalue() + sound[-12:]
