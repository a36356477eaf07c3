"""Extraction, decoding and the network, each timed alone, in a fresh process.

    python bench/ours.py DATA      one JSON line: n, images_per_s, extract_s, decode_s, network_s

extract_s: from the first file opened to the last feature, nothing cached; loading the backbone and choosing the engine are left
out, as the peers leave out loading theirs; the engine is the one that a set of some thousand images would get.
decode_s: the same files decoded and resized on all cores, nothing else running.
network_s: as many images through the chosen engine, already decoded.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.backbone.features import Features, later_stages
from regraft.backbone.load import load_backbone
from regraft.cache.choose import choose_engine
from regraft.cache.engines import Engine, pick_device
from regraft.cache.extract import network_of
from regraft.cache.store import Table
from regraft.cache.stream import BATCH, Loaded, Row, load_images, run_images
from regraft.data.folder import list_images
from regraft.data.preprocess import Preprocess
from regraft.progress import Silent
from regraft.recipe import DEFAULT_BACKBONE
from regraft.values import Rejected, Sample

# As many rows are stored at a time as in a fit.
STORED_TOGETHER = 256
# So many decoded images are kept for timing the network; the same ones again and again cost it no less.
KEPT = 64
MANY = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """One extraction, ready to run: the backbone loaded, the engine chosen and made, no image kept, nothing in the cache."""

    paths: tuple[Path, ...]
    preprocess: Preprocess
    engine: Engine
    decoded: tuple[NDArray[np.uint8], ...]
    table: Table

    def extract(self) -> None:
        """Every image from its file to its features in the store."""
        rows = (row for row in run_images(self._images(), lambda: self.engine) if isinstance(row, Row))
        while together := list(islice(rows, STORED_TOGETHER)):
            self.table.append(
                [row.digest for row in together], np.stack([r.features for r in together if r.features is not None])
            )

    def decode(self) -> None:
        """Every image from its file to pixels, on all cores."""
        for _ in self._images():
            pass

    def network(self) -> None:
        """As many decoded images as there are files, to features."""
        pixels = islice(cycle(self.decoded), len(self.paths))
        for _ in self.engine.stream(np.stack(batch) for batch in batches(pixels)):
            pass

    def _images(self) -> Iterator[Loaded | Rejected]:
        return load_images([(path, path.name) for path in self.paths], self.preprocess)


def batches(pixels: Iterator[NDArray[np.uint8]]) -> Iterator[list[NDArray[np.uint8]]]:
    """As many images at a time as in a fit."""
    while batch := list(islice(pixels, BATCH)):
        yield batch


def prepare(data: Path, cache: Path) -> Extraction:
    """Everything that comes before the first file is opened, with the default backbone and the features of all stages."""
    backbone = load_backbone(DEFAULT_BACKBONE, whole_image=True)
    features = Features(backbone, later_stages(backbone))
    paths = tuple(list_images(data))
    # As for many images: for few, an engine that takes long to set up would not be worth it, and setting up is not timed here.
    samples = [Sample(path=path, name=path.name) for path in paths] * max(1, MANY // len(paths))
    chosen = choose_engine(network_of(backbone, features, cache), samples, backbone.preprocess, pick_device("auto"), Silent())
    first = load_images([(path, path.name) for path in paths[:KEPT]], backbone.preprocess)
    return Extraction(
        paths=paths,
        preprocess=backbone.preprocess,
        engine=chosen.make(),
        decoded=tuple(item.pixels for item in first if isinstance(item, Loaded) and item.pixels is not None),
        table=Table.open(cache, {"benchmark": data.name}, features.columns.width),
    )


def timed(work: Callable[[], None]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Time the three and print the line."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as cache:
        parts = prepare(Path(sys.argv[1]), Path(cache))
        n, engine = len(parts.paths), parts.engine.name
        extract_s, decode_s, network_s = timed(parts.extract), timed(parts.decode), timed(parts.network)
    line = {"n": n, "engine": engine, "images_per_s": n / extract_s}
    print(json.dumps(line | {"extract_s": extract_s, "decode_s": decode_s, "network_s": network_s}), flush=True)


if __name__ == "__main__":
    main()
