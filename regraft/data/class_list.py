"""The file of --classes: names of classes, and which value or colour in a mask is which.

One class on each line, all lines in one of these forms:

    cat                    the first line is value 0, the next 1
    1 cat                  a value and a name
    cat 0 128 0            a name and a colour; so are `0 128 0 cat`, `cat,0,128,0` and `cat #008000`

A name on several lines with values or colours is one class that has them all. The name `ignore` stands for no class: its
pixels count for nothing. Empty lines are left out, and lines that start with #.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from regraft.data.masks import Colour
from regraft.data.names import check_class_name, count_of, listing, printable, shown
from regraft.errors import DataUnusable
from regraft.segments import IGNORE

# The label 255 is taken.
MOST_CLASSES: Final = 255
IGNORED_NAME: Final = "ignore"
_MOST_BYTES = 2**20
_LONGEST_LINE = 1000
_LEVELS = r"(?P<red>\d{1,3})[\s,;]+(?P<green>\d{1,3})[\s,;]+(?P<blue>\d{1,3})"
_COLOUR_LAST = re.compile(rf"(?P<name>.+?)[\s,;:]+{_LEVELS}")
_COLOUR_FIRST = re.compile(rf"{_LEVELS}[\s,;:]+(?P<name>.+)")
_HEX = r"#(?P<red>[0-9a-fA-F]{2})(?P<green>[0-9a-fA-F]{2})(?P<blue>[0-9a-fA-F]{2})"
_HEX_LAST = re.compile(rf"(?P<name>.+?)[\s,;:]+{_HEX}")
_VALUE_FIRST = re.compile(r"(?P<value>\d{1,5})[\s,;:]+(?P<name>.*[^\d\s].*)")
_HEADING = r"(?:(?:class|label)?[_-]?(?:name|value|index|id)|class|label|r|g|b|red|green|blue)"
_HEADER = re.compile(rf"{_HEADING}(?:[\s,;]+{_HEADING})+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassList:
    """Classes in their order, and the class (or IGNORE) of each value or colour that was listed; `plain`: only names were."""

    path: Path
    classes: tuple[str, ...]
    values: tuple[tuple[int, int], ...] = ()
    colours: tuple[tuple[Colour, int], ...] = ()
    plain: bool = False


def read_class_list(path: Path) -> ClassList:
    """What the file says. Raises DataUnusable, naming the line, where it cannot be understood."""
    lines = _lines(path)
    if colours := _colours(path, lines):
        return _listed(path, colours, "colours")
    values = _values(path, lines)
    return _listed(path, values or list(enumerate(_names(path, lines))), "values", plain=not values)


def _refused(path: Path, got: str, fix: str = "") -> DataUnusable:
    return DataUnusable(
        expected="--classes to name a text file with a class on each line",
        got=f"{printable(path)}: {got}",
        fix=fix or "write `cat` in the order of the values, or `1 cat`, or `cat 0 128 0`, in the same form on every line",
    )


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that say something, with their numbers."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _refused(path, f"{path.stat().st_size:,} bytes")
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise _refused(path, error.strerror or str(error), "check the path and its permissions") from None
    except UnicodeDecodeError:
        raise _refused(path, "bytes that are not UTF-8 text", "save the file as text in UTF-8") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not lines:
        raise _refused(path, "no line with a name")
    if long := [number for number, line in lines if len(line) > _LONGEST_LINE]:
        raise _refused(path, f"line {long[0]} of more than {_LONGEST_LINE:,} characters")
    return lines


def _colours(path: Path, lines: Sequence[tuple[int, str]]) -> list[tuple[Colour, str]]:
    found = [(number, line, _colour(line)) for number, line in lines]
    if found and found[0][2] is None and len(found) > 1 and _HEADER.fullmatch(found[0][1]):
        found = found[1:]
    if not any(colour for _, _, colour in found):
        return []
    for number, line, colour in found:
        if colour is None:
            raise _refused(path, f"line {number}, '{shown(line)}', has no colour, and others have")
        if max(colour[0]) > 255:
            raise _refused(path, f"line {number}: the colour {colour[0]}", "give red, green and blue from 0 to 255")
    return [colour for _, _, colour in found if colour is not None]


def _colour(line: str) -> tuple[Colour, str] | None:
    for form, base in ((_HEX_LAST, 16), (_COLOUR_LAST, 10), (_COLOUR_FIRST, 10)):
        if (match := form.fullmatch(line)) and match["name"].strip(" ,;:\t"):
            colour = int(match["red"], base), int(match["green"], base), int(match["blue"], base)
            return colour, match["name"].strip(" ,;:\t")
    return None


def _values(path: Path, lines: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Pairs of value and name, none where the lines are names; a few names may begin with a number."""
    found = [(number, line, _VALUE_FIRST.fullmatch(line)) for number, line in lines]
    if found[0][2] is None and len(found) > 1 and _HEADER.fullmatch(found[0][1]) and all(match for _, _, match in found[1:]):
        found = found[1:]
    if 2 * sum(match is not None for _, _, match in found) <= len(found):
        return []
    for number, line, match in found:
        if match is None:
            raise _refused(path, f"line {number}, '{shown(line)}', has no value before the name, and others have")
    return [(int(match["value"]), match["name"].strip()) for _, _, match in found if match]


def _names(path: Path, lines: Sequence[tuple[int, str]]) -> list[str]:
    names = [line for _, line in lines]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _refused(path, f"{count_of(len(twice), 'name')} on two lines: {listing(twice)}", "remove one of the lines")
    return names


def _listed(path: Path, pairs: Sequence[tuple[int | Colour, str]], what: str, plain: bool = False) -> ClassList:
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}, key=str):
        raise _refused(path, f"listed twice: {listing(twice)}", "remove one of the lines")
    names = [check_class_name(name, printable(path)) for _, name in pairs]
    classes = tuple(dict.fromkeys(name for name in names if name.casefold() != IGNORED_NAME))
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise _refused(path, count_of(len(classes), "class", "classes"), f"give 2 to {MOST_CLASSES} classes")
    label_of = {name: label for label, name in enumerate(classes)}
    labels = [label_of.get(name, IGNORE) for name in names]
    mapped = {what: tuple(zip(keys, labels, strict=True))}
    return ClassList(path=path, classes=classes, plain=plain, **mapped)  # type: ignore[arg-type]
