"""Bulk predictions on Ray with a worker killed on the way, beside the plain command: is every row there, and right?

    python bench/bulk.py [--images 10000] [--workers 2] [--kill-at 2000] [--set fashion10k] [--fit fashion2k]

A head is fitted on the set `--fit` (or is that of `--run`); then the images of `--set` are predicted by `regraft predict`
alone and with `--ray local`. Once so many rows are written, one of Ray's workers is killed with SIGKILL. One line of JSON on
standard output: rows, those that are wrong (another place or status, or a probability further off than 1e-4), seconds,
images/s, the worker killed. Leaves with 1 where a row is missing or wrong, or no worker was there to be killed.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import data as image_sets
import numpy as np
import psutil
from measure import ROOT, BenchmarkFailed

from regraft.row_table import table_rows
from regraft.values import Prediction

CLOSE = 1e-4
REGRAFT = (sys.executable, "-m", "regraft")


def run(command: Sequence[str], *, listed: bytes | None = None) -> float:
    """Seconds that a command takes. Raises BenchmarkFailed."""
    start = time.perf_counter()
    done = subprocess.run(command, input=listed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"{' '.join(command[:5])}: {done.returncode}: {done.stderr.decode()[-2000:]}")
    return time.perf_counter() - start


def run_and_kill(command: Sequence[str], listed: bytes, journal: Path, kill_at: int) -> tuple[float, dict[str, Any]]:
    """The same, with one of its Ray workers killed as soon as `kill_at` rows are in the journal; which, and when."""
    start, killed = time.perf_counter(), dict[str, Any]()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, cwd=ROOT)
        assert process.stdin is not None
        feeder = threading.Thread(target=lambda: (process.stdin.write(listed), process.stdin.close()))
        feeder.start()
        while process.poll() is None:
            time.sleep(0.2)
            if not killed and (rows := lines_in(journal)) >= kill_at and (workers := workers_below(process.pid)):
                workers[0].kill()
                killed = {"pid": workers[0].pid, "of": len(workers), "rows": rows, "second": time.perf_counter() - start}
        feeder.join()
        said.seek(0)
        if process.returncode:
            raise BenchmarkFailed(f"{process.returncode}: {said.read().decode()[-2000:]}")
    return time.perf_counter() - start, killed


def lines_in(path: Path) -> int:
    """How many rows are written so far."""
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def workers_below(pid: int) -> list[psutil.Process]:
    """Ray's processes below a process that hold our network."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::") and "Worker" in child.cmdline()[0]:
                found.append(child)
        except psutil.Error:
            continue
    return found


def off_by(row: Prediction, plain: Prediction) -> float:
    """The largest difference in probability; infinite where they say something else."""
    same = row.path == plain.path and row.status == plain.status and row.reason == plain.reason
    there, here = dict(plain.top), dict(row.top)
    if not same or set(there) != set(here):
        return math.inf
    return max((abs(here[name] - there[name]) for name in here), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill-at", type=int, default=2000)
    parser.add_argument("--set", default="fashion10k")
    parser.add_argument("--fit", default="fashion2k")
    parser.add_argument("--run", type=Path, default=None)
    parser.add_argument("--data", type=Path, default=ROOT / "bench/out/data")
    chosen = parser.parse_args()
    images = image_sets.make(chosen.set, chosen.data)
    paths = sorted(images.rglob("*.png"))
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(chosen.images, len(paths))).astype(int)]
    listed = "".join(f"{path}\n" for path in paths).encode()
    with tempfile.TemporaryDirectory(prefix="bulk-") as name:
        scratch = Path(name)
        model = chosen.run or scratch / "run"
        if chosen.run is None:
            fitted_on = image_sets.make(chosen.fit, chosen.data)
            run([*REGRAFT, "fit", str(fitted_on), "--out", str(model), "--features", "last"])
        predict = [*REGRAFT, "predict", str(model.absolute()), "-", "--top-k", "10", "--device", "cpu", "--out"]
        alone = run([*predict, str(scratch / "plain.parquet")], listed=listed)
        on_ray, killed = run_and_kill(
            [*predict, str(scratch / "ray.parquet"), "--ray", "local", "--workers", str(chosen.workers)],
            listed,
            scratch / "ray.parquet.partial",
            chosen.kill_at,
        )
        plain, rows = (list(table_rows(scratch / f"{name}.parquet")) for name in ("plain", "ray"))
    apart = [off_by(row, other) for row, other in zip(rows, plain, strict=False)]
    wrong = sum(one > CLOSE for one in apart) + abs(len(rows) - len(plain))
    figures = {
        "images": len(paths),
        "rows": len(rows),
        "wrong": wrong,
        "largest_difference": max((one for one in apart if one < math.inf), default=None),
        "workers": chosen.workers,
        "killed": killed or None,
        "seconds": {"plain": round(alone, 1), "ray": round(on_ray, 1)},
        "images_per_s": {"plain": round(len(paths) / alone, 1), "ray": round(len(paths) / on_ray, 1)},
    }
    print(json.dumps(figures))
    sys.exit(0 if not wrong and killed and len(rows) == len(paths) else 1)


if __name__ == "__main__":
    main()
