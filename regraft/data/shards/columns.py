"""Images that are cells of a Parquet or an Arrow file, as Hugging Face's datasets writes them and other programs can.

The column of images is a struct of {bytes, path} or plain binary. A label is text, a number, or a list where there are several;
a number is named by the ClassLabel in the schema's metadata where there is one. pyarrow is imported where it is used.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from regraft.data.found import PARTS
from regraft.data.names import check_class_name, listing, printable, shown
from regraft.data.shards.groups import opened_table
from regraft.data.shards.layout import Layout, layout_of
from regraft.data.shards.ranges import Ranges
from regraft.data.shards.tar_samples import Item
from regraft.data.table import text_of
from regraft.errors import DataUnusable, first_line
from regraft.recipe import Data
from regraft.values import Member, Part


@dataclass(frozen=True, slots=True)
class Row(Item):
    """One row; beside what every image of a shard has, the part that a column says it is of."""

    part: Part | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """The images of one file, in its order."""

    items: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())


def read_rows(ranges: Ranges, place: str, kind: str, data: Data, *, labelled: bool = True) -> Rows:
    """The images of a file with what its columns say. `labelled`: it has to have a column of labels.

    Raises DataUnusable where the file cannot be read or lacks a column; OSError.
    """
    import pyarrow as pa

    try:
        with opened_table(ranges, place, kind) as table:
            layout = layout_of(table.schema, place, data, labelled=labelled)
            rows = [row for group, cells in table.told(layout) for row in _group_rows(cells, group, layout, place, kind, data)]
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _damaged(place, error) from error
    count = Counter(row.member.inner for row in rows)
    return Rows(tuple(row if count[row.member.inner] == 1 else _by_number(row) for row in rows))


def _by_number(row: Row) -> Row:
    """A row whose name others of its file have too: inside of it, it goes by its number."""
    return replace(row, member=replace(row.member, inner=f"{row.member.group}-{row.member.offset:06}"))


def _damaged(place: str, error: Exception) -> DataUnusable:
    return DataUnusable(
        expected="a sound Parquet or Arrow file",
        got=f"{printable(place)}: {shown(first_line(error))}",
        fix="get a sound copy of it, or write it again",
    )


def _group_rows(cells: Mapping[str, list[Any]], group: int, layout: Layout, place: str, kind: str, data: Data) -> Iterator[Row]:
    """A row for each image of a group."""
    count = len(cells[""])
    nothing = cells[""]
    labels, names, splits, groups = (cells.get(what, nothing) for what in ("label", "name", "split", "group"))
    paths = cells.get("path", nothing)
    for at in range(count):
        where = f"row {at + 1} of group {group} of {printable(place)}"
        given = text_of(names[at]) or text_of(paths[at])
        member = Member(
            container=place,
            inner=given or f"{group}-{at:06}",
            kind="parquet" if kind == "parquet" else "arrow",
            offset=at,
            group=group,
            column=layout.image,
        )
        yield Row(
            member,
            given,
            _labels(labels[at], layout.classes, where),
            isinstance(labels[at], list),
            text_of(groups[at]) or None,
            _part(splits[at], data, where),
        )


def _labels(cell: Any, classes: tuple[str, ...] | None, where: str) -> tuple[str, ...]:
    every = cell if isinstance(cell, list) else [cell]
    texts = {_named(one, classes, where) for one in every} - {""}
    return tuple(sorted({check_class_name(text, where) for text in texts}))


def _named(cell: Any, classes: tuple[str, ...] | None, where: str) -> str:
    if not isinstance(cell, str | int | float | bool | None):
        raise DataUnusable(
            expected="a label that can be understood",
            got=f"{where}: one of type {type(cell).__name__}",
            fix="give labels as text or numbers",
        )
    # -1 is how datasets says that there is none.
    if classes is None or not isinstance(cell, int) or isinstance(cell, bool):
        return text_of(cell)
    if cell == -1:
        return ""
    if not 0 <= cell < len(classes):
        raise DataUnusable(
            expected=f"labels from 0 to {len(classes) - 1}",
            got=f"{where}: {cell}",
            fix="write the file again, with all its classes",
        )
    return classes[cell]


def _part(cell: Any, data: Data, where: str) -> Part | None:
    text = text_of(cell)
    if not text:
        return None
    if text.casefold() not in PARTS:
        raise DataUnusable(
            expected=f"{listing(PARTS)} in the column {data.split_column!r}", got=f"{where}: {shown(text)}", fix="name the part"
        )
    return PARTS[text.casefold()]
