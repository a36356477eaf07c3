"""Open many damaged images and count what comes out; one line of JSON on standard output.

    python bench/fuzz_images.py                  100,000 files, two processes
    python bench/fuzz_images.py --files 2000     a trial

Exit code 1 when an exception other than ImageRejected came out, an array was not of the declared shape, a process died or hung,
or memory grew by more than 50 MB.
"""

import argparse
import concurrent.futures
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
BATCH = 25_000
GROWTH_LIMIT_MB = 50
SECONDS_PER_FILE = 0.1


def fuzz(start: int, count: int) -> dict[str, Any]:
    """Open the files of seeds `start` to `start + count`; memory is compared with that after the first twentieth."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from faults.hostile_images import hostile
    from faults.mkimages import valid
    from faults.mutate_images import mutate

    from regraft.data.decode import load_pixels
    from regraft.data.preprocess import Preprocess
    from regraft.errors import ImageRejected

    preprocess = Preprocess(height=64, width=48, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    files = [file.data for file in (*valid(), *hostile()) if len(file.data) < 50_000]
    outcomes: Counter[str] = Counter()
    uncaught, slowest, resident, me = [], (0.0, -1), 0, psutil.Process()
    for seed in range(start, start + count):
        if seed == start + count // 20:
            resident = me.memory_info().rss
        data = mutate(files[seed % len(files)], files[seed * 7919 % len(files)], seed)
        began = time.perf_counter()
        try:
            pixels = load_pixels(data, preprocess)
            right = pixels.shape == (64, 48, 3) and pixels.dtype == np.uint8
            outcomes["ok" if right else "wrong_shape"] += 1
        except ImageRejected as rejected:
            outcomes[rejected.code] += 1
        except BaseException as error:
            uncaught.append(f"seed {seed}: {type(error).__name__}: {error}"[:200])
        slowest = max(slowest, (time.perf_counter() - began, seed))
    grown = (me.memory_info().rss - resident) / 1e6
    return {"outcomes": outcomes, "uncaught": uncaught, "grown_mb": grown, "slowest": slowest}


def in_a_process(start: int, count: int) -> dict[str, Any] | str:
    """The result of `fuzz` in a process of its own, or how that process ended."""
    command = [sys.executable, __file__, "--start", str(start), "--files", str(count), "--child"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 + count * SECONDS_PER_FILE)
    except subprocess.TimeoutExpired:
        return f"seeds from {start}: hung"
    if done.returncode:
        return f"seeds from {start}: exit code {done.returncode}: {done.stderr[-500:]}"
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(fuzz(options.start, options.files)))
        return 0
    began = time.perf_counter()
    end = options.start + options.files
    starts = range(options.start, end, BATCH)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        parts = list(pool.map(lambda start: in_a_process(start, min(BATCH, end - start)), starts))
    found = [part for part in parts if isinstance(part, dict)]
    died = [part for part in parts if isinstance(part, str)]
    outcomes = sum((Counter(part["outcomes"]) for part in found), Counter[str]())
    summary = {
        "files": sum(outcomes.values()) + sum(len(part["uncaught"]) for part in found),
        "outcomes": dict(outcomes.most_common()),
        "uncaught": [line for part in found for line in part["uncaught"]][:20],
        "processes_died": died,
        "memory_grown_mb": round(max((part["grown_mb"] for part in found), default=0.0), 1),
        "slowest_ms": round(1000 * max((part["slowest"][0] for part in found), default=0.0), 1),
        "slowest_seed": max((part["slowest"] for part in found), default=[0.0, -1])[1],
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(summary))
    bad = summary["uncaught"] or died or outcomes["wrong_shape"] or summary["memory_grown_mb"] > GROWTH_LIMIT_MB
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
