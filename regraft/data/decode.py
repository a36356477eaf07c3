"""The only place that opens an image: bytes in, upright 8-bit pixels out, or `ImageRejected`.

Formats by content (JPEG, PNG, WebP, BMP, GIF, TIFF), the first frame only, EXIF orientation applied, transparency on a declared
background, deep and odd colour by the table in `colour`. Sizes are checked before anything is decoded, incomplete files
are refused. An image may be as small as 1 x 1.

Safe to call from many threads; Pillow's decoders, resizing and colour conversion release the interpreter's lock.
What this cannot do is survive a decoder that crashes or hangs: that needs a process of its own.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, NamedTuple, NoReturn, cast

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from regraft.data.colour import Background, flatten, to_rgb_or_grey
from regraft.data.container import Header, in_memory, inspect
from regraft.data.look import LOOK_SIDE, look_of
from regraft.data.opening import checked_size, on_disk, open_image, read_file
from regraft.data.png import check_checksums, check_rows, find_exif
from regraft.data.preprocess import Preprocess, to_input_size
from regraft.data.problem import Problem, check_size, damaged, truncated
from regraft.errors import ImageRejected
from regraft.values import ImagePath, Rejected

WHITE = (255, 255, 255)
# The scales that libjpeg can decode at, as divisors.
_REDUCTIONS = (8, 4, 2, 1)

# Classes, not Image.open: that warns about sizes that `container` judges, and takes two-picture JPEGs for another format (MPO).
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)

# Pillow reports odd metadata through `warnings` and `logging`. A `catch_warnings` block per image is not safe with threads, so
# both are told once, for these modules alone; what matters to a person is in `Decoded.notes` or in the rejection.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Tiff|Png|Jpeg)ImagePlugin$")
logging.getLogger("PIL").addHandler(logging.NullHandler())


# Modes of Pillow whose numbers a mask can mean something by.
_MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "RGB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One upright image.

    `pixels` has mode "RGB", or "L" when the image is grey; "RGBA" or "LA" where alpha was kept. `size_on_disk` is (width,
    height) before any reduced-scale decoding and after orientation. `notes` say what was ignored, such as an unusable colour
    profile.
    """

    pixels: Image.Image
    size_on_disk: tuple[int, int]
    format: str
    notes: tuple[str, ...] = ()


class _Loaded(NamedTuple):
    """A decoded first frame; its (width, height) and how the file has its samples, both from before decoding."""

    image: ImageFile.ImageFile
    size: tuple[int, int]
    raw_mode: str


def load_pixels(source: ImagePath | bytes, preprocess: Preprocess, name: str = "") -> NDArray[np.uint8]:
    """Decode one image and bring it to the input size: (height, width, channels) uint8. Raises ImageRejected."""
    background = None if preprocess.channels == 4 else preprocess.background
    decoded = decode_image(source, background=background, smallest_side=preprocess.smallest_useful_side(), name=name)
    with _rejecting(source, name):
        return to_input_size(decoded.pixels, preprocess)


def load_pixels_and_look(data: bytes, preprocess: Preprocess, name: str = "") -> tuple[NDArray[np.uint8], NDArray[np.void]]:
    """What `load_pixels` gives for the bytes of a file, and its record of dtype `look.LOOK`, from one decode.

    The record does not depend on `preprocess`: transparency is on white, and a JPEG that this network wants at another
    reduced scale than `look.LOOK_SIDE` asks for is decoded once more. Raises ImageRejected.
    """
    side = preprocess.smallest_useful_side()
    decoded = decode_image(data, background=None, smallest_side=side, name=name)
    with _rejecting(data, name):
        on_white = flatten(decoded.pixels, WHITE)
        if preprocess.channels == 4:
            shown = decoded.pixels
        else:
            shown = on_white if preprocess.background == WHITE else flatten(decoded.pixels, preprocess.background)
        if decoded.format == "JPEG" and _reduction(decoded.size_on_disk, side) != _reduction(decoded.size_on_disk, LOOK_SIDE):
            on_white = decode_image(data, background=WHITE, smallest_side=LOOK_SIDE, name=name).pixels
        look = look_of(on_white, size_on_disk=decoded.size_on_disk, format=decoded.format, file_bytes=len(data))
        return to_input_size(shown, preprocess), look


