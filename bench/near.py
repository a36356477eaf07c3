"""Near copies planted among made-up rows of features, and how many of them `regraft.audits.similar` finds, how fast.

    python bench/near.py [--rows 1000000] [--width 1280] [--planted 10000] [--decay 0.0] [--probes 16] [--all-pairs]

Rows are noise around the means of ten classes, in bfloat16; column d of the noise is scaled by (d + 1) ** -decay, so that with
a decay a few directions hold most of it, as in features of networks. A planted copy is another row with noise added, so that
their cosine is 0.955 to 0.995. The rows are made by one process and searched by another, fresh one, which reads them as a fit
reads its cache. Prints one JSON line: seconds by phase, peak memory in MB, the share of planted pairs found (among those whose
cosine, once rounded, is still at least the least one), and the pairs found that were not planted. Needs `regraft[scale]`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BLOCK, CLASSES, MEANS = 8192, 10, 0.5
LEAST = 0.95


def make(folder: Path, rows: int, width: int, planted: int, decay: float, seed: int) -> None:
    """Write `rows.bf16` and `planted.npy`, pairs (P, 2) of rows."""
    rng = np.random.default_rng(seed)
    scale_D = (np.arange(1, width + 1, dtype=np.float32) ** -decay).astype(np.float32)
    means_KD = MEANS * scale_D * rng.standard_normal((CLASSES, width), dtype=np.float32)
    rows_ND = np.memmap(folder / "rows.bf16", np.uint16, "w+", shape=(rows, width))
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        noise = scale_D * rng.standard_normal((count, width), dtype=np.float32)
        rows_ND[start : start + count] = bfloat16(noise + means_KD[rng.integers(CLASSES, size=count)])
    chosen = rng.permutation(rows)[: 2 * planted].reshape(-1, 2)
    chosen = chosen[np.argsort(chosen[:, 0])]
    for start in range(0, planted, BLOCK):
        pairs = chosen[start : start + BLOCK]
        originals = values(rows_ND[pairs[:, 0]])
        cosine = rng.uniform(0.955, 0.995, len(pairs)).astype(np.float32)
        noise = scale_D * rng.standard_normal(originals.shape, dtype=np.float32)
        share = np.sqrt(1 / cosine**2 - 1) * np.linalg.norm(originals, axis=1) / np.linalg.norm(noise, axis=1)
        rows_ND[pairs[:, 1]] = bfloat16(originals + share[:, np.newaxis] * noise)
    rows_ND.flush()
    np.save(folder / "planted.npy", np.sort(chosen, axis=1))


def bfloat16(rows: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest, ties to even; of finite numbers."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def values(rows: NDArray[np.uint16]) -> NDArray[np.float32]:
    """As float32."""
    return (rows.astype(np.uint32) << 16).view(np.float32)


def measure(folder: Path, rows: int, width: int, probes: int | None, all_pairs: bool) -> dict[str, object]:
    """Search the rows, and say what came of it."""
    from regraft.audits.cells import Search
    from regraft.audits.similar import PROBES, near_duplicates
    from regraft.cache.store import HALVES, FeatureRows
    from regraft.clock import Clock

    before, clock, start = peak(), Clock(), time.process_time()
    features = FeatureRows(folder / "rows.bf16", np.arange(rows), width, dtype=HALVES)
    search: Search = "all pairs" if all_pairs else "cells"
    near = near_duplicates(features, least=LEAST, probes=probes or PROBES, search=search, clock=clock)
    seconds, processor = clock.seconds(), time.process_time() - start
    memory = peak()
    mean_D = np.mean([values(features[at : at + BLOCK]).mean(axis=0) for at in range(0, rows, BLOCK)], axis=0)
    planted = np.load(folder / "planted.npy")
    still = cosines(features, mean_D, planted) >= LEAST
    wanted = {tuple(pair) for pair in planted[still].tolist()}
    found = {tuple(pair) for pair in near.pairs_P2.tolist()}
    return {
        "rows": rows,
        "width": width,
        "search": near.search,
        "probes": probes or PROBES,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "processor_s": round(processor, 1),
        "peak_MB": round(memory),
        "before_MB": round(before),
        "planted": len(wanted),
        "recall": round(len(wanted & found) / max(1, len(wanted)), 5),
        "found": len(found),
        "not_planted": len(found - {tuple(pair) for pair in planted.tolist()}),
    }


def cosines(features: object, mean_D: NDArray[np.float32], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of pairs of rows, from the mean, in float64."""
    found = []
    for at in range(0, len(pairs), BLOCK):
        one, other = (values(features[side]) - mean_D.astype(np.float64) for side in pairs[at : at + BLOCK].T)  # type: ignore[index]
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        found.append(np.einsum("pd,pd->p", one, other) / lengths)
    return np.concatenate(found)


def peak() -> float:
    """The most memory that this process has had, MB. Not `ru_maxrss`, which is inherited from whoever started it."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(fields["VmHWM"].split()[0]) / 1024


def main() -> None:
    """Make rows in one process and search them in another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--planted", type=int)
    parser.add_argument("--decay", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probes", type=int)
    parser.add_argument("--all-pairs", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to make the rows; they are used again where they are there")
    parser.add_argument("--part", choices=["make", "measure"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    planted = options.planted if options.planted is not None else options.rows // 100
    if options.part == "make":
        make(options.folder, options.rows, options.width, planted, options.decay, options.seed)
    elif options.part == "measure":
        print(json.dumps(measure(options.folder, options.rows, options.width, options.probes, options.all_pairs)))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            again = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder)]
            if not (folder / "planted.npy").exists():
                subprocess.run([*again, "--part", "make"], check=True)
            subprocess.run([*again, "--part", "measure"], check=True)


if __name__ == "__main__":
    main()
