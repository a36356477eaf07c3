"""Heads solved in passes over rows on disk: the same as of a matrix in memory, which is never made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regraft.cache.store import FLOATS, HALVES, FeatureRows
from regraft.errors import DataUnusable
from regraft.train import design as design_module
from regraft.train import streamed as streamed_module
from regraft.train.convex import make_loss, solve_design, solve_head
from regraft.train.design import make_design
from regraft.train.head_fit import logits_of_rows
from regraft.train.path import choose_l2
from regraft.train.standardise import standardise, widened
from regraft.train.streamed import Streamed

COUNT, WIDTH, CLASSES = 403, 30, 4


def images(*, offset: float = 3.0) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features off zero and of unequal scale, class indices and folds."""
    rng = np.random.default_rng(3)
    targets = rng.integers(0, CLASSES, COUNT)
    features = rng.normal(size=(COUNT, WIDTH)) + 0.5 * rng.normal(size=(CLASSES, WIDTH))[targets]
    features = features @ (np.eye(WIDTH) + 0.3 * rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH))
    return (features * np.linspace(0.1, 5, WIDTH) + offset).astype(np.float32), targets, rng.integers(0, 3, COUNT)


def on_disk(path: Path, features: NDArray[np.float32], kind: np.dtype[Any], gaps: bool = False) -> FeatureRows:
    """The rows of a table as they lie in the cache; with `gaps` a third of the table are others."""
    stored = features if kind == FLOATS else torch.from_numpy(features).bfloat16().view(torch.int16).numpy()
    rows = np.arange(len(features)) * 3 // 2 if gaps else np.arange(len(features))
    table = np.full((rows[-1] + 1, WIDTH), 77, stored.dtype)
    table[rows] = stored
    table.tofile(path)
    return FeatureRows(path, rows, WIDTH, dtype=kind)


