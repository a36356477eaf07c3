"""Accuracy against the number of training images: heads solved again on parts of them, from the cached features.

The training images are dealt into 2 halves, 4 quarters, 8 eighths and so on (`parts.py`). A head is solved on each part, on at
most PARTS of one size, and judged on images outside of it. Parts of one size have no image in common, so that their luck
averages out; smaller ones lie inside of larger ones. The last point of the curve costs nothing: it is what cross-validation
found, with heads that had learned from all images but one fold. No test image takes part.

Among many images one quarter only judges, so that no head learns from it, and fewer parts are solved: each says enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from regraft.cache.store import FeatureRows
from regraft.errors import NotConverged
from regraft.evaluate.learning import Level, describe_curve
from regraft.progress import Progress, Silent
from regraft.train.convex import LinearHead, Targets, make_loss, solve_design
from regraft.train.design import make_design
from regraft.train.folds import DECREMENT, TOLERANCE, losses_of
from regraft.train.held import Steering
from regraft.train.parts import deal, units_of
from regraft.train.path import balanced_weights
from regraft.train.standardise import widened
from regraft.values import FloatArray, LearningCurve

DIVISORS = (2, 4, 8, 16)
PARTS = 4
# Images for each class, on the average, in the smallest part: with one, how a class varies is not seen at all.
FEWEST_OF_A_CLASS = 2
FEWEST_IMAGES = 10
# From so many images on, a quarter of them judges and does nothing else; so many of it that an error of 10 % has a standard
# error of 0.3 points.
MANY, JUDGED = 8_000, 10_000
_READ_VALUES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """What parts are taken from: the images, the numbers they were dealt, and those that judge."""

    features: FeatureRows | FloatArray
    targets: Targets
    dealt_N: NDArray[np.int64]
    judges_J: NDArray[np.int64]
    many: bool
    classes: int
    l2: float
    balanced: bool


def learning_curve(
    features: FeatureRows | FloatArray,
    targets: Targets,
    folds_N: NDArray[np.int64],
    out_of_fold_NK: FloatArray,
    *,
    classes: int,
    l2: float,
    balanced: bool = False,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    progress: Progress = Silent(),
) -> LearningCurve:
    """How good heads on `features` (N, D), raw ones, are after learning from fewer images, and what more would bring.

    `out_of_fold_NK` are the logits of cross-validation over `folds_N` at the strength `l2`. A part of n images is fitted with
    l2 N / n: the same penalty for a loss that is a sum, and so the same belief about the weights, however many images there are
    (docs/measurements.md#learning-curve). Images that share one of `groups` (None: none) are never divided, and count as one
    draw. What is drawn follows from `seed` alone.

    The curve has few points where parts would be too small or one cannot be solved, and no law with fewer than three.
    Raises DataUnusable for features that are not finite.
    """
    count = len(targets)
    unit_N = units_of([None] * count if groups is None else groups)
    dealt_N = deal(targets, unit_N, seed)
    # Groups and not images, because parts are made of them: few large ones cannot be divided so often.
    units = int(unit_N.max()) + 1
    many = count >= MANY and units >= FEWEST_IMAGES * DIVISORS[1]
    judges_J = np.flatnonzero(dealt_N % 4 == 3)[:: -(-count // (4 * JUDGED))] if many else np.arange(count)
    problem = _Problem(
        features=features,
        targets=targets,
        dealt_N=dealt_N,
        judges_J=judges_J,
        many=many,
        classes=classes,
        l2=l2,
        balanced=balanced,
    )
    levels = [*_solved_levels(problem, units, progress), _level_of_folds(problem, folds_N, out_of_fold_NK)]
    return describe_curve(levels, unit_N[judges_J], images=count, multi_label=targets.ndim == 2, seed=seed)


def _level_of_folds(problem: _Problem, folds_N: NDArray[np.int64], out_of_fold_NK: FloatArray) -> Level:
    """What cross-validation says: all images but those of one fold were learned from."""
    held = np.bincount(folds_N)
    wrong_J, nll_J = _judge(np.asarray(out_of_fold_NK[problem.judges_J], np.float64), problem, problem.judges_J)
    return Level(images=len(folds_N) - float(held[held > 0].mean()), wrong_HJ=wrong_J[None], nll_HJ=nll_J[None])


def _solved_levels(problem: _Problem, units: int, progress: Progress) -> list[Level]:
    """Those of the parts, the smallest last."""
    targets = problem.targets
    present = len(np.unique(targets)) if targets.ndim == 1 else int(targets.any(axis=0).sum())
    fewest = max(FEWEST_IMAGES, FEWEST_OF_A_CLASS * present)
    plan = {divisor: parts_of(divisor, problem.many) for divisor in DIVISORS if units >= divisor * fewest}
    levels: list[Level] = []
    steering: Steering | None = None
    with progress.task("learning curve", sum(len(parts) for parts in plan.values()), "heads") as task:
        for divisor, parts in plan.items():
            try:
                level, steering = _solve_level(problem, divisor, parts, steering)
            except NotConverged:
                break  # few images can be harder to solve than all of them: that is no reason to go without a model
            levels.append(level)
            task.advance(len(parts))
    return levels


def parts_of(divisor: int, many: bool) -> list[int]:
    """Which of the parts of a size are solved: with many images, such as hold none of the quarter that judges (remainder 3)."""
    if not many:
        return list(range(min(divisor, PARTS)))
    return [part for part in range(divisor) if part % min(divisor, 4) != 3 % min(divisor, 4)][: PARTS // 2]


def _solve_level(problem: _Problem, divisor: int, parts: list[int], steering: Steering | None) -> tuple[Level, Steering | None]:
    judges, dealt_J = problem.judges_J, problem.dealt_N[problem.judges_J] % divisor
    wrong_HJ, nll_HJ = np.full((2, len(parts), len(judges)), np.nan)
    sizes = []
    for number, part in enumerate(parts):
        rows = np.flatnonzero(problem.dealt_N % divisor == part)
        head, steering = solve_part(problem, rows, steering)
        outside = np.flatnonzero(dealt_J != part)
        logits = _logits(problem.features, judges[outside], head)
        wrong_HJ[number, outside], nll_HJ[number, outside] = _judge(logits, problem, judges[outside])
        sizes.append(len(rows))
    return Level(images=float(np.mean(sizes)), wrong_HJ=wrong_HJ, nll_HJ=nll_HJ), steering


def solve_part(problem: _Problem, rows: NDArray[np.int64], steering: Steering | None) -> tuple[LinearHead, Steering | None]:
    """The head of some of the images, as exact as cross-validation's, and what may steer the solver on others."""
    features, targets = problem.features, problem.targets[rows]
    part = features.take(rows) if isinstance(features, FeatureRows) else features[rows]
    design = make_design(cast(FloatArray, part), steering)
    weights_LN = balanced_weights(targets, problem.classes) if problem.balanced else np.ones((1, len(rows)))
    loss = make_loss(targets, weights_LN[None], problem.classes, design)
    l2 = problem.l2 * len(problem.targets) / len(rows)
    head = solve_design(design, loss, None, classes=problem.classes, l2=l2, tolerance=TOLERANCE, decrement=DECREMENT)
    return head, design.steering() or steering


def _logits(features: FeatureRows | FloatArray, rows: NDArray[np.int64], head: LinearHead) -> FloatArray:
    """(M, K) of some rows, read a block at a time."""
    weight_KD, bias_K = head.unstandardised()
    weight_DK, bias_K = weight_KD.T.astype(np.float32), bias_K.astype(np.float32)
    step = max(1, _READ_VALUES // features.shape[1])
    blocks = [widened(features[rows[start : start + step]]) @ weight_DK + bias_K for start in range(0, len(rows), step)]
    return np.concatenate(blocks)


def _judge(
    logits_MK: FloatArray, problem: _Problem, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each of the rows: 1 where the answer is wrong (several labels: any of them), and the loss in nats."""
    nll_ML, right_M = losses_of(logits_MK.astype(np.float64), problem.targets[rows], problem.classes)
    return np.asarray(1.0 - right_M, np.float64), np.asarray(nll_ML.mean(axis=1), np.float64)
