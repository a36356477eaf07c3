"""A fit of images in tar archives beside one of the same images in a folder; one line of JSON on standard output.

    python bench/shards.py FOLDER [--images N] [--size 1GB] [--repeats 3]

FOLDER holds class folders, with or without train/ and test/ (`python bench/data.py OUT fashion` makes one). With --images a
part of it is taken, spread over all. The archives are written and read in a temporary folder. Each fit is a process of its own
with an empty cache, but for the choice of the engine, which one fit before the others makes for all; folder and archives take
turns.
`images_per_s` counts the seconds of reading and of the pass; `ratio` is the median of the archives' to the folder's, turn by
turn. `same_head`: model.safetensors has the same bytes in all runs.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import run_process

from regraft.cli.strategy import bytes_of
from regraft.data.folder import list_images

_FIT = """
import json, sys
from regraft import fit
data, out, cache = sys.argv[1:]
summary = fit(data, out=out, cache=cache).summary
print(json.dumps({"seconds": summary.seconds, "images": summary.train + summary.test, "engine": summary.engine}))
"""


def part_of(folder: Path, images: int | None, out: Path) -> Path:
    """`folder`, or a folder of hard links to some of its images."""
    if images is None:
        return folder
    every = list_images(folder)
    for path in every[:: max(1, len(every) // images)][:images]:
        target = out / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
    return out


def fit(source: Path, work: Path, engines: Path | None) -> dict[str, Any]:
    """One fit in a process of its own."""
    cache, out = work / "cache", work / "run"
    for folder in (cache, out):
        shutil.rmtree(folder, ignore_errors=True)
    if engines is not None:
        shutil.copytree(engines, cache / "engines")
    process = run_process([sys.executable, "-c", _FIT, str(source), str(out), str(cache)])
    seconds = process.line["seconds"]
    return {
        "images": process.line["images"],
        "engine": process.line["engine"],
        "images_per_s": round(process.line["images"] / (seconds["data"] + seconds["features"]), 1),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "peak_mb": round(process.peak_bytes / 1e6),
        "head": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int)
    parser.add_argument("--size", default="1GB")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="regraft-shards-") as place:
        work = Path(place)
        folder = part_of(chosen.folder.resolve(), chosen.images, work / "part")
        command = [sys.executable, "-m", "regraft", "shard", str(folder), str(work / "shards"), "--size", chosen.size, "--json"]
        made = run_process(command)
        fit(folder, work / "first", None)
        engines = work / "first" / "cache" / "engines"
        runs: dict[str, list[dict[str, Any]]] = {"folder": [], "tar": []}
        for _ in range(chosen.repeats):
            for kind, source in (("folder", folder), ("tar", work / "shards")):
                runs[kind].append(fit(source, work / kind, engines))
        ratios = [tar["images_per_s"] / plain["images_per_s"] for plain, tar in zip(runs["folder"], runs["tar"], strict=True)]
    heads = {run.pop("head") for kind in runs.values() for run in kind}
    told = {
        "images": made.line["images"],
        "archives": len(made.line["shards"]),
        "bytes": made.line["bytes"],
        "size": bytes_of(chosen.size, "--size"),
        "shard_seconds": round(made.seconds, 2),
        "shard_peak_mb": round(made.peak_bytes / 1e6),
        "same_head": len(heads) == 1,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "peak_mb": {kind: max(run["peak_mb"] for run in kinds) for kind, kinds in runs.items()},
        "runs": runs,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
