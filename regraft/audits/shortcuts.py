"""Sides of the files that give the class away without a look at the picture."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.interval import wilson
from regraft.evaluate.probability import Targets
from regraft.findings import Shortcut
from regraft.values import Interval

_LEAK = "It says nothing of what is in the picture: a model that learns it will fail on pictures made another way."
_MAYBE = (
    "That may be how the things themselves differ; if it is only how they were photographed, a model that learns it will fail."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """How a side is spoken of, and how far from the baseline to certainty it has to lead before it is worth a word."""

    words: str
    advice: str
    least: float


# The least is what no honest set among those measured reaches: docs/measurements.md#labels
SIDES: dict[str, _Side] = {
    "image size": _Side(words="the width and height of the image", advice=_LEAK, least=0.25),
    "file format": _Side(words="the format of the file", advice=_LEAK, least=0.1),
    "bytes per pixel": _Side(words="the size of the file for its pixels", advice=_LEAK, least=0.35),
    "mean colour": _Side(words="the mean colour of the image", advice=_MAYBE, least=0.4),
    "border colour": _Side(words="the colour along the border of the image", advice=_MAYBE, least=0.3),
}
_LEAVES, _MOST_LEAVES, _SMALLEST_LEAF = 4, 256, 5


def find_shortcuts(
    sides: Mapping[str, NDArray[Any]],
    targets: Targets,
    folds_N: NDArray[np.int64],
    groups: Sequence[Hashable] | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> tuple[Shortcut, ...]:
    """The sides from which alone the class can be told, the most telling first.

    `sides` gives for each side numbers, (N,) or (N, D), by a name of `SIDES` or another one; `targets` is (N,) class indices or
    (N, K) booleans; images of one of `groups` share a fold, and are one observation in the interval. A small decision tree
    learns each side on all folds but one and answers for that one. It is a shortcut where the lower end of the Wilson interval
    of its accuracy lies far enough above the share of the largest class; how far, as a part of the way to 1, is in `SIDES`.
    Several labels per image: each yes or no is judged by itself, and the one that a side tells best, which `classes` name,
    speaks for it.
    """
    truth_NL = targets[:, None] if targets.ndim == 1 else targets
    if len(np.unique(folds_N)) < 2:
        return ()
    baseline_L = np.array([_baseline(truth_N) for truth_N in truth_NL.T])
    images = len(truth_NL) if groups is None else len(set(groups))
    found = []
    for what, values in sides.items():
        share_L = (_answers(values, truth_NL, folds_N) == truth_NL).mean(axis=0)
        accuracies = [wilson(round(share * images), images) for share in share_L]
        way_L = np.array([_way(one, base) for one, base in zip(accuracies, baseline_L, strict=True)])
        best = int(way_L.argmax())
        if way_L[best] >= _side(what).least:
            label = classes[best] if classes is not None and targets.ndim == 2 else None
            found.append((-way_L[best], _shortcut(what, accuracies[best], float(baseline_L[best]), label)))
    return tuple(shortcut for _, shortcut in sorted(found, key=lambda one: (one[0], one[1].what)))


def _side(what: str) -> _Side:
    return SIDES.get(what, _Side(words=what, advice=_LEAK, least=0.25))


def _shortcut(what: str, accuracy: Interval, baseline: float, label: str | None) -> Shortcut:
    side, of = _side(what), "the class" if label is None else f"whether an image is labelled {label}"
    words = (
        f"{side.words[0].upper()}{side.words[1:]} alone tells {of} right for {accuracy.value:.0%} of the images"
        f" ({baseline:.0%} by always giving the commonest answer). {side.advice}"
    )
    return Shortcut(what=what, accuracy=accuracy, baseline=baseline, words=words)


def _way(accuracy: Interval, baseline: float) -> float:
    """How far the accuracy surely is on the way from the baseline to 1."""
    return (accuracy.low - baseline) / (1 - baseline) if baseline < 1 else 0.0


def _baseline(truth_N: NDArray[Any]) -> float:
    return float(np.unique(truth_N, return_counts=True)[1].max() / len(truth_N))


def _answers(values: NDArray[Any], truth_NL: NDArray[Any], folds_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N, L) what trees say that learned on the other folds."""
    from sklearn.tree import DecisionTreeClassifier  # a second to import, which only an audit should cost

    values_ND = values.reshape(len(values), -1).astype(np.float32)
    # Trees know what is missing, but no infinity.
    values_ND[~np.isfinite(values_ND)] = np.nan
    answers_NL = np.zeros(truth_NL.shape, np.int64)
    leaves = min(_LEAVES * max(len(np.unique(truth_NL)), truth_NL.shape[1]), _MOST_LEAVES)
    for fold in np.unique(folds_N):
        out_N = folds_N == fold
        tree = DecisionTreeClassifier(max_leaf_nodes=leaves, min_samples_leaf=_SMALLEST_LEAF, random_state=0)
        tree.fit(values_ND[~out_N], truth_NL[~out_N].astype(np.int64))
        answers_NL[out_N] = tree.predict(values_ND[out_N]).reshape(-1, truth_NL.shape[1])
    return answers_NL
