"""Measure regraft beside its peers and write docs/measurements.md.

    python bench/run.py                          every figure (hours)
    python bench/run.py --only help,second       some
    python bench/run.py --quick --only fit       a trial on a few images: printed, never written down as a figure
    python bench/run.py --render                 write the page again from what was measured

Runs need the machine for themselves. Exit code 1 when a target was missed or a run failed.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import export
import figures
import finetune
import pixels
import scale
import serve
import trust
from document import record, render, section
from figures import Bench
from measure import ROOT, BenchmarkFailed, machine

OUT = ROOT / "bench/out"
FIGURES = figures.FIGURES | {
    "training": finetune.training_steps,
    "finetune": finetune.fine_tune,
    "auto": finetune.auto_holds,
    "curve": finetune.curve,
    "calibration": trust.calibration,
    "rejection": trust.rejection,
    "audit": trust.audit_cost,
    "pixels": pixels.beside_smp,
    "masks": pixels.alone,
    "serve": serve.serving,
    "export": export.exports,
    "ranks": scale.many_ranks,
    "million": scale.million,
    "shards": scale.archives,
    "shardrate": scale.archive_rate,
    "near": scale.near,
    "bulk": scale.bulk,
}


def options() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FIGURES), help=f"figures, with commas: {', '.join(FIGURES)}")
    parser.add_argument("--data", type=Path, default=OUT / "data", help="where the image sets lie, or go when missing")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each side (3)")
    parser.add_argument("--quick", action="store_true", help="a few images, one run: to see that it works")
    parser.add_argument("--render", action="store_true", help="only write the page from earlier measurements")
    chosen = parser.parse_args()
    chosen.only = [name for name in chosen.only.split(",") if name]
    unknown = [name for name in chosen.only if name not in FIGURES]
    if unknown:
        parser.error(f"no figure {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    if chosen.pairs < 1:
        parser.error("--pairs has to be 1 or more")
    return chosen


def measure(name: str, bench: Bench) -> bool:
    """Measure one figure, print it and keep it as JSON; False when it missed a target or could not be measured."""
    print(f"{name}: measuring{' a quick trial, no figure' if bench.quick else ''}", flush=True)
    try:
        rows = FIGURES[name](bench)
    except BenchmarkFailed as error:
        print(f"{name}: failed: {error}", flush=True)
        return False
    except KeyError as error:
        print(f"{name}: failed: a measured process printed no {error}", flush=True)
        return False
    figure = record(name, str(FIGURES[name].__doc__).strip(), rows, machine(), quick=bench.quick)
    folder = OUT / "quick" if bench.quick else OUT
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figure, indent=1) + "\n")
    print(section(figure), flush=True)
    return bench.quick or all(row.passed for row in rows)


def main() -> int:
    """Measure what was asked for, one figure after the other; the page is written after each, for a run may be broken off."""
    chosen = options()
    OUT.mkdir(parents=True, exist_ok=True)
    met = []
    for name in [] if chosen.render else chosen.only:
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=OUT) as scratch:
            pairs = 1 if chosen.quick else chosen.pairs
            met.append(measure(name, Bench(data=chosen.data.resolve(), scratch=Path(scratch), pairs=pairs, quick=chosen.quick)))
        if not chosen.quick:
            render(OUT)
    if chosen.render:
        print(f"docs/measurements.md: {', '.join(render(OUT)) or 'nothing measured yet'}")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
