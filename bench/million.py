"""A million images: the head and its whole regularisation path, in passes over features that memory does not hold.

    python bench/million.py [--images 1000000] [--width 1280] [--classes 10] [--stream] [--compare]

Features are noise plus class means, with an offset and a scale for every column, in bfloat16 on disk as in the features cache.
The best that any classifier can do is known: the means are. Prints one JSON line: seconds, peak memory of the process that
solves (a fresh one), how often the features were read, and the accuracy across folds against the best one. `--stream` reads
in passes whatever the size. `--compare` solves a tenth of the images in memory and in passes, and says how far apart the heads
are.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from solver import memory_mb

BLOCK, DRAWS, FOLDS = 4000, 1_000_000, 3
APART = 0.058  # of each coordinate of the class means; the noise has standard deviation 1


def means(width: int, classes: int) -> NDArray[np.float32]:
    return (np.random.default_rng(1).normal(size=(classes, width)) * APART).astype(np.float32)


def make_features(path: Path, count: int, width: int, classes: int) -> NDArray[np.int64]:
    """Write (count, width) bfloat16 rows to `path` and return the class indices."""
    import torch

    rng = np.random.default_rng(0)
    means_KD = means(width, classes)
    scale_D = rng.lognormal(sigma=0.7, size=width).astype(np.float32)
    offset_D = rng.normal(size=width).astype(np.float32)
    targets_N = rng.integers(0, classes, count)
    with path.open("wb") as file:
        for start in range(0, count, BLOCK):
            block = targets_N[start : start + BLOCK]
            rows_ND = (means_KD[block] + rng.standard_normal((len(block), width), np.float32) + offset_D) * scale_D
            file.write(torch.from_numpy(rows_ND).bfloat16().view(torch.int16).numpy().tobytes())
    return targets_N


def best_accuracy(width: int, classes: int) -> float:
    """Of the rule that knows the means, by DRAWS random images; only their products with the means matter."""
    means_KD = means(width, classes).astype(np.float64)
    gram_KK = means_KD @ means_KD.T
    rng = np.random.default_rng(2)
    truth = rng.integers(0, classes, DRAWS)
    noise_NK = rng.normal(size=(DRAWS, classes)) @ np.linalg.cholesky(gram_KK).T
    logits_NK = gram_KK[truth] + noise_NK - np.diag(gram_KK) / 2
    return float((logits_NK.argmax(axis=1) == truth).mean())


def counted_rows(path: Path, count: int, width: int) -> Any:
    """The table, which counts the rows that were read of it."""
    from regraft.cache.store import HALVES, FeatureRows

    class Counted(FeatureRows):
        read = 0

        def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[Any]:
            block = super().__getitem__(key)
            self.read += len(block)
            return block

    return Counted(path, np.arange(count), width, dtype=HALVES)


def solve(features: Any, targets: NDArray[np.int64], classes: int) -> Any:
    from regraft.train.path import choose_l2

    folds_N = np.random.default_rng(1).permutation(np.arange(len(targets)) % FOLDS)
    return choose_l2(cast(NDArray[np.float32], features), targets, folds_N, classes=classes)


def run_inside(path: Path, width: int, classes: int, stream: bool) -> dict[str, Any]:
    """The figures of one solve in this process."""
    from regraft.train import design

    design.HELD_VALUES = 0 if stream else design.HELD_VALUES
    targets = np.load(path.with_suffix(".npy"))
    features = counted_rows(path, len(targets), width)
    before, start, used = memory_mb()[0], time.perf_counter(), time.process_time()
    result = solve(features, targets, classes)
    seconds, used, peak = time.perf_counter() - start, time.process_time() - used, memory_mb()[1]
    passes = features.read / len(targets)
    chosen = next(one for one in result.tried if one.l2 == result.l2)
    return {
        "case": f"{len(targets)}x{width}x{classes}",
        "gigabytes": round(path.stat().st_size / 1e9, 2),
        "seconds": round(seconds, 1),
        "processor_seconds": round(used, 1),
        "passes": round(passes, 1),
        "seconds_per_pass": round(seconds / passes, 2),
        "peak_mb": round(peak),
        "peak_mb_beyond_start": round(peak - before),
        "strengths": len(result.tried),
        "folds": FOLDS,
        "l2": result.l2,
        "refit_iterations": result.iterations,
        "gradient_norm": result.gradient_norm,
        "cv_accuracy": round(chosen.accuracy, 5),
        "cv_nll": round(chosen.nll, 6),
    }


def compare(path: Path, width: int, classes: int) -> dict[str, Any]:
    """In memory and in passes on the same rows."""
    from regraft.train import design

    targets = np.load(path.with_suffix(".npy"))
    features = counted_rows(path, len(targets), width)
    heads = []
    for most in (1 << 62, 0):
        design.HELD_VALUES = most
        heads.append(solve(features, targets, classes))
    held, streamed = heads
    accuracies = [next(one.accuracy for one in result.tried if one.l2 == result.l2) for result in heads]
    apart = np.abs(held.out_of_fold_logits_NK - streamed.out_of_fold_logits_NK)
    return {
        "images": len(targets),
        "l2": [held.l2, streamed.l2],
        "cv_accuracy": [round(accuracy, 5) for accuracy in accuracies],
        "largest_weight": float(np.abs(held.head.weight_KD).max()),
        "weights_differ_by": float(np.abs(held.head.weight_KD - streamed.head.weight_KD).max()),
        "logits_across_folds_differ_by": float(apart.max()),
        "nll_differs_by": max(abs(a.nll - b.nll) for a, b in zip(held.tried, streamed.tried, strict=False)),
    }


def cases(arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """What is done in a fresh process, and with how many images."""
    yield ("stream" if arguments.stream else "solve"), arguments.images
    if arguments.compare:
        yield "compare", arguments.images // 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--stream", action="store_true", help="read in passes even what memory could hold")
    parser.add_argument("--compare", action="store_true", help="a tenth of the images in memory and in passes")
    parser.add_argument("--folder", type=Path, help="where to make the features (2.6 GB)")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        what, path = arguments.inside[0], Path(arguments.inside[1])
        run = compare(path, arguments.width, arguments.classes) if what == "compare" else None
        figures = run or run_inside(path, arguments.width, arguments.classes, what == "stream")
        print(json.dumps(figures), flush=True)
        return
    shape = ["--width", str(arguments.width), "--classes", str(arguments.classes)]
    figures = {"best_accuracy": round(best_accuracy(arguments.width, arguments.classes), 5), "threads": os.cpu_count()}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for what, count in cases(arguments):
            path = Path(folder) / f"{what}.bf16"
            np.save(path.with_suffix(".npy"), make_features(path, count, arguments.width, arguments.classes))
            command = [sys.executable, __file__, *shape, "--inside", what, str(path)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            figures |= {"compared": found} if what == "compare" else found
            path.unlink()
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
