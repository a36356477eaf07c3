"""Which images a run was fitted on and judged by, as a Parquet table: what is needed to go on without them.

One row per image: `path` (its name), `part` ("train" or "test"), `labels`, `group` (null without one) and `digest`, the
SHA-256 of the file, by which its features are found in the cache. The schema's metadata names the table of features there, and
the engine that made it. pyarrow is imported where it is used.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from regraft.errors import SavedModelRefused, UsageError
from regraft.evaluate.table import METADATA_KEY
from regraft.replacing import replacing
from regraft.values import Sample

if TYPE_CHECKING:
    import pyarrow as pa

IMAGES_FILE: Final = "images.parquet"
FORMAT: Final = 1
_MOST_BYTES = 2 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptImages:
    """The images of a run: training images, then test images, `digests` in the same order.

    `table` names their features in the cache, `engine` what computed them. The paths of samples that were read back are no more
    than their names.
    """

    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    digests: tuple[bytes, ...]
    table: str
    engine: str


def write_images(folder: Path, kept: KeptImages) -> None:
    """Write the table to a run's folder, to a temporary name that is then renamed.

    Raises OutOfSpace or UsageError where the file cannot be written.
    """
    import pyarrow.parquet as pq

    with replacing(folder / IMAGES_FILE) as temporary:
        pq.write_table(_to_table(kept), temporary.absolute(), compression="zstd")


def read_images(folder: Path) -> KeptImages:
    """The table of a run. Raises UsageError where there is none, SavedModelRefused where it is damaged or another table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / IMAGES_FILE
    if not path.is_file():
        raise UsageError(
            expected=f"a run with the list of its images, {IMAGES_FILE}",
            got=f"{folder} without it",
            fix="fit again: earlier versions did not write it",
        )
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        table = pq.read_table(path.absolute())
        described = json.loads((table.schema.metadata or {})[METADATA_KEY])
        if described["format"] != FORMAT:
            raise ValueError(f"format {described['format']}")
        columns = [table[name].to_pylist() for name in ("path", "labels", "part", "group", "digest")]
        rows = [
            (Sample(path=Path(path), name=path, labels=tuple(labels), part=part, group=group), digest)
            for path, labels, part, group, digest in zip(*columns, strict=True)
        ]
        train, test = ([sample for sample, _ in rows if sample.part == part] for part in ("train", "test"))
        in_order = [digest for part in ("train", "test") for sample, digest in rows if sample.part == part]
        if len(in_order) != len(rows) or any(len(digest) != 32 for digest in in_order):
            raise ValueError("rows of another kind")
        return KeptImages(
            train=tuple(train),
            test=tuple(test),
            digests=tuple(in_order),
            table=str(described["table"]),
            engine=str(described["engine"]),
        )
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise SavedModelRefused(
            expected=f"{IMAGES_FILE} as regraft fit writes it",
            got=f"{path}: {type(error).__name__} {str(error)[:200]}",
            fix="fit again to write a new one",
        ) from error


def _to_table(kept: KeptImages) -> "pa.Table":
    import pyarrow as pa

    samples = (*kept.train, *kept.test)
    described = {"format": FORMAT, "table": kept.table, "engine": kept.engine}
    columns = {
        "path": pa.array([_as_text(sample.name) for sample in samples], pa.string()),
        "part": pa.array(_parts(kept.train, kept.test), pa.string()),
        "labels": pa.array([list(sample.labels) for sample in samples], pa.list_(pa.string())),
        "group": pa.array([None if s.group is None else _as_text(s.group) for s in samples], pa.string()),
        "digest": pa.array(kept.digests, pa.binary(32)),
    }
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(described)})


def _parts(train: Sequence[Sample], test: Sequence[Sample]) -> list[str]:
    return ["train"] * len(train) + ["test"] * len(test)


def _as_text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
