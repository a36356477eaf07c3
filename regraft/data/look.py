"""What an audit needs to know of how an image looks: one small record for each, taken from the decode that the network's
pixels come from.

Everything is counted in whole numbers, so that a record is the same on every machine.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Part of the key under which records are kept: to be raised with every change to what they hold.
VERSION = 1
# JPEGs are decoded at the reduced scale that leaves the shorter side this long, whatever a network wants: most want this.
LOOK_SIDE = 224
GREY_SIDE, COLOUR_SIDE = 32, 8
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# The variance that rounding to whole levels makes by itself, and then some.
_ROUNDING = 0.25
_POWERS = np.arange(256)[:, np.newaxis] ** np.arange(3)
_RING = GREY_SIDE**2 - (GREY_SIDE - 2) ** 2
_MEAN_AND_BORDER = np.stack(
    [np.ones((GREY_SIDE, GREY_SIDE)), np.pad(np.zeros((GREY_SIDE - 2,) * 2), 1, constant_values=1.0)]
).reshape(2, -1)

# Packed and little-endian, so that the bytes can be kept and read anywhere.
LOOK = np.dtype(
    [
        ("pixels", "u1", (32,)),
        ("grey", "u1", (GREY_SIDE, GREY_SIDE)),
        ("colour", "u1", (COLOUR_SIDE, COLOUR_SIDE, 3)),
        ("width", "<u4"),
        ("height", "<u4"),
        ("bytes", "<u8"),
        ("format", "u1"),
        ("mean", "<f4", (3,)),
        ("border", "<f4", (3,)),
        ("contrast", "<f4"),
        ("sharpness", "<f4"),
    ]
)
Looks: TypeAlias = NDArray[np.void]
"""Records of N images, (N,) of dtype LOOK.

`pixels` is the SHA-256 of size and RGB pixels; grey pictures agree with their RGB form. `grey` and `colour` are the whole
image squashed to 32 x 32 and 8 x 8. `width` and `height` are of the upright image on disk, `bytes` of its file, `format` an
index into FORMATS. `mean` and `border` are RGB in 0..255, of the whole image and of its outer thirty-second; `contrast` is the
standard deviation of its grey levels, in levels; `sharpness` in 0..1, of `contrast_and_sharpness`.
"""


def look_of(image: Image.Image, *, size_on_disk: tuple[int, int], format: str, file_bytes: int) -> NDArray[np.void]:
    """The record of one image, (): `image` is RGB or L, without alpha, decoded as LOOK_SIDE says; `format` one of FORMATS."""
    by = max(1, round(min(image.size) / LOOK_SIDE))
    seen = image.reduce(by) if by > 1 else image
    contrast, sharpness = contrast_and_sharpness(seen if seen.mode == "L" else seen.convert("L"))
    small = _as_rgb(seen.resize((GREY_SIDE, GREY_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0))
    mean, border = _MEAN_AND_BORDER @ np.asarray(small).reshape(-1, 3)
    record = (
        np.frombuffer(_pixel_digest(image), np.uint8),
        np.asarray(small.convert("L")),
        np.asarray(small.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX)),
        *size_on_disk,
        file_bytes,
        FORMATS.index(format),
        mean / GREY_SIDE**2,
        border / _RING,
        contrast,
        sharpness,
    )
    return np.array(record, LOOK)


def looks_from(records: Sequence[bytes]) -> Looks:
    """Records that were kept as bytes, each LOOK.itemsize long, as (N,)."""
    return np.frombuffer(b"".join(records), LOOK)


def looks_in(rows_NB: NDArray[np.uint8]) -> Looks:
    """Records that were kept as rows of bytes, (N, LOOK.itemsize), as (N,); nothing is copied."""
    return np.ascontiguousarray(rows_NB).reshape(-1).view(LOOK)


def contrast_and_sharpness(grey: Image.Image) -> tuple[float, float]:
    """The standard deviation of the levels of an L image; and how much of its detail is in the finest of three octaves.

    Halving an image takes away the variance of its finest octave. Natural pictures have about as much variance in each octave
    (Field, "Relations between the statistics of natural images and the response properties of cortical cells", 1987), so that
    of what halving three times takes away the first time takes a third; of a smooth slope it takes 3 parts in 63, about 0.05.
    In 0..1; 0 where there is no detail at all.
    """
    whole, half, eighth = (_variance(grey.reduce(by)) for by in (1, 2, 8))
    finest, all_three = whole - half, whole - eighth
    return whole**0.5, min(max(finest / all_three, 0.0), 1.0) if all_three > _ROUNDING else 0.0


def _variance(grey: Image.Image) -> float:
    counts_256 = np.array(grey.histogram(), dtype=np.int64)
    total, first, second = (int(value) for value in counts_256 @ _POWERS)
    return (total * second - first**2) / total**2


def _pixel_digest(image: Image.Image) -> bytes:
    digest = hashlib.sha256(b"%d %d " % image.size)
    digest.update(_as_rgb(image).tobytes())
    return digest.digest()


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
