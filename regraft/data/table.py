"""A table of images: CSV (comma, semicolon or tab; UTF-8 or UTF-16) or Parquet, with a column of paths and one of labels.

Paths are relative to the table's own folder, or absolute; they may lead anywhere and through links: the table is the user's.

Several labels of one image stand in one cell, separated by | or ; , or in a Parquet column of lists. One such cell makes the
whole table multi-label: there an empty cell means none of the classes, and the labels of all rows of an image are joined.
Otherwise an empty label is an error, and so are two rows that give one image different labels.
"""

import math
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from regraft.data.found import PARTS, Found
from regraft.data.names import check_class_name, count_of, listing, printable, sample_names, shown
from regraft.data.tabular import Table, read_columns
from regraft.errors import DataUnusable
from regraft.recipe import Data
from regraft.values import Part, Sample

_SEPARATORS = re.compile(r"[|;]")
# An image listed in two parts stays in the one furthest from training, so that no score rests on an image trained on.
FURTHEST_LAST: tuple[Part | None, ...] = (None, "train", "val", "test")
_PLAIN_SPLIT_COLUMN = "split"
# A Parquet file that has them is no table of paths but one of shards.
_IMAGES_INSIDE = "a column of images (struct {bytes, path} or binary)"


@dataclass(frozen=True, slots=True)
class _Row:
    """One row: its number for messages, the path as far as it identifies the file, and what it says of the image."""

    number: int
    path: str
    labels: tuple[str, ...]
    part: Part | None
    group: str | None


def read_table(data: Data) -> Found:
    """The images that the table `data.path` lists; whether they exist is left to the scan.

    Raises DataUnusable where the table cannot be read or contradicts itself; the message names the row or the image.
    """
    table = read_columns(data.local, _wanted(data), instead=_IMAGES_INSIDE)
    rows, multi_label = _rows(data, table)
    if not multi_label and (bare := [row.number for row in rows if not row.labels]):
        refuse(data, f"{count_of(len(bare), 'row')} without a label: {listing(bare)}", "fill in the label, or remove the row")
    folder = data.local.parent
    merged = _merge(data, rows, multi_label)
    samples = [
        Sample(path=folder / row.path, name=name, labels=row.labels, part=row.part, group=row.group)
        for row, name in zip(merged, sample_names([row.path for row in merged]), strict=True)
    ]
    return Found(
        root=folder,
        title=shown(data.local.name),
        samples=tuple(sorted(samples, key=lambda sample: sample.name)),
        multi_label=multi_label,
        notes=(*_label_notes(data, merged, multi_label), *_row_notes(rows, merged), *link_notes(samples)),
    )


def _wanted(data: Data) -> list[tuple[str, str | None]]:
    split_option = None if data.split_column == _PLAIN_SPLIT_COLUMN else "--split-column"
    wanted = [(data.path_column, "--path-column"), (data.label_column, "--label-column"), (data.split_column, split_option)]
    return [*wanted, *([(data.group_column, "--group")] if data.group_column else [])]


def refuse(data: Data, got: str, fix: str) -> NoReturn:
    """Raise DataUnusable for the table `data.path`."""
    raise DataUnusable(expected="a table that says what is true of each image", got=f"{printable(data.path)}: {got}", fix=fix)


def _rows(data: Data, table: Table) -> tuple[list[_Row], bool]:
    """All rows, and whether any has a cell for several labels."""
    folder, nothing = os.path.abspath(data.local.parent), [None] * len(table.rows)  # noqa: PTH100 (`resolve` follows links)
    labels = table.columns[data.label_column]
    multi_label = any(isinstance(cell, list) or (isinstance(cell, str) and _SEPARATORS.search(cell)) for cell in labels)
    parts = parts_of(data, table)
    groups = table.columns[data.group_column] if data.group_column else nothing
    rows = [
        _Row(
            number,
            identity_of(data, number, path, folder),
            _labels(data, number, label, multi_label),
            part,
            text_of(group) or None,
        )
        for number, path, label, part, group in zip(
            table.rows, table.columns[data.path_column], labels, parts, groups, strict=True
        )
    ]
    if not rows:
        refuse(data, "no rows", "add a row for each image")
    return rows, multi_label


def identity_of(data: Data, number: int, path: object, folder: str) -> str:
    """The path by which a file is known: relative to the table's folder if it is below, with forward slashes."""
    if not isinstance(path, str) or not path:
        refuse(data, f"row {number} has no path, but {shown(repr(path))}", "give the path of an image file as text")
    if "\\" in path and (os.sep == "\\" or not os.path.lexists(os.path.join(folder, path))):  # noqa: PTH118
        path = path.replace("\\", "/")  # Written on Windows.
    if os.path.isabs(path) and path.startswith(f"{folder}{os.sep}"):  # noqa: PTH117
        path = path[len(folder) + 1 :]
    return posixpath.normpath(path)


