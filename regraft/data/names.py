"""Names of files and classes: one spelling for each, safe to print, the same on every machine."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from regraft.errors import DataUnusable

# A class name is stored, printed and drawn in figures; file systems stop at 255 bytes, and so does a saved model.
MAX_CLASS_NAME = 255
LONGEST_SHOWN = 120


def composed(name: str) -> str:
    """`name` in Unicode NFC, in which two spellings of the same text are equal."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(value: object) -> str:
    """`value` as text, with everything that could confuse a terminal or cannot be written as UTF-8 as an escape."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def display_width(text: str) -> int:
    """How many columns `text` takes in a terminal: two for each East Asian letter and emoji, none for a combining mark."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def padded(text: str, width: int) -> str:
    """`text` with blanks up to `width` columns of a terminal."""
    return text + " " * (width - display_width(text))


def shown(value: object) -> str:
    """As `printable`, and never so long that it fills the screen."""
    full = printable(value)
    return full if len(full) <= LONGEST_SHOWN else f"{full[: LONGEST_SHOWN - 20]}…{full[-19:]}"


def listing(names: Iterable[object], limit: int = 10) -> str:
    """'a, b, c and 4 more'."""
    items = [*names]
    rest = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(shown(item) for item in items[:limit]) + rest


def count_of(number: int, one: str, many: str | None = None) -> str:
    """'1 image', '1,200 images'."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def guess(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` may have been meant to be."""
    by_folded = {item.casefold(): item for item in sorted(known)}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.7)
    return by_folded[close[0]] if close else None


def check_class_name(name: str, where: str) -> str:
    """`name` in NFC. Raises DataUnusable where a class cannot be called so; `where` is the folder or row that does."""
    problem = _problem_of(name)
    if problem:
        raise DataUnusable(
            expected=f"class names of printable text, up to {MAX_CLASS_NAME} bytes",
            got=f"{printable(where)}: the name '{shown(name)}' {problem}",
            fix="rename it, for example in letters, digits, spaces and dashes",
        )
    return composed(name)


def _problem_of(name: str) -> str:
    if name.isascii() and name.isprintable() and name.strip() and len(name) <= MAX_CLASS_NAME:
        return ""  # most names, of millions of images
    if not name.strip():
        return "is empty or blank"
    if any(unicodedata.category(c) == "Cs" for c in name):
        return "is not valid UTF-8"
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
        return "has a line break or another control character"
    return "is too long" if len(name.encode()) > MAX_CLASS_NAME else ""


def sample_names(relative: Sequence[str]) -> list[str]:
    """The name of each file, from its path relative to the root with forward slashes; all differ.

    NFC; files whose NFC is the same keep their own spelling. Bytes that are not UTF-8 are written as `\\xff`. What is still the
    same then is numbered. None of this depends on the order in which the files are given.
    """
    names = [composed(_escaped(path)) for path in relative]
    if len(set(names)) == len(names):
        return names
    count = Counter(names)
    names = [_escaped(path) if count[name] > 1 else name for name, path in zip(names, relative, strict=True)]
    return _numbered(names, relative)


def _escaped(path: str) -> str:
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _numbered(names: list[str], relative: Sequence[str]) -> list[str]:
    out, given, used = list(names), set(names), set[str]()
    for index in sorted(range(len(names)), key=lambda i: (names[i], relative[i])):
        number = 1
        while out[index] in used or (number > 1 and out[index] in given):
            number += 1
            out[index] = f"{names[index]} ({number})"
        used.add(out[index])
    return out
