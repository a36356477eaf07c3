"""The solved head: at the optimum that scikit-learn and the formula of J name, and an error where there is none."""

import warnings

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from regraft.errors import DataUnusable, NotConverged, UsageError
from regraft.train.convex import LinearHead, make_loss, solve_head
from regraft.train.design import make_design
from regraft.train.standardise import standardise

Array = NDArray[np.float64]


def images(
    count: int, width: int, classes: int, *, seed: int = 0, apart: float = 0.5
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Correlated features off zero and of unequal scale, and class indices of which every class has some."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(count) % classes)
    mixed = rng.normal(size=(count, width)) + apart * rng.normal(size=(classes, width))[targets]
    mixed = mixed @ (np.eye(width) + 0.3 * rng.normal(size=(width, width)) / np.sqrt(width))
    return (mixed * np.linspace(0.1, 5, width) + 3).astype(np.float32), targets


def objective(
    weight_KD: Array, bias_K: Array, standard_ND: Array, targets: NDArray[np.int64], l2: float, weights_N: Array
) -> float:
    """J as the module's docstring has it, from nothing but numpy."""
    logits = standard_ND @ weight_KD.T + bias_K
    total = np.logaddexp.reduce(logits, axis=1)
    losses = total - logits[np.arange(len(targets)), targets]
    return float((weights_N * losses).sum() / weights_N.sum() + l2 / 2 * (weight_KD**2).sum())


def gradient(
    head: LinearHead, features: NDArray[np.float32], targets: NDArray[np.int64], weights_N: Array
) -> tuple[Array, Array]:
    """The gradient of J by weights and biases, from nothing but numpy."""
    standard = (features.astype(np.float64) - head.standardiser.mean_D) / head.standardiser.scale_D
    logits = standard @ head.weight_KD.T + head.bias_K
    residual = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    residual[np.arange(len(targets)), targets] -= 1
    residual *= (weights_N / weights_N.sum())[:, None]
    return residual.T @ standard + head.l2 * head.weight_KD, residual.sum(axis=0)


def reference(standard: Array, targets: NDArray[np.int64], inverse: float, **options: object) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LogisticRegression(C=inverse, tol=1e-9, max_iter=20_000, **options).fit(standard, targets)


@pytest.mark.parametrize(
    ("count", "width", "classes", "l2"), [(300, 12, 4, 1.0), (300, 12, 4, 1e-3), (60, 150, 3, 1e-2), (80, 80, 5, 1e-3)]
)
def test_multinomial_meets_sklearns_optimum(count: int, width: int, classes: int, l2: float) -> None:
    features, targets = images(count, width, classes)
    head = solve_head(features, targets, classes=classes, l2=l2, tolerance=1e-8)
    peer = reference(head.standardiser(features), targets, 1 / (l2 * count))
    np.testing.assert_allclose(head.weight_KD, peer.coef_, atol=2e-4 * np.abs(peer.coef_).max())


def test_two_classes_meet_sklearns_binary_optimum() -> None:
    features, targets = images(200, 10, 2)
    head = solve_head(features, targets, classes=2, l2=0.01, tolerance=1e-8)
    peer = reference(head.standardiser(features), targets, 2 / (0.01 * 200))
    np.testing.assert_allclose(head.weight_KD[1:] - head.weight_KD[:1], peer.coef_, atol=1e-5)
    np.testing.assert_allclose(head.bias_K[1:] - head.bias_K[:1], peer.intercept_, atol=1e-5)


def test_several_labels_meet_one_sklearn_fit_per_label() -> None:
    features, targets = images(240, 15, 4)
    truth = np.stack([targets == 0, targets < 2, np.arange(240) % 7 == 0], axis=1)
    head = solve_head(features, truth, classes=3, l2=0.01, tolerance=1e-8)
    standard = head.standardiser(features)
    peers = [reference(standard, truth[:, k].astype(np.int64), 1 / (0.01 * 240)) for k in range(3)]
    np.testing.assert_allclose(head.weight_KD, np.concatenate([peer.coef_ for peer in peers]), atol=1e-5)
    np.testing.assert_allclose(head.bias_K, np.concatenate([peer.intercept_ for peer in peers]), atol=1e-5)


def test_weights_meet_sklearns_sample_weights() -> None:
    features, targets = images(200, 8, 3)
    weights = np.random.default_rng(1).uniform(0, 3, 200)
    head = solve_head(features, targets, classes=3, l2=0.02, weights_N=weights, tolerance=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = LogisticRegression(C=1 / (0.02 * weights.sum()), tol=1e-9, max_iter=9999)
        peer.fit(head.standardiser(features), targets, sample_weight=weights)
    np.testing.assert_allclose(head.weight_KD, peer.coef_, atol=1e-5)


def test_weight_of_two_is_an_image_twice() -> None:
    features, targets = images(60, 6, 3)
    twice = np.r_[np.arange(60), np.arange(20)]
    design_free = standardise(features)
    weights = np.where(np.arange(60) < 20, 2.0, 1.0)
    head = solve_head(design_free(features).astype(np.float32), targets, classes=3, l2=0.1, weights_N=weights, tolerance=1e-9)
    gradient_W, gradient_b = gradient(head, design_free(features).astype(np.float32)[twice], targets[twice], np.ones(80))
    assert max(np.abs(gradient_W).max(), np.abs(gradient_b).max()) < 1e-7


@pytest.mark.parametrize("shape", [(250, 20), (40, 90)])
def test_no_step_from_the_optimum_lowers_the_objective(shape: tuple[int, int]) -> None:
    features, targets = images(*shape, 3)
    head = solve_head(features, targets, classes=3, l2=0.01, tolerance=1e-8)
    standard, ones = head.standardiser(features), np.ones(shape[0])
    lowest = objective(head.weight_KD, head.bias_K, standard, targets, 0.01, ones)
    rng = np.random.default_rng(2)
    for _ in range(20):
        step_W, step_b = 1e-3 * rng.normal(size=head.weight_KD.shape), 1e-3 * rng.normal(size=3)
        assert objective(head.weight_KD + step_W, head.bias_K + step_b, standard, targets, 0.01, ones) > lowest


@pytest.mark.parametrize("several", [False, True])
def test_residual_and_curvature_are_finite_differences(several: bool) -> None:
    features, targets = images(30, 5, 3)
    truth = targets if not several else np.stack([targets == k for k in range(3)], axis=1)
    design = make_design(features)
    loss = make_loss(truth, np.random.default_rng(3).uniform(0.1, 1, (1, 1, 30)), 3, design)
    logits = torch.from_numpy(
        np.random.default_rng(4).normal(size=(3 if several else 1, 1 if several else 3, 30))
    ).requires_grad_()
    if several:
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], loss.targets_PN, reduction="none")  # type: ignore[attr-defined]
    else:
        losses = torch.nn.functional.cross_entropy(logits[0].T, torch.from_numpy(targets), reduction="none")[None]
    (expected,) = torch.autograd.grad((loss.weights_PN * losses).sum(), logits)
    torch.testing.assert_close(loss.residual(logits.detach(), None), expected)
    step = 1e-5
    for k in range(loss.logits):
        nudge = torch.zeros_like(logits)
        nudge[:, k] = step
        change = loss.residual((logits + nudge).detach(), None) - loss.residual((logits - nudge).detach(), None)
        torch.testing.assert_close(loss.curvature(logits.detach(), slice(None))[:, :, k], change.sum(dim=2) / (2 * step))