@pytest.fixture
def in_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix is too large for memory, and a block is 50 rows."""
    monkeypatch.setattr(design_module, "HELD_VALUES", 0)
    monkeypatch.setattr(streamed_module, "BLOCK_VALUES", 50 * (WIDTH + 1))


def goal(targets: NDArray[np.int64], several: bool) -> NDArray[Any]:
    return np.stack([targets == 0, targets < 2, targets == 3], axis=1) if several else targets


@pytest.mark.parametrize("kind", [FLOATS, HALVES])
@pytest.mark.parametrize(("several", "balanced"), [(False, False), (False, True), (True, True)])
def test_path_is_that_of_the_matrix_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: np.dtype[Any], several: bool, balanced: bool
) -> None:
    features, targets, folds = images()
    rows = on_disk(tmp_path / "rows", features, kind, gaps=kind == HALVES)
    truth = goal(targets, several)
    options = {"classes": 3 if several else CLASSES, "multi_label": several, "balanced": balanced}
    held = choose_l2(widened(rows[:]), truth, folds, **options)
    monkeypatch.setattr(design_module, "HELD_VALUES", 0)
    monkeypatch.setattr(streamed_module, "BLOCK_VALUES", 50 * (WIDTH + 1))
    streamed = choose_l2(rows, truth, folds, **options)
    assert streamed.l2 == held.l2
    np.testing.assert_allclose(streamed.head.weight_KD, held.head.weight_KD, atol=2e-4)
    np.testing.assert_allclose(streamed.head.bias_K, held.head.bias_K, atol=2e-4)
    np.testing.assert_allclose(streamed.out_of_fold_logits_NK, held.out_of_fold_logits_NK, atol=0.06)
    for one, other in zip(streamed.tried, held.tried, strict=False):
        assert one.nll == pytest.approx(other.nll, abs=1e-3)
        assert one.nll_se == pytest.approx(other.nll_se, rel=0.02)


@pytest.mark.usefixtures("in_passes")
@pytest.mark.parametrize("several", [False, True])
def test_optimum_is_exact(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets, _ = images()
    weights = np.random.default_rng(1).uniform(0, 3, COUNT)
    truth, classes = goal(targets, several), 3 if several else CLASSES
    streamed = solve_head(features, truth, classes=classes, l2=0.01, weights_N=weights, tolerance=1e-6)
    monkeypatch.undo()
    held = solve_head(features, truth, classes=classes, l2=0.01, weights_N=weights, tolerance=1e-8)
    np.testing.assert_allclose(streamed.weight_KD, held.weight_KD, atol=2e-5)
    np.testing.assert_allclose(streamed.bias_K, held.bias_K, atol=2e-5)


@pytest.mark.usefixtures("in_passes")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_far_from_zero_lose_nothing(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets, _ = images()
    far = features.astype(dtype) + np.where(np.arange(WIDTH) % 2, 1000.0, 0).astype(dtype)
    streamed = solve_head(far, targets, classes=CLASSES, l2=0.01, tolerance=1e-6)
    monkeypatch.undo()
    held = solve_head(far, targets, classes=CLASSES, l2=0.01, tolerance=1e-8)
    np.testing.assert_allclose(streamed.weight_KD, held.weight_KD, atol=5e-5)


@pytest.mark.usefixtures("in_passes")
def test_constant_columns_have_no_effect() -> None:
    features, targets, _ = images()
    plain = solve_head(features, targets, classes=CLASSES, l2=0.01, tolerance=1e-6)
    padded = np.insert(features, [0, 7], np.float32(1234.56), axis=1)
    head = solve_head(padded, targets, classes=CLASSES, l2=0.01, tolerance=1e-6)
    np.testing.assert_allclose(head.weight_KD[:, [0, 8]], 0, atol=1e-12)
    np.testing.assert_allclose(np.delete(head.weight_KD, [0, 8], axis=1), plain.weight_KD, atol=1e-5)


@pytest.mark.usefixtures("in_passes")
def test_never_more_than_blocks_are_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.train.standardise.BLOCK_VALUES", 50 * (WIDTH + 1))
    features, targets, folds = images()
    rows = on_disk(tmp_path / "rows", features, HALVES)
    asked: list[int] = []
    read = FeatureRows.__getitem__

    def reading(self: FeatureRows, key: Any) -> NDArray[Any]:
        block = read(self, key)
        asked.append(len(block))
        return block

    monkeypatch.setattr(FeatureRows, "__getitem__", reading)
    choose_l2(rows, targets, folds, classes=CLASSES)
    assert max(asked) <= 51
    assert sum(asked) > 10 * COUNT


@pytest.mark.usefixtures("in_passes")
def test_folds_that_take_turns_do_not_blind_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third row, and three folds in turn: all the sampled rows would be one fold's, which its own problem cannot see."""
    monkeypatch.setattr(streamed_module, "CURVATURE_ROWS", COUNT // 3)
    features, targets, _ = images()
    passes: list[int] = []
    blocks = Streamed.blocks
    monkeypatch.setattr(Streamed, "blocks", lambda self, logits: (passes.append(logits), blocks(self, logits))[1])
    choose_l2(features, targets, np.arange(COUNT) % 3, classes=CLASSES, grid=(1.0,))
    assert len(passes) < 20


@pytest.mark.usefixtures("in_passes")
def test_steering_of_one_design_serves_another() -> None:
    features, targets, _ = images()
    design = make_design(features)
    assert isinstance(design, Streamed)
    again = make_design(features, design.steering())
    heads = [
        solve_design(d, make_loss(targets, np.ones((1, 1, COUNT)), CLASSES, d), None, classes=CLASSES, l2=0.1, tolerance=1e-5)
        for d in (design, again)
    ]
    np.testing.assert_array_equal(heads[0].weight_KD, heads[1].weight_KD)


def test_halves_are_numbers_wherever_rows_are_read(tmp_path: Path) -> None:
    features, targets, _ = images()
    rows = on_disk(tmp_path / "rows", features, HALVES)
    numbers = torch.from_numpy(features).bfloat16().float().numpy()
    np.testing.assert_array_equal(widened(rows[:]), numbers)
    np.testing.assert_array_equal(standardise(rows).mean_D, standardise(numbers).mean_D)
    head = solve_head(rows, targets, classes=CLASSES, l2=0.01)
    np.testing.assert_array_equal(head.logits(rows), head.logits(numbers))
    weight_KD, bias_K = head.unstandardised()
    np.testing.assert_allclose(logits_of_rows(rows, weight_KD, bias_K), head.logits(numbers), atol=1e-9)


@pytest.mark.usefixtures("in_passes")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(value: float) -> None:
    features, targets, _ = images()
    features[301, 2] = value
    with pytest.raises(DataUnusable, match="row 301, column 2"):
        solve_head(features, targets, classes=CLASSES, l2=1.0)


@pytest.mark.parametrize("width", [WIDTH, 7])
def test_rows_with_gaps_between_them_are_read_as_they_are(tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.cache.store._READ_BYTES", 40 * WIDTH)  # ten rows at a time
    table = np.random.default_rng(0).normal(size=(500, WIDTH)).astype(np.float32)
    table.tofile(tmp_path / "rows")
    rng = np.random.default_rng(1)
    for rows in (
        np.arange(500),
        np.flatnonzero(rng.random(500) < 0.7),
        np.flatnonzero(rng.random(500) < 0.05),
        rng.permutation(500),
        np.array([3, 3, 4, 2, 499]),
        np.array([], np.int64),
    ):
        found = FeatureRows(tmp_path / "rows", rows, WIDTH, width)
        np.testing.assert_array_equal(found[:], table[rows, :width])
        np.testing.assert_array_equal(found[5:40:3], table[rows, :width][5:40:3])


def test_a_table_that_was_cut_short_is_an_error(tmp_path: Path) -> None:
    np.zeros((10, WIDTH), np.float32).tofile(tmp_path / "rows")
    with pytest.raises(OSError, match="shorter than its index"):
        FeatureRows(tmp_path / "rows", np.arange(12), WIDTH)[:]
