"""Rows of features on disk, found by the content of the image and of everything that made them.

A cache folder holds one table per key. The key is the digest of the weights, the preprocessing, the place in the network, the
engine with its precision and this format's version; inside a table, an image is found by the SHA-256 of its own bytes. A table
is `rows.f32` (appended float32 rows, row-major; `rows.u8` for pixels, `rows.bf16` for what crosses a boundary) and
`index.sqlite` (digest -> row, CRC-32 of the row), so that a crash or two processes at once can leave unused bytes behind,
never a wrong hit.
"""

import errno
import hashlib
import json
import os
import shutil
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from regraft.cache.known import Known
from regraft.errors import NotWritable, OutOfSpace

FORMAT = 1
_TABLE, _INDEX = "table.json", "index.sqlite"
# HALVES are the bits of bfloat16, which numpy has no type for.
FLOATS, HALVES, BYTES = np.dtype(np.float32), np.dtype(np.uint16), np.dtype(np.uint8)
_ROWS = {FLOATS: "rows.f32", HALVES: "rows.bf16", BYTES: "rows.u8"}
_READ_BYTES = 64 << 20
_NEAR = 4  # rows apart on disk that are read as one: a test set drawn from a table leaves gaps everywhere


def default_folder() -> Path:
    """The user's cache folder, or $REGRAFT_CACHE."""
    chosen = os.environ.get("REGRAFT_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("regraft", appauthor=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInfo:
    """One table of the cache, for people: rows, bytes on disk and what made them."""

    name: str
    rows: int
    bytes: int
    description: str


class FeatureRows:
    """Chosen rows of a table as an (N, D) matrix that stays on disk: `rows[a:b]` and `rows[indices]` read.

    float32, or uint8 for pixels. Plain reads rather than a memory map: mapped pages would count as this process's memory.
    """

    ndim = 2

    def __init__(
        self, path: Path, rows_N: NDArray[np.int64], stored_width: int, width: int | None = None, dtype: np.dtype[Any] = FLOATS
    ) -> None:
        self._path, self._rows, self._stored = path, rows_N, stored_width
        self.dtype, self.shape = dtype, (len(rows_N), width or stored_width)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def leading(self, width: int) -> "FeatureRows":
        """The same rows, first `width` columns only."""
        return FeatureRows(self._path, self._rows, self._stored, width, self.dtype)

    def take(self, indices: NDArray[np.int64]) -> "FeatureRows":
        """A selection of the rows, not read yet."""
        return FeatureRows(self._path, self._rows[indices], self._stored, self.shape[1], self.dtype)

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[Any]:
        rows = self._rows[key]
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        if not len(rows):
            return out  # of a table that nothing was written to there is no file
        step = self._stored * self.dtype.itemsize
        with self._path.open("rb", buffering=0) as file:
            for start, stop in _runs(rows, max(1, _READ_BYTES // step)):
                first, extent = int(rows[start]), int(rows[stop - 1] - rows[start]) + 1
                straight = extent == stop - start and self.shape[1] == self._stored
                read: NDArray[Any] = out[start:stop] if straight else np.empty((extent, self._stored), self.dtype)
                file.seek(step * first)
                if file.readinto(read.data) != read.nbytes:
                    raise OSError(errno.EIO, "a table of features is shorter than its index says", str(self._path))
                if not straight:
                    out[start:stop] = read[rows[start:stop] - first, : self.shape[1]]
        return out

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:]


def _runs(rows_N: NDArray[np.int64], longest: int) -> Iterator[tuple[int, int]]:
    """Positions [start, stop) whose rows follow one another on disk, or nearly so: they lie within `longest` rows there."""
    step_N = np.diff(rows_N)
    breaks = np.flatnonzero((step_N < 1) | (step_N > _NEAR)) + 1
    for start, stop in zip([0, *breaks], [*breaks, len(rows_N)], strict=True):
        while start < stop:
            # Rows that ascend by one or more: the row `longest` further on disk is at most `longest` positions further.
            last = start + int(np.searchsorted(rows_N[start:stop], rows_N[start] + longest))
            yield start, last
            start = last


class Table:
    """One open table. Several processes may have it open; every method leaves it whole."""

    def __init__(self, folder: Path, width: int, dtype: np.dtype[Any] = FLOATS) -> None:
        self.folder, self.width, self.dtype = folder, width, dtype
        self._path, self._step = folder / _ROWS[dtype], width * dtype.itemsize
        self._index = sqlite3.connect(folder / _INDEX, timeout=60, isolation_level=None, check_same_thread=False)
        # One at a time: the threads that decode ask, and what is being written is not known before it is.
        self._lock, self._bad = threading.Lock(), dict[bytes, int]()
        self._index.execute("PRAGMA synchronous=NORMAL")
        self._index.execute("CREATE TABLE IF NOT EXISTS rows(digest BLOB PRIMARY KEY, row INTEGER, crc INTEGER) WITHOUT ROWID")

    @classmethod
    def open(cls, cache: Path, key: Mapping[str, object], width: int, dtype: np.dtype[Any] = FLOATS) -> "Table":
        """The table of `key`, made if there is none. `key` holds JSON values; all of them count, and so does the type."""
        kind = {} if dtype == FLOATS else {"dtype": dtype.name}
        text = json.dumps({**key, **kind, "format": FORMAT, "width": width}, sort_keys=True)
        folder = cache / "features" / hashlib.sha256(text.encode()).hexdigest()[:24]
        with _saying_out_of_space(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / _TABLE).exists():
                (folder / _TABLE).write_text(text)
            try:
                return cls(folder, width, dtype)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                # Not a database any more: what it indexed can be computed again.
                shutil.rmtree(folder)
                return cls.open(cache, key, width, dtype)

    def close(self) -> None:
        self._index.close()

    def lookup(self, *, check: bool = True) -> Known:
        """Digest -> row of what is in the table, as long as it is open. Rows that a crash left unwritten or torn are not there.

        Each is checked when it is asked for; `check=False` trusts them: for a table whose rows were checked before.
        """
        return Known(self._find, self._intact if check else None, self._every, self._bad)

    def _find(self, digest: bytes) -> tuple[int, int] | None:
        with self._lock:
            found: tuple[int, int] | None = self._index.execute(
                "SELECT row, crc FROM rows WHERE digest = ?", (digest,)
            ).fetchone()
        return found

    def _every(self) -> list[bytes]:
        with self._lock:
            return [digest for (digest,) in self._index.execute("SELECT digest FROM rows ORDER BY row")]

    def _intact(self, row: int, crc: int) -> bool:
        try:
            with self._path.open("rb") as file:
                data = os.pread(file.fileno(), self._step, self._step * row)
        except FileNotFoundError:
            return False
        return len(data) == self._step and zlib.crc32(data) == crc

    def append(self, digests: Sequence[bytes], features_ND: NDArray[Any]) -> list[int]:
        """Store rows and return where; an image that another process stored meanwhile keeps that row.

        Raises OutOfSpace when the disk is full; what was stored before stays usable.
        """
        features_ND = np.ascontiguousarray(features_ND, self.dtype)
        with self._lock, _saying_out_of_space(self.folder), self._writing():
            bad = [(digest, self._bad[digest]) for digest in digests if digest in self._bad]
            self._index.executemany("DELETE FROM rows WHERE digest = ? AND row = ?", bad)
            first = self._index.execute("SELECT COALESCE(MAX(row) + 1, 0) FROM rows").fetchone()[0]
            with self._path.open("ab") as file:
                file.truncate(self._step * first)
                file.write(features_ND.data)
            stored = self._index.executemany(
                "INSERT OR IGNORE INTO rows VALUES (?, ?, ?)",
                [(digest, first + i, zlib.crc32(features_ND[i])) for i, digest in enumerate(digests)],
            ).rowcount
        for digest, _ in bad:
            self._bad.pop(digest, None)
        if stored == len(digests):
            return list(range(first, first + stored))
        with self._lock:
            return [self._index.execute("SELECT row FROM rows WHERE digest = ?", (d,)).fetchone()[0] for d in digests]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._index.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._index.execute("ROLLBACK")
            raise
        self._index.execute("COMMIT")

    def rows(self, rows_N: Sequence[int] | NDArray[np.int64]) -> FeatureRows:
        """The features at `rows_N`, in that order, still on disk."""
        return FeatureRows(self._path, np.asarray(rows_N, np.int64), self.width, dtype=self.dtype)


@contextmanager
def _saying_out_of_space(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "full" in str(error)
        kind = OutOfSpace if full else NotWritable
        raise kind(
            expected=f"to keep features under {folder.parent}",
            got=str(error),
            fix="free some space (`regraft cache clear`)" if full else "choose a folder that may be written with --cache",
        ) from error


def list_tables(cache: Path) -> list[TableInfo]:
    """Every table of a cache folder, largest first."""
    found = [_describe(path.parent) for path in (cache / "features").glob(f"*/{_TABLE}")]
    return sorted(found, key=lambda info: (-info.bytes, info.name))


def _describe(folder: Path) -> TableInfo:
    size = sum(path.stat().st_size for path in folder.iterdir())
    try:
        key = json.loads((folder / _TABLE).read_text())
        with closing(sqlite3.connect(folder / _INDEX, timeout=60)) as index:
            known = index.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'rows'").fetchone()[0]
            rows = index.execute("SELECT COUNT(*) FROM rows").fetchone()[0] if known else 0
    except (ValueError, sqlite3.Error):
        return TableInfo(name=folder.name, rows=0, bytes=size, description="damaged: clear the cache to free its space")
    seen = key.get("preprocess", {})
    place = f" up to {key['boundary']}" if "boundary" in key else ""
    what = f"{key.get('backbone', '?')}{place} {seen.get('height', '?')}x{seen.get('width', '?')} {key.get('engine', '?')}"
    return TableInfo(name=folder.name, rows=rows, bytes=size, description=what)


def clear(cache: Path) -> int:
    """Remove everything regraft keeps in a cache folder; returns the bytes freed. Other files in it stay."""
    freed = 0
    for name in ("features", "engines", "heads", "found", "datasets", "arrays"):
        folder = cache / name
        if folder.is_dir() and not folder.is_symlink():
            freed += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            shutil.rmtree(folder)
    return freed
