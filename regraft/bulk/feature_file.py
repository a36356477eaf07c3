"""Features as a Parquet table: written group after group under another name, which becomes its own when all rows are there."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.errors import NotWritable, OutOfSpace, OutputExists, UsageError
from regraft.rows import as_utf8
from regraft.values import Sample

if TYPE_CHECKING:
    import pyarrow as pa

Labels = Literal["none", "one", "several"]
ABOUT = b"regraft"
# Rows in memory at a time, and the size of the file's row groups: as many as fit into so many bytes.
_GROUP_BYTES, _FEWEST, _MOST = 32 * 2**20, 256, 16_384


def check_out(path: Path, *, overwrite: bool) -> None:
    """Before any work: raises OutputExists where a file would be lost, UsageError where none can be."""
    if path.suffix.lower() not in (".parquet", ".pq"):
        raise UsageError(expected="--out to end in .parquet", got=str(path), fix=f"--out {path.with_suffix('.parquet')}")
    if path.is_dir():
        raise OutputExists(expected="a file name for --out", got=f"{path}: a folder", fix=f"--out {path}/features.parquet")
    if not path.parent.is_dir():
        raise UsageError(expected=f"a folder {path.parent}", got="there is none", fix=f"make it first: mkdir -p {path.parent}")
    if path.exists() and not overwrite:
        raise OutputExists(
            expected=f"no file {path} yet", got=f"{path}: there already", fix="--overwrite replaces it; or give another --out"
        )


def rows_in_group(width: int) -> int:
    """How many rows of so many columns are written together."""
    return min(_MOST, max(_FEWEST, _GROUP_BYTES // (4 * width)))


class FeatureFile:
    """A table with the columns name, path, label or labels where there are any, error, and features (`width` float32).

    A context manager: leaving it whole gives the file its name, leaving it by an error leaves nothing. `about` is kept as JSON
    in the metadata of the file, under "regraft".
    """

    def __init__(self, path: Path, width: int, labels: Labels, about: Mapping[str, Any]) -> None:
        """Open the file under its temporary name. Raises OutOfSpace, NotWritable."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path, self.rows, self.failed = path, 0, 0
        self._width, self._labels = width, labels
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._schema = _schema(width, labels, about)
        texts = [field.name for field in self._schema if field.name != "features"]
        try:
            # Numbers of a network repeat so rarely that a dictionary of them would only be given up.
            self._writer: Any = pq.ParquetWriter(
                self._temporary.absolute(), self._schema, compression="zstd", use_dictionary=texts
            )
        except OSError as error:
            raise _failure(path, error) from error
        self._pa = pa

    def __enter__(self) -> "FeatureFile":
        return self

    def write(self, samples: Sequence[Sample], errors: Sequence[str | None], features_MD: NDArray[np.float32]) -> None:
        """One group of rows: `features_MD` are those of the images without an error, in order. Raises OutOfSpace."""
        try:
            self._writer.write_table(self._table(samples, errors, features_MD))
        except OSError as error:
            raise _failure(self.path, error) from error
        self.rows += len(samples)
        self.failed += sum(error is not None for error in errors)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._writer.close()
            if error is None:
                with self._temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                self._temporary.replace(self.path)
        except OSError as failed:
            if error is None:
                raise _failure(self.path, failed) from failed
        finally:
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def _table(self, samples: Sequence[Sample], errors: Sequence[str | None], features_MD: NDArray[np.float32]) -> "pa.Table":
        good_N = np.array([error is None for error in errors], np.bool_)
        features_ND = np.zeros((len(samples), self._width), np.float32)
        features_ND[good_N] = features_MD
        cells: dict[str, Any] = {
            "name": [as_utf8(sample.name) for sample in samples],
            "path": [as_utf8(str(sample.path)) for sample in samples],
        }
        if self._labels == "one":
            cells["label"] = [sample.labels[0] if sample.labels else None for sample in samples]
        elif self._labels == "several":
            cells["labels"] = [list(sample.labels) for sample in samples]
        cells["error"] = [None if error is None else as_utf8(error) for error in errors]
        cells["features"] = self._pa.FixedSizeListArray.from_arrays(
            self._pa.array(features_ND.reshape(-1)), self._width, mask=self._pa.array(~good_N)
        )
        return self._pa.table(cells, schema=self._schema)


def read_about(path: Path) -> dict[str, Any]:
    """What a file of features says of itself."""
    import pyarrow.parquet as pq

    return dict(json.loads(pq.read_schema(path.absolute()).metadata[ABOUT]))


def read_features(path: Path) -> NDArray[np.float32]:
    """The features (N, D) of such a file, NaN for images without any."""
    import pyarrow.parquet as pq

    column = pq.read_table(path.absolute(), columns=["features"]).column("features")
    features_ND = np.full((len(column), column.type.list_size), np.nan, np.float32)
    start = 0
    for chunk in column.chunks:
        rows_D = features_ND[start : start + len(chunk)]
        rows_D[chunk.is_valid().to_numpy(zero_copy_only=False)] = chunk.flatten().to_numpy().reshape(-1, rows_D.shape[1])
        start += len(chunk)
    return features_ND


def _schema(width: int, labels: Labels, about: Mapping[str, Any]) -> "pa.Schema":
    import pyarrow as pa

    label = {
        "none": [],
        "one": [pa.field("label", pa.string())],
        "several": [pa.field("labels", pa.list_(pa.string()))],
    }[labels]
    fields = [pa.field("name", pa.string()), pa.field("path", pa.string()), *label, pa.field("error", pa.string())]
    features = pa.field("features", pa.list_(pa.float32(), width))
    return pa.schema([*fields, features], metadata={ABOUT: json.dumps(about).encode()})


def _failure(path: Path, error: OSError) -> OutOfSpace:
    full = "space" in str(error).lower() or "too large" in str(error).lower() or "quota" in str(error).lower()
    kind = OutOfSpace if full else NotWritable
    fix = "free some space, or write to another place" if full else "check the permissions, or write to another place"
    return kind(expected=f"to write {path}", got=str(error), fix=fix)
