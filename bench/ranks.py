"""Extraction by two processes beside one, each on one processor with one thread, nothing of the features cached.

    python bench/ranks.py --data DIR [--set fashion2k] [--rounds 3]       one JSON line

The engine is chosen and converted once before; what is timed is the pass: reading, decoding, the network, writing the rows and,
of two processes, telling each other where they are. `speedup` is the median over rounds of the two rates, measured in turns.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from measure import ROOT, BenchmarkFailed, last_line, machine, text

AT_LEAST = 1.7
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
TORCHRUN = ("-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file", "--nproc-per-node", "2")


def work(data: Path, cache: Path, engine: str | None) -> None:
    """One process: extract its share, or everything where it is alone; rank 0 prints the rate and the engine."""
    # Before anything that counts processors is imported.
    own = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {own[int(os.environ.get("LOCAL_RANK", "0")) % len(own)]})
    from regraft.backbone.features import later_stages
    from regraft.backbone.load import load_backbone
    from regraft.cache.extract import extract_features
    from regraft.data.read import read_samples
    from regraft.launch import asked_for
    from regraft.parallel import joined
    from regraft.ranks import ALONE
    from regraft.recipe import DEFAULT_BACKBONE, Data

    with joined("cpu") if asked_for() > 1 else nullcontext(ALONE) as ranks:
        samples = read_samples(Data(path=data)).samples
        backbone = load_backbone(DEFAULT_BACKBONE, whole_image=True)
        ranks.wait()
        start = time.perf_counter()
        made = extract_features(
            samples, backbone, later_stages(backbone), cache=cache, device="cpu", with_looks=True, engine=engine
        )
        ranks.wait()
        seconds = time.perf_counter() - start
    if ranks.first:
        line = {"images": len(samples), "seconds": seconds, "engine": made.engine, "misses": made.misses}
        print(json.dumps(line), flush=True)


def measured(processes: int, data: Path, cache: Path, engine: str | None) -> dict[str, Any]:
    """Run so many processes and return what rank 0 printed; the features of earlier ones are gone. Raises BenchmarkFailed."""
    shutil.rmtree(cache / "features", ignore_errors=True)
    started = [sys.executable, *(TORCHRUN if processes == 2 else ()), __file__, "--data", str(data), "--work", str(cache)]
    command = [*started, *(["--engine", engine] if engine else [])]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = subprocess.run(command, stdout=out, stderr=err, env={**os.environ, **ENVIRONMENT}, check=False).returncode
        if code:
            raise BenchmarkFailed(f"{processes} process(es) ended with {code}:\n{text(err)[-2000:]}")
        return last_line(text(out))


def main() -> None:
    """Print the rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the sets; with --work, that of the images")
    parser.add_argument("--set", default="fashion2k")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.data, given.work, given.engine)
        return
    sys.path.insert(0, str(ROOT / "bench"))
    from data import make

    data = make(given.set, given.data)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        engine = measured(1, data, cache, None)["engine"]  # measures the engines, and converts the network
        rates: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(given.rounds):
            for processes, found in rates.items():
                line = measured(processes, data, cache, engine)
                assert line["misses"] == line["images"], "something was cached"
                found.append(line["images"] / line["seconds"])
    speedup = statistics.median(two / one for one, two in zip(rates[1], rates[2], strict=True))
    found = {"images_per_s": {str(count): [round(rate, 1) for rate in each] for count, each in rates.items()}}
    line = {"set": given.set, "images": line["images"], "engine": engine, **found, "speedup": round(speedup, 3)}
    print(json.dumps({**line, "at_least": AT_LEAST, "holds": speedup >= AT_LEAST, "machine": machine()}))


if __name__ == "__main__":
    main()
