"""Maps of mask values, made from codes: numbers or colours as `masks` tells them apart."""

from typing import Final

from regraft.data.class_list import ClassList
from regraft.data.masks import classes_of, packed, said, unpacked
from regraft.data.names import guess, listing, printable
from regraft.errors import DataUnusable, UnknownClass
from regraft.segments import BACKGROUND, IGNORE, OBJECT, Kind, MaskMap

PAIR: Final = (BACKGROUND, OBJECT)


def mapped(kind: Kind, classes: tuple[str, ...], codes: dict[int, int], *, by_colour: bool = False) -> MaskMap:
    """The map of these codes to classes or IGNORE, with its words."""
    pairs = sorted(codes.items())
    names = dict(enumerate(classes)) | {IGNORE: "ignored"}
    words = tuple(f"{said([code], by_colour=by_colour)} -> {names[label]}" for code, label in pairs)
    if by_colour:
        return MaskMap(kind=kind, classes=classes, colours=tuple((unpacked(code), label) for code, label in pairs), words=words)
    return MaskMap(kind=kind, classes=classes, values=tuple(pairs), words=words)


def map_of_list(kind: Kind, given: ClassList, ignore: int | None) -> MaskMap:
    """The map that a class list says. Raises DataUnusable where `ignore` is a class of it."""
    codes = dict(given.values) or {packed(colour): label for colour, label in given.colours}
    if ignore is not None:
        ignored = ignore * 0x010101 if given.colours else ignore
        if codes.get(ignored, IGNORE) != IGNORE:
            raise DataUnusable(
                expected=f"the value of --ignore, {ignore}, to be that of no class",
                got=f"{printable(given.path)} with {said([ignored], by_colour=bool(given.colours))} for "
                f"{given.classes[codes[ignored]]}",
                fix=f"write the values before the names (`{ignore + 1} {given.classes[0]}`), or call that line `ignore`",
            )
        codes[ignored] = IGNORE
    if kind == "semantic" and not given.colours:
        codes.setdefault(IGNORE, IGNORE)
    return mapped(kind, given.classes, codes, by_colour=bool(given.colours))


def with_classes(mask_map: MaskMap, classes: tuple[str, ...]) -> MaskMap:
    """The same map with classes in the order of `classes`. Raises UnknownClass."""
    if unknown := [name for name in mask_map.classes if name not in classes]:
        meant = guess(unknown[0], classes)
        raise UnknownClass(
            expected=f"only classes that the model has: {listing(classes)}",
            got=listing(unknown) + (f"; did you mean {meant!r}?" if meant else ""),
            fix="rename or remove the class in the file of --classes",
        )
    label_of = [classes.index(name) for name in mask_map.classes]
    moved = {code: IGNORE if label == IGNORE else label_of[label] for code, label in classes_of(mask_map).items()}
    return mapped(mask_map.kind, classes, moved, by_colour=bool(mask_map.colours))
