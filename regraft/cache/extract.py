"""The one pass: every image that is not in the cache is decoded once and goes through the frozen part once."""

import hashlib
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.backbone.boundary import prefix_of
from regraft.backbone.features import Columns, Features, FromPixels, pooled
from regraft.backbone.model import Backbone, Boundary
from regraft.cache.choose import Chosen, choose_engine, named_engine
from regraft.cache.engines import Network, Pixels, pick_device
from regraft.cache.store import BYTES, FLOATS, HALVES, FeatureRows, Table
from regraft.cache.stream import Loaded, Row, batch_on, load_images, run_images
from regraft.data.look import LOOK
from regraft.data.look import VERSION as LOOK_VERSION
from regraft.data.preprocess import Preprocess
from regraft.errors import DataUnusable, TooManyUnreadable, UsageError
from regraft.progress import Progress, Silent
from regraft.ranks import here
from regraft.values import EngineTiming, Pooling, Rejected, Sample

# Rows are written together, until they are so many or take so many bytes.
_WRITE_ROWS, _WRITE_BYTES = 256, 64 << 20
_LOOKS = {"backbone": "looks", "engine": f"version {LOOK_VERSION}"}
# What decides the pixels that a network gets; its mean and deviation come after them.
_OF_PIXELS = ("height", "width", "fit", "crop_share", "interpolation", "background")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """Features of the images that could be read.

    `features` is (M, D), still on disk, in `table`; `looks` are the bytes of each image's look (`data.look`), where they were
    wanted; `kept_M` are the positions of its rows among the samples, `digests` the
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
    looks: FeatureRows | None = None

    def reordered(self, order: NDArray[np.int64]) -> "Extracted":
        """The same for the samples in another order: `order` gives for each its position in this one's."""
        row_of = {int(position): row for row, position in enumerate(self.kept_M)}
        kept = np.array([new for new, old in enumerate(order) if int(old) in row_of], np.int64)
        rows = np.array([row_of[int(order[new])] for new in kept], np.int64)
        return replace(
            self,
            features=self.features.take(rows),
            looks=None if self.looks is None else self.looks.take(rows),
            kept_M=kept,
            digests=tuple(self.digests[row] for row in rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """What crosses a boundary for each of N images, still on disk: `rows` (N, D), values of `shapes` (without N) in a row.

    Pixels are uint8 (H, W, C); all other values float32, some of them kept as bfloat16.
    """

    rows: FeatureRows
    shapes: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: NDArray[np.int64]) -> "Activations":
        """Those of some of the images, not read yet."""
        return Activations(rows=self.rows.take(indices), shapes=self.shapes)

    def __getitem__(self, indices: NDArray[np.int64]) -> tuple[Tensor, ...]:
        """The values of some of the images, read: one tensor (n, ...) for each shape."""
        rows_ND = torch.from_numpy(self.rows[indices])
        if self.rows.dtype == HALVES:
            rows_ND = rows_ND.view(torch.bfloat16).float()
        parts = torch.split(rows_ND, [math.prod(shape) for shape in self.shapes], dim=1)
        return tuple(part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True))


