"""Files of masks: which numbers or colours they hold, and from these the class of every pixel.

A pixel is a number as it is stored: a grey level, a palette's index, a colour as 0xRRGGBB. What a number stands for is a code,
by which a `MaskMap` knows classes:

| file                 | by values: saliency             | by values: semantic  | by colours         |
|----------------------|---------------------------------|----------------------|--------------------|
| 1 bit                | 0 or 255                        | 0 or 1               | black or white     |
| grey, 8 or 16 bits   | the level                       | the level            | that grey (8 bits) |
| palette              | the level where all of it is    | the index            | the index's colour |
|                      | grey, else the index            |                      |                    |
| RGB                  | the level where all of it is grey, else none           | the colour         |
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.decode import decode_mask
from regraft.data.names import listing, printable
from regraft.errors import ImageRejected
from regraft.segments import IGNORE, Kind, MaskMap

# More colours than any table lists: a photograph, or a mask whose edges were blended.
MOST_COLOURS: Final = 4096
# From this level on a pixel of a mask with soft edges is of the object.
SOFT_THRESHOLD: Final = 128
_GREY: Final = 0x010101

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskLook:
    """What the file of a mask holds: `counts` are pairs of a number and its pixels, rising; None for too many colours.

    `size` is (width, height), upright. `palette` has a colour for each index, `mode` is Pillow's.
    """

    path: Path
    name: str
    size: tuple[int, int]
    format: str
    mode: str
    counts: tuple[tuple[int, int], ...] | None
    palette: tuple[int, ...] = ()


def look_at_mask(path: Path, name: str = "", *, grey: bool = False) -> MaskLook:
    """Which numbers a mask holds. `grey`: a JPEG's colours do not matter. Raises ImageRejected."""
    return _read(path, name, grey)[0]


def read_labels(path: Path, mask_map: MaskMap, name: str = "") -> NDArray[np.uint8]:
    """The class of every pixel, (H, W), IGNORE where none counts.

    Raises ImageRejected for a file that cannot be decoded, and with the code "mask_values" for one that holds what the map
    does not know.
    """
    look, image = _read(path, name, mask_map.kind == "saliency")
    if reason := values_problem(look, mask_map):
        raise ImageRejected(
            code="mask_values",
            expected=f"masks of the values {listing([line.partition(' ->')[0] for line in mask_map.words], 20)}",
            got=f"{look.name}: {reason}",
            fix="mend the mask, or say with --classes what its values mean",
        )
    classes = classes_of(mask_map)
    code_of = coding(look, mask_map.kind, by_colour=bool(mask_map.colours))
    numbers, numbers_HW = np.array([number for number, _ in look.counts or ()]), _numbers(image)
    labels = np.array([classes[code] for number in numbers if (code := code_of(int(number))) is not None], np.uint8)
    if numbers.min() >= 0 and numbers.max() < 1 << 16:
        table = np.full(int(numbers.max()) + 1, IGNORE, np.uint8)
        table[numbers] = labels
        labels_HW: NDArray[np.uint8] = table[numbers_HW]
        return labels_HW
    return labels[np.searchsorted(numbers, numbers_HW)]


def classes_of(mask_map: MaskMap) -> dict[int, int]:
    """The class of each code that a map knows."""
    if mask_map.colours:
        return {packed(colour): label for colour, label in mask_map.colours}
    return dict(mask_map.values)


def coding(look: MaskLook, kind: Kind, *, by_colour: bool) -> Callable[[int], int | None]:
    """What the numbers of a file stand for, as the table above says; None where by these rules they stand for nothing."""
    mode = look.mode
    if mode == "1" and (by_colour or kind == "saliency"):
        return lambda number: number * (0xFFFFFF if by_colour else 255)
    if mode == "P":
        levels = by_colour or (kind == "saliency" and all(is_grey(look.palette[number]) for number, _ in look.counts or ()))
        return lambda number: (look.palette[number] if by_colour else look.palette[number] & 255) if levels else number
    if mode == "RGB":
        return lambda number: number if by_colour else number & 255 if is_grey(number) else None
    if by_colour:
        return lambda number: number * _GREY if mode == "L" else None
    return lambda number: number


def codes_in(look: MaskLook, kind: Kind, *, by_colour: bool) -> tuple[tuple[int, int], ...] | None:
    """Codes and their pixels, rising; None where some numbers of the file stand for nothing, or they are too many."""
    code_of = coding(look, kind, by_colour=by_colour)
    found: dict[int, int] = {}
    for number, count in look.counts or ():
        if (code := code_of(number)) is None:
            return None
        found[code] = found.get(code, 0) + count
    return tuple(sorted(found.items())) if look.counts else None