def decode_image(
    source: ImagePath | bytes,
    *,
    background: Background | None = WHITE,
    smallest_side: int | None = None,
    name: str = "",
) -> Decoded:
    """Decode a file or its bytes. `name` stands for the image in messages; the path does when it is empty.

    Transparency shows `background`; None keeps it as a channel. With `smallest_side`, JPEGs are decoded at 1/2, 1/4 or 1/8
    scale as long as the shorter side keeps that many pixels.
    Raises ImageRejected, and nothing else, for whatever cannot be used; its `code` is one of "missing", "unreadable",
    "not_a_file", "file_too_large", "empty", "not_an_image", "too_many_pixels", "too_much_metadata", "too_costly", "truncated",
    "damaged", "pixel_type".
    """
    with _rejecting_file(source, name):
        data = source if isinstance(source, bytes) else read_file(source)
        header = inspect(in_memory(data), len(data))
        return _decode(data, header, background, smallest_side)


def decode_mask(source: ImagePath | bytes, name: str = "") -> Decoded:
    """Decode the file of a mask, or its bytes, upright and in numbers as they are stored, of a palette's the indices.

    The mode of `pixels` is "1", "L", "P", "I", "I;16", "I;16B" or "RGB". Raises ImageRejected as `decode_image` does, with the
    code "pixel_type" also for colours of 16 bits, which would lose half of them, and for pixels that are not opaque.
    """
    with _rejecting_file(source, name):
        data = source if isinstance(source, bytes) else read_file(source)
        header = inspect(in_memory(data), len(data))
        loaded = _load(data, header)
        return _upright(_mask_pixels(loaded), loaded, header)


def read_upright_size(path: ImagePath, name: str = "") -> tuple[int, int]:
    """(width, height) of an image after orientation: `Decoded.size_on_disk` without decoding. Raises ImageRejected."""
    with _rejecting_file(path, name), open_image(path) as file:
        read = on_disk(file)
        header = inspect(read, checked_size(file))
        file.seek(0)
        image = _PLUGINS[header.format](cast(IO[bytes], file))
        # Pillow learns what stands behind the pixels of a PNG only by decoding them.
        if header.format == "PNG" and (exif := find_exif(read)):
            image.info["exif"] = exif
        width, height = image.size
        return (height, width) if _orientation(image, header.format)[0] in _ON_ITS_SIDE else (width, height)


def read_image(path: ImagePath, name: str = "") -> bytes:
    """The bytes of an image file, for `decode_image` and for its digest. Raises ImageRejected as `decode_image` does."""
    try:
        return read_file(path)
    except Problem as problem:
        _reject(path, name, problem)


def read_header(path: ImagePath) -> Header:
    """What a file says of itself, from a few blocks of it. Raises Problem, and OSError where it cannot be opened."""
    with open_image(path) as file:
        return inspect(on_disk(file), checked_size(file))


def check_header(path: ImagePath, name: str = "") -> Rejected | None:
    """Why `path` cannot be an image for us, or None, from a few blocks of the file and without decoding.

    Whatever is refused here, `decode_image` refuses too; it may find more.
    """
    try:
        read_header(path)
    except Problem as problem:
        reason = f"{problem.got}; expected {problem.expected}"
        return Rejected(path=path, name=name or str(path), code=problem.code, reason=reason)
    except Exception as error:
        return Rejected(path=path, name=name or str(path), code="damaged", reason=_say(error))
    return None


def _reject(source: ImagePath | bytes, name: str, problem: Problem) -> NoReturn:
    label = name or ("the image given as bytes" if isinstance(source, bytes) else str(source))
    raise ImageRejected(code=problem.code, expected=problem.expected, got=f"{label}: {problem.got}", fix=problem.fix) from None


@contextmanager
def _rejecting_file(source: ImagePath | bytes, name: str) -> Iterator[None]:
    """Whatever fails with the file is a reason to reject it."""
    try:
        yield
    except Problem as problem:
        _reject(source, name, problem)
    except MemoryError:
        _reject(source, name, Problem("too_costly", expected="an image that fits into memory", got="out of memory"))
    except Exception as error:  # Pillow raises OSError, ValueError, TypeError, SyntaxError, struct.error and more on bad files.
        _reject(source, name, damaged(_say(error)))


@contextmanager
def _rejecting(source: ImagePath | bytes, name: str) -> Iterator[None]:
    """Whatever fails with the decoded image is a reason to reject it."""
    try:
        yield
    except ImageRejected:
        raise
    except Exception as error:
        _reject(source, name, Problem("damaged", expected="an image that can be resized", got=_say(error)))


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _decode(data: bytes, header: Header, background: Background | None, smallest_side: int | None) -> Decoded:
    loaded = _load(data, header, smallest_side)
    pixels, notes = to_rgb_or_grey(loaded.image, background)
    return _upright(pixels, loaded, header, notes)


