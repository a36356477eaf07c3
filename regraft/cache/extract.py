"""The one pass: every image that is not in the cache is decoded once and goes through the frozen network once."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.backbone.features import Columns, Features, FromPixels
from regraft.backbone.model import Backbone
from regraft.cache.choose import Chosen, choose_engine
from regraft.cache.engines import Network, pick_device
from regraft.cache.store import FeatureRows, Table
from regraft.cache.stream import Row, batch_on, load_images, run_images
from regraft.data.preprocess import Preprocess
from regraft.errors import TooManyUnreadable
from regraft.progress import Progress, Silent
from regraft.values import EngineTiming, Rejected, Sample

_WRITE_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """Features of the images that could be read.

    `features` is (M, D), still on disk, in `table`; `kept_M` are the positions of its rows among the samples, `digests` the
    SHA-256 of their files; `columns` says what stands where. `hits` were in the cache, `misses` were decoded. `seconds` is
    the whole pass, choosing the engine included.
    """

    features: FeatureRows
    table: str
    kept_M: NDArray[np.int64]
    digests: tuple[bytes, ...]
    columns: Columns
    rejected: tuple[Rejected, ...]
    engine: str
    engines: tuple[EngineTiming, ...]
    hits: int
    misses: int
    seconds: float


def extract_features(
    samples: Sequence[Sample],
    backbone: Backbone,
    taps: Sequence[str],
    *,
    cache: Path,
    device: str = "auto",
    most_rejected: int | None = None,
    progress: Progress = Silent(),
) -> Extracted:
    """Features of every sample, from the cache or from one pass through the network.

    Images that turn out unreadable are in `rejected`. Raises TooManyUnreadable as soon as there are more than
    `most_rejected`, OutOfSpace when the cache cannot be written; what was computed before stays in the cache.
    """
    start = time.perf_counter()
    features = Features(backbone, taps)
    network = network_of(backbone, features, cache)
    where = pick_device(device)
    chosen = choose_engine(network, samples, backbone.preprocess, where, progress)
    with closing(Table.open(cache, _key(backbone, features.columns, chosen.name), features.columns.width)) as table:
        rows, digests, misses = _run(samples, table, chosen, backbone.preprocess, where, most_rejected, progress)
    stored = [row for row in rows if isinstance(row, int)]
    return Extracted(
        features=table.rows(stored),
        table=table.folder.name,
        kept_M=np.array([i for i, row in enumerate(rows) if isinstance(row, int)], np.int64),
        digests=tuple(digests),
        columns=features.columns,
        rejected=tuple(row for row in rows if isinstance(row, Rejected)),
        engine=chosen.name,
        engines=chosen.timings,
        hits=len(stored) - misses,
        misses=misses,
        seconds=time.perf_counter() - start,
    )


def network_of(backbone: Backbone, features: Features, cache: Path | None) -> Network:
    """The frozen part from raw pixels on, ready to be given to an engine."""
    key = f"{backbone.weights_digest} {features.columns} {backbone.preprocess}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    return Network(FromPixels(features, backbone.preprocess).eval(), digest, cache, features.columns.last_width)


def _key(backbone: Backbone, columns: Columns, engine: str) -> dict[str, object]:
    """Everything that decides what a row of features is, beside the image."""
    return {
        "backbone": backbone.name,
        "weights": backbone.weights_digest,
        "preprocess": asdict(backbone.preprocess),
        "taps": list(columns.taps),
        "engine": engine,
    }


def _run(
    samples: Sequence[Sample],
    table: Table,
    chosen: Chosen,
    preprocess: Preprocess,
    device: str,
    most_rejected: int | None,
    progress: Progress,
) -> tuple[list[int | Rejected], list[bytes], int]:
    """For each sample its row in the table or why it has none; digests of those with one; how many were new."""
    known = table.lookup()
    results: list[int | Rejected] = []
    fresh: list[tuple[int, Row]] = []
    rejected: list[Rejected] = []
    digests: list[bytes] = []
    images = load_images(((s.path, s.name) for s in samples), preprocess, known, chosen.ready)
    misses = 0

    def flush() -> None:
        features_ND = np.stack([row.features for _, row in fresh if row.features is not None])
        rows = table.append([row.digest for _, row in fresh], features_ND)
        for (position, _), stored in zip(fresh, rows, strict=True):
            results[position] = stored
        fresh.clear()

    with progress.task("features", len(samples), "image") as task:
        for position, item in enumerate(run_images(images, chosen.make, batch_on(device))):
            results.append(-1)
            if isinstance(item, Rejected):
                rejected.append(item)
                results[position] = item
                _stop_if_too_many(rejected, most_rejected)
            else:
                digests.append(item.digest)
                if item.features is None:
                    results[position] = known[item.digest]
                else:
                    fresh.append((position, item))
                    misses += 1
            if len(fresh) >= _WRITE_ROWS:
                flush()
            task.advance()
        if fresh:
            flush()
    return results, digests, misses


def _stop_if_too_many(rejected: Sequence[Rejected], most: int | None) -> None:
    if most is None or len(rejected) <= most:
        return
    first = "; ".join(f"{item.name} ({item.reason})" for item in rejected[:5])
    raise TooManyUnreadable(
        expected=f"at most {most} more unreadable images",
        got=f"{len(rejected)} that broke while being decoded, among them {first}",
        fix="repair or remove them, or go on without them with --skip-bad",
    )
