"""Images that are cells of a Parquet or an Arrow file, as Hugging Face's datasets writes them and other programs can.

The column of images is a struct of {bytes, path} or plain binary. A label is text, a number, or a list where there are several;
a number is named by the ClassLabel in the schema's metadata where there is one. pyarrow is imported where it is used.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from regraft.data.found import PARTS
from regraft.data.names import check_class_name, guess, listing, printable, shown
from regraft.data.shards.ranges import LocalRanges, Ranges, Stretch
from regraft.data.shards.tar_samples import Item
from regraft.data.table import text_of
from regraft.errors import DataUnusable, first_line
from regraft.recipe import Data, is_url
from regraft.values import Member, Part

if TYPE_CHECKING:
    import pyarrow as pa

_FILE_MAGIC: Final = b"ARROW1"
_METADATA: Final = b"huggingface"
# What columns of images are called, where nothing else tells.
_IMAGE_NAMES: Final = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "bytes")
_NAME_COLUMN: Final = "name"
_MOST_METADATA: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column of a file is what: `image` holds the images, in its field `bytes` where `nested`.

    `path` is the field of the images' names. `classes` name the numbers of the labels.
    """

    image: str
    nested: bool
    path: bool
    label: str | None = None
    classes: tuple[str, ...] | None = None
    name: str | None = None
    split: str | None = None
    group: str | None = None

    @property
    def told(self) -> list[str]:
        """The columns that say something of the images, with names as Parquet has them."""
        beside = [name for name in (self.label, self.name, self.split, self.group) if name is not None]
        return [*beside, *([f"{self.image}.path"] if self.path else [])]


@dataclass(frozen=True, slots=True)
class Row(Item):
    """One row; beside what every image of a shard has, the part that a column says it is of."""

    part: Part | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """The images of one file, in its order."""

    items: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())


