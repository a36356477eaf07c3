"""Answers for pixels as pictures: masks to work on with, overlays and rows of three to look at, probabilities.

Letters in names give shapes: H W pixels, C channels, K classes.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, features

from regraft.data.names import printable
from regraft.palette import Palette, flat
from regraft.replacing import replacing
from regraft.segments import BACKGROUND, IGNORE, LEVELS

Pixels = NDArray[np.uint8]
Labels = NDArray[np.uint8]

ALPHA: Final = 0.45
SIDE: Final = 320
# A contour is one pixel for every so many of the picture's longer side.
_CONTOUR = 400
_GAP, _LINE, _FONT, _LONGEST_NAME = 4, 20, 14, 40
_UNCOUNTED_GREY = 128
_WHITE = (255, 255, 255)


def label_png(labels_HW: Labels, palette: Palette | None) -> bytes:
    """A PNG of labels (H, W): their indices in a palette file, or with None the object 255 and the rest 0 in grey.

    IGNORE is white in a palette file, and 128 in grey.
    """
    if palette is None:
        levels = np.zeros(LEVELS, np.uint8)
        levels[1], levels[IGNORE] = 255, _UNCOUNTED_GREY
        return _png(Image.fromarray(levels[labels_HW]))
    return _png(_indexed(labels_HW, palette))


def probability_png(probabilities_HW: NDArray[np.floating], *, bits: int = 8) -> bytes:
    """A grey PNG of probabilities (H, W) of one class: 0 is 0, 1 is 255, or with `bits` 16 it is 65535."""
    kind, most = (np.uint16, 65535) if bits == 16 else (np.uint8, 255)
    levels_HW = np.rint(np.clip(probabilities_HW.astype(np.float32), 0, 1) * most).astype(kind)
    return _png(Image.fromarray(levels_HW))


def write_probabilities(path: Path, probabilities_CHW: NDArray[np.float16], classes: Sequence[str]) -> None:
    """A .npz with `probabilities` (C, H, W) float16 and the names of the `classes`. Raises OutOfSpace, UsageError."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, probabilities=probabilities_CHW, classes=np.array(classes, np.str_))


def overlay_png(pixels_HWC: Pixels, labels_HW: Labels, classes: Sequence[str], palette: Palette, alpha: float = ALPHA) -> bytes:
    """A PNG of the image with each class in its colour, `alpha` opaque, a contour around it, and a line for each below.

    A first class "background" stays as the image shows it. With two classes there is nothing to be told apart, and no lines.
    Labels may be of another size than the image; they are shown at its size.
    """
    picture = overlaid(pixels_HWC, labels_HW, classes, palette, alpha)
    return _png(picture if len(classes) <= 2 else _with_legend(picture, labels_HW, classes, palette))


def three_side_by_side(
    pixels_HWC: Pixels, truth_HW: Labels, answer_HW: Labels, classes: Sequence[str], palette: Palette, *, side: int = SIDE
) -> bytes:
    """A JPEG of the image, the truth on it and the answer on it, each at most `side` pixels on its longer side."""
    small = _rgb(pixels_HWC)
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    pixels = np.asarray(small)
    parts = [small, *(overlaid(pixels, labels, classes, palette) for labels in (truth_HW, answer_HW))]
    sheet = Image.new("RGB", (3 * small.width + 2 * _GAP, small.height), _WHITE)
    for number, part in enumerate(parts):
        sheet.paste(part, (number * (small.width + _GAP), 0))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=82, optimize=True)
    return out.getvalue()


def overlaid(
    pixels_HWC: Pixels, labels_HW: Labels, classes: Sequence[str], palette: Palette, alpha: float = ALPHA
) -> Image.Image:
    """The picture of `overlay_png` without its lines. What does not count is white."""
    image = _rgb(pixels_HWC)
    labels = Image.fromarray(labels_HW).resize(image.size, Image.Resampling.NEAREST)
    coloured = _indexed(np.asarray(labels), palette).convert("RGB")
    areas = labels.point([0 if _is_background(index, classes) else 255 for index in range(LEVELS)])
    image.paste(Image.blend(image, coloured, alpha), mask=areas)
    image.paste(coloured, mask=_contours(np.asarray(labels), np.asarray(areas) > 0))
    return image


def _is_background(index: int, classes: Sequence[str]) -> bool:
    return index == 0 and bool(classes) and classes[0].casefold() == BACKGROUND


def _contours(labels_HW: Labels, areas_HW: NDArray[np.bool_]) -> Image.Image:
    """A mask of the inner border of each area."""
    border_HW = np.zeros(labels_HW.shape, bool)
    across, down = labels_HW[:, 1:] != labels_HW[:, :-1], labels_HW[1:] != labels_HW[:-1]
    border_HW[:, 1:] |= across
    border_HW[:, :-1] |= across
    border_HW[1:] |= down
    border_HW[:-1] |= down
    mask = Image.fromarray(border_HW.astype(np.uint8) * 255)
    width = max(labels_HW.shape) // _CONTOUR
    if width:
        mask = mask.filter(ImageFilter.MaxFilter(2 * min(width, 10) + 1))
    return Image.fromarray(np.where(areas_HW, np.asarray(mask), np.uint8(0)))


def _with_legend(picture: Image.Image, labels_HW: Labels, classes: Sequence[str], palette: Palette) -> Image.Image:
    """The picture with a line for each class that is on it, the largest first."""
    pixels_K = np.bincount(labels_HW.ravel(), minlength=len(classes))[: len(classes)]
    order = [int(k) for k in np.argsort(-pixels_K, kind="stable") if pixels_K[k]]
    font = _font()
    sheet = Image.new("RGB", (picture.width, picture.height + _LINE * len(order)), _WHITE)
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for line, index in enumerate(order):
        top = picture.height + _LINE * line
        draw.rectangle((4, top + 4, 16, top + 16), fill=palette[index], outline=(0, 0, 0))
        draw.text((22, top + 2), _drawable(classes[index]), fill=(0, 0, 0), font=font)
    return sheet


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    # Without FreeType there is a small font of fixed size.
    return ImageFont.load_default(_FONT) if features.check("freetype2") else ImageFont.load_default()


def _drawable(name: str) -> str:
    """What Pillow's own font has letters for."""
    shown = printable(name).encode("latin-1", "replace").decode("latin-1")
    return shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 3]}..."


def _indexed(labels_HW: Labels, palette: Palette) -> Image.Image:
    image = Image.fromarray(labels_HW)
    image.putpalette(flat(palette))
    return image


def _rgb(pixels_HWC: Pixels) -> Image.Image:
    """A copy in RGB; alpha is left out."""
    colours = pixels_HWC[..., 0] if pixels_HWC.shape[2] == 1 else pixels_HWC[..., :3]
    return Image.fromarray(np.ascontiguousarray(colours)).convert("RGB").copy()


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    # The strongest compression takes ten times as long for a few per cent.
    image.save(out, "PNG", compress_level=4)
    return out.getvalue()
