"""How the likelihood goes along the regularisation path, past its best, and what each strength costs.

    python bench/path.py --data DIR [SET ...] [--weakest 1e-9] [--cache DIR]

Every strength of the grid down to --weakest is tried, however far past the best: a line for each, with the cross-validated
negative log-likelihood, its rise over the best so far, the seconds, and whether a fit would have got there. The line after
them: the largest rise after which a better strength still came (0: none came after any), and the seconds that a fit spends.
"""

import argparse
import json
import time
from pathlib import Path

import data as image_sets
import numpy as np
from measure import ROOT

from regraft.clock import Clock
from regraft.prepare import prepare
from regraft.progress import Silent
from regraft.recipe import Data, Recipe
from regraft.task.classify import targets_of
from regraft.train.design import make_design
from regraft.train.folds import FoldSolver
from regraft.train.path import GRID, past_best
from regraft.values import Strength


def walk(name: str, folder: Path, cache: Path, weakest: float) -> None:
    ready = prepare(Recipe(data=Data(path=folder), cache=cache), Clock(), Silent())
    split, seen, columns = ready.split, ready.observed, ready.extracted.columns
    targets = targets_of(seen.train, split.classes, split.multi_label)
    for kind in ("last", "stages"):
        features = seen.train_features.leading(columns.width_of(kind))
        solver = FoldSolver(make_design(features), targets, seen.folds_N, np.ones((1, len(targets))), len(split.classes))
        tried: list[Strength] = []
        ended, spent, came_back = False, 0.0, 0.0
        for l2 in (one for one in GRID if one >= weakest):
            start = time.perf_counter()
            found = solver.try_strength(l2, kind)
            seconds = time.perf_counter() - start
            best = min((one.nll for one in tried), default=found.nll)
            if found.nll < best:
                came_back = max([came_back, *(one.nll / best - 1 for one in tried[_place(tried) :])])
            tried.append(found)
            spent += 0.0 if ended else seconds
            line = {"set": name, "features": kind, "l2": l2, "nll": found.nll, "rise": found.nll / best - 1}
            print(json.dumps({**line, "seconds": round(seconds, 2), "in a fit": not ended}), flush=True)
            ended = ended or past_best(tried)
        print(json.dumps({"set": name, "features": kind, "came back after": came_back, "seconds of a fit": round(spent, 1)}))


def _place(tried: list[Strength]) -> int:
    """Where the best stands so far."""
    return min(range(len(tried)), key=lambda i: tried[i].nll)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", nargs="*", default=["clipart", "stamps", "fashion2k"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weakest", type=float, default=GRID[-1])
    parser.add_argument("--cache", type=Path, default=ROOT / "bench/out/cache")
    given = parser.parse_args()
    for name in given.sets:
        walk(name, image_sets.make(name, given.data.resolve()), given.cache, given.weakest)


if __name__ == "__main__":
    main()
