"""The regularisation path: the strength of the penalty chosen by cross-validation, the head refitted on every image.

From strong to weak, each strength starts from the last one's solutions, and all folds are solved in one batch. The features
are standardised once, over all training rows: that looks at no label, and it lets the folds share one matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataUnusable, UsageError
from regraft.progress import Progress, Silent
from regraft.ranks import ALONE, Ranks
from regraft.train.convex import LinearHead, Targets, check_targets, make_loss, solve_design
from regraft.train.design import by_first, make_design
from regraft.train.folds import FoldSolver
from regraft.train.standardise import check_shape
from regraft.values import FloatArray, Strength

GRID = tuple(float(10.0**half) for half in np.arange(2.0, -9.25, -0.5))  # 10^2 ... 10^-9 in half decades
WORSE = 3  # strengths in a row past the best likelihood, after which weaker ones are left out
CLEARLY = 1e-4  # relative rise of the negative log-likelihood that counts as past the best
# Such a rise ends it at once: weak strengths take the longest by far, and have never come back: docs/measurements.md#path
LOST = 0.05
REFIT_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class PathResult:
    """What the path found.

    `tried` is in the order of trying, strongest first; `skipped` are the strengths left out once cross-validation had
    clearly passed its best. `head` is fitted on all rows at `l2`. `out_of_fold_logits_NK` are of heads that had not seen
    the row's fold. `gradient_norm` and `iterations` are the refit's.
    """

    tried: tuple[Strength, ...]
    skipped: tuple[float, ...]
    l2: float
    head: LinearHead
    out_of_fold_logits_NK: NDArray[np.float32]
    gradient_norm: float
    iterations: int


def choose_l2(
    features_ND: FloatArray,
    targets: Targets,
    folds_N: NDArray[np.int64],
    *,
    classes: int,
    multi_label: bool = False,
    balanced: bool = False,
    grid: Sequence[float] | None = None,
    features: str = "last",
    progress: Progress = Silent(),
    ranks: Ranks = ALONE,
) -> PathResult:
    """The strength with the smallest cross-validated negative log-likelihood, and the head refitted there on all rows.

    Of strengths that differ by less than 0.001 nats the strongest is taken.

    `features_ND` are raw, (N, D), and may be memory-mapped; a view of some columns costs nothing extra. `targets` are (N,)
    class indices, or (N, K) booleans where `multi_label`. `folds_N` holds each row's fold. `balanced` weighs every image
    inversely to the frequency of its class (multi-label: of its answer to each label), in the objective and in the likelihood
    that chooses. The likelihood is in nats per image (multi-label: per image and label); a class that no training image
    of a fold has is left out of it there, for it tells nothing of the strength. `grid` replaces GRID; one strength is a way
    to fix it. `features` names the features in `tried`.

    Several `ranks` call it with the same, all rows, and get the same. Each reads and works on its part of the rows, but for
    fewer images than features, which rank 0 solves.
    Raises NotConverged, DataUnusable, UsageError.
    """
    check_shape(features_ND)
    if by_first(features_ND, ranks):
        return ranks.shared(
            lambda: choose_l2(
                features_ND,
                targets,
                folds_N,
                classes=classes,
                multi_label=multi_label,
                balanced=balanced,
                grid=grid,
                features=features,
                progress=progress,
            ),
        )
    check_targets(targets, len(features_ND), classes, multi_label=multi_label)
    check_folds(folds_N, len(features_ND))
    strengths = _descending(GRID if grid is None else grid)
    weights_LN = balanced_weights(targets, classes) if balanced else np.ones((1, len(targets)))
    design = make_design(features_ND, ranks=ranks)
    solver = FoldSolver(design, targets, folds_N, weights_LN, classes)
    tried: list[Strength] = []
    with progress.task(f"choosing the regularisation ({features})", len(strengths), "strengths") as task:
        for l2 in strengths:
            tried.append(solver.try_strength(l2, features))
            task.advance()
            if past_best(tried):
                task.advance(len(strengths) - len(tried))
                break
    best, logits_NK, start_KR = solver.best()
    del solver
    loss = make_loss(targets, weights_LN[None], classes, design)
    head = solve_design(design, loss, start_KR, classes=classes, l2=best.l2, tolerance=REFIT_TOLERANCE)
    return PathResult(
        tried=tuple(tried),
        skipped=tuple(strengths[len(tried) :]),
        l2=best.l2,
        head=head,
        out_of_fold_logits_NK=logits_NK,
        gradient_norm=head.gradient_norm,
        iterations=head.iterations,
    )


def balanced_weights(targets: Targets, classes: int) -> NDArray[np.float64]:
    """Weights that let every class weigh the same: (1, N) with N / (K n_k) for an image of class k.

    Multi-label: (K, N), for each label N / (2 n) with n the images of the same answer.
    """
    count = len(targets)
    if targets.ndim == 1:
        counts_K = np.bincount(targets, minlength=classes)
        weights_N = count / (np.count_nonzero(counts_K) * counts_K[targets].astype(np.float64))
        return weights_N[None]
    truth_KN = targets.T.astype(bool)
    positive_K1 = truth_KN.sum(axis=1, keepdims=True)
    weights_KN: NDArray[np.float64] = count / (2.0 * np.where(truth_KN, positive_K1, count - positive_K1))
    return weights_KN


def check_folds(folds_N: NDArray[np.int64], count: int) -> None:
    """Raise DataUnusable unless every row has a fold and there are at least two."""
    folds = len(np.unique(folds_N))
    if folds_N.shape != (count,) or folds < 2:
        raise DataUnusable(
            expected=f"a fold for each of {count} images, and at least two folds",
            got=f"shape {folds_N.shape} with {folds} folds",
            fix="give more images, or groups that can be parted",
        )


def past_best(tried: Sequence[Strength]) -> bool:
    """Whether the likelihood has clearly passed its best, so that weaker strengths are not worth their time."""
    best = min(strength.nll for strength in tried)
    if tried[-1].nll > best * (1 + LOST):
        return True
    return len(tried) > WORSE and all(strength.nll > best * (1 + CLEARLY) for strength in tried[-WORSE:])


def _descending(grid: Sequence[float]) -> list[float]:
    if not grid or not all(0 < l2 < np.inf for l2 in grid):
        raise UsageError(expected="l2 strengths above 0", got=f"{list(grid)}", fix="leave them out to use the default grid")
    return sorted(grid, reverse=True)
