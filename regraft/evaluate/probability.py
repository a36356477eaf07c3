"""From logits to probabilities and decisions: the one place of the project with a softmax or a sigmoid in numpy.

Everything is computed in float64, whatever the logits' own precision.
"""

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataUnusable
from regraft.values import FloatArray, Predictions

Targets = NDArray[np.int64] | NDArray[np.bool_]


def log_probabilities(logits_NK: FloatArray) -> NDArray[np.float64]:
    """Log-softmax over the classes, (N, K) in nats."""
    shifted_NK = logits_NK.astype(np.float64)
    shifted_NK -= shifted_NK.max(axis=1, keepdims=True)
    shifted_NK -= np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True))
    return shifted_NK


def probabilities(logits_NK: FloatArray, multi_label: bool) -> NDArray[np.float64]:
    """(N, K) probabilities: rows that sum to 1 (softmax), or for multi-label data each label's own (sigmoid)."""
    if not multi_label:
        return np.exp(log_probabilities(logits_NK))
    return np.exp(-np.logaddexp(0.0, -logits_NK.astype(np.float64)))


def negative_log_likelihoods(predictions: Predictions, truth: Targets) -> NDArray[np.float64]:
    """(N,) nats: of the true class, or for multi-label data the mean over the labels of the binary cross-entropy."""
    if not predictions.multi_label:
        return -log_probabilities(predictions.logits_NK)[np.arange(len(truth)), truth]
    logits_NK = predictions.logits_NK.astype(np.float64)
    losses_NK: NDArray[np.float64] = np.logaddexp(0.0, logits_NK) - truth * logits_NK
    means_N: NDArray[np.float64] = losses_NK.mean(axis=1)
    return means_N


def decisions(predictions: Predictions) -> Targets:
    """The answers: (N,) class indices, the first of equal logits; or (N, K) booleans, true above probability 1/2."""
    if predictions.multi_label:
        return predictions.logits_NK > 0
    answers_N: NDArray[np.int64] = predictions.logits_NK.argmax(axis=1).astype(np.int64)
    return answers_N


def right(truth: Targets, answers: Targets) -> NDArray[np.bool_]:
    """(N,) whether each image is answered right; for multi-label data, with every label right."""
    same: NDArray[np.bool_] = truth == answers
    return same if same.ndim == 1 else np.asarray(same.all(axis=1))


def confidences(predictions: Predictions) -> NDArray[np.float64]:
    """(N,) `sureness` of predictions."""
    return sureness(predictions.logits_NK, predictions.multi_label)


def sureness(logits_NK: FloatArray, multi_label: bool) -> NDArray[np.float64]:
    """(N,) probability of the answer; for multi-label data that of its least certain yes or no."""
    if multi_label:
        present_NK = probabilities(logits_NK, multi_label=True)
        return np.asarray(np.maximum(present_NK, 1 - present_NK).min(axis=1), dtype=np.float64)
    return np.asarray(np.exp(log_probabilities(logits_NK).max(axis=1)), dtype=np.float64)


def known_truth(predictions: Predictions) -> Targets:
    """The targets of predictions that can be judged.

    Raises DataUnusable where there is no image, no truth, or a logit that is not finite; ValueError where shapes disagree.
    """
    logits_NK, targets = predictions.logits_NK, predictions.targets
    if targets is None or not len(logits_NK):
        raise DataUnusable(
            expected="images with known labels to score",
            got="none" if targets is not None else f"{len(logits_NK)} images without labels",
            fix="give images in class folders, or a table with a label column",
        )
    _check_shapes(predictions, targets)
    finite_N = np.asarray(np.isfinite(logits_NK).all(axis=1))
    if not finite_N.all():
        first = predictions.names[int(finite_N.argmin())]
        raise DataUnusable(
            expected="finite logits",
            got=f"infinite or undefined ones for {np.count_nonzero(~finite_N)} of {len(finite_N)} images, the first {first}",
            fix="the weights or the engine overflow on them: try --device cpu, or another backbone",
        )
    return targets


def _check_shapes(predictions: Predictions, targets: Targets) -> None:
    shape = (len(predictions.names), len(predictions.classes))
    wanted = shape if predictions.multi_label else shape[:1]
    if predictions.logits_NK.shape != shape or targets.shape != wanted:
        raise ValueError(f"expected logits {shape} and targets {wanted}, got {predictions.logits_NK.shape} and {targets.shape}")
    if not predictions.multi_label and (targets.min() < 0 or targets.max() >= shape[1]):
        raise ValueError(f"expected class indices from 0 to {shape[1] - 1}, got {targets.min()} to {targets.max()}")
