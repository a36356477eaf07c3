"""Whether a learning curve says what more images bring: curves of half of the images against what all of them give.

    python bench/learning_curve.py --data DIR [SET] [--images N] [--draws 10] [--columns D] [--cache DIR]

For each draw: 2 N training images are taken at random, by class (N: half of them, unless --images says so). A head is
chosen and solved on N of them as a fit does it, and the learning curve is drawn from these N alone. Then the same is done
with all 2 N, and both heads are judged on the test images, which nothing had seen. A line per draw: the gain that was
projected with its band, the gain that there was with the standard error of the test images, and the processor's time beside
that of choosing the head. The last line: how often the band held what happened. --columns takes the leading principal
components instead of all features, which is faster.
"""

import argparse
import json
import time
from pathlib import Path

import data as image_sets
import numpy as np
from measure import ROOT
from numpy.typing import NDArray

from regraft.backbone.features import later_stages
from regraft.backbone.load import load_backbone
from regraft.cache.extract import extract_features
from regraft.data.read import read_samples
from regraft.data.split import split_samples
from regraft.recipe import DEFAULT_BACKBONE, Data
from regraft.task.classify import targets_of
from regraft.train.learning_curve import learning_curve
from regraft.train.observed import Observed, observe
from regraft.train.path import PathResult, choose_l2
from regraft.values import Split

FOLDS = 5


def observed(folder: Path, cache: Path) -> tuple[Split, Observed]:
    """The images of a set with their features, from the cache where they are known."""
    where = Data(path=folder)
    split = split_samples(read_samples(where), where, 0)
    backbone = load_backbone(DEFAULT_BACKBONE, whole_image=True)
    images = [*split.train, *split.test]
    return split, observe(split, extract_features(images, backbone, later_stages(backbone), cache=cache))


def components(train_ND: NDArray[np.float32], test_MD: NDArray[np.float32], columns: int) -> list[NDArray[np.float32]]:
    """Both in the leading principal components of (some of) the training images."""
    mean_D, scale_D = train_ND.mean(axis=0), train_ND.std(axis=0) + 1e-6
    some_ND = (train_ND[:: -(-len(train_ND) // 1500)] - mean_D) / scale_D
    basis_DC = np.linalg.svd(some_ND, full_matrices=False)[2][:columns].T
    return [((part - mean_D) / scale_D) @ basis_DC for part in (train_ND, test_MD)]


def draw_rows(targets: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """`count` rows, the classes in turn, so that every leading part has each in its proportion."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(targets))
    place_N = np.empty(len(targets))
    for k in np.unique(targets):
        mine = shuffled[targets[shuffled] == k]
        place_N[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
    return np.argsort(place_N)[:count]


def solve(features_ND: NDArray[np.float32], targets: NDArray[np.int64], classes: int) -> PathResult:
    return choose_l2(features_ND, targets, np.arange(len(targets)) // classes % FOLDS, classes=classes)


def one_draw(
    train_ND: NDArray[np.float32],
    test_MD: NDArray[np.float32],
    targets: NDArray[np.int64],
    truth: NDArray[np.int64],
    half: int,
    seed: int,
) -> dict[str, float]:
    """What was projected from `half` images, and what happened with twice as many."""
    rows, classes = draw_rows(targets, 2 * half, seed), int(targets.max()) + 1
    some_ND, labels = train_ND[rows[:half]], targets[rows[:half]]
    start = time.process_time()
    small = solve(some_ND, labels, classes)
    middle = time.process_time()
    folds = np.arange(half) // classes % FOLDS
    curve = learning_curve(some_ND, labels, folds, small.out_of_fold_logits_NK, classes=classes, l2=small.l2, seed=seed)
    end = time.process_time()
    large = solve(train_ND[rows], targets[rows], classes)
    right = [np.float64(result.head.logits(test_MD).argmax(axis=1) == truth) for result in (small, large)]
    double = next(one for one in curve.projections if one.images == 2 * half)
    return {
        "draw": seed,
        "half": round(100 * float(right[0].mean()), 2),
        "whole": round(100 * float(right[1].mean()), 2),
        "projected": round(100 * double.gain.value, 2),
        "low": round(100 * double.gain.low, 2),
        "high": round(100 * double.gain.high, 2),
        "gain": round(100 * float((right[1] - right[0]).mean()), 2),
        "gain_se": round(100 * float((right[1] - right[0]).std() / np.sqrt(len(truth))), 2),
        "accuracy_low": round(100 * double.accuracy.low, 2),
        "accuracy_high": round(100 * double.accuracy.high, 2),
        "share_of_time": round((end - middle) / (middle - start), 3),
    }


def main() -> None:
    """Every draw, then all together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", default="fashion2k")
    parser.add_argument("--data", type=Path, default=ROOT / "bench/out/data")
    parser.add_argument("--cache", type=Path, default=ROOT / "bench/out/cache")
    parser.add_argument("--images", type=int, help="N; half of the training images by default")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--columns", type=int, help="so many principal components instead of all features")
    chosen = parser.parse_args()
    split, seen = observed(image_sets.make(chosen.set, chosen.data.resolve()), chosen.cache)
    targets, truth = (targets_of(part, split.classes, False).astype(np.int64) for part in (seen.train, seen.test))
    train_ND, test_MD = seen.train_features[:], seen.test_features[:]
    if chosen.columns:
        train_ND, test_MD = components(train_ND, test_MD, chosen.columns)
    lines = []
    for seed in range(chosen.draws):
        lines.append(one_draw(train_ND, test_MD, targets, truth, chosen.images or len(targets) // 2, seed))
        print(json.dumps(lines[-1]), flush=True)
    inside = [line["low"] <= line["gain"] <= line["high"] for line in lines]
    errors = [line["projected"] - line["gain"] for line in lines]
    within = [line["accuracy_low"] <= line["whole"] <= line["accuracy_high"] for line in lines]
    print(
        json.dumps(
            {
                "draws": len(lines),
                "gain_in_band": round(float(np.mean(inside)), 3),
                "accuracy_in_band": round(float(np.mean(within)), 3),
                "mean_error": round(float(np.mean(errors)), 2),
                "root_mean_square_error": round(float(np.sqrt(np.mean(np.square(errors)))), 2),
                "mean_width": round(float(np.mean([line["high"] - line["low"] for line in lines])), 2),
                "mean_gain": round(float(np.mean([line["gain"] for line in lines])), 2),
                "share_of_time": round(float(np.median([line["share_of_time"] for line in lines])), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
