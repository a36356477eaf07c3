"""Rows on disk: written as they come, kept when a run is cut short, and gone on with to the same bytes.

CSV and JSON lines are appended to the file itself. Parquet cannot be appended to, so its rows go to NAME.partial as JSON
lines, and the table takes its own name when all of them are there.
"""

import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

from regraft.errors import OutOfSpace, OutputExists, UsageError
from regraft.row_table import table_rows, write_table
from regraft.rows import CsvRows, JsonRows, RowFormat, as_utf8, records
from regraft.values import Prediction

RowKind = Literal["csv", "jsonl", "parquet"]
_KINDS: dict[str, RowKind] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
# EFBIG: a limit on the size of files, set by the user or by the file system.
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
# What the header of every CSV of rows begins with, however many classes each row names.
_CSV_START = b"path,status,reason,class_1,"
_LONGEST_HEADER = 1 << 22


@dataclass(frozen=True, slots=True)
class Target:
    """A file for rows: `kind` is how it is written. `explained`: rows hold the paths of pictures."""

    path: Path
    kind: RowKind
    explained: bool = False

    @property
    def journal(self) -> Path:
        """Where rows go while they are made."""
        return self.path.with_name(f"{self.path.name}.partial") if self.kind == "parquet" else self.path

    def rows(self, columns: int) -> RowFormat:
        if self.kind == "csv":
            return CsvRows(columns, explained=self.explained)
        return JsonRows(explained=self.explained)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a file already holds of a run: so many rows, of which `failed`, up to the byte `offset`.

    `complete`: all there is. `probe` is one input with its row, to see whether the same model made it.
    """

    rows: int = 0
    failed: int = 0
    offset: int = 0
    complete: bool = False
    probe: tuple[str, Prediction] | None = None


def choose_target(path: Path, kind: RowKind | None, *, explained: bool = False) -> Target:
    """The target `path`, of the kind that its ending or `kind` says. Raises UsageError where they differ or say nothing."""
    by_name = _KINDS.get(path.suffix.lower())
    if by_name is None and kind is None:
        raise UsageError(
            expected="--out to end in .csv, .jsonl or .parquet", got=str(path), fix="name the file so, or add --csv or --json"
        )
    if by_name is not None and kind not in (None, by_name):
        raise UsageError(
            expected=f"one format for {path}", got=f"--{'csv' if kind == 'csv' else 'json'}", fix="leave that option out"
        )
    return Target(path, kind or by_name or "jsonl", explained)


def check_target(target: Target, *, resume: bool, overwrite: bool) -> None:
    """Before any work: raises OutputExists where rows would be lost, UsageError where no file can be."""
    if resume and overwrite:
        raise UsageError(expected="--resume or --overwrite", got="both", fix="leave one out")
    if target.path.is_dir():
        raise OutputExists(expected="a file name for --out", got=f"{target.path}: a folder", fix=f"{target.path / 'rows.csv'}")
    if not target.path.parent.is_dir():
        raise UsageError(
            expected=f"a folder {target.path.parent}", got="there is none", fix=f"make it first: mkdir -p {target.path.parent}"
        )
    for path in {target.path, target.journal}:
        if not (resume or overwrite) and path.exists() and not _holds_no_row(path, target):
            raise OutputExists(
                expected=f"no file {path} yet",
                got=f"{path}: there already",
                fix="--resume goes on with it, --overwrite replaces it; or give another --out",
            )


def _holds_no_row(path: Path, target: Target) -> bool:
    """Whether a file of rows is empty or ends behind its header: nothing of it can be lost."""
    if path != target.journal or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            header = file.readline(_LONGEST_HEADER)
            return not header or (target.kind == "csv" and header.startswith(_CSV_START) and not file.read(1))
    except OSError:  # what cannot be read may hold anything
        return False


def read_kept(
    target: Target, columns: int, inputs: Iterator[str], *, align: int, most: int | None = None
) -> tuple[Kept, Iterator[str]]:
    """What is already there of a run over `inputs`, and the inputs that are left.

    Whole rows only, and so many that the rows with an answer are a multiple of `align`, the size of a batch: the same images
    then meet in a batch as in a run that was never cut short, which the last bits of their figures depend on. At most `most`
    rows, unless all are there.
    Raises UsageError where the file holds other rows.
    """
    if target.kind == "parquet" and target.path.exists() and not target.journal.exists():
        _unpack(target)
    if not target.journal.exists():
        return Kept(), inputs
    form = target.rows(columns)
    with target.journal.open("rb") as file:
        header = file.read(len(form.header))
        if header != form.header:
            if form.header.startswith(header):
                return Kept(), inputs
            raise _other_rows(target, f"another first line: {header[:80]!r}")
        return _read_rows(target, form, inputs, records(file, quoted=form.quoted), align, most)


def _read_rows(
    target: Target, form: RowFormat, inputs: Iterator[str], found: Iterator[tuple[bytes, int]], align: int, most: int | None
) -> tuple[Kept, Iterator[str]]:
    kept, since, probe = Kept(offset=len(form.header)), list[str](), None
    answered = failed = count = 0
    end = kept.offset
    for count, (record, end) in enumerate(found, 1):
        row, path = _decoded(target, form, record, count), next(inputs, None)
        if path is None or as_utf8(row.path) != as_utf8(form.shown_path(path)):
            raise _other_rows(target, f"row {count} of {row.path!r}, where this run has {path or 'no more inputs'!r}")
        since.append(path)
        failed += row.status == "failed"
        answered += row.status == "ok"
        probe = _less_sure(probe, path, row)
        if answered % align == 0 and (most is None or count <= most):
            kept, since = Kept(count, failed, end, probe=probe), []
    following = next(inputs, None)
    if following is None and end == target.journal.stat().st_size:
        return Kept(count, failed, end, complete=True, probe=probe), iter(())
    rest = itertools.chain(since, [] if following is None else [following], inputs)
    return Kept(kept.rows, kept.failed, kept.offset, probe=probe), rest


def _less_sure(probe: tuple[str, Prediction] | None, path: str, row: Prediction) -> tuple[str, Prediction] | None:
    """Of two rows the one with the lower probability: of what is certain, another model is as certain."""
    if row.status != "ok" or not row.top:
        return probe
    return (path, row) if probe is None or row.top[0][1] < probe[1].top[0][1] else probe


def _decoded(target: Target, form: RowFormat, record: bytes, number: int) -> Prediction:
    try:
        return form.decode(record)
    except ValueError as error:
        raise _other_rows(target, f"row {number}: {error}") from None


def _other_rows(target: Target, got: str) -> UsageError:
    return UsageError(
        expected=f"{target.journal} to hold rows of the same inputs, in the same order, with the same --top-k",
        got=got,
        fix="give the inputs and options of the first run, or start again with --overwrite",
    )


def _unpack(target: Target) -> None:
    """The rows of a finished table as its journal again, so that inputs may be added to it."""
    temporary = target.journal.with_name(f"{target.journal.name}.tmp")
    with temporary.open("wb") as file:
        file.writelines(
            JsonRows(explained=target.explained).encode(row) for row in table_rows(target.path, explained=target.explained)
        )
    temporary.replace(target.journal)


class RowFile:
    """A file that takes rows after those `kept`. A context manager: leaving it keeps what was written.

    What is not kept is cut off with the first row, and a file without a row is not left behind by an error: what fails before
    any answer (a Ray that cannot be reached) neither costs earlier rows nor stands in the way of the next command.
    """

    def __init__(self, target: Target, columns: int, kept: Kept) -> None:
        """Open the file. Raises OSError."""
        self.target, self.columns, self.rows, self.failed = target, columns, kept.rows, kept.failed
        self._form = target.rows(columns)
        # Unbuffered: each row is whole in the file or not in it, whenever the process dies.
        self._file = FileIO(os.open(target.journal, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        self._end = kept.offset if kept.rows else 0
        self._begun = False

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._file.close()
        if kind is not None and _holds_no_row(self.target.journal, self.target):
            self.target.journal.unlink()

    def write(self, prediction: Prediction) -> None:
        """Append one row. Raises OutOfSpace; the rows before it are kept, and no part of it is."""
        self._begin()
        self._append(self._form.encode(prediction))
        self.rows += 1
        self.failed += prediction.status == "failed"

    def finish(self) -> None:
        """Wait until all rows are on the disk, under the target's own name. Raises OutOfSpace."""
        self._begin()
        try:
            if self._file.seekable() and self.target.journal.is_file():
                os.fsync(self._file.fileno())
            if self.target.kind == "parquet":
                write_table(self.target.path, self._journalled(), self.columns, explained=self.target.explained)
                self.target.journal.unlink()
        except OSError as error:
            raise self._failure(error) from error

    def _journalled(self) -> Iterator[Prediction]:
        with self.target.journal.open("rb") as file:
            for record, _ in records(file, quoted=False):
                yield self._form.decode(record)

    def _begin(self) -> None:
        """Cut off what is not kept, once, and write the header where nothing is."""
        if self._begun:
            return
        self._begun = True
        self._cut(self._end)
        if self._end == 0:
            self._append(self._form.header)

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._cut(self._end)
            raise self._failure(error) from error
        self._end += len(data)

    def _cut(self, end: int) -> None:
        if self.target.journal.is_file():
            self._file.truncate(end)
            self._file.seek(end)

    def _failure(self, error: OSError) -> Exception:
        if error.errno not in _FULL:
            return error
        return OutOfSpace(
            expected=f"room for another row in {self.target.journal}",
            got=f"{error.strerror}; the {self.rows:,} rows before it are kept",
            fix="free some space and run the same command with --resume",
        )
