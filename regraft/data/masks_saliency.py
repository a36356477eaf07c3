"""What the values in masks of one object before a background mean."""

from collections.abc import Sequence
from dataclasses import replace

from regraft.data.class_list import ClassList
from regraft.data.mask_coding import PAIR, map_of_list, mapped, with_classes
from regraft.data.masks import SOFT_THRESHOLD, MaskLook, codes_in, is_grey, said
from regraft.data.names import listing, printable, shown
from regraft.errors import DataUnusable
from regraft.segments import BACKGROUND, IGNORE, OBJECT, MaskMap

# Two levels with blended edges: most pixels are of either, and the rest are of many levels, none of them common.
_MOST_BETWEEN, _MOST_OF_ONE, _FEWEST_IN_THE_MIDDLE = 0.3, 0.5, 4
# How far compression carries the pixels of a JPEG from either end.
_NOISE = 8


def saliency_map(looks: Sequence[MaskLook], class_list: ClassList | None, ignore: int | None) -> MaskMap:
    """See `mask_map.map_of_looks`."""
    if class_list is not None:
        if sorted(class_list.classes) != sorted(PAIR) or class_list.plain:
            raise DataUnusable(
                expected=f"--classes for saliency to say which values are {BACKGROUND} and {OBJECT}",
                got=f"{printable(class_list.path)}: {listing(class_list.classes)}",
                fix=f"write lines such as `0 {BACKGROUND}` and `1 {OBJECT}`; or train with --task semantic",
            )
        return with_classes(map_of_list("saliency", class_list, ignore), PAIR)
    if any(_needs_colour(look) for look in looks):
        return _saliency_of_colours(looks, ignore)
    levels = [codes_in(look, "saliency", by_colour=False) or () for look in looks]
    present = {code for found in levels for code, _ in found}
    ignored = {ignore: IGNORE} if ignore is not None else {}
    several = [
        look
        for look, found in zip(looks, levels, strict=True)
        if len({code for code, _ in found} - {0, ignore}) > 1 or look.format == "JPEG"
    ]
    if not several:
        return mapped("saliency", PAIR, {0: 0} | dict.fromkeys(present - {0}, 1) | ignored)
    totals: dict[int, int] = {}
    for code, count in (pair for found in levels for pair in found if pair[0] != ignore):
        totals[code] = totals.get(code, 0) + count
    if not _looks_soft(totals, _NOISE if all(look.format == "JPEG" for look in several) else 0):
        raise _too_many_values(several, ignore)
    cut = {level: int(level >= SOFT_THRESHOLD) for level in range(256)} | ignored
    words = (
        f"0..{SOFT_THRESHOLD - 1} -> {BACKGROUND}",
        f"{SOFT_THRESHOLD}..255 -> {OBJECT} (the edges are soft: cut at {SOFT_THRESHOLD})",
        *(f"{value} -> ignored" for value in ignored),
    )
    return replace(mapped("saliency", PAIR, cut), words=words)


def _needs_colour(look: MaskLook) -> bool:
    """Whether a file says background and object by hue: a coloured one, or a palette whose black is not its first colour."""
    if look.counts is None:
        return True
    if look.mode == "P":
        used = [look.palette[index] for index, _ in look.counts]
        return not all(map(is_grey, used)) and any(index and not look.palette[index] for index, _ in look.counts)
    return look.mode == "RGB" and not all(is_grey(number) for number, _ in look.counts)


def _saliency_of_colours(looks: Sequence[MaskLook], ignore: int | None) -> MaskMap:
    """Black is background, and one other colour in a file the object."""
    ignored = {ignore * 0x010101: IGNORE} if ignore is not None and ignore < 256 else {}
    codes = {0: 0}
    for look in looks:
        found = codes_in(look, "saliency", by_colour=True)
        others = [code for code, _ in found or () if code and code not in ignored]
        if found is None or len(others) > 1:
            raise _too_many_values([look], ignore)
        codes |= dict.fromkeys(others, 1)
    if not any(code == 0 for look in looks for code, _ in codes_in(look, "saliency", by_colour=True) or ()):
        raise _too_many_values([look for look in looks if _needs_colour(look)], ignore)
    return mapped("saliency", PAIR, codes | ignored, by_colour=True)


def _looks_soft(totals: dict[int, int], noise: int) -> bool:
    """Whether the levels of all masks together are two with blended edges; `noise`: how far a level may lie from its end."""
    if not 255 - noise <= max(totals) <= 255:
        return False
    between = {level: count for level, count in totals.items() if noise < level < 255 - noise}
    if noise and not between:
        return True
    inner = sum(between.values())
    middle = sum(64 <= level < 192 for level in between)
    rare = inner <= _MOST_BETWEEN * sum(totals.values()) and max(between.values(), default=0) <= _MOST_OF_ONE * inner
    return rare and middle >= _FEWEST_IN_THE_MIDDLE


def _too_many_values(looks: Sequence[MaskLook], ignore: int | None) -> DataUnusable:
    look = looks[0]
    by_colour = look.counts is None or _needs_colour(look)
    codes = [code for code, _ in codes_in(look, "saliency", by_colour=by_colour) or () if code != ignore]
    what = f"the {'colours' if by_colour else 'values'} {said(codes, by_colour=by_colour)}" if codes else "too many colours"
    more = f", and {len(looks) - 1:,} more such masks" if len(looks) > 1 else ""
    return DataUnusable(
        expected="masks for saliency: 0 (black) for the background and one other value for the object, or soft edges between "
        "0 and 255",
        got=f"{shown(look.name)}: {what}{more}",
        fix="train with --task semantic if these are classes; name a value that stands for no answer with --ignore; or list in "
        f"a file for --classes which values are which, such as `0 {BACKGROUND}` and `255 {OBJECT}`",
    )
