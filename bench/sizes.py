"""Small images at several sizes of the network's input: what enlarging them is worth to a solved head.

    python bench/sizes.py --data DIR [SET ...] [--shrink 32,64]

Each set as it is where it is small already, else with all images shrunk to so many pixels on their longer side. One JSON line
per set and size: cross-validated and test accuracy and negative log-likelihood of a head fit, and its seconds with an empty
cache.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import data as image_sets
from measure import ROOT
from PIL import Image

import regraft
from regraft.data.read import read_samples
from regraft.recipe import Data

SIZES = (96, 128, 160, 224)
SMALL = 64  # images of at most so many pixels are small as they are


def shrunk(root: Path, to: Path, side: int) -> Path | None:
    """A copy of a folder of images with sides of at most `side` pixels; None where they are small already."""
    samples = read_samples(Data(path=root)).samples
    with Image.open(samples[0].path) as first:
        if max(first.size) <= SMALL:
            return None
    for sample in samples:
        with Image.open(sample.path) as image:
            small = image.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        path = (to / sample.name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        small.save(path)
    return to


def measure(name: str, folder: Path, scratch: Path) -> None:
    """A line per size."""
    for size in SIZES:
        start = time.perf_counter()
        cache = scratch / f"cache-{name}-{size}"
        summary = regraft.fit(folder, out=scratch / "run", overwrite=True, size=size, cache=cache).summary
        assert summary is not None
        assert summary.test_scores is not None
        crossed, test = summary.cross_validation, summary.test_scores
        line = {"data": name, "size": size, "cv": crossed.accuracy.value, "cv_nll": crossed.nll, "test": test.accuracy.value}
        print(json.dumps(line | {"test_nll": test.nll, "seconds": time.perf_counter() - start}), flush=True)


def main() -> None:
    """All sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["fashion2k", "clipart", "stamps"])
    parser.add_argument("--data", type=Path, default=ROOT / "bench/out/data")
    parser.add_argument("--shrink", default="32,64")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name in chosen.sets:
            root = image_sets.make(name, chosen.data.resolve())
            for side in map(int, chosen.shrink.split(",")):
                small = shrunk(root, Path(scratch) / f"{name}-{side}", side)
                measure(name if small is None else f"{name} at {side} pixels", small or root, Path(scratch))
                if small is None:
                    break


if __name__ == "__main__":
    main()
