"""Augmented views of every image, through the frozen part once and kept: what the last stages are trained on.

Each view of an image follows from the run's seed, the view's number and the image's own content, so that a view that is in the
cache is the one that would be computed. View 0 is the image as it is. The others are kept as bfloat16:
docs/measurements.md#views
"""

import math
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.backbone.features import Features
from regraft.backbone.model import Backbone, Boundary
from regraft.cache.choose import Chosen, choose_engine
from regraft.cache.engines import Engine, Pixels, pick_device
from regraft.cache.extract import Activations, boundary_key, network_up_to
from regraft.cache.store import FLOATS, HALVES, FeatureRows, Table
from regraft.cache.stream import batch_on
from regraft.data.augment import Augmentation, augmentation
from regraft.errors import OutOfSpace
from regraft.progress import Progress, Silent
from regraft.ranks import here
from regraft.strategies import Augment
from regraft.values import Sample

_WRITE_BYTES = 64 << 20
_PURPOSE = 6  # keeps these draws apart from those of the training loop


class Views:
    """The views of N images at a boundary, V of them, each computed when it is first asked for.

    An epoch shows each image in one of its views: so the first V epochs have one pass through the frozen part each, and no
    image that is only judged ever has a view but the plain one. One process at a time may use one of these.
    """

    def __init__(self, source: "_Source", count: int) -> None:
        self._source = source
        # Where in its table each image's row is; -1: not looked for yet.
        self._rows = [np.full(len(source.digests), -1, np.int64) for _ in range(count)]

    def __len__(self) -> int:
        return len(self._rows)

    def ensure(self, rows: NDArray[np.int64], which: NDArray[np.int64] | None, progress: Progress = Silent()) -> None:
        """Have some images in the view that `which` says for each (None: the plain one), from the cache or computed now.

        Raises OutOfSpace when the cache cannot be written; what was computed before stays in the cache. Of several ranks each
        computes its share: all have to call this, with the same images.
        """
        ranks, missing = here(), self._missing(rows, which)
        if not ranks.alone:
            own = {view: each[ranks.mine(len(each))] for view, each in missing.items()}
            self._have(own, progress)
            ranks.wait()
            missing, progress = self._missing(rows, which), Silent()  # what others computed is yet to be found
        self._have(missing, progress)

    def _missing(self, rows: NDArray[np.int64], which: NDArray[np.int64] | None) -> dict[int, NDArray[np.int64]]:
        """Those of some images that have not been looked for yet, by view."""
        views = np.zeros(len(rows), np.int64) if which is None else which
        return {view: rows[(views == view) & (self._rows[view][rows] < 0)] for view in range(len(self))}

    def _have(self, missing: Mapping[int, NDArray[np.int64]], progress: Progress) -> None:
        total = sum(map(len, missing.values()))
        if not total:
            return
        with progress.task("views", total, "image") as task:
            for view, wanted in missing.items():
                if len(wanted):
                    self._rows[view][wanted] = self._source.rows_of(view, wanted, task.advance)

    def read(self, rows: NDArray[np.int64], which: NDArray[np.int64] | None) -> tuple[Tensor, ...]:
        """The values of some images, each in the view that `which` says; None: as they are."""
        self._have(self._missing(rows, which), Silent())
        if which is None or len(self) == 1:
            return self._values(0, rows)
        order = np.argsort(which, kind="stable")
        parts = [self._values(int(view), rows[which == view]) for view in np.unique(which)]
        back = torch.from_numpy(np.argsort(order))
        return tuple(torch.cat(values)[back] for values in zip(*parts, strict=True))

    def drawn(self, rows: NDArray[np.int64], which: NDArray[np.int64]) -> list[tuple[int, ...] | None]:
        """What the augmentation of some images in these views is drawn from; None for the plain one."""
        return [self._source.seed_of(int(view), row) if view else None for row, view in zip(rows, which, strict=True)]

    def _values(self, view: int, rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
        stored = self._source.stored(view, self._rows[view][rows])
        return Activations(rows=stored, shapes=self._source.shapes)[np.arange(len(rows))]


def shapes_of(backbone: Backbone, boundary: Boundary, beside: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The shapes of what crosses a boundary with stages beside it, without N."""
    if not beside:
        return boundary.shapes
    features = Features(backbone, tuple(beside)).columns
    return (*boundary.shapes, (features.width - features.last_width,))


def views_that_fit(wanted: int, images: int, boundary: Boundary, limit: int) -> int:
    """How many views of so many images fit into `limit` bytes. Raises OutOfSpace where not even one does."""
    each = images * HALVES.itemsize * sum(math.prod(shape) for shape in boundary.shapes)
    first = 2 * each  # the plain view is kept in full precision
    if first > limit:
        raise OutOfSpace(
            expected=f"what crosses {boundary.name} of {images:,} images to fit into {limit / 1e9:.1f} GB (--cache-size)",
            got=f"{first / 1e9:.1f} GB for one view of each",
            fix="give a larger --cache-size or a smaller --size, or train deeper: --strategy full keeps pixels alone",
        )
    return min(wanted, 1 + (limit - first) // each)


class _Source:
    """Computes views of images, or finds them in the cache: a table for each view."""

    def __init__(
        self,
        pixels: Activations,
        digests: Sequence[bytes],
        keys: Sequence[Mapping[str, object]],
        shapes: tuple[tuple[int, ...], ...],
        chosen: Chosen,
        changes: Augmentation,
        *,
        seed: int,
        cache: Path,
        batch: int,
    ) -> None:
        self.pixels, self.digests, self.shapes = pixels, digests, shapes
        self._keys, self._chosen, self._changes = keys, chosen, changes
        self._seed, self._cache, self._batch = seed, cache, batch
        self._engine: Engine | None = None
        # Rows of the tables that were opened, by view: what this process wrote itself need not be checked again.
        self._readers: dict[int, Callable[[NDArray[np.int64]], FeatureRows]] = {}

    def rows_of(self, view: int, rows: NDArray[np.int64], advance: Callable[[int], None]) -> NDArray[np.int64]:
        """Where the view of each of these images stands in its table, once it does."""
        with closing(self._table(view)) as table:
            known = table.lookup(check=view not in self._readers)
            self._readers[view] = table.rows
            first = {self.digests[row]: int(row) for row in rows[::-1] if self.digests[row] not in known}
            missing = np.array(sorted(first.values()), np.int64)
            advance(len(rows) - len(missing))
            self._fill(table, view, missing, advance)
            known = table.lookup(check=False)
            return np.array([known[self.digests[row]] for row in rows], np.int64)

    def stored(self, view: int, rows: NDArray[np.int64]) -> FeatureRows:
        """Rows of a view that are in its table, still on disk."""
        return self._readers[view](rows)

    def _table(self, view: int) -> Table:
        # What is judged has the plain view: its answers are to be those of the model.
        kind = HALVES if view else FLOATS
        return Table.open(self._cache, self._keys[view], sum(math.prod(shape) for shape in self.shapes), kind)

    def _fill(self, table: Table, view: int, missing: NDArray[np.int64], advance: Callable[[int], None]) -> None:
        """Compute and store what is missing."""
        if not len(missing):
            return
        self._engine = self._engine or self._chosen.make()
        most = max(1, _WRITE_BYTES // (table.width * table.dtype.itemsize))
        held: list[NDArray[Any]] = []
        done = 0
        for values_ND in self._engine.stream(self._batches(view, missing)):
            held.append(in_bf16(values_ND) if view else values_ND)
            count = sum(map(len, held))
            if count >= most or done + count == len(missing):
                rows = missing[done : done + count]
                table.append([self.digests[row] for row in rows], np.concatenate(held))
                done, held = done + count, []
            advance(len(values_ND))

    def _batches(self, view: int, missing: NDArray[np.int64]) -> Iterator[Pixels]:
        for start in range(0, len(missing), self._batch):
            rows = missing[start : start + self._batch]
            (values,) = self.pixels[rows]
            if view:
                values = self._changes(values, [self.seed_of(view, row) for row in rows])
            yield values.numpy()

    def seed_of(self, view: int, row: int) -> tuple[int, ...]:
        """By content and not by position: so that the same image has the same view in any set of images."""
        return (self._seed, _PURPOSE, view, *_words(self.digests[row]))


def views_of(
    samples: Sequence[Sample],
    digests: Sequence[bytes],
    pixels: Activations,
    backbone: Backbone,
    boundary: Boundary,
    *,
    beside: Sequence[str] = (),
    views: int,
    augment: Augment,
    seed: int,
    cache: Path,
    device: str = "auto",
    progress: Progress = Silent(),
) -> Views:
    """What crosses `boundary` for `views` views of every image; nothing is computed yet.

    One value more stands last where there are stages `beside`, which end before the boundary: their pooled maps, (P,).
    """
    network, where, ranks = network_up_to(backbone, boundary, cache, beside), pick_device(device), here()
    chosen = choose_engine(network, samples, backbone.preprocess, where, progress)
    word = ranks.shared(lambda: uuid.uuid4().hex)
    key = {**boundary_key(backbone, boundary, chosen.name), "beside": list(beside), "pooling": backbone.pooling}
    source = _Source(
        pixels,
        digests,
        [{**key, **_view_key(view, augment, seed, word)} for view in range(views)],
        shapes_of(backbone, boundary, beside),
        chosen,
        augmentation(augment),
        seed=seed,
        cache=cache,
        batch=batch_on(where),
    )
    return Views(source, views)


def _view_key(view: int, augment: Augment, seed: int, word: str) -> Mapping[str, object]:
    if view == 0:
        return {"view": 0, "stored": "fp32"}
    # What a function of the user's does is not known: nothing is found again that it made.
    how = augment if isinstance(augment, str) else f"own {word}"
    return {"view": view, "augment": how, "seed": seed, "stored": "bf16"}


def in_bf16(values_ND: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the values as bfloat16."""
    return torch.from_numpy(values_ND).to(torch.bfloat16).view(torch.uint16).numpy()


def _words(digest: bytes) -> tuple[int, ...]:
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def forget_own(cache: Path) -> None:
    """Remove tables of views that a function of the user's made: they are found by nobody again.

    Rank 0 does, once all ranks are here.
    """
    ranks = here()
    ranks.wait()
    if not ranks.first:
        return
    for path in (cache / "features").glob("*/table.json"):
        if '"augment": "own ' in path.read_text(errors="replace"):
            shutil.rmtree(path.parent, ignore_errors=True)
