"""CSV and Parquet files as columns of plain Python values; knows nothing of images."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from regraft.data.names import guess, listing, printable, shown
from regraft.errors import DataUnusable, first_line

CSV_SUFFIXES = (".csv", ".tsv", ".txt")
PARQUET_SUFFIXES = (".parquet", ".pq")
# "|" separates labels inside a cell, so it cannot separate columns.
DELIMITERS = (",", ";", "\t")
_BYTE_ORDER_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The wanted columns, each with one value a row; `rows` are the rows' numbers as a person would count them.

    Values are text without blanks around it from CSV; text, numbers, lists or None from Parquet. A column that was optional and
    is not there is absent.
    """

    columns: dict[str, list[Any]]
    rows: Sequence[int]


def is_table(path: Path) -> bool:
    """Whether the ending is one of a table."""
    return path.suffix.lower() in (*CSV_SUFFIXES, *PARQUET_SUFFIXES)


def read_columns(path: Path, wanted: Sequence[tuple[str, str | None]], *, instead: str = "") -> Table:
    """Read the columns named in `wanted`: pairs of name and the option that sets it, or None for one that may be missing.

    `instead` says what a Parquet file may have in place of the first of them, for the error about a file that has neither.
    Raises DataUnusable for a file that is no such table or lacks a column.
    """
    try:
        return _read_parquet(path, wanted, instead) if path.suffix.lower() in PARQUET_SUFFIXES else _read_csv(path, wanted)
    except OSError as error:
        _refuse(path, error.strerror or str(error), "check the path and its permissions")


def _refuse(path: Path, got: str, fix: str) -> NoReturn:
    raise DataUnusable(
        expected="a CSV or Parquet table that can be read", got=f"{printable(path)}: {shown(got)}", fix=fix
    ) from None


def _check_columns(
    path: Path, present: Sequence[str], wanted: Sequence[tuple[str, str | None]], instead: str = ""
) -> list[str]:
    """The wanted columns that are there, each exactly once; missing ones are an error unless optional."""
    for name, option in wanted:
        if name not in present and option is not None:
            meant = guess(name, present)
            hint = f"; did you mean {meant!r}?" if meant else ""
            either = f"{instead}, or " if instead and name == wanted[0][0] else ""
            raise DataUnusable(
                expected=f"{either}a column {name!r} in {printable(path)}",
                got=f"the columns {listing(present, 30)}{hint}",
                fix=f"rename the column, or name yours with {option}",
            )
    names = [name for name, _ in wanted if name in present]
    for name in names:
        if list(present).count(name) > 1:
            _refuse(path, f"{present.count(name)} columns called {name!r}", "rename all but one of them")
    return names


def _read_csv(path: Path, wanted: Sequence[tuple[str, str | None]]) -> Table:
    text = _decode(path, path.read_bytes())
    if not text.strip():
        _refuse(
            path, "an empty file", f"give a table whose first line names its columns, such as {wanted[0][0]},{wanted[1][0]}"
        )
    delimiter = _delimiter(text, wanted[0][0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        at = {name: header.index(name) for name in _check_columns(path, header, wanted)}
        lines: list[int] = []
        columns: dict[str, list[Any]] = {name: [] for name in at}
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) < len(header) or any(row[len(header) :]):
                fix = "give every row all columns; put cells that hold the delimiter in quotes"
                _refuse(path, f"line {reader.line_num}: {len(row)} cells under {len(header)} columns", fix)
            lines.append(reader.line_num)
            for name, index in at.items():
                columns[name].append(row[index].strip())
    except csv.Error as error:
        _refuse(path, f"line {reader.line_num}: {error}", "check the quotes in that line")
    return Table(columns=columns, rows=lines)


def _decode(path: Path, data: bytes) -> str:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        _refuse(path, f"bytes that are not {encoding} text, first in line {line}", "save the table as CSV in UTF-8")


def _delimiter(text: str, first_column: str) -> str:
    """The delimiter under which the header has the column of paths, or else the most columns."""

    def fit(delimiter: str) -> tuple[bool, int]:
        try:
            header = [name.strip() for name in next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])]
        except csv.Error:
            return False, 0
        return first_column in header, len(header)

    return max(DELIMITERS, key=fit)


def _read_parquet(path: Path, wanted: Sequence[tuple[str, str | None]], instead: str) -> Table:
    # Slow to import, and most data sets are folders.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            names = _check_columns(path, list(parquet.schema_arrow.names), wanted, instead)
            table = parquet.read(columns=names)
            columns = {name: table.column(name).to_pylist() for name in names}
    except (pa.ArrowException, UnicodeDecodeError) as error:
        _refuse(path, first_line(error), "get a sound copy of the file, or write it again")
    return Table(columns=columns, rows=range(1, table.num_rows + 1))