def holds_images(path: Path) -> bool:
    """Whether a Parquet file of this machine has the images in it, and is no table of their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False
    found = _image_column(schema, _features(schema, str(path)))
    if found is None:
        return False
    # A binary column beside one of paths may be anything.
    return _is_struct(schema.field(found).type) or not _has_paths(schema)


def read_rows(ranges: Ranges, place: str, kind: str, data: Data, *, labelled: bool = True) -> Rows:
    """The images of a file with what its columns say. `labelled`: it has to have a column of labels.

    Raises DataUnusable where the file cannot be read or lacks a column; OSError.
    """
    import pyarrow as pa

    try:
        with _opened(ranges, place, kind) as table:
            layout = _layout(table.schema, place, data, labelled=labelled)
            rows = [row for group, cells in table.told(layout) for row in _group_rows(cells, group, layout, place, kind, data)]
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _damaged(place, error) from error
    count = Counter(row.member.inner for row in rows)
    return Rows(tuple(row if count[row.member.inner] == 1 else _by_number(row) for row in rows))


def _by_number(row: Row) -> Row:
    """A row whose name others of its file have too: inside of it, it goes by its number."""
    return replace(row, member=replace(row.member, inner=f"{row.member.group}-{row.member.offset:06}"))


def read_images(ranges: Ranges, place: str, kind: str, group: int, column: str) -> "pa.ChunkedArray":
    """The images of one group of rows: an array of binary. Raises ArrowException, OSError, ValueError."""
    with _opened(ranges, place, kind) as table:
        array: pa.ChunkedArray = table.images(group, column)
        array.validate(full=True)
        return array


def _damaged(place: str, error: Exception) -> DataUnusable:
    return DataUnusable(
        expected="a sound Parquet or Arrow file",
        got=f"{printable(place)}: {shown(first_line(error))}",
        fix="get a sound copy of it, or write it again",
    )


def _opened(ranges: Ranges, place: str, kind: str) -> "_Parquet | _ArrowFile | _ArrowStream":
    if kind == "parquet":
        return _Parquet(ranges, place)
    return (_ArrowFile if ranges.read(0, len(_FILE_MAGIC)) == _FILE_MAGIC else _ArrowStream)(ranges, place)


class _Closing:
    """A file that pyarrow reads through `ranges`."""

    def __init__(self, ranges: Ranges, place: str) -> None:
        import pyarrow as pa

        local = isinstance(ranges, LocalRanges)
        # Reads at offsets, as pyarrow does of itself; a map of the file would end the process where the file becomes shorter.
        self._source = pa.OSFile(place) if local else pa.PythonFile(Stretch(ranges.read, ranges.size), mode="r")

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self._source.close()


class _Parquet(_Closing):
    """Groups are row groups, by number."""

    def __init__(self, ranges: Ranges, place: str) -> None:
        import pyarrow.parquet as pq

        super().__init__(ranges, place)
        self._file = pq.ParquetFile(self._source)
        self.schema = self._file.schema_arrow

    def told(self, layout: Layout) -> Iterator[tuple[int, Mapping[str, list[Any]]]]:
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            yield group, _cells(self._file.read_row_group(group, columns=layout.told), layout, count)

    def images(self, group: int, column: str) -> "pa.ChunkedArray":
        nested = _is_struct(self.schema.field(column).type)
        table = self._file.read_row_group(group, columns=[f"{column}.bytes" if nested else column])
        return _bytes_of(table.column(column))


class _ArrowStream(_Closing):
    """Arrow's streaming format, in which datasets saves. Groups are record batches, by the byte at which they start."""

    def __init__(self, ranges: Ranges, place: str) -> None:
        import pyarrow as pa

        super().__init__(ranges, place)
        self.schema = pa.ipc.read_schema(self._source)

    def told(self, layout: Layout) -> Iterator[tuple[int, Mapping[str, list[Any]]]]:
        import pyarrow as pa

        while True:
            group = self._source.tell()
            try:
                message = pa.ipc.read_message(self._source)
            except EOFError:
                return
            batch = self._batch(message)
            yield group, _cells(pa.Table.from_batches([batch]), layout, batch.num_rows)

    def images(self, group: int, column: str) -> "pa.ChunkedArray":
        import pyarrow as pa

        self._source.seek(group)
        batch = self._batch(pa.ipc.read_message(self._source))
        return _bytes_of(pa.chunked_array([batch.column(column)]))

    def _batch(self, message: Any) -> Any:
        import pyarrow as pa

        if message.type != "record batch":
            raise pa.ArrowInvalid(f"a {message.type} in the stream; save it as Parquet")
        batch = pa.ipc.read_record_batch(message, self.schema)
        batch.validate(full=True)
        return batch


class _ArrowFile(_Closing):
    """Arrow's file format. Groups are record batches, by number."""

    def __init__(self, ranges: Ranges, place: str) -> None:
        import pyarrow as pa

        super().__init__(ranges, place)
        self._file = pa.ipc.open_file(self._source)
        self.schema = self._file.schema

    def told(self, layout: Layout) -> Iterator[tuple[int, Mapping[str, list[Any]]]]:
        import pyarrow as pa

        for group in range(self._file.num_record_batches):
            batch = self._file.get_batch(group)
            batch.validate(full=True)
            yield group, _cells(pa.Table.from_batches([batch]), layout, batch.num_rows)

    def images(self, group: int, column: str) -> "pa.ChunkedArray":
        import pyarrow as pa

        return _bytes_of(pa.chunked_array([self._file.get_batch(group).column(column)]))


