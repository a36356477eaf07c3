"""What the stages around the solver cost per image, on made-up data of two sizes: whether anything grows faster than the data.

    python bench/growth.py [--sizes 20000,100000] [--only table,copies]

No network runs. Files are hard links of one small PNG, records of looks are noise, logits are noise around the truth. Prints a
JSON line per stage: microseconds of the processor (of all cores together) per image at each size, the exponent of the growth
between them (1: linear), and the bytes per image at the peak, as NumPy and Python allocate them, measured in a run of its own
at the smaller size. What is searched in cells needs `regraft[scale]`, whose own memory is not counted.
"""

import argparse
import hashlib
import json
import math
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from regraft.audits.audit import Seen, audit_samples
from regraft.audits.copies import find_copies
from regraft.audits.similar import near_duplicates
from regraft.backbone.features import Columns
from regraft.cache.store import FeatureRows, Table
from regraft.data.folder import read_folder
from regraft.data.look import LOOK, Looks
from regraft.data.scan import scan_images
from regraft.data.split import keep_together, split_samples
from regraft.data.table import read_table
from regraft.evaluate.metrics import score
from regraft.evaluate.table import write_predictions
from regraft.kept import KeptImages, write_images
from regraft.memo import key_of
from regraft.recipe import Data
from regraft.task.classify import predictions_of
from regraft.train.caution import novelty_of
from regraft.values import Sample, Samples

CLASSES, WIDTH = tuple("abcdefghij"), 320
Stage = Callable[[], object]


def samples_of(count: int, *, grouped: bool = False) -> list[Sample]:
    """Made-up samples; `grouped`: the first tenth of them in pairs."""
    return [
        Sample(
            path=Path(f"/data/photos/{CLASSES[i % 10]}/image-{i:08}.jpg"),
            name=f"{CLASSES[i % 10]}/image-{i:08}.jpg",
            labels=(CLASSES[i % 10],),
            group=f"group {i // 2}" if grouped and i < count // 10 else None,
        )
        for i in range(count)
    ]


def looks_of(count: int) -> Looks:
    """Records of noise, coarse enough to have a spectrum."""
    rng = np.random.default_rng(0)
    looks = np.zeros(count, LOOK)
    for start in range(0, count, 8192):
        here = slice(start, min(start + 8192, count))
        size = here.stop - start
        looks["grey"][here] = np.repeat(np.repeat(rng.integers(0, 256, (size, 8, 8), dtype=np.uint8), 4, axis=1), 4, axis=2)
        looks["pixels"][here] = rng.integers(0, 256, (size, 32), dtype=np.uint8)
    looks["mean"] = rng.uniform(80, 170, (count, 3))
    looks["width"], looks["height"], looks["bytes"], looks["contrast"], looks["sharpness"] = 640, 480, 90_000, 50, 0.3
    return looks


def digests_of(count: int) -> list[bytes]:
    """SHA-256 of numbers."""
    return [hashlib.sha256(b"%d" % i).digest() for i in range(count)]


def stages_of(count: int, work: Path) -> Iterator[tuple[str, Stage]]:
    """The stages, each ready to run; what it needs is made before."""
    yield from reading(count, work)
    yield from caching(count, work)
    yield from searching(count, work)
    yield from judging(count, work)