def _labels(data: Data, number: int, cell: Any, multi_label: bool) -> tuple[str, ...]:
    """The sorted labels of one cell, none for an empty one. Numbers become text, 3.0 becomes 3 (pandas' way of writing it)."""
    cells = cell if isinstance(cell, list) else _SEPARATORS.split(cell) if multi_label and isinstance(cell, str) else [cell]
    if unfit := [item for item in cells if not isinstance(item, str | int | float | bool | None)]:
        refuse(data, f"row {number}: a label of type {type(unfit[0]).__name__}", "give labels as text or numbers")
    texts = {text_of(item) for item in cells} - {""}
    where = f"row {number} of {printable(data.path)}"
    return tuple(sorted({check_class_name(text, where) for text in texts}))


def text_of(cell: object) -> str:
    """One cell as text, empty for an empty one. 3.0 becomes 3 (pandas' way of writing it)."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):  # How pandas writes an empty cell.
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def parts_of(data: Data, table: Table) -> Sequence[Part | None]:
    """The part of each row, from the column `data.split_column` where there is one. Raises DataUnusable for other words."""
    cells = [text_of(cell) for cell in table.columns.get(data.split_column, [])]
    if not any(cells):
        return [None] * len(table.rows)
    unknown = [(cell, number) for cell, number in zip(cells, table.rows, strict=True) if cell.casefold() not in PARTS]
    if unknown:
        got = f"{unknown[0][0]!r} in row {unknown[0][1]}, and {len(unknown) - 1:,} more such rows"
        refuse(data, f"column {data.split_column!r} has {shown(got)}", f"use {listing(PARTS)}, in every row or in none")
    return [PARTS[cell.casefold()] for cell in cells]


def _merge(data: Data, rows: Sequence[_Row], multi_label: bool) -> list[_Row]:
    """One row for each image, in the order of the paths."""
    merged: dict[str, _Row] = {}
    for row in rows:
        first = merged.setdefault(row.path, row)
        if first is not row:
            merged[row.path] = _join(data, first, row, multi_label)
    return [merged[path] for path in sorted(merged)]


def _join(data: Data, first: _Row, second: _Row, multi_label: bool) -> _Row:
    both = f"{shown(first.path)} in rows {first.number} and {second.number}"
    if first.labels != second.labels and not multi_label:
        fix = f"remove the wrong row; if both hold, write them in one cell, '{first.labels[0]}|{second.labels[0]}'"
        refuse(data, f"{both} has two labels: {listing([*first.labels, *second.labels])}", fix)
    if first.group != second.group:
        groups = f"{shown(first.group or 'none')} and {shown(second.group or 'none')}"
        refuse(data, f"{both} has two groups: {groups}", "give all rows of an image the same group")
    part = max(first.part, second.part, key=FURTHEST_LAST.index)
    return _Row(first.number, first.path, tuple(sorted({*first.labels, *second.labels})), part, first.group)


def _label_notes(data: Data, merged: Sequence[_Row], multi_label: bool) -> list[str]:
    if not multi_label:
        return []
    bare = sum(not row.labels for row in merged)
    notes = [f"several labels per image: the cells of {data.label_column!r} hold lists, or are separated by | or ;"]
    return [*notes, f"{count_of(bare, 'image')} of none of the classes"] if bare else notes


def _row_notes(rows: Sequence[_Row], merged: Sequence[_Row]) -> list[str]:
    notes = []
    if repeated := len(rows) - len(merged):
        notes.append(f"{count_of(repeated, 'row')} about an image that another row has, joined")
    parts = {(row.path, row.part) for row in rows}
    if len(parts) > len(merged):
        kept = {(row.path, row.part) for row in merged}
        moved = sorted({path for path, _ in parts - kept})
        where = "listed in several parts, kept in the last of train, val, test"
        notes.append(f"{count_of(len(moved), 'image')} {where}: {listing(moved, 5)}")
    return notes


def link_notes(samples: Sequence[Sample]) -> list[str]:
    """A line about the images that are symbolic links."""
    links = [s.name for s in samples if isinstance(s.path, Path) and os.path.islink(s.path)]  # noqa: PTH114
    return [f"{count_of(len(links), 'image')} read through symbolic links: {listing(links, 5)}"] if links else []


def read_listed(data: Data) -> Found:
    """The images of the table `data.path` as it lists them: each row its image, in order, with labels where it has any.

    Raises DataUnusable as `read_table` does, but not for what labels say.
    """
    path = data.local
    table = read_columns(path, [(data.path_column, "--path-column"), (data.label_column, None)], instead=_IMAGES_INSIDE)
    folder, nothing = os.path.abspath(path.parent), [None] * len(table.rows)  # noqa: PTH100 (`resolve` follows links)
    labels = table.columns.get(data.label_column, nothing)
    multi_label = any(isinstance(cell, list) or (isinstance(cell, str) and _SEPARATORS.search(cell)) for cell in labels)
    listed = zip(table.rows, table.columns[data.path_column], labels, strict=True)
    rows = [
        _Row(number, identity_of(data, number, listed_path, folder), _labels(data, number, label, multi_label), None, None)
        for number, listed_path, label in listed
    ]
    return Found(
        root=path.parent,
        title=shown(path.name),
        samples=tuple(Sample(path=path.parent / row.path, name=row.path, labels=row.labels) for row in rows),
        multi_label=multi_label,
    )
