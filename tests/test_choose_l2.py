"""The regularisation path: what it says of every strength is what fitting the folds one by one says."""

import numpy as np
import pytest
from numpy.typing import NDArray

from regraft.errors import DataUnusable, UsageError
from regraft.train import folds as folds_module
from regraft.train.convex import solve_head
from regraft.train.design import make_design
from regraft.train.path import GRID, balanced_weights, choose_l2, past_best
from regraft.values import Strength


def images(
    count: int, width: int, classes: int, *, apart: float = 0.3
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features, class indices and stratified folds."""
    rng = np.random.default_rng(7)
    targets = np.arange(count) % classes
    features = rng.normal(size=(count, width)) * np.linspace(0.5, 2, width) + apart * rng.normal(size=(classes, width))[targets]
    return features.astype(np.float32), targets, (np.arange(count) // classes) % 4


def fold_by_fold(
    features: NDArray[np.float32], targets: NDArray[np.int64], folds: NDArray[np.int64], classes: int, l2: float
) -> NDArray[np.float64]:
    """Out-of-fold logits, each fold its own call: images of a fold weigh 0 in it."""
    logits = np.empty((len(features), classes))
    for fold in np.unique(folds):
        head = solve_head(features, targets, classes=classes, l2=l2, weights_N=(folds != fold).astype(float), tolerance=1e-7)
        logits[folds == fold] = head.logits(features[folds == fold])
    return logits


def nll(logits: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(targets)), targets]


@pytest.mark.parametrize("width", [15, 150])
def test_every_fold_is_what_it_is_alone(width: int) -> None:
    features, targets, folds = images(120, width, 3)
    result = choose_l2(features, targets, folds, classes=3, grid=(1.0, 0.1, 0.01))
    for strength in result.tried:
        losses = nll(fold_by_fold(features, targets, folds, 3, strength.l2), targets)
        assert strength.nll == pytest.approx(losses.mean(), abs=5e-4)
        assert strength.nll_se == pytest.approx(losses.std() / np.sqrt(120), rel=0.05)
    alone = fold_by_fold(features, targets, folds, 3, result.l2)
    np.testing.assert_allclose(result.out_of_fold_logits_NK, alone, atol=0.01)
    best = next(strength for strength in result.tried if strength.l2 == result.l2)
    assert best.nll == min(strength.nll for strength in result.tried)
    assert best.accuracy == pytest.approx((result.out_of_fold_logits_NK.argmax(axis=1) == targets).mean())


def test_head_is_refitted_on_all_rows_at_the_chosen_strength() -> None:
    features, targets, folds = images(120, 15, 3)
    result = choose_l2(features, targets, folds, classes=3)
    alone = solve_head(features, targets, classes=3, l2=result.l2, tolerance=1e-8)
    np.testing.assert_allclose(result.head.weight_KD, alone.weight_KD, atol=1e-3)
    assert result.head.l2 == result.l2
    assert result.gradient_norm <= 1e-5


def test_default_grid_spans_eleven_decades_and_stops_once_past_the_best() -> None:
    features, targets, folds = images(120, 15, 3)
    result = choose_l2(features, targets, folds, classes=3)
    assert GRID[0] / GRID[-1] == pytest.approx(1e11)
    assert tuple(strength.l2 for strength in result.tried) + result.skipped == GRID
    assert result.skipped
    assert past_best(result.tried)
    assert not past_best(result.tried[:-1])


@pytest.mark.parametrize(
    ("losses", "over"),
    [
        ([2.0, 1.0, 0.5, 0.501, 0.502], False),
        ([2.0, 1.0, 0.5, 0.501, 0.502, 0.503], True),  # three in a row
        ([2.0, 1.0, 0.5, 0.501, 0.5, 0.503], False),
        ([2.0, 1.0, 0.5, 0.524], False),
        ([2.0, 1.0, 0.5, 0.526], True),  # a twentieth
        ([0.5], False),
    ],
)
def test_the_path_ends_past_its_best_sooner_where_it_is_clearer(losses: list[float], over: bool) -> None:
    tried = [Strength(features="last", l2=10.0**-i, nll=loss, nll_se=0.0, accuracy=0.0) for i, loss in enumerate(losses)]
    assert past_best(tried) == over


def test_noise_is_regularised_more_than_signal() -> None:
    noise, targets, folds = images(120, 40, 3, apart=0.0)
    signal, _, _ = images(120, 40, 3, apart=2.0)
    assert choose_l2(noise, targets, folds, classes=3).l2 > 100 * choose_l2(signal, targets, folds, classes=3).l2


def test_several_labels_are_solved_one_by_one() -> None:
    features, targets, folds = images(160, 12, 4)
    truth = np.stack([targets == 0, targets < 2, targets == 3], axis=1)
    result = choose_l2(features, truth, folds, classes=3, multi_label=True, grid=(0.1, 0.01))
    logits = np.empty((160, 3))
    for fold in range(4):
        seen = (folds != fold).astype(float)
        head = solve_head(features, truth, classes=3, l2=result.l2, weights_N=seen, tolerance=1e-7)
        logits[folds == fold] = head.logits(features[folds == fold])
    np.testing.assert_allclose(result.out_of_fold_logits_NK, logits, atol=0.01)
    losses = np.logaddexp(0, np.where(truth, -logits, logits))
    best = next(strength for strength in result.tried if strength.l2 == result.l2)
    assert best.nll == pytest.approx(losses.mean(), abs=5e-4)
    assert best.accuracy == pytest.approx(((logits > 0) == truth).all(axis=1).mean(), abs=1e-9)


def test_small_batches_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets, folds = images(120, 15, 3)
    truth = np.stack([targets == k for k in range(3)], axis=1)
    for goal, several in ((targets, False), (truth, True)):
        whole = choose_l2(features, goal, folds, classes=3, multi_label=several, grid=(1.0, 0.1))
        monkeypatch.setattr(folds_module, "BATCH_VALUES", 800)
        split = choose_l2(features, goal, folds, classes=3, multi_label=several, grid=(1.0, 0.1))
        monkeypatch.undo()
        assert split.l2 == whole.l2
        np.testing.assert_allclose(split.out_of_fold_logits_NK, whole.out_of_fold_logits_NK, atol=0.02)
        np.testing.assert_allclose(split.head.weight_KD, whole.head.weight_KD, atol=1e-3)


def test_small_batches_keep_only_weights_between_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets, folds = images(120, 15, 3)
    monkeypatch.setattr(folds_module, "BATCH_VALUES", 800)
    solver = folds_module.FoldSolver(make_design(features), targets, folds, np.ones((1, 120)), 3)
    solver.try_strength(1.0, "last")
    assert [part.terms.logits_PKN.numel() for part in solver.problems.solvers] == [0, 0]


def test_balance_weighs_classes_alike() -> None:
    features, targets, folds = images(160, 10, 4)
    skewed = np.where(targets < 3, 0, 1)
    result = choose_l2(features, skewed, folds, classes=2, balanced=True, grid=(0.1,))
    weights = np.where(skewed == 0, 160 / (2 * 120), 160 / (2 * 40))
    alone = solve_head(features, skewed, classes=2, l2=0.1, weights_N=weights, tolerance=1e-8)
    np.testing.assert_allclose(result.head.weight_KD, alone.weight_KD, atol=1e-4)
    losses = nll(result.out_of_fold_logits_NK.astype(float), skewed)
    assert result.tried[0].nll == pytest.approx((losses[skewed == 0].mean() + losses[skewed == 1].mean()) / 2, abs=1e-5)
    plain = choose_l2(features, skewed, folds, classes=2, grid=(0.1,))
    found = [(r.out_of_fold_logits_NK.argmax(axis=1) == 1).sum() for r in (result, plain)]
    assert found[0] > found[1]


def test_balance_of_several_labels_weighs_both_answers_alike() -> None:
    truth = np.array([[1, 1], [0, 1], [0, 1], [0, 1]], dtype=bool)
    weights_KN = balanced_weights(truth, 2)
    np.testing.assert_allclose(weights_KN[0], [2, 2 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(weights_KN[1], [0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("balanced", [False, True])
def test_class_missing_from_a_folds_training_rows_is_left_out_of_the_choice(balanced: bool) -> None:
    features, targets, folds = images(120, 10, 3)
    rare = targets.copy()
    rare[(rare == 2) & (folds != 1)] = 0  # class 2 lives in fold 1 alone
    result = choose_l2(features, rare, folds, classes=3, balanced=balanced, grid=(1.0, 0.1))
    assert np.isfinite(result.out_of_fold_logits_NK).all()
    assert all(strength.nll < 2 for strength in result.tried)
    assert not (result.out_of_fold_logits_NK[folds == 1].argmax(axis=1) == 2).any()


def test_label_without_images_in_training_rows_does_not_break_several_labels() -> None:
    features, targets, folds = images(120, 10, 3)
    truth = np.stack([targets == 0, (targets == 1) & (folds == 2)], axis=1)
    result = choose_l2(features, truth, folds, classes=2, multi_label=True, grid=(1.0, 0.1))
    assert np.isfinite(result.out_of_fold_logits_NK).all()
    assert all(strength.nll < 2 for strength in result.tried)


def test_input_is_left_as_it_was_and_the_path_repeats_itself() -> None:
    features, targets, folds = images(120, 15, 3)
    before = features.copy()
    first, second = (choose_l2(features, targets, folds, classes=3) for _ in range(2))
    np.testing.assert_array_equal(features, before)
    assert first.tried == second.tried
    np.testing.assert_array_equal(first.head.weight_KD, second.head.weight_KD)


def test_large_problem_in_float32_agrees_with_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets, folds = images(400, 60, 5)
    double = choose_l2(features, targets, folds, classes=5)
    monkeypatch.setattr("regraft.train.held.DOUBLE_BELOW", 0)
    single = choose_l2(features, targets, folds, classes=5)
    assert make_design(features).x_NR.element_size() == 4
    assert single.l2 == double.l2
    np.testing.assert_allclose(single.head.weight_KD, double.head.weight_KD, atol=1e-3)


def test_unusable_arguments_are_refused() -> None:
    features, targets, folds = images(60, 5, 3)
    with pytest.raises(DataUnusable, match="1 folds"):
        choose_l2(features, targets, np.zeros(60, dtype=np.int64), classes=3)
    with pytest.raises(DataUnusable, match=r"shape \(59,\)"):
        choose_l2(features, targets, folds[1:], classes=3)
    with pytest.raises(DataUnusable, match="booleans"):
        choose_l2(features, targets, folds, classes=3, multi_label=True)
    with pytest.raises(UsageError, match="l2 strengths above 0"):
        choose_l2(features, targets, folds, classes=3, grid=(1.0, 0.0))
