"""Every engine of this machine on real images: speed by batch size, and how near its features are to eager fp32's.

    python bench/engines.py --data DIR [SET ...]       one JSON line per set and engine

Each line: images per second at batches of 8, 16 and 32, and over 64 images of the set the smallest and the mean cosine with
eager fp32's features, of the head's own input and of the pooled stages apart.
"""

import argparse
import json
import time
from itertools import islice
from pathlib import Path

import data as image_sets
import numpy as np
from measure import ROOT
from numpy.typing import NDArray

from regraft.backbone.features import Features, later_stages
from regraft.backbone.load import load_backbone
from regraft.cache.engines import Engine, Pixels, candidates
from regraft.cache.extract import network_of
from regraft.cache.stream import Loaded, load_images
from regraft.data.folder import list_images
from regraft.recipe import DEFAULT_BACKBONE

IMAGES = 64
BATCHES = (8, 16, 32)


def batches(pixels: Pixels, size: int) -> list[Pixels]:
    """The images, `size` at a time."""
    return [pixels[i : i + size] for i in range(0, len(pixels), size)]


def rate(engine: Engine, pixels: Pixels, size: int) -> float:
    """Images per second; the first pass compiles and is not counted."""
    parts = batches(pixels, size)
    list(engine.stream(iter(parts)))
    start = time.perf_counter()
    list(engine.stream(iter(parts * 2)))
    return 2 * len(pixels) / (time.perf_counter() - start)


def cosines(a_ND: NDArray[np.float32], b_ND: NDArray[np.float32]) -> dict[str, float]:
    """The smallest and the mean over images."""
    found = (a_ND * b_ND).sum(axis=1) / (np.linalg.norm(a_ND, axis=1) * np.linalg.norm(b_ND, axis=1))
    return {"smallest": round(float(found.min()), 5), "mean": round(float(found.mean()), 5)}


def measure(name: str, folder: Path) -> None:
    """Print a line per engine."""
    backbone = load_backbone(DEFAULT_BACKBONE, whole_image=True)
    features = Features(backbone, later_stages(backbone))
    files = list_images(folder / "train")
    spread = [files[i] for i in np.linspace(0, len(files) - 1, IMAGES).astype(int)]
    images = load_images([(path, path.name) for path in spread], backbone.preprocess)
    pixels = np.stack([item.pixels for item in islice(images, IMAGES) if isinstance(item, Loaded) and item.pixels is not None])
    reference_ND, width = None, features.columns.last_width
    for candidate in candidates(network_of(backbone, features, None), "cpu", pixels):
        engine = candidate.make()
        rows_ND = np.concatenate(list(engine.stream(iter(batches(pixels, 8)))))
        reference_ND = rows_ND if reference_ND is None else reference_ND
        line = {"data": name, "engine": engine.name, "images_per_s": {str(b): round(rate(engine, pixels, b)) for b in BATCHES}}
        parts = {"head_input": slice(0, width), "stages": slice(width, None)}
        print(json.dumps(line | {key: cosines(rows_ND[:, p], reference_ND[:, p]) for key, p in parts.items()}), flush=True)


def main() -> None:
    """All sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["fashion2k", "clipart", "stamps"])
    parser.add_argument("--data", type=Path, default=ROOT / "bench/out/data")
    chosen = parser.parse_args()
    for name in chosen.sets:
        measure(name, image_sets.make(name, chosen.data.resolve()))


if __name__ == "__main__":
    main()