@pytest.mark.parametrize("shape", [(250, 20), (40, 90), (1200, 1100)])
def test_reported_gradient_is_the_true_one(shape: tuple[int, int]) -> None:
    features, targets = images(*shape, 4)
    head = solve_head(features, targets, classes=4, l2=0.05)
    gradient_W, gradient_b = gradient(head, features, targets, np.ones(shape[0]))
    true = max(np.abs(gradient_W).max(), np.abs(gradient_b).max())
    assert true <= 1e-5
    assert head.gradient_norm == pytest.approx(true, rel=0.2, abs=2e-7)


def test_fewer_images_than_features_is_the_same_problem() -> None:
    features, targets = images(40, 90, 3)
    narrow = solve_head(features, targets, classes=3, l2=0.01, tolerance=1e-9)
    # Three copies of every image: the same J, with more rows than columns.
    wide = solve_head(np.tile(features, (3, 1)), np.tile(targets, 3), classes=3, l2=0.01, tolerance=1e-9)
    assert make_design(features).turned
    assert not make_design(np.tile(features, (3, 1))).turned
    np.testing.assert_allclose(narrow.weight_KD, wide.weight_KD, atol=1e-6)
    np.testing.assert_allclose(narrow.bias_K, wide.bias_K, atol=1e-6)


@pytest.mark.parametrize("shape", [(250, 20), (40, 90)])
def test_warm_start_changes_the_time_not_the_answer(shape: tuple[int, int]) -> None:
    features, targets = images(*shape, 3)
    cold = solve_head(features, targets, classes=3, l2=0.01, tolerance=1e-8)
    near = solve_head(features, targets, classes=3, l2=0.012)
    warm = solve_head(features, targets, classes=3, l2=0.01, tolerance=1e-8, start=near)
    again = solve_head(features, targets, classes=3, l2=0.01, tolerance=1e-8, start=cold)
    np.testing.assert_allclose(warm.weight_KD, cold.weight_KD, atol=1e-6)
    assert again.iterations <= 1 < cold.iterations


def test_separable_classes_have_an_optimum_too() -> None:
    features, targets = images(90, 10, 3, apart=30)
    head = solve_head(features, targets, classes=3, l2=1e-6)
    assert (head.logits(features).argmax(axis=1) == targets).all()
    assert np.isfinite(head.weight_KD).all()
    assert head.gradient_norm <= 1e-5


