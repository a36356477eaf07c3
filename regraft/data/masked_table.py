"""A table of images with masks: CSV or Parquet, with the columns path and mask, and perhaps split and a group."""

import os
from dataclasses import dataclass

from regraft.data.found import Found
from regraft.data.names import count_of, listing, sample_names, shown
from regraft.data.table import FURTHEST_LAST, identity_of, link_notes, parts_of, refuse, text_of
from regraft.data.tabular import read_columns
from regraft.recipe import Data
from regraft.values import Part, Rejected, Sample

_PLAIN_SPLIT_COLUMN = "split"


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    path: str
    mask: str
    part: Part | None
    group: str | None


def read_masked_table(data: Data) -> tuple[Found, tuple[Rejected, ...]]:
    """The images that the table `data.path` lists with their masks, and those whose cell for the mask is empty.

    Raises DataUnusable where the table cannot be read or contradicts itself; the message names the row or the image.
    """
    merged: dict[str, _Row] = {}
    for row in _rows(data):
        merged[row.path] = _joined(data, merged[row.path], row) if row.path in merged else row
    rows = [merged[path] for path in sorted(merged)]
    _check_own(data, rows)
    folder = data.local.parent
    samples = [
        Sample(path=folder / row.path, name=name, part=row.part, group=row.group, mask=folder / row.mask if row.mask else None)
        for row, name in zip(rows, sample_names([row.path for row in rows]), strict=True)
    ]
    bare = [sample for sample in samples if sample.mask is None]
    if bare and not data.skip_bad:
        names = listing([sample.name for sample in bare], 5)
        refuse(data, f"{count_of(len(bare), 'image')} without a mask: {names}", "fill in the mask, or add --skip-bad")
    good = tuple(sorted((sample for sample in samples if sample.mask is not None), key=lambda sample: sample.name))
    rejected = [Rejected(path=s.path, name=s.name, code="no_mask", reason="the table has no mask for it") for s in bare]
    found = Found(root=folder, title=shown(data.local.name), samples=good, notes=tuple(link_notes(good)))
    return found, tuple(rejected)


def _rows(data: Data) -> list[_Row]:
    split_option = None if data.split_column == _PLAIN_SPLIT_COLUMN else "--split-column"
    wanted = [(data.path_column, "--path-column"), (data.mask_column, "--mask-column"), (data.split_column, split_option)]
    table = read_columns(data.local, [*wanted, *([(data.group_column, "--group")] if data.group_column else [])])
    if not table.rows:
        refuse(data, "no rows", "add a row for each image")
    folder = os.path.abspath(data.local.parent)  # noqa: PTH100 (`resolve` follows links)
    nothing = [None] * len(table.rows)
    groups = table.columns[data.group_column] if data.group_column else nothing
    cells = zip(
        table.rows,
        table.columns[data.path_column],
        table.columns[data.mask_column],
        parts_of(data, table),
        groups,
        strict=True,
    )
    return [
        _Row(
            number,
            identity_of(data, number, path, folder),
            identity_of(data, number, mask, folder) if text_of(mask) else "",
            part,
            text_of(group) or None,
        )
        for number, path, mask, part, group in cells
    ]


def _joined(data: Data, first: _Row, second: _Row) -> _Row:
    """Two rows about one image, kept in the part that is furthest from training."""
    both = f"{shown(first.path)} in rows {first.number} and {second.number}"
    if first.mask and second.mask and first.mask != second.mask:
        refuse(data, f"{both} has two masks: {listing([first.mask, second.mask])}", "remove the wrong row")
    if first.group != second.group:
        groups = f"{shown(first.group or 'none')} and {shown(second.group or 'none')}"
        refuse(data, f"{both} has two groups: {groups}", "give all rows of an image the same group")
    part = max(first.part, second.part, key=FURTHEST_LAST.index)
    return _Row(first.number, first.path, first.mask or second.mask, part, first.group)


def _check_own(data: Data, rows: list[_Row]) -> None:
    """Each mask must belong to one image, and be another file."""
    owner: dict[str, _Row] = {}
    for row in rows:
        first = owner.setdefault(row.mask, row) if row.mask else row
        if first is not row:
            got = f"the mask {shown(row.mask)} in rows {first.number} and {row.number}, of different images"
            refuse(data, got, "give each image a mask of its own")
        if row.mask == row.path:
            refuse(data, f"row {row.number} has the image {shown(row.path)} as its own mask", "give the file of its mask")
