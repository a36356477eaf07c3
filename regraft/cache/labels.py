"""The class of every pixel as the network's window shows it, read once for each mask and kept beside the features."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.cache.store import BYTES, FeatureRows, Table
from regraft.data.preprocess import Preprocess
from regraft.progress import Progress, Silent
from regraft.segments import MaskMap
from regraft.values import Sample

_WRITE = 64
# From a mask on disk and what its values mean to labels (H, W) of the window.
ReadLabels = Callable[[Sample, MaskMap], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of N images, still on disk: uint8 classes, IGNORE where none counts."""

    rows: FeatureRows
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, H, W) those of some images, read."""
        return np.asarray(self.rows[indices], np.uint8).reshape(-1, self.height, self.width)


def keep_labels(
    samples: Sequence[tuple[Sample, MaskMap]],
    preprocess: Preprocess,
    read: ReadLabels,
    *,
    cache: Path,
    progress: Progress = Silent(),
) -> Labels:
    """Labels of all samples in a window, each by its own map; masks that were read before are not read again.

    Raises what `read` raises.
    """
    width = preprocess.height * preprocess.width
    window = {name: value for name, value in asdict(preprocess).items() if name in ("height", "width", "fit", "crop_share")}
    key = {"backbone": "labels", "engine": "read", "window": window}
    with closing(Table.open(cache, key, width, BYTES)) as table, progress.task("masks", len(samples), "mask") as task:
        known = table.lookup()
        written: dict[bytes, int] = {}
        digests: list[bytes] = []
        fresh: dict[bytes, NDArray[np.uint8]] = {}
        for sample, mask_map in samples:
            assert sample.mask is not None, "paired when it was read"
            said = repr((mask_map.kind, mask_map.values, mask_map.colours)).encode()
            digest = hashlib.sha256(hashlib.sha256(said).digest() + sample.mask.read_bytes()).digest()
            digests.append(digest)
            if digest not in written and digest not in fresh and digest not in known:
                fresh[digest] = read(sample, mask_map)
            if len(fresh) == _WRITE:
                written |= _written(table, fresh)
            task.advance()
        written |= _written(table, fresh)
        return Labels(
            table.rows([written[digest] if digest in written else known[digest] for digest in digests]),
            preprocess.height,
            preprocess.width,
        )


def _written(table: Table, fresh: dict[bytes, NDArray[np.uint8]]) -> dict[bytes, int]:
    if not fresh:
        return {}
    digests = list(fresh)
    rows = table.append(digests, np.stack([labels.reshape(-1) for labels in fresh.values()]))
    fresh.clear()
    return dict(zip(digests, rows, strict=True))
