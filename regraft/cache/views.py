"""Augmented views of every image, through the frozen part once and kept: what the last stages are trained on.

Each view of an image follows from the run's seed, the view's number and the image's own content, so that a view that is in the
cache is the one that would be computed. View 0 is the image as it is. Kept as bfloat16: docs/measurements.md#views
"""

import math
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.backbone.model import Backbone, Boundary
from regraft.cache.choose import Chosen, choose_engine
from regraft.cache.engines import Pixels, pick_device
from regraft.cache.extract import Activations, boundary_key, network_up_to
from regraft.cache.store import HALVES, Table
from regraft.cache.stream import batch_on
from regraft.data.augment import Augmentation, augmentation
from regraft.errors import OutOfSpace
from regraft.progress import Progress, Silent
from regraft.strategies import Augment
from regraft.values import Sample

_WRITE_BYTES = 64 << 20
_PURPOSE = 6  # keeps these draws apart from those of the training loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """The views of N images at a boundary, V of them, plain ones first."""

    views: tuple[Activations, ...]

    def __len__(self) -> int:
        return len(self.views)

    def read(self, rows: NDArray[np.int64], which: NDArray[np.int64] | None) -> tuple[Tensor, ...]:
        """The values of some images, each in the view that `which` says; None: as they are."""
        if which is None or len(self.views) == 1:
            return self.views[0][rows]
        order = np.argsort(which, kind="stable")
        parts = [self.views[view][rows[which == view]] for view in np.unique(which)]
        back = torch.from_numpy(np.argsort(order))
        return tuple(torch.cat(values)[back] for values in zip(*parts, strict=True))


def views_that_fit(wanted: int, images: int, boundary: Boundary, limit: int) -> int:
    """How many views of so many images fit into `limit` bytes. Raises OutOfSpace where not even one does."""
    each = images * HALVES.itemsize * sum(math.prod(shape) for shape in boundary.shapes)
    if each > limit:
        raise OutOfSpace(
            expected=f"what crosses {boundary.name} of {images:,} images to fit into {limit / 1e9:.1f} GB (--cache-size)",
            got=f"{each / 1e9:.1f} GB for one view of each",
            fix="give a larger --cache-size or a smaller --size, or train deeper: --strategy full keeps pixels alone",
        )
    return min(wanted, limit // each)


def extract_views(
    samples: Sequence[Sample],
    digests: Sequence[bytes],
    pixels: Activations,
    backbone: Backbone,
    boundary: Boundary,
    *,
    views: int,
    augment: Augment,
    seed: int,
    cache: Path,
    device: str = "auto",
    progress: Progress = Silent(),
) -> Views:
    """What crosses `boundary` for `views` views of every image, from the cache or from its pixels through the part before it.

    Raises OutOfSpace when the cache cannot be written; what was computed before stays in the cache.
    """
    network, where = network_up_to(backbone, boundary, cache), pick_device(device)
    chosen = choose_engine(network, samples, backbone.preprocess, where, progress)
    changes = augmentation(augment)
    found = []
    with progress.task("views", views * len(samples), "image") as task:
        for view in range(views):
            key = {**boundary_key(backbone, boundary, chosen.name), **_view_key(view, augment, seed)}
            width = sum(math.prod(shape) for shape in boundary.shapes)
            with closing(Table.open(cache, key, width, HALVES)) as table:
                known = table.lookup()
                missing = _first_of_each(digests, known)
                task.advance(len(samples) - len(missing))
                for rows in _fill(table, missing, digests, pixels, _shown(changes, view, seed), chosen, batch_on(where)):
                    task.advance(rows)
                rows_of = table.lookup(check=False)
                found.append(Activations(rows=table.rows([rows_of[digest] for digest in digests]), shapes=boundary.shapes))
    return Views(views=tuple(found))


def _view_key(view: int, augment: Augment, seed: int) -> Mapping[str, object]:
    if view == 0:
        return {"view": 0, "stored": "bf16"}
    # What a function of the user's does is not known: nothing is found again that it made.
    how = augment if isinstance(augment, str) else f"own {uuid.uuid4().hex}"
    return {"view": view, "augment": how, "seed": seed, "stored": "bf16"}


def _first_of_each(digests: Sequence[bytes], known: Mapping[bytes, int]) -> NDArray[np.int64]:
    """Positions of the images that are not known, one of those that are the same."""
    first = {digest: i for i, digest in reversed(list(enumerate(digests))) if digest not in known}
    return np.array(sorted(first.values()), np.int64)


def _shown(changes: Augmentation, view: int, seed: int) -> Callable[[Tensor, Sequence[bytes]], Tensor]:
    """What makes of the pixels of some images what a view shows of them."""

    def show(pixels: Tensor, digests: Sequence[bytes]) -> Tensor:
        if view == 0:
            return pixels
        return changes(pixels, [(seed, _PURPOSE, view, *_words(digest)) for digest in digests])

    return show


def _words(digest: bytes) -> tuple[int, ...]:
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def _fill(
    table: Table,
    missing: NDArray[np.int64],
    digests: Sequence[bytes],
    pixels: Activations,
    show: Callable[[Tensor, Sequence[bytes]], Tensor],
    chosen: Chosen,
    batch: int,
) -> Iterator[int]:
    """Compute and store the rows that are missing; after each batch, how many."""
    if not len(missing):
        return

    def batches() -> Iterator[Pixels]:
        for start in range(0, len(missing), batch):
            rows = missing[start : start + batch]
            (values,) = pixels[rows]
            yield show(values, [digests[row] for row in rows]).numpy()

    most = max(1, _WRITE_BYTES // (table.width * table.dtype.itemsize))
    held: list[NDArray[np.uint16]] = []
    done = 0
    for values_ND in chosen.make().stream(batches()):
        held.append(torch.from_numpy(values_ND).to(torch.bfloat16).view(torch.uint16).numpy())
        count = sum(map(len, held))
        if count >= most or done + count == len(missing):
            rows = missing[done : done + count]
            table.append([digests[row] for row in rows], np.concatenate(held))
            done, held = done + count, []
        yield len(values_ND)


def forget_own(cache: Path) -> None:
    """Remove tables of views that a function of the user's made: they are found by nobody again."""
    for path in (cache / "features").glob("*/table.json"):
        if '"augment": "own ' in path.read_text(errors="replace"):
            shutil.rmtree(path.parent, ignore_errors=True)