def values_problem(look: MaskLook, mask_map: MaskMap) -> str:
    """Why the map does not serve for this file, with the values that it does not know; empty where it does."""
    by_colour = bool(mask_map.colours)
    if mask_map.kind == "semantic" and look.format == "JPEG":
        return "a JPEG, whose compression smears the numbers of classes; save masks as PNG"
    if look.counts is None:
        return f"more than {MOST_COLOURS:,} colours, which are no classes"
    codes = codes_in(look, mask_map.kind, by_colour=by_colour)
    if codes is None:
        colours = [number for number, _ in look.counts if look.mode == "RGB" and not is_grey(number)]
        return f"colours, {said(colours, by_colour=True)}, where others have values" if colours else "values, not colours"
    known = classes_of(mask_map)
    if unknown := [code for code, _ in codes if code not in known]:
        what = "colour" if by_colour else "value"
        return f"{what}{'s' * (len(unknown) > 1)} {said(unknown, by_colour=by_colour)}"
    top = codes[-1][0]
    if is_soft(mask_map) and 0 < top < SOFT_THRESHOLD and known[top] != IGNORE and look.format != "JPEG":
        return f"values up to {top} only, where masks with soft edges go up to 255"
    return ""


def labels_in(look: MaskLook, mask_map: MaskMap) -> dict[int, int]:
    """How many pixels of each class a file has, of those that the map knows."""
    known, found = classes_of(mask_map), dict[int, int]()
    for code, count in codes_in(look, mask_map.kind, by_colour=bool(mask_map.colours)) or ():
        if code in known:
            found[known[code]] = found.get(known[code], 0) + count
    return found


def is_soft(mask_map: MaskMap) -> bool:
    """Whether the map is a threshold on grey levels."""
    return mask_map.kind == "saliency" and len(mask_map.values) == 256


def is_grey(number: int) -> bool:
    """Whether a colour has no hue."""
    return number == (number & 255) * _GREY


def packed(colour: Colour) -> int:
    """A colour as one number, 0xRRGGBB."""
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def unpacked(number: int) -> Colour:
    """Red, green and blue of 0xRRGGBB."""
    return number >> 16, number >> 8 & 255, number & 255


def said(codes: list[int], *, by_colour: bool) -> str:
    """Codes for people, no more than twelve of them."""
    return listing([unpacked(code) if by_colour else code for code in codes], 12)


def _read(path: Path, name: str, grey: bool) -> tuple[MaskLook, Image.Image]:
    decoded = decode_mask(path, name)
    image = decoded.pixels
    if grey and decoded.format == "JPEG":
        image = image.convert("L")
    look = MaskLook(
        path=path,
        name=name or printable(path),
        size=image.size,
        format=decoded.format,
        mode=image.mode,
        counts=_counts(image),
        palette=_palette(image) if image.mode == "P" else (),
    )
    return look, image


def _counts(image: Image.Image) -> tuple[tuple[int, int], ...] | None:
    """The numbers in an image, and how many there are of each."""
    if image.mode == "RGB":
        found = image.getcolors(MOST_COLOURS)
        return tuple(sorted((packed(colour), count) for count, colour in found)) if found else None  # type: ignore[arg-type]
    if image.mode in ("1", "L", "P"):
        step = 255 if image.mode == "1" else 1
        return tuple((level // step, count) for level, count in enumerate(image.histogram()) if count)
    values, times = np.unique(np.asarray(image).astype(np.int64), return_counts=True)
    return tuple(zip(values.tolist(), times.tolist(), strict=True))


def _numbers(image: Image.Image) -> NDArray[np.integer[Any]]:
    """Pixels as numbers, (H, W)."""
    if image.mode == "RGB":
        red, green, blue = (np.asarray(image.getchannel(channel)).astype(np.uint32) for channel in range(3))
        return red << 16 | green << 8 | blue
    numbers_HW = np.asarray(image)
    return numbers_HW.astype(np.uint8 if image.mode in ("1", "L", "P") else np.int64, copy=False)


def _palette(image: Image.Image) -> tuple[int, ...]:
    """The colours of all 256 indices, black where the palette ends before."""
    flat = image.getpalette("RGB") or []
    flat += [0] * (768 - len(flat))
    return tuple(packed((flat[at], flat[at + 1], flat[at + 2])) for at in range(0, 768, 3))