def extract_features(
    samples: Sequence[Sample],
    backbone: Backbone,
    taps: Sequence[str],
    *,
    cache: Path,
    device: str = "auto",
    most_rejected: int | None = None,
    with_looks: bool = False,
    engine: str | None = None,
    progress: Progress = Silent(),
) -> Extracted:
    """Features of every sample, and its look where they are wanted, from the cache or from one pass through the network.

    `engine` names the one to use; None: the fastest that agrees. Images that turn out unreadable are in `rejected`. Raises
    UsageError where this machine has no such engine, TooManyUnreadable as soon as there are more than `most_rejected`,
    OutOfSpace when the cache cannot be written; what was computed before stays in the cache.
    """
    start = time.perf_counter()
    features = Features(backbone, taps)
    network = network_of(backbone, features, cache)
    where = pick_device(device)
    if engine is None:
        chosen = choose_engine(network, samples, backbone.preprocess, where, progress)
    else:
        chosen = named_engine(network, backbone.preprocess, where, engine)
    with (
        closing(_opened(cache, _key(backbone, features.columns, chosen.name), features.columns.width)) as table,
        closing(here().first_then(lambda: looks_table(cache))) as seen,
    ):
        looks = _Looks(seen) if with_looks else None
        results, digests, misses = _run_shares(
            samples, table, chosen, backbone.preprocess, where, most_rejected, progress, looks
        )
        looks_MB = looks.rows(digests) if looks else None
    stored = [row for row in results if isinstance(row, int)]
    return Extracted(
        features=table.rows(stored),
        table=table.folder.name,
        kept_M=np.array([i for i, row in enumerate(results) if isinstance(row, int)], np.int64),
        digests=tuple(digests),
        columns=features.columns,
        rejected=tuple(row for row in results if isinstance(row, Rejected)),
        engine=chosen.name,
        engines=chosen.timings,
        hits=len(stored) - misses,
        misses=misses,
        seconds=time.perf_counter() - start,
        looks=looks_MB,
    )


def extract_pixels(
    samples: Sequence[Sample],
    preprocess: Preprocess,
    *,
    cache: Path,
    device: str = "auto",
    most_rejected: int | None = None,
    progress: Progress = Silent(),
) -> Extracted:
    """What `extract_features` gives, looks included, with the decoded pixels (height, width, C) uint8 in place of features."""
    start, where = time.perf_counter(), pick_device(device)
    width = preprocess.height * preprocess.width * preprocess.channels
    with (
        closing(_opened(cache, _pixels_key(preprocess), width, BYTES)) as table,
        closing(here().first_then(lambda: looks_table(cache))) as seen,
    ):
        looks = _Looks(seen)
        results, digests, misses = _run_shares(samples, table, _DECODED, preprocess, where, most_rejected, progress, looks)
        looks_MB = looks.rows(digests)
    stored = [row for row in results if isinstance(row, int)]
    return Extracted(
        features=table.rows(stored),
        table=table.folder.name,
        kept_M=np.array([i for i, row in enumerate(results) if isinstance(row, int)], np.int64),
        digests=tuple(digests),
        columns=Columns((), width, width, (width,)),
        rejected=tuple(row for row in results if isinstance(row, Rejected)),
        engine=_DECODED.name,
        engines=(),
        hits=len(stored) - misses,
        misses=misses,
        seconds=time.perf_counter() - start,
        looks=looks_MB,
    )


def extract_boundary(
    samples: Sequence[Sample],
    digests: Sequence[bytes],
    backbone: Backbone,
    boundary: Boundary,
    *,
    cache: Path,
    device: str = "auto",
    progress: Progress = Silent(),
) -> Activations:
    """What crosses `boundary` for every sample, from the cache or from one pass through the part before it.

    `digests` are those of the files when they were read before: raises DataUnusable where one has changed, TooManyUnreadable
    where one cannot be read any more, OutOfSpace as `extract_features` does. Of several ranks each makes the rows of its own
    images, in one table; all have to call this.
    """
    preprocess, where = backbone.preprocess, pick_device(device)
    if boundary.nodes:
        network = network_up_to(backbone, boundary, cache)
        chosen = choose_engine(network, samples, preprocess, where, progress)
        shapes, key = boundary.shapes, boundary_key(backbone, boundary, chosen.name)
    else:
        chosen = _DECODED
        shapes, key = ((preprocess.height, preprocess.width, preprocess.channels),), _pixels_key(preprocess)
    width = sum(math.prod(shape) for shape in shapes)
    with closing(_opened(cache, key, width, FLOATS if boundary.nodes else BYTES)) as table:
        results, now, _ = _run_shares(samples, table, chosen, preprocess, where, 0, progress)
    changed = [sample.name for sample, one, other in zip(samples, digests, now, strict=True) if one != other]
    if changed:
        raise DataUnusable(
            expected="images that stay as they are while they are worked with",
            got=f"changed meanwhile: {', '.join(changed[:5])}",
            fix="run the same command again",
        )
    return Activations(rows=table.rows([row for row in results if isinstance(row, int)]), shapes=shapes)


