"""What the values in masks of several classes mean."""

from collections.abc import Sequence
from typing import Final

from regraft.data.class_list import MOST_CLASSES, ClassList
from regraft.data.mask_coding import map_of_list, mapped
from regraft.data.masks import MaskLook, codes_in, said, unpacked
from regraft.data.names import count_of, listing, shown
from regraft.errors import DataUnusable
from regraft.segments import IGNORE, MaskMap

# Fewer of the values up to the largest than this share, and they are grey levels chosen to be told apart, not indices.
_SPARSE: Final = 0.25
_PASTED: Final = 12


def semantic_map(looks: Sequence[MaskLook], class_list: ClassList | None, ignore: int | None) -> MaskMap:
    """See `mask_map.map_of_looks`."""
    if smeared := [look for look in looks if look.format == "JPEG"]:
        raise DataUnusable(
            expected="masks in a format that keeps numbers as they are",
            got=f"{count_of(len(smeared), 'JPEG')}, such as {shown(smeared[0].name)}: compression smears classes' numbers",
            fix="save the masks as PNG, from their source rather than from the JPEGs",
        )
    if class_list is not None and class_list.colours:
        return map_of_list("semantic", class_list, ignore)
    if coloured := [look for look in looks if codes_in(look, "semantic", by_colour=False) is None]:
        raise _no_table(coloured)
    present = {code for look in looks for code, _ in codes_in(look, "semantic", by_colour=False) or ()} - {ignore}
    if present - {0} == {IGNORE} and (class_list is None or (class_list.plain and len(class_list.classes) == 2)):
        names = class_list.classes if class_list else ("class 0", "class 1")
        return mapped("semantic", names, {0: 0, IGNORE: 1} | ({ignore: IGNORE} if ignore is not None else {}))
    if class_list is not None:
        return map_of_list("semantic", class_list, ignore)
    return _by_values(looks, sorted(present - {IGNORE}), ignore)


def _by_values(looks: Sequence[MaskLook], present: list[int], ignore: int | None) -> MaskMap:
    """Classes called after their values: all up to the largest, or those there are where they lie far apart."""
    if present and (top := present[-1]) + 1 <= MOST_CLASSES and len(present) >= _SPARSE * (top + 1):
        present = [value for value in range(top + 1) if value != ignore]
    if not 2 <= len(present) <= MOST_CLASSES:
        look = max(looks, key=lambda look: (codes_in(look, "semantic", by_colour=False) or ((0, 0),))[-1][0])
        raise DataUnusable(
            expected=f"masks of 2 to {MOST_CLASSES} classes",
            got=f"{count_of(len(present), 'value')} in {count_of(len(looks), 'mask')}: {listing(present, 12)} "
            f"(as in {shown(look.name)}); {IGNORE} means ignored" + (f", and so does {ignore}" if ignore is not None else ""),
            fix="give masks with the class of each pixel from 0 up, or say with --classes what the values mean",
        )
    codes = {value: label for label, value in enumerate(present)} | {IGNORE: IGNORE}
    if ignore is not None:
        codes[ignore] = IGNORE
    return mapped("semantic", tuple(f"class {value}" for value in present), codes)


def _no_table(coloured: Sequence[MaskLook]) -> DataUnusable:
    found = {number for look in coloured for number, _ in look.counts or ()}
    if not found or len(found) > MOST_CLASSES:
        got, fix = (
            f"{len(found):,} or more of them",
            "save the masks without blended edges, as PNG, best with the class of each pixel",
        )
    else:
        table = [f"name-{label} {' '.join(map(str, unpacked(number)))}" for label, number in enumerate(sorted(found))]
        got = f"{count_of(len(found), 'colour')}: {said(sorted(found), by_colour=True)}"
        rest = f"\n       and {len(table) - _PASTED:,} more" if len(table) > _PASTED else ""
        pasted = "".join(f"\n       {line}" for line in table[:_PASTED])
        fix = f"say with --classes FILE which colour is which; its lines, with names of yours or `ignore`:{pasted}{rest}"
    return DataUnusable(
        expected="masks with the class of each pixel, or colours with a table of them",
        got=f"{count_of(len(coloured), 'mask')} in colours, such as {shown(coloured[0].name)}; {got}",
        fix=fix,
    )