def reading(count: int, work: Path) -> Iterator[tuple[str, Stage]]:
    """A folder, a table, the split."""
    folder = work / f"photos-{count}"
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(work / f"{count}.png")
    for i in range(count):
        if i % 60_000 == 0:  # a file has no more than 65,000 names
            source = folder / CLASSES[0] / f"{i}.png"
            source.write_bytes((work / f"{count}.png").read_bytes())
        else:
            os.link(source, folder / CLASSES[i % 10] / f"{i}.png")
    yield "folder: walk and names", lambda: read_folder(folder)
    found = read_folder(folder).samples
    yield "folder: headers", lambda: scan_images(found)
    table = work / f"{count}.csv"
    table.write_text("path,label\n" + "".join(f"{s.name},{s.labels[0]}\n" for s in found))
    yield "table: CSV", lambda: read_table(Data(path=table))
    samples = Samples(root=folder, samples=tuple(found), classes=CLASSES, multi_label=False, rejected=(), tree="", notes=())
    data = Data(path=folder)
    yield "split", lambda: split_samples(samples, data, 0)
    split = split_samples(samples, data, 0)
    alike = np.full(count, -1)
    alike[: count // 20] = np.arange(count // 20) // 2
    yield "split: copies together", lambda: keep_together(split, data, 0, alike)


def caching(count: int, work: Path) -> Iterator[tuple[str, Stage]]:
    """Rows stored, known rows asked for."""
    digests, rows = digests_of(count), np.zeros((256, WIDTH), np.float32)
    cache = work / f"cache-{count}"

    def store() -> None:
        with closing(Table.open(cache, {"of": time.perf_counter()}, WIDTH)) as table:
            for start in range(0, count, 256):
                part = digests[start : start + 256]
                table.append(part, rows[: len(part)])

    yield f"cache: rows of {WIDTH} stored", store
    with closing(Table.open(cache, {"of": "all"}, WIDTH)) as table:
        for start in range(0, count, 256):
            part = digests[start : start + 256]
            table.append(part, rows[: len(part)])

    def ask() -> None:
        with closing(Table.open(cache, {"of": "all"}, WIDTH)) as table:
            known = table.lookup()
            assert all(digest in known for digest in digests)

    yield "cache: known rows asked for and checked", ask
    yield "cache: opened", lambda: Table.open(cache, {"of": "all"}, WIDTH).lookup().get(b"none")
    yield "key of names and digests", lambda: key_of([f"{i:030}" for i in range(count)], digests)


def searching(count: int, work: Path) -> Iterator[tuple[str, Stage]]:
    """Copies and near duplicates."""
    looks, digests = looks_of(count), digests_of(count)
    names = [f"{i:08}" for i in range(count)]
    yield "copies: equal ones", lambda: find_copies(looks, digests, names, search="equal")
    yield "copies: all pairs", lambda: find_copies(looks, digests, names, search="all pairs")
    yield "copies: cells", lambda: find_copies(looks, digests, names, search="cells")
    path = work / f"features-{count}"
    np.random.default_rng(0).standard_normal((count, WIDTH), dtype=np.float32).tofile(path)
    features = FeatureRows(path, np.arange(count), WIDTH)
    yield f"near duplicates of width {WIDTH}: all pairs", lambda: near_duplicates(features, search="all pairs")
    yield f"near duplicates of width {WIDTH}: cells", lambda: near_duplicates(features, search="cells")
    columns = Columns((), WIDTH, WIDTH, (WIDTH,))
    yield f"novelty of width {WIDTH}, 3 folds", lambda: novelty_of(features, np.arange(count) % 3, columns)


def judging(count: int, work: Path) -> Iterator[tuple[str, Stage]]:
    """Scores, the audit of labels, the tables of a run."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((count, 10)).astype(np.float32)
    logits[np.arange(count), np.arange(count) % 10] += 3
    alone, grouped = (predictions_of(samples_of(count, grouped=one), CLASSES, False, logits) for one in (False, True))
    yield "scores", lambda: score(alone)
    yield "scores, images in groups", lambda: score(grouped)
    seen = Seen(
        train=samples_of(count),
        test=(),
        looks=looks_of(count),
        answers=alone,
        folds_N=np.arange(count) % 3,
        distant=np.arange(count),
        distances=rng.lognormal(size=count),
    )
    yield "audit of labels, oddities, shortcuts", lambda: audit_samples(seen, (), None, kept_together=0)
    yield "predictions.parquet", lambda: write_predictions(work / "predictions.parquet", {"test": alone})
    kept = KeptImages(train=tuple(seen.train), test=(), digests=tuple(digests_of(count)), table="", engine="")
    yield "images.parquet", lambda: write_images(work, kept)
    yield "samples", lambda: samples_of(count)


def peak_of(stage: Stage) -> int:
    """Bytes allocated at the peak, beyond what was there."""
    tracemalloc.start()
    kept = stage()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del kept
    return peak


def main() -> None:
    """Run every stage at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="20000,100000")
    parser.add_argument("--only", default="", help="words that the names of stages begin with")
    options = parser.parse_args()
    small, large = (int(size) for size in options.sizes.split(","))
    only = tuple(options.only.split(",")) if options.only else ("",)
    with tempfile.TemporaryDirectory() as folder:
        first: dict[str, tuple[float, int]] = {}
        for size in (small, large):
            for name, stage in stages_of(size, Path(folder)):
                if not name.startswith(only):
                    continue
                start = time.process_time()
                stage()
                seconds = time.process_time() - start
                if size == small:
                    first[name] = seconds, peak_of(stage)
                    continue
                before, peak = first[name]
                told = {
                    "stage": name,
                    "us_per_image": [round(1e6 * before / small, 2), round(1e6 * seconds / large, 2)],
                    "exponent": round(math.log(max(seconds, 1e-6) / max(before, 1e-6)) / math.log(large / small), 2),
                    "bytes_per_image": round(peak / small),
                }
                print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
