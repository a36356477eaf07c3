"""Parquet and Arrow files, a group of rows at a time, here or elsewhere. pyarrow is imported where it is used."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from regraft.data.shards.layout import Layout, is_struct
from regraft.data.shards.ranges import LocalRanges, Ranges, Stretch

if TYPE_CHECKING:
    import pyarrow as pa

_FILE_MAGIC: Final = b"ARROW1"


def read_images(ranges: Ranges, place: str, kind: str, group: int, column: str) -> "pa.ChunkedArray":
    """The images of one group of rows: an array of binary. Raises ArrowException, OSError, ValueError."""
    with opened_table(ranges, place, kind) as table:
        array: pa.ChunkedArray = table.images(group, column)
        array.validate(full=True)
        return array


def opened_table(ranges: Ranges, place: str, kind: str) -> "_Parquet | _ArrowFile | _ArrowStream":
    """The file at `place`, by its `kind` and, of Arrow's two formats, by its first bytes. A context manager.

    Its `told` gives what the columns of a layout say, group by group; `images` the images of one group as binary. All raise
    ArrowException and OSError.
    """
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
        nested = is_struct(self.schema.field(column).type)
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

    return pc.struct_field(column, "bytes") if is_struct(column.type) else column


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
