"""Scores against scikit-learn, calibration against an independent NumPy version: random cases with ties and absent classes."""

import itertools
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, precision_recall_fscore_support

from regraft.errors import DataUnusable
from regraft.evaluate import expected_calibration_error, mistakes, probabilities, reliability, score
from regraft.evaluate.calibration import chance_calibration_error
from regraft.values import Predictions

CASES = 250  # per test and seed; 4 seeds


def make(rng: np.random.Generator, *, multi_label: bool = False) -> Predictions:
    """Random predictions: 1 to 60 images, 2 to 8 classes of which some are absent, logits rounded so that ties occur."""
    n, k = int(rng.integers(1, 61)), int(rng.integers(2, 9))
    logits = rng.normal(0, rng.choice([0.3, 3, 30]), (n, k))
    if rng.random() < 0.4:
        logits = np.round(logits)
    present = rng.permutation(k)[: rng.integers(1, k + 1)]
    targets: NDArray[np.int64] | NDArray[np.bool_]
    targets = rng.random((n, k)) < rng.choice([0, 0.2, 0.6]) if multi_label else rng.choice(present, n).astype(np.int64)
    names = tuple(f"{i:03d}.png" for i in range(n))
    return Predictions(
        names=names,
        classes=tuple(f"c{i}" for i in range(k)),
        logits_NK=logits.astype(rng.choice([np.float32, np.float64])),
        targets=targets,
        multi_label=multi_label,
    )


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True).astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def plain_ece(claimed: NDArray[np.float64], true: NDArray[np.bool_], bins: int = 15) -> float:
    """Guo et al. 2017, written as in the paper: a loop over bins (low, high]."""
    edges, total = np.linspace(0, 1, bins + 1), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (claimed > low) & (claimed <= high) if low > 0 else claimed <= high
        if inside.any():
            total += inside.mean() * abs(true[inside].mean() - claimed[inside].mean())
    return total


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(CASES):
        predictions = make(rng)
        scores, truth = score(predictions), predictions.targets
        classes = range(len(predictions.classes))
        chances = softmax(predictions.logits_NK)
        answers = predictions.logits_NK.argmax(axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = precision_recall_fscore_support(truth, answers, labels=classes, zero_division=np.nan)
            macro = f1_score(truth, answers, labels=classes, average="macro", zero_division=np.nan)
            one_hot = np.eye(len(classes))[truth]
        got = [[getattr(row, name) for row in scores.per_class] for name in ("precision", "recall", "f1", "support")]
        np.testing.assert_allclose(got, wanted, atol=1e-8)
        assert scores.accuracy.value == pytest.approx(accuracy_score(truth, answers), abs=1e-12)
        assert scores.macro_f1 == pytest.approx(macro, abs=1e-8)
        assert scores.ece == pytest.approx(plain_ece(chances.max(axis=1), answers == truth), abs=1e-8)
        assert scores.baseline == pytest.approx(np.bincount(truth).max() / len(truth))
        np.testing.assert_array_equal(scores.confusion_KK, confusion_matrix(truth, answers, labels=classes))
        if (one_hot * chances).sum(axis=1).min() > 1e-12:  # scikit-learn clips probabilities below its eps
            assert scores.nll == pytest.approx(log_loss(truth, chances, labels=classes), abs=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_multi_label_scores_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    for _ in range(CASES):
        predictions = make(rng, multi_label=True)
        scores, truth = score(predictions), predictions.targets
        logits = predictions.logits_NK.astype(np.float64)
        chances, answers = 1 / (1 + np.exp(-logits)), logits > 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = precision_recall_fscore_support(truth, answers, zero_division=np.nan)
            macro = f1_score(truth, answers, average="macro", zero_division=np.nan)
        got = [[getattr(row, name) for row in scores.per_class] for name in ("precision", "recall", "f1", "support")]
        np.testing.assert_allclose(got, wanted, atol=1e-8)
        assert scores.macro_f1 == pytest.approx(macro, abs=1e-8, nan_ok=True)
        assert scores.accuracy.value == pytest.approx(accuracy_score(truth, answers))
        assert scores.ece == pytest.approx(plain_ece(chances.ravel(), truth.ravel()), abs=1e-8)
        assert scores.confusion_KK is None
        if np.abs(logits).max() < 25:
            each = [log_loss(truth[:, k], chances[:, k], labels=[False, True]) for k in range(len(predictions.classes))]
            assert scores.nll == pytest.approx(np.mean(each), abs=1e-8)


def test_extreme_logits_give_finite_exact_likelihoods() -> None:
    logits = np.array([[1e4, -1e4], [0.0, 800.0]])
    one = Predictions(names=("a", "b"), classes=("x", "y"), logits_NK=logits, targets=np.array([1, 1]))
    assert score(one).nll == 1e4
    many = Predictions(names=("a", "b"), classes=("x", "y"), logits_NK=logits, targets=logits < 0, multi_label=True)
    assert score(many).nll == pytest.approx((2e4 + np.log(2) + 800) / 4)
    np.testing.assert_allclose(probabilities(logits, multi_label=True), [[1, 0], [0.5, 1]])


def test_logits_of_half_the_precision_are_summed_in_full() -> None:
    logits = np.full((1000, 1000), 0.1, dtype=np.float32)
    even = Predictions(
        names=tuple(map(str, range(1000))), classes=tuple(map(str, range(1000))), logits_NK=logits, targets=np.arange(1000)
    )
    assert score(even).nll == pytest.approx(np.log(1000), abs=1e-12)


def test_reliability_bins_hold_every_answer_and_add_up_to_the_error() -> None:
    rng = np.random.default_rng(7)
    for _ in range(100):
        predictions = make(rng, multi_label=bool(rng.integers(2)))
        bins = reliability(predictions)
        total = sum(b.accuracy.n for b in bins)
        error = sum(b.accuracy.n * abs(b.accuracy.value - b.confidence) for b in bins) / total
        assert total == len(predictions.names) * (len(predictions.classes) if predictions.multi_label else 1)
        assert all(b.low <= b.confidence <= b.high + 1e-12 for b in bins)
        assert error == pytest.approx(expected_calibration_error(predictions), abs=1e-12)


def test_chance_calibration_error_is_what_perfect_probabilities_score() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (400, 3))
    draws = (softmax(logits).cumsum(axis=1)[None] > rng.random((300, 400, 1))).argmax(axis=2)
    names, classes = tuple(map(str, range(400))), ("a", "b", "c")
    drawn = [Predictions(names=names, classes=classes, logits_NK=logits, targets=row) for row in draws]
    assert chance_calibration_error(drawn[0]) == pytest.approx(np.mean([score(one).ece for one in drawn]), rel=0.05)


def test_mistakes_come_most_confident_first() -> None:
    logits = np.array([[0, 3.0], [5, 0], [9, 0], [0, 3.0]])
    predictions = Predictions(names=("d", "b", "c", "a"), classes=("x", "y"), logits_NK=logits, targets=np.array([0, 1, 0, 0]))
    found = mistakes(predictions, 3)
    assert [(m.name, m.truth, m.predicted) for m in found] == [
        ("b", ("y",), ("x",)),
        ("a", ("x",), ("y",)),
        ("d", ("x",), ("y",)),
    ]
    assert found[0].confidence == pytest.approx(1 / (1 + np.exp(-5)))
    assert mistakes(predictions, 1) == found[:1]


def test_multi_label_mistakes_name_all_labels_and_their_worst_answer() -> None:
    logits = np.array([[4.0, -2.0, -9.0], [4.0, 4.0, -9.0]])
    targets = np.array([[True, True, False], [True, True, False]])
    (found,) = mistakes(
        Predictions(names=("a", "b"), classes=("x", "y", "z"), logits_NK=logits, targets=targets, multi_label=True), 5
    )
    assert (found.name, found.truth, found.predicted) == ("a", ("x", "y"), ("x",))
    assert found.confidence == pytest.approx(1 / (1 + np.exp(-2)))


@pytest.mark.parametrize(
    ("logits", "targets", "words"),
    [
        (np.zeros((1, 2)), None, "1 images without labels"),
        (np.zeros((0, 2)), np.zeros(0, dtype=np.int64), "got none"),
        (np.array([[np.nan, 0.0]]), np.array([0]), "the first a.png"),
        (np.array([[np.inf, 0.0]]), np.array([0]), "the first a.png"),
    ],
)
def test_what_cannot_be_scored_is_refused(logits: NDArray[np.float64], targets: NDArray[np.int64] | None, words: str) -> None:
    names = ("a.png",) * len(logits)
    with pytest.raises(DataUnusable, match=words):
        score(Predictions(names=names, classes=("x", "y"), logits_NK=logits, targets=targets))


def test_a_class_index_out_of_range_is_a_bug_that_shows() -> None:
    with pytest.raises(ValueError, match="class indices from 0 to 1"):
        score(Predictions(names=("a",), classes=("x", "y"), logits_NK=np.zeros((1, 2)), targets=np.array([-1])))