def _bytes_of(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow.compute as pc

    return pc.struct_field(column, "bytes") if _is_struct(column.type) else column


def _cells(table: "pa.Table", layout: Layout, count: int) -> dict[str, list[Any]]:
    """What the columns say, as Python values, by what they are of."""
    import pyarrow.compute as pc

    found: dict[str, list[Any]] = {"": [None] * count}
    for what in ("label", "name", "split", "group"):
        column = getattr(layout, what)
        if column is not None:
            found[what] = table.column(column).to_pylist()
    if layout.path:
        found["path"] = pc.struct_field(table.column(layout.image), "path").to_pylist()
    return found


def _layout(schema: "pa.Schema", place: str, data: Data, *, labelled: bool) -> Layout:
    """Which column is what. Raises DataUnusable where there is no column of images or, where wanted, none of labels."""
    features = _features(schema, place)
    image = _image_column(schema, features)
    if image is None:
        raise DataUnusable(
            expected="a column of images: binary, or a struct with the field bytes",
            got=f"{printable(place)} with the columns {listing(schema.names, 30)}",
            fix="write the bytes of the image files into one, or give a table of their paths",
        )
    kind = schema.field(image).type
    nested = _is_struct(kind)
    label = _label_column(schema, features, data, place) if labelled else None
    return Layout(
        image=image,
        nested=nested,
        path=nested and kind.get_field_index("path") >= 0,
        label=label,
        classes=_class_names(features.get(label)) if label else None,
        name=_NAME_COLUMN if _is_text(schema, _NAME_COLUMN) else None,
        split=data.split_column if data.split_column in schema.names else None,
        group=data.group_column if data.group_column in schema.names else None,
    )


def _label_column(schema: "pa.Schema", features: Mapping[str, Any], data: Data, place: str) -> str:
    if data.label_column in schema.names:
        return data.label_column
    known = [name for name in schema.names if _class_names(features.get(name)) is not None]
    if len(known) == 1:
        return known[0]
    meant = guess(data.label_column, schema.names)
    raise DataUnusable(
        expected=f"a column {data.label_column!r} in {printable(place)}",
        got=f"the columns {listing(schema.names, 30)}{f'; did you mean {meant!r}?' if meant else ''}",
        fix="name yours with --label-column",
    )


def _image_column(schema: "pa.Schema", features: Mapping[str, Any]) -> str | None:
    declared = [
        name for name in schema.names if isinstance(features.get(name), dict) and features[name].get("_type") == "Image"
    ]
    structs = [name for name in schema.names if _is_struct(schema.field(name).type)]
    binary = [name for name in schema.names if _is_binary(schema.field(name).type)]
    called = [name for name in _IMAGE_NAMES if name in binary]
    fitting = [name for name in declared if name in structs or name in binary]
    return next(iter([*fitting, *structs, *called, *(binary if len(binary) == 1 else [])]), None)


def _is_struct(kind: Any) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return False
    index = kind.get_field_index("bytes")
    return index >= 0 and _is_binary(kind.field(index).type)


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(schema: "pa.Schema", name: str) -> bool:
    import pyarrow as pa

    if name not in schema.names:
        return False
    kind = schema.field(name).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _has_paths(schema: "pa.Schema") -> bool:
    return _is_text(schema, "path")


def _features(schema: "pa.Schema", place: str) -> Mapping[str, Any]:
    """What datasets says of the columns: in the schema, or beside what it saved in dataset_info.json."""
    told = (schema.metadata or {}).get(_METADATA)
    beside = None if is_url(place) else Path(place).parent / "dataset_info.json"
    try:
        if told is not None:
            features = json.loads(told)["info"]["features"]
        elif beside is not None and beside.is_file() and beside.stat().st_size <= _MOST_METADATA:
            features = json.loads(beside.read_bytes())["features"]
        else:
            return {}
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """The names of a ClassLabel, or of the ClassLabels in a list."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return tuple(str(name) for name in names) if isinstance(names, list) else None
    return _class_names(feature.get("feature"))


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


def base_of(place: str) -> str:
    """What a file is called without its folder and ending."""
    return os.path.splitext(place.replace("\\", "/").rpartition("/")[2])[0]  # noqa: PTH122 (a URL is no Path)
