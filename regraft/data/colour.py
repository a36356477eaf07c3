"""From any of Pillow's modes to 8-bit sRGB or grey, without the silent losses of `convert("RGB")`.

`convert("RGB")` clips 16-bit samples at 255, drops transparency onto whatever colour lies under it, and ignores
colour profiles. The rules here, all with pixels in 0..255:

| mode                          | becomes                                                                     |
|-------------------------------|-----------------------------------------------------------------------------|
| 1, L, RGB                     | as they are                                                                 |
| P, LAB, YCbCr, HSV            | Pillow's conversion to RGB                                                  |
| LA, La, PA, RGBA, RGBa, tRNS  | composited on the background; without one LA or RGBA, alpha as a channel    |
| CMYK                          | through its profile, else Pillow's conversion; JPEG samples are inverted as |
|                               | Adobe writes them, which Pillow and ImageMagick do for every JPEG           |
| I;16 and kin                  | value / 257, rounded; 12-bit TIFF: value / 4095 * 255; white-is-zero TIFF   |
|                               | inverted                                                                    |
| I, F                          | refused: nothing in the file says which value is white                      |
"""

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from regraft.data.problem import Problem

Background = tuple[int, int, int]

# Larger ones are device links or padding; they would only fill the cache below.
MAX_PROFILE = 4 * 2**20
# A profile that moves no probe colour by more than this is sRGB under another name; converting would cost more than it mends.
SAME_COLOUR = 2


def to_rgb_or_grey(image: Image.Image, background: Background | None) -> tuple[Image.Image, tuple[str, ...]]:
    """A loaded image as mode "RGB", or "L" where it is grey, with notes of what was ignored.

    Without a `background` alpha stays: "RGBA" or "LA" where the image has any.
    Raises Problem("pixel_type") for samples without a known range.
    """
    if image.mode == "RGB" and not image.info:
        return image, ()
    profile = image.info.get("icc_profile")
    image = _eight_bit(image)
    if image.mode == "CMYK":
        return _from_cmyk(image, profile)
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    image, notes = _to_srgb(image, profile) if profile else (image, ())
    return (image if background is None else flatten(image, background)), notes


def _eight_bit(image: Image.Image) -> Image.Image:
    """Samples in 8 bits, transparency as a channel of its own."""
    if image.mode.startswith("I;16"):
        return _from_sixteen_bit(image)
    if image.mode in ("I", "F"):
        what = "32-bit float" if image.mode == "F" else "32-bit or signed whole-number"
        raise Problem(
            "pixel_type",
            expected="samples of 1 to 16 bits with a known white",
            got=f"{what} samples",
            fix="save it with 8 or 16 bits per sample, scaled as you want it seen",
        )
    if image.mode in ("La", "LA"):
        return image.convert("LA")
    if image.mode in ("1", "L") and "transparency" in image.info:
        return image.convert("LA")
    if image.mode in ("PA", "RGBA", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    return image


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (16,))
    top = (1 << (bits[0] if isinstance(bits, tuple) else bits)) - 1
    samples_HW = np.asarray(image)
    grey = Image.fromarray(_levels(top, tags.get(262) == 0)[samples_HW])
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(samples_HW == key, 0, 255).astype(np.uint8)))
    return grey


@lru_cache(maxsize=8)
def _levels(top: int, inverted: bool) -> NDArray[np.uint8]:
    """The 8-bit level of each 16-bit sample whose white is `top`, (65536,)."""
    levels = np.rint(np.minimum(np.arange(65536), top) * (255 / top)).astype(np.uint8)
    return 255 - levels if inverted else levels


def flatten(image: Image.Image, background: Background) -> Image.Image:
    """An 8-bit image composited on `background`; an opaque one just loses its alpha channel, RGB and L stay as they are."""
    if image.mode not in ("LA", "RGBA"):
        return image
    alpha = image.getchannel("A")
    grey = image.mode == "LA"
    if alpha.getextrema() == (255, 255):
        return image.convert("L" if grey else "RGB")
    if grey and len(set(background)) > 1:
        image, grey = image.convert("RGBA"), False
    under = Image.new("L", image.size, background[0]) if grey else Image.new("RGB", image.size, background)
    under.paste(image.convert("L" if grey else "RGB"), mask=alpha)
    return under


def _to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    grey = image.mode in ("L", "LA")
    try:
        if grey:
            curve = _grey_curve(profile)
            return (image.point(curve + list(range(256)) * (image.mode == "LA")) if curve else image), ()
        transform = _transform(profile, image.mode)
        return (ImageCms.applyTransform(image, transform) or image) if transform else image, ()
    except _PROFILE_ERRORS:
        return image, ("unusable colour profile ignored",)


def _from_cmyk(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, tuple[str, ...]]:
    if profile:
        try:
            transform = _transform(profile, "CMYK")
            return (ImageCms.applyTransform(image, transform) or image) if transform else image.convert("RGB"), ()
        except _PROFILE_ERRORS:
            return image.convert("RGB"), ("unusable colour profile ignored",)
    return image.convert("RGB"), ()


# ImageCms raises these for profiles it cannot read, and for profiles of another colour space than the image's.
_PROFILE_ERRORS = (ImageCms.PyCMSError, OSError, ValueError, TypeError)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Profile to sRGB for images of `mode`, None when it would change nothing. Safe to share: lcms keeps no state in it."""
    if len(profile) > MAX_PROFILE:
        raise ValueError("profile too large")
    out = mode if mode == "RGBA" else "RGB"
    transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), _srgb(), mode, out)
    if mode == "CMYK":
        return transform
    probe = _probe(mode)
    moved = ImageCms.applyTransform(probe, transform)
    change = np.abs(np.asarray(moved, dtype=np.int16) - np.asarray(probe, dtype=np.int16)).max()
    return transform if change > SAME_COLOUR else None


@lru_cache(maxsize=16)
def _grey_curve(profile: bytes) -> list[int]:
    """The sRGB level of each grey level, (256); empty when it would change nothing."""
    if len(profile) > MAX_PROFILE:
        raise ValueError("profile too large")
    ramp_256 = np.arange(256, dtype=np.uint8)
    transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), _srgb(), "L", "RGB")
    moved_256 = np.asarray(ImageCms.applyTransform(Image.fromarray(ramp_256[None]), transform), dtype=np.int16)[0, :, 1]
    return [int(level) for level in moved_256] if np.abs(moved_256 - ramp_256).max() > SAME_COLOUR else []


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _probe(mode: str) -> Image.Image:
    """A cube of 6 x 6 x 6 colours, as one row."""
    axis = np.linspace(0, 255, 6).astype(np.uint8)
    cube = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(1, -1, 3)
    return Image.fromarray(cube).convert(mode)
