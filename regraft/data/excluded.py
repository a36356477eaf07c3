"""The list of images that a person wants left out: what an audit wrote and a person edited, or any table with a path column."""

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from regraft.data.found import Found
from regraft.data.names import count_of, listing, printable
from regraft.errors import UsageError

PATH, ACTION, EXCLUDE, KEEP = "path", "action", "exclude", "keep"
_MOST_BYTES = 200 * 10**6


def read_excluded(file: Path) -> frozenset[str]:
    """The names to leave out: of the rows whose action is "exclude", or of all rows where there is no such column.

    Names are those of an audit: paths below the data's folder, with forward slashes. Raises UsageError for a file that is no
    such list.
    """
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise _refused(file, f"{file.stat().st_size:,} bytes")
        rows = list(csv.DictReader(file.read_text("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _refused(file, str(error)) from None
    if rows and PATH not in rows[0]:
        raise _refused(file, f"columns {listing([str(name) for name in rows[0]])}")
    chosen = [row for row in rows if ACTION not in row or _action(file, row) == EXCLUDE]
    return frozenset(str(row[PATH]) for row in chosen if row[PATH])


def _action(file: Path, row: dict[str, str]) -> str:
    word = (row[ACTION] or "").strip().lower()
    if word not in (EXCLUDE, KEEP, ""):
        raise UsageError(
            expected=f'the action "{EXCLUDE}" or "{KEEP}" in {printable(file)}',
            got=f"{word!r} for {row[PATH]}",
            fix="regraft leaves images out or keeps them; labels are mended on disk",
        )
    return word


def _refused(file: Path, got: str) -> UsageError:
    return UsageError(
        expected=f"--exclude to name a CSV table with a column {PATH!r} (and {ACTION!r}: {EXCLUDE} or {KEEP})",
        got=f"{printable(file)}: {got}",
        fix="`regraft audit DATA --fix-list FILE` writes one to edit",
    )


def without(found: Found, names: Iterable[str], file: Path) -> Found:
    """What was found without the images of these names; a note says how many. Raises UsageError where none of them is there."""
    gone = frozenset(names)
    kept = tuple(sample for sample in found.samples if sample.name not in gone)
    dropped = len(found.samples) - len(kept)
    if gone and not dropped:
        raise UsageError(
            expected=f"{printable(file)} to name images of this data, by their paths below its folder",
            got=f"none of its {count_of(len(gone), 'image')}, such as {listing(sorted(gone), 3)}",
            fix="give the list that `regraft audit` wrote for this folder",
        )
    missing = sorted(gone - {sample.name for sample in found.samples})
    notes = [f"{count_of(dropped, 'image')} left out as {printable(file)} says"] * bool(gone)
    notes += [f"not there to be left out: {listing(missing, 5)}"] * bool(missing)
    return replace(found, samples=kept, notes=(*found.notes, *notes))
