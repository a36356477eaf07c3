"""The scores of predictions, to the definitions of scikit-learn with `labels=all classes, zero_division=nan`.

A class that no image truly has keeps its row, with recall NaN; a class that is also never answered has precision and F1 NaN.
Means leave NaN out. As in scikit-learn, a class without images that is answered all the same has F1 = 0, and lowers the macro
F1: those answers are mistakes.
"""

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.calibration import calibration_error_interval
from regraft.evaluate.compare import mean_interval
from regraft.evaluate.interval import share_interval, wilson
from regraft.evaluate.macro_f1 import macro_f1_interval
from regraft.evaluate.probability import Targets, decisions, known_truth, negative_log_likelihoods, right
from regraft.values import ClassScore, Interval, Predictions, ScoreIntervals, Scores


def score(predictions: Predictions) -> Scores:
    """All scores of labelled predictions.

    `nll` is in nats per image (multi-label: per image and label); `ece` is defined in `evaluate.calibration`; `confusion_KK`
    counts truth by row and answer by column. `baseline` is the share of the commonest truth among these images. Intervals take
    images of one group for one draw: `share_interval`, `macro_f1_interval`, `mean_interval` and `calibration_error_interval`.
    Raises DataUnusable without labelled images or with logits that are not finite.
    """
    truth = known_truth(predictions)
    answers = decisions(predictions)
    n, classes = len(truth), predictions.classes
    hits_K, support_K, predicted_K = _counts(truth, answers, len(classes))
    intervals = ScoreIntervals(
        macro_f1=macro_f1_interval(predictions),
        nll=mean_interval(negative_log_likelihoods(predictions, truth), predictions.groups),
        ece=calibration_error_interval(predictions),
    )
    return Scores(
        n=n,
        accuracy=share_interval(right(truth, answers), predictions.groups),
        macro_f1=intervals.macro_f1.value,
        nll=intervals.nll.value,
        ece=intervals.ece.value,
        intervals=intervals,
        baseline=_commonest(truth) / n,
        per_class=_class_scores(classes, hits_K, support_K, predicted_K),
        confusion_KK=None if predictions.multi_label else confusion(truth, answers, len(classes)),
        classes=classes,
    )


def confusion(truth_N: Targets, answers_N: Targets, classes: int) -> NDArray[np.int64]:
    """(K, K) counts of images: truth by row, answer by column."""
    cells_N = truth_N.astype(np.int64) * classes + answers_N
    return np.bincount(cells_N, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def precision_interval(row: ClassScore) -> Interval:
    """The precision of a class with its Wilson interval, as if each image had been drawn alone."""
    return wilson(round(row.precision * row.predicted) if row.predicted else 0, row.predicted)


def recall_interval(row: ClassScore) -> Interval:
    """The recall of a class with its Wilson interval, as if each image had been drawn alone."""
    return wilson(round(row.recall * row.support) if row.support else 0, row.support)


def _counts(truth: Targets, answers: Targets, classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For each class: images answered right, images of it, images called it."""
    if truth.ndim == 2:
        return (truth & answers).sum(axis=0), truth.sum(axis=0), answers.sum(axis=0)
    hits_N = truth[truth == answers]
    return (
        np.bincount(hits_N, minlength=classes),
        np.bincount(truth, minlength=classes),
        np.bincount(answers, minlength=classes),
    )


def _class_scores(
    classes: tuple[str, ...], hits_K: NDArray[np.int64], support_K: NDArray[np.int64], predicted_K: NDArray[np.int64]
) -> tuple[ClassScore, ...]:
    precision_K, recall_K = _share(hits_K, predicted_K), _share(hits_K, support_K)
    f1_K = _share(2 * hits_K, support_K + predicted_K)
    return tuple(
        ClassScore(
            name=name,
            precision=float(precision_K[k]),
            recall=float(recall_K[k]),
            f1=float(f1_K[k]),
            support=int(support_K[k]),
            predicted=int(predicted_K[k]),
        )
        for k, name in enumerate(classes)
    )


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _commonest(truth: Targets) -> int:
    """Images with the commonest truth: a class, or for multi-label data a whole set of labels."""
    return int(np.unique(truth, axis=0, return_counts=True)[1].max())
