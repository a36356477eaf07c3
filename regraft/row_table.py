"""Rows as a Parquet table: the columns of the CSV, with numbers as numbers and null where there is none."""

import math
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.errors import UsageError, first_line
from regraft.rows import as_utf8, column_names, rounded
from regraft.values import Prediction

if TYPE_CHECKING:
    import pyarrow as pa

# Rows in memory at a time, and the size of the file's row groups; part of what makes the bytes the same each time.
GROUP_ROWS = 16_384


def write_table(path: Path, rows: Iterable[Prediction], columns: int, *, explained: bool = False) -> None:
    """Write a table with `columns` classes per row to a temporary name that is then renamed. Raises OSError.

    `explained`: with the paths of pictures.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = column_names(columns, explained=explained)
    types = [
        pa.float64() if name.startswith("probability_") else pa.bool_() if name == "abstained" else pa.string()
        for name in names
    ]
    schema = pa.schema(list(zip(names, types, strict=True)))
    temporary, source = path.with_name(f".{path.name}.tmp"), iter(rows)
    try:
        with pq.ParquetWriter(temporary.absolute(), schema, compression="zstd") as writer:
            while group := list(islice(source, GROUP_ROWS)):
                writer.write_table(_to_table(group, columns, schema))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _to_table(rows: list[Prediction], columns: int, schema: "pa.Schema") -> "pa.Table":
    import pyarrow as pa

    cells: dict[str, list[Any]] = {
        "path": [as_utf8(row.path) for row in rows],
        "status": [row.status for row in rows],
        "reason": [as_utf8(row.reason) or None for row in rows],
    }
    for k in range(columns):
        cells[f"class_{k + 1}"] = [as_utf8(row.top[k][0]) if k < len(row.top) else None for row in rows]
        cells[f"probability_{k + 1}"] = [rounded(row.top[k][1]) if k < len(row.top) else None for row in rows]
    cells |= {"abstained": [row.abstained for row in rows], "why": [row.why or None for row in rows]}
    if "explanation" in schema.names:
        cells["explanation"] = [as_utf8(row.explanation) or None for row in rows]
    return pa.table(cells, schema=schema)


def table_rows(path: Path, *, explained: bool = False) -> Iterator[Prediction]:
    """The rows of a table that `write_table` wrote with this `explained`. Raises UsageError for another file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path.absolute()) as file:
            if explained != ("explanation" in file.schema_arrow.names):
                raise KeyError("explanation")
            for batch in file.iter_batches(GROUP_ROWS):
                yield from map(_from_cells, batch.to_pylist())
    except (pa.ArrowException, KeyError) as error:
        raise UsageError(
            expected=f"{path} to hold rows of predictions",
            got=f"{type(error).__name__}: {first_line(error)}",
            fix="start again with --overwrite, or give another --out",
        ) from None


def _from_cells(cells: dict[str, Any]) -> Prediction:
    top = []
    for k in range(1, len(cells)):
        if cells.get(f"class_{k}") is None:
            break
        value = cells[f"probability_{k}"]
        top.append((cells[f"class_{k}"], math.nan if value is None else value))
    return Prediction(
        path=cells["path"],
        status=cells["status"],
        reason=cells["reason"] or "",
        top=tuple(top),
        abstained=bool(cells["abstained"]),
        why=cells["why"] or "",
        explanation=cells.get("explanation") or "",
    )
