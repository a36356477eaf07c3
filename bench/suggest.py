"""Which images to label next: what labels of suggested images bring, beside as many drawn at random and other ways to choose.

    python bench/suggest.py --data DIR [SET] [--known 150] [--labels 100] [--draws 30] [--columns D] [--rare] [--cache DIR]

For each draw a head is solved on some training images and the others are the pool; each way takes its images from it, the
head is solved again with their labels, and judged on the test images. --rare leaves one in seven of every second class in the
pool and in what is known. Prints the mean accuracy of each way in per cent, and its lead over chance with the standard error.
"""

import argparse
import json
from pathlib import Path

import data as image_sets
import numpy as np
from learning_curve import components, observed
from measure import ROOT
from numpy.typing import NDArray

import regraft.train.suggest as ours
from regraft.evaluate.probability import probabilities
from regraft.task.classify import targets_of
from regraft.train.convex import LinearHead
from regraft.train.path import choose_l2

Floats, Rows = NDArray[np.float32], NDArray[np.int64]
GRID = tuple(10.0**half for half in np.arange(1, -3.25, -0.5))


def solve(features_ND: Floats, targets: Rows, classes: int) -> LinearHead:
    return choose_l2(features_ND, targets, np.arange(len(targets)) % 5, classes=classes, grid=GRID).head


def badge(features_ND: Floats, shares_NK: NDArray[np.float64], count: int, seed: int, power: int) -> Rows:
    """k-means++ over gradients, weighed with this power of the doubt; 0 is BADGE as published, but for the first image."""
    before, ours.SHARPNESS = ours.SHARPNESS, power
    try:
        return np.array(ours.choose_next(features_ND, shares_NK, count, seed=seed).chosen)
    finally:
        ours.SHARPNESS = before


def ways(features_ND: Floats, shares_NK: NDArray[np.float64], count: int, seed: int) -> dict[str, Rows]:
    """Rows of the pool that each way would have labelled."""
    doubt_N = ours.doubts(shares_NK, False)
    surprise_N = -(shares_NK * np.log(shares_NK + 1e-12)).sum(axis=1)
    return {
        "at random": np.random.default_rng((seed, 99)).permutation(len(doubt_N))[:count],
        "doubt alone": np.argsort(-doubt_N, kind="stable")[:count],
        "entropy alone": np.argsort(-surprise_N, kind="stable")[:count],
        **{
            f"k-means++, doubt^{power}": badge(features_ND, shares_NK, count, seed, power)
            for power in (0, 1, 2, ours.SHARPNESS, 8)
        },
    }


def main() -> None:
    """Every draw, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", default="fashion2k")
    parser.add_argument("--data", type=Path, default=ROOT / "bench/out/data")
    parser.add_argument("--cache", type=Path, default=ROOT / "bench/out/cache")
    parser.add_argument("--known", type=int, default=150)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--columns", type=int, help="so many principal components instead of all features")
    parser.add_argument("--rare", action="store_true")
    chosen = parser.parse_args()
    split, seen = observed(image_sets.make(chosen.set, chosen.data.resolve()), chosen.cache)
    targets, truth = (targets_of(part, split.classes, False).astype(np.int64) for part in (seen.train, seen.test))
    train_ND, test_MD = seen.train_features[:], seen.test_features[:]
    if chosen.columns:
        train_ND, test_MD = components(train_ND, test_MD, chosen.columns)
    right: dict[str, list[float]] = {}
    for seed in range(chosen.draws):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(targets))
        if chosen.rare:
            rows = rows[rng.random(len(rows)) < np.where(targets[rows] % 2, 1 / 7, 1.0)]
        known, pool = rows[: chosen.known], rows[chosen.known :]
        head = solve(train_ND[known], targets[known], len(split.classes))
        right.setdefault("before", []).append(float((head.logits(test_MD).argmax(axis=1) == truth).mean()))
        shares = probabilities(head.logits(train_ND[pool]), False)
        for name, picked in ways(train_ND[pool], shares, chosen.labels, seed).items():
            both = np.concatenate([known, pool[picked]])
            head = solve(train_ND[both], targets[both], len(split.classes))
            right.setdefault(name, []).append(float((head.logits(test_MD).argmax(axis=1) == truth).mean()))
    for name, values in right.items():
        lead = 100 * (np.array(values) - np.array(right["at random"]))
        figures = {"accuracy": 100 * np.mean(values), "lead": lead.mean(), "error": lead.std(ddof=1) / np.sqrt(len(lead))}
        print(json.dumps({"way": name} | {key: round(float(value), 2) for key, value in figures.items()}), flush=True)


if __name__ == "__main__":
    main()