class _AsTheyAre:
    """The engine of the empty prefix: decoded pixels, each image a row."""

    name = "decoded"

    def stream(self, batches: Iterator[Pixels]) -> Iterator[NDArray[Any]]:
        for pixels in batches:
            yield pixels.reshape(len(pixels), -1)


_DECODED = Chosen("decoded", _AsTheyAre, (), {})


class _SideBySide(nn.Module):
    """The first `plain` values that a prefix gives, flattened, and the others pooled: one row per image."""

    def __init__(self, prefix: nn.Module, plain: int, pooling: Pooling) -> None:
        super().__init__()
        self.prefix, self._plain, self._pooling = prefix, plain, pooling

    def forward(self, images: Tensor) -> Tensor:
        values = cast(tuple[Tensor, ...], self.prefix(images))
        flattened = [value.flatten(1) for value in values[: self._plain]]
        return torch.cat([*flattened, *(pooled(value, self._pooling) for value in values[self._plain :])], dim=1)


def network_up_to(backbone: Backbone, boundary: Boundary, cache: Path, beside: Sequence[str] = ()) -> Network:
    """The part before a boundary from raw pixels on, its values side by side, ready to be given to an engine.

    After them come the pooled maps of the stages `beside`, which end before the boundary.
    """
    words = f"{backbone.weights_digest} up to {boundary} {backbone.preprocess}" + (
        f" beside {beside} {backbone.pooling}" if beside else ""
    )
    digest = hashlib.sha256(words.encode()).hexdigest()
    nodes = [stage.node for stage in backbone.stages if stage.name in beside]
    both = replace(boundary, nodes=(*boundary.nodes, *nodes)) if nodes else boundary
    prefix = _SideBySide(prefix_of(backbone, both), len(boundary.nodes), backbone.pooling)
    return Network(FromPixels(prefix, backbone.preprocess).eval(), digest, cache)


def _pixels_key(preprocess: Preprocess) -> Mapping[str, object]:
    # Grey, RGB and RGBA are told apart by the width of a row.
    seen = {name: getattr(preprocess, name) for name in _OF_PIXELS}
    return {"backbone": "pixels", "preprocess": seen, "engine": "decoded"}


def boundary_key(backbone: Backbone, boundary: Boundary, engine: str) -> Mapping[str, object]:
    """Everything that decides what crosses a boundary, beside the pixels."""
    return {
        "backbone": backbone.name,
        "weights": backbone.weights_digest,
        "preprocess": asdict(backbone.preprocess),
        "boundary": boundary.name,
        "nodes": list(boundary.nodes),
        "engine": engine,
    }


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
        "pooling": backbone.pooling,
        "engine": engine,
    }


def _opened(cache: Path, key: Mapping[str, object], width: int, dtype: np.dtype[Any] = FLOATS) -> Table:
    table = here().first_then(lambda: Table.open(cache, key, width, dtype))
    _check_same(table)
    return table


def _check_same(table: Table) -> None:
    """Raise UsageError, on all ranks, where they would not write to the same table: its name says all that makes a row."""
    if len(set(here().each(table.folder.name))) > 1:
        error = UsageError(
            expected="the same network in every process, as rows of one are read by all",
            got="networks of different weights or preparation",
            fix="load its weights from a file, or draw them after torch.manual_seed",
        )
        error.of_all = True
        raise error