@pytest.mark.parametrize("shape", [(100, 8), (20, 30)])
def test_constant_columns_have_no_effect(shape: tuple[int, int]) -> None:
    features, targets = images(*shape, 3)
    padded = np.insert(features, [0, 3], np.float32(1234.56), axis=1)
    padded[::2, 4] = np.nextafter(padded[0, 4], np.float32(0))  # the last digit is rounding, not information
    plain = solve_head(features, targets, classes=3, l2=0.01, tolerance=1e-8)
    head = solve_head(padded, targets, classes=3, l2=0.01, tolerance=1e-8)
    assert head.standardiser.constant_D.nonzero()[0].tolist() == [0, 4]
    np.testing.assert_allclose(head.weight_KD[:, [0, 4]], 0, atol=1e-12)
    np.testing.assert_allclose(head.logits(padded), plain.logits(features), atol=1e-5)


def test_all_columns_constant_gives_the_class_frequencies() -> None:
    targets = np.array([0] * 6 + [1] * 3 + [2])
    head = solve_head(np.full((10, 4), 2.0, np.float32), targets, classes=3, l2=0.1, tolerance=1e-9)
    odds = np.exp(head.logits(np.full((1, 4), 2.0, np.float32)))[0]
    np.testing.assert_allclose(odds / odds.sum(), [0.6, 0.3, 0.1], atol=1e-6)


def test_class_without_an_image_is_driven_down() -> None:
    features, targets = images(80, 6, 3)
    head = solve_head(features, targets, classes=4, l2=0.01)
    logits = head.logits(features)
    assert (logits[:, 3] < logits[:, :3].max(axis=1) - 5).all()
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(("width", "classes"), [(1, 3), (20, 2), (30, 100)])
def test_few_features_and_many_classes(width: int, classes: int) -> None:
    features, targets = images(400, width, classes)
    head = solve_head(features, targets, classes=classes, l2=0.01)
    gradient_W, gradient_b = gradient(head, features, targets, np.ones(400))
    assert max(np.abs(gradient_W).max(), np.abs(gradient_b).max()) <= 1e-5


def test_unstandardised_weights_give_the_same_logits() -> None:
    features, targets = images(100, 8, 3)
    head = solve_head(features, targets, classes=3, l2=0.01)
    weight_KD, bias_K = head.unstandardised()
    np.testing.assert_allclose(features.astype(np.float64) @ weight_KD.T + bias_K, head.logits(features), atol=1e-9)


def test_memory_mapped_columns_give_the_same_head(tmp_path: object) -> None:
    features, targets = images(100, 12, 3)
    np.save(f"{tmp_path}/features.npy", features)
    mapped = np.load(f"{tmp_path}/features.npy", mmap_mode="r")
    plain = solve_head(features[:, 4:10].copy(), targets, classes=3, l2=0.01)
    head = solve_head(mapped[:, 4:10], targets, classes=3, l2=0.01)
    np.testing.assert_array_equal(head.weight_KD, plain.weight_KD)


def test_the_same_input_gives_the_same_bits() -> None:
    features, targets = images(150, 20, 4)
    first, second = (solve_head(features, targets, classes=4, l2=0.01) for _ in range(2))
    np.testing.assert_array_equal(first.weight_KD, second.weight_KD)


def test_standardise_merges_blocks_without_cancelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.train.standardise.BLOCK_VALUES", 50)
    features = (1e4 + np.random.default_rng(0).normal(size=(1003, 7))).astype(np.float32)
    standardiser = standardise(features)
    np.testing.assert_allclose(standardiser.mean_D, features.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(standardiser.scale_D, features.astype(np.float64).std(axis=0), rtol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(value: float) -> None:
    features, targets = images(50, 5, 2)
    features[31, 2] = value
    with pytest.raises(DataUnusable, match="row 31, column 2"):
        solve_head(features, targets, classes=2, l2=1.0)


def test_unusable_arguments_are_refused() -> None:
    features, targets = images(50, 5, 2)
    with pytest.raises(DataUnusable, match="from 0 to 5"):
        solve_head(features, np.where(targets == 1, 5, 0), classes=2, l2=1.0)
    with pytest.raises(DataUnusable, match=r"shape \(49,\)"):
        solve_head(features, targets[1:], classes=2, l2=1.0)
    with pytest.raises(DataUnusable, match="weights"):
        solve_head(features, targets, classes=2, l2=1.0, weights_N=-np.ones(50))
    with pytest.raises(DataUnusable, match=r"\(0, 5\)"):
        solve_head(features[:0], targets[:0], classes=2, l2=1.0)
    for l2 in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="l2 above 0"):
            solve_head(features, targets, classes=2, l2=l2)


def test_stopping_short_of_the_tolerance_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.train.convex.LIMIT", 2)
    features, targets = images(200, 20, 4)
    with pytest.raises(NotConverged, match="gradient of at most 1e-05"):
        solve_head(features, targets, classes=4, l2=1e-4)
