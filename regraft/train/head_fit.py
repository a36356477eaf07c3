"""Feature extraction: the head solved on cached features, its regularisation and its features chosen by cross-validation."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from regraft.backbone.features import Columns
from regraft.cache.store import FeatureRows
from regraft.errors import UsageError
from regraft.progress import Progress
from regraft.ranks import here
from regraft.strategies import Head
from regraft.train.path import PathResult, choose_l2
from regraft.train.standardise import widened
from regraft.values import FloatArray, HeadChoice

_READ_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFit:
    """A solved head in the space of raw features: logits = features[:, :D] @ weight_KD.T + bias_K.

    `out_of_fold_NK` are the logits of each training image by heads that did not see it.
    """

    features: str
    weight_KD: NDArray[np.float32]
    bias_K: NDArray[np.float32]
    choice: HeadChoice
    out_of_fold_NK: NDArray[np.float64]

    def logits(self, features: FeatureRows) -> NDArray[np.float64]:
        """(N, K) logits of rows still on disk."""
        return logits_of_rows(features, self.weight_KD, self.bias_K)


def logits_of_rows(features: FeatureRows, weight_KD: FloatArray, bias_K: FloatArray) -> NDArray[np.float64]:
    """(N, K) logits of rows still on disk, a block at a time, as precise as the weights. They read the first D columns."""
    narrow = features.leading(weight_KD.shape[1])
    parts = (narrow[i : i + _READ_ROWS] for i in range(0, len(narrow), _READ_ROWS))
    blocks = [widened(part) @ weight_KD.T + bias_K for part in parts]
    return np.concatenate(blocks).astype(np.float64) if blocks else np.zeros((0, len(bias_K)))


def fit_head(
    strategy: Head,
    features: FeatureRows,
    columns: Columns,
    targets: NDArray[np.int64] | NDArray[np.bool_],
    folds_N: NDArray[np.int64],
    *,
    classes: int,
    progress: Progress,
) -> HeadFit:
    """Solve the head for every set of features that `strategy` allows; keep the best by cross-validated likelihood.

    Several processes (`here`) all call it with the same rows, which each of them can read, and get the same head.

    Raises NotConverged, DataUnusable.
    """
    kinds = _kinds(strategy, columns)
    results = {
        kind: choose_l2(
            cast(FloatArray, features.leading(columns.width_of(kind))),
            targets,
            folds_N,
            classes=classes,
            multi_label=targets.ndim == 2,
            balanced=strategy.balance == "auto",
            grid=None if strategy.l2 is None else (strategy.l2,),
            features=kind,
            progress=progress,
            ranks=here(),
        )
        for kind in kinds
    }
    kind = min(results, key=lambda k: _best(results[k]))
    return describe_fit(kind, results, int(folds_N.max()) + 1, strategy.balance == "auto")


def _kinds(strategy: Head, columns: Columns) -> tuple[str, ...]:
    has_stages = columns.width > columns.last_width
    if strategy.features == "stages" and not has_stages:
        raise UsageError(
            expected="a backbone with stages to pool for --features stages",
            got="one whose features are those of its last layer",
            fix="use --features last, or another backbone",
        )
    if strategy.features != "auto":
        return (strategy.features,)
    return ("last", "stages") if has_stages else ("last",)


def _best(result: PathResult) -> float:
    return min(strength.nll for strength in result.tried)


def describe_fit(kind: str, results: dict[str, PathResult], folds: int, balanced: bool) -> HeadFit:
    """The head of the features `kind`, of all that were tried."""
    chosen = results[kind]
    weight_KD, bias_K = chosen.head.unstandardised()
    choice = HeadChoice(
        tried=tuple(strength for result in results.values() for strength in result.tried),
        features=kind,
        l2=chosen.l2,
        gradient_norm=chosen.head.gradient_norm,
        iterations=chosen.head.iterations,
        folds=folds,
        balanced=balanced,
    )
    return HeadFit(
        features=kind,
        weight_KD=weight_KD.astype(np.float32),
        bias_K=bias_K.astype(np.float32),
        choice=choice,
        out_of_fold_NK=chosen.out_of_fold_logits_NK.astype(np.float64),
    )