def _run_shares(
    samples: Sequence[Sample],
    table: Table,
    chosen: Chosen,
    preprocess: Preprocess,
    device: str,
    most_rejected: int | None,
    progress: Progress,
    looks: "_Looks | None" = None,
) -> tuple[list[int | Rejected], list[bytes], int]:
    """What `_run` gives, for all samples, on every rank: each works on its share, and writes into the same table.

    A rank that finds too many unreadable images by itself stops at once; all of them are counted at the end.
    """
    ranks = here()
    if ranks.alone:
        return _run(samples, table, chosen, preprocess, device, most_rejected, progress, looks)
    own = [samples[i] for i in ranks.mine(len(samples))]
    parts = ranks.each(_run(own, table, chosen, preprocess, device, most_rejected, progress, looks))
    results: list[int | Rejected] = [-1] * len(samples)
    for rank, (found, _, _) in enumerate(parts):
        results[rank :: ranks.size] = found
    rejected = [result for result in results if isinstance(result, Rejected)]
    ranks.shared(lambda: _stop_if_too_many(rejected, most_rejected))
    read = [iter(digests) for _, digests, _ in parts]
    in_order = [next(read[i % ranks.size]) for i, result in enumerate(results) if not isinstance(result, Rejected)]
    return results, in_order, sum(misses for _, _, misses in parts)


def _run(
    samples: Sequence[Sample],
    table: Table,
    chosen: Chosen,
    preprocess: Preprocess,
    device: str,
    most_rejected: int | None,
    progress: Progress,
    looks: "_Looks | None" = None,
) -> tuple[list[int | Rejected], list[bytes], int]:
    """For each sample its row in the table or why it has none; digests of those with one; how many were new."""
    known = table.lookup()
    results: list[int | Rejected] = []
    fresh: list[tuple[int, Row]] = []
    rejected: list[Rejected] = []
    digests: list[bytes] = []
    items = ((s.path, s.name) for s in samples)
    images = load_images(items, preprocess, known, chosen.ready, looks.known if looks else None)
    if looks:
        images = looks.noting(images)
    misses, most_held = 0, max(1, min(_WRITE_ROWS, _WRITE_BYTES // (table.width * table.dtype.itemsize)))

    def flush() -> None:
        features_ND: NDArray[Any] = np.stack([row.features for _, row in fresh if row.features is not None])
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
            if len(fresh) >= most_held:
                flush()
            task.advance()
        if fresh:
            flush()
    return results, digests, misses


def looks_table(cache: Path) -> Table:
    """The table of the looks of images; `data.look.LOOK` as bytes."""
    return Table.open(cache, _LOOKS, LOOK.itemsize, BYTES)


class _Looks:
    """The looks of images as they come by, kept in a table."""

    def __init__(self, table: Table) -> None:
        self.table, self.known = table, table.lookup()

    def noting(self, images: Iterator[Loaded | Rejected]) -> Iterator[Loaded | Rejected]:
        """The same images; the looks that they bring along are written down."""
        fresh: dict[bytes, NDArray[np.void]] = {}
        with closing(cast(Generator[Loaded | Rejected], images)):
            for item in images:
                if isinstance(item, Loaded) and item.look is not None and item.digest not in self.known:
                    fresh[item.digest] = item.look
                if len(fresh) == _WRITE_ROWS:
                    self._write(fresh)
                yield item
        self._write(fresh)

    def _write(self, fresh: dict[bytes, NDArray[np.void]]) -> None:
        if fresh:
            self.table.append(list(fresh), np.stack([np.frombuffer(look.tobytes(), np.uint8) for look in fresh.values()]))
            fresh.clear()

    def rows(self, digests: Sequence[bytes]) -> FeatureRows:
        """The looks of these images, still on disk."""
        stored = self.table.lookup(check=False)
        return self.table.rows([stored[digest] for digest in digests])


def _stop_if_too_many(rejected: Sequence[Rejected], most: int | None) -> None:
    if most is None or len(rejected) <= most:
        return
    first = "; ".join(f"{item.name} ({item.reason})" for item in rejected[:5])
    raise TooManyUnreadable(
        expected=f"at most {most} more unreadable images",
        got=f"{len(rejected)} that broke while being decoded, among them {first}",
        fix="repair or remove them, or go on without them with --skip-bad",
    )
