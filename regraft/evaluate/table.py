"""Predictions as a Parquet table: whoever has it can recompute every score without torch, the network or the images.

One row per image: `path` (its name), `part`, `label`, `predicted` (lists for multi-label data), `confidence`, `correct` and
`logits` (a fixed-size list, in their own precision, so that recomputed scores are equal); where images belong to groups also
`group`. Classes are in the schema's metadata.
pyarrow is imported where it is used: scores alone should not wait for it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import SavedModelRefused, UsageError
from regraft.evaluate.mistakes import labels
from regraft.evaluate.probability import confidences, decisions, right
from regraft.replacing import replacing
from regraft.values import Predictions

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"regraft"
FORMAT = 1


def write_predictions(path: Path, parts: Mapping[str, Predictions]) -> None:
    """Write all parts ("test", "cross-validation") to one table, to a temporary name that is then renamed.

    Names that are not Unicode (undecodable file names) are written with backslash escapes. Raises OutOfSpace or UsageError
    where the file cannot be written, ValueError where parts differ in classes or kind, or there is none.
    """
    import pyarrow.parquet as pq

    table = _to_table(parts)
    with replacing(path) as temporary:
        # Absolute: pyarrow takes a relative path with a colon for a URL.
        pq.write_table(table, temporary.absolute(), compression="zstd")


def read_predictions(path: Path) -> dict[str, Predictions]:
    """The parts of a table that `write_predictions` wrote, equal to what was written.

    Raises UsageError where there is no such file, SavedModelRefused where it is damaged or another table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UsageError(expected="a table of predictions", got=f"no file {path}", fix="give the predictions.parquet of a run")
    try:
        table = pq.read_table(path.absolute())
        described = json.loads((table.schema.metadata or {})[METADATA_KEY])
        if described["format"] != FORMAT:
            raise ValueError(f"format {described['format']}")
        return {part: _from_table(table, described, part) for part in described["parts"]}
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, IndexError) as error:
        raise SavedModelRefused(
            expected="a table of predictions written by regraft fit",
            got=f"{path}: {type(error).__name__} {str(error)[:200]}",
            fix="give the predictions.parquet of a run, or fit again to write a new one",
        ) from error


def _to_table(parts: Mapping[str, Predictions]) -> "pa.Table":
    import pyarrow as pa

    kinds = {(part.classes, part.multi_label) for part in parts.values()}
    if len(kinds) != 1:
        raise ValueError(f"expected parts of one kind with the same classes, got {len(kinds)} kinds")
    ((classes, multi_label),) = kinds
    described = {
        "format": FORMAT,
        "classes": classes,
        "multi_label": multi_label,
        "parts": {
            name: {
                "dtype": str(part.logits_NK.dtype),
                "labelled": part.targets is not None,
                **({"grouped": True} if part.groups is not None else {}),
            }
            for name, part in parts.items()
        },
    }
    tables = [pa.table(_columns(name, part)) for name, part in parts.items()]
    joined = pa.concat_tables(tables, promote_options="permissive")
    return joined.replace_schema_metadata({METADATA_KEY: json.dumps(described)})


def _columns(part: str, predictions: Predictions) -> dict[str, "pa.Array"]:
    import pyarrow as pa

    n, width = predictions.logits_NK.shape
    answers, truth = decisions(predictions), predictions.targets
    label_type = pa.list_(pa.string()) if predictions.multi_label else pa.string()
    flat = pa.array(np.ascontiguousarray(predictions.logits_NK).ravel())
    columns = {
        "path": pa.array(_unicode(predictions.names), pa.string()),
        "part": pa.array([part] * n, pa.string()),
        "label": pa.array([None] * n if truth is None else _named(predictions, truth), label_type),
        "predicted": pa.array(_named(predictions, answers), label_type),
        "confidence": pa.array(confidences(predictions), pa.float64()),
        "correct": pa.array([None] * n if truth is None else right(truth, answers), pa.bool_()),
        "logits": pa.FixedSizeListArray.from_arrays(flat, width),
    }
    return columns if predictions.groups is None else columns | {"group": pa.array(_unicode(predictions.groups), pa.string())}


def _unicode(names: tuple[str, ...]) -> list[str]:
    return [name.encode("utf-8", "backslashreplace").decode() for name in names]


def _named(predictions: Predictions, targets: Any) -> list[Any]:
    if predictions.multi_label:
        return [list(labels(predictions.classes, target)) for target in targets]
    return [predictions.classes[target] for target in targets]


def _from_table(table: "pa.Table", described: dict[str, Any], part: str) -> Predictions:
    import pyarrow.compute as pc

    rows, how = table.filter(pc.equal(table["part"], part)), described["parts"][part]
    classes, multi_label = tuple(described["classes"]), bool(described["multi_label"])
    logits_NK = rows["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(rows), len(classes))
    return Predictions(
        names=tuple(rows["path"].to_pylist()),
        classes=classes,
        logits_NK=logits_NK.astype(np.dtype(how["dtype"])),
        targets=_targets(rows["label"].to_pylist(), classes, multi_label) if how["labelled"] else None,
        multi_label=multi_label,
        groups=tuple(rows["group"].to_pylist()) if how.get("grouped") else None,
    )


def _targets(named: list[Any], classes: tuple[str, ...], multi_label: bool) -> Any:
    index = {name: k for k, name in enumerate(classes)}
    if not multi_label:
        return np.array([index[name] for name in named], dtype=np.int64)
    targets_NK = np.zeros((len(named), len(classes)), dtype=np.bool_)
    for row, names in enumerate(named):
        targets_NK[row, [index[name] for name in names]] = True
    return targets_NK