def _load(data: bytes, header: Header, smallest_side: int | None = None) -> _Loaded:
    if header.format == "PNG":
        check_checksums(data)
    image = _PLUGINS[header.format](io.BytesIO(data))
    check_size(*image.size)
    if header.format == "TIFF":
        _check_tiff_coverage(image)
    size, raw_mode = image.size, str(image.tile[0].args) if image.tile else ""
    if header.format == "JPEG" and smallest_side is not None and _reduction(size, smallest_side) > 1:
        image.draft(None, (smallest_side, smallest_side))
    _scale_deep_key(image)
    try:
        image.load()
    except OSError as error:
        raise (truncated("an image whose data ends early") if "truncated" in str(error) else damaged(_say(error))) from None
    check_size(*image.size)
    if header.format == "PNG":
        check_rows(data, image)
    return _Loaded(image, size, raw_mode)


def _upright(pixels: Image.Image, loaded: _Loaded, header: Header, notes: tuple[str, ...] = ()) -> Decoded:
    orientation, malformed = _orientation(loaded.image, header.format)
    width, height = loaded.size
    return Decoded(
        pixels=pixels.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else pixels,
        size_on_disk=(height, width) if orientation in _ON_ITS_SIDE else (width, height),
        format=header.format,
        notes=(*notes, *(["malformed EXIF ignored"] if malformed else [])),
    )


def _mask_pixels(loaded: _Loaded) -> Image.Image:
    """The pixels whose numbers are a mask's; an alpha channel that says nothing is dropped. Raises Problem."""
    image: Image.Image = loaded.image
    mode = image.mode
    if mode in ("LA", "RGBA") and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert(mode.removesuffix("A"))
    deep = ";16" in loaded.raw_mode and not mode.startswith("I")
    if image.mode in _MASK_MODES and not deep:
        return image
    raise Problem(
        "pixel_type",
        expected="a mask of whole numbers (8 or 16 bits of grey, a palette) or of opaque 8-bit colours",
        got="colours of 16 bits" if deep else "pixels that are not opaque" if mode[-1] in "Aa" else f"pixels of type {mode}",
        fix="save the mask as a grey PNG with the class of each pixel",
    )


def _reduction(size: tuple[int, int], smallest_side: int) -> int:
    """By how much a JPEG can be reduced while decoding so that its shorter side keeps `smallest_side` pixels."""
    return next((scale for scale in _REDUCTIONS if min(size) >= scale * smallest_side), 1)


def _check_tiff_coverage(image: ImageFile.ImageFile) -> None:
    """Refuse an uncompressed TIFF with fewer strips than rows need: Pillow would leave the rest black."""
    width, height = image.size
    boxes = [tile.extents or (0, 0, width, height) for tile in image.tile]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if covered < width * height:
        raise truncated("a TIFF that lacks some of its strips or tiles")


def _scale_deep_key(image: ImageFile.ImageFile) -> None:
    """Bring the transparent colour of a 16-bit RGB PNG to the 8 bits that Pillow reads its pixels with."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and image.tile and image.tile[0].args == "RGB;16B":
        image.info["transparency"] = tuple(sample >> 8 for sample in key)


def _orientation(image: Image.Image, kind: str) -> tuple[int, bool]:
    """EXIF orientation 1 to 8 (1: upright), and whether there was EXIF that could not be read."""
    exif = image.info.get("exif")
    if not isinstance(exif, bytes) or kind == "TIFF":  # Pillow turns TIFFs itself, by their own tag.
        return 1, False
    try:
        return read_orientation(exif), False
    except (ValueError, IndexError):
        return 1, True


def read_orientation(exif: bytes) -> int:
    """The orientation (1 to 8) in the first directory of an EXIF block, 1 where it has none. Raises ValueError or IndexError.

    Read by hand: Pillow's parser takes longer than decoding a thumbnail, and warns.
    """
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(exif[:4])
    if order is None:
        raise ValueError("no TIFF header")

    def number(at: int, count: int) -> int:
        if at + count > len(exif):
            raise IndexError(at)
        return int.from_bytes(exif[at : at + count], order)  # type: ignore[arg-type]

    start = number(4, 4)
    for entry in range(start + 2, start + 2 + 12 * number(start, 2), 12):
        if number(entry, 2) == 0x0112:
            value = number(entry + 8, 2 if number(entry + 2, 2) == 3 else 4)
            if not 1 <= value <= 8:
                raise ValueError(f"orientation {value}")
            return value
    return 1
