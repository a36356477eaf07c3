"""Shortcuts: planted ones found and named, none in random data."""

import numpy as np
import pytest
from numpy.typing import NDArray
from quick import takes_at_most

from regraft.audits.shortcuts import SIDES, find_shortcuts

SEEDS = range(100)


def random_sides(rng: np.random.Generator, n: int) -> dict[str, NDArray[np.generic]]:
    return {
        "image size": rng.choice([480, 640, 1024], (n, 2)),
        "file format": rng.choice(2, n),
        "bytes per pixel": rng.lognormal(0, 1, n),
        "mean colour": rng.random((n, 3)),
        "border colour": rng.random((n, 3)),
    }


def test_finds_each_planted_side_and_no_other() -> None:
    rng = np.random.default_rng(0)
    n = 400
    truth, folds = rng.integers(0, 4, n), rng.integers(0, 5, n)
    planted = {
        "image size": np.stack([np.where(truth == 2, 640, 480), np.where(truth > 2, 480, 360)], axis=1),
        "file format": (truth == 1).astype(np.int64),
        "bytes per pixel": truth + rng.normal(0, 0.2, n),
        "mean colour": np.eye(4)[truth][:, :3] + rng.normal(0, 0.1, (n, 3)),
        "border colour": np.eye(4)[truth][:, :3] + rng.normal(0, 0.1, (n, 3)),
    }
    for what, values in planted.items():
        found = find_shortcuts({**random_sides(rng, n), what: values}, truth, folds)
        assert [one.what for one in found] == [what]
        assert found[0].baseline == pytest.approx(np.bincount(truth).max() / n)
        assert found[0].accuracy.low > found[0].baseline
        assert found[0].accuracy.n == n


@pytest.mark.parametrize(("size", "classes"), [(24, 2), (120, 3), (400, 10)])
def test_random_sides_are_no_shortcut(size: int, classes: int) -> None:
    found = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        sides = {what: values for what, values in random_sides(rng, size).items() if seed % 5 == list(SIDES).index(what)}
        found += bool(find_shortcuts(sides, rng.integers(0, classes, size), rng.integers(0, 5, size)))
    assert found <= 1


def test_random_sides_are_no_shortcut_to_one_of_many_labels() -> None:
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found += bool(find_shortcuts(random_sides(rng, 150), rng.random((150, 12)) < 0.3, rng.integers(0, 5, 150)))
    assert found <= 1


def test_words_tell_a_leak_from_what_may_be_how_things_are() -> None:
    rng = np.random.default_rng(1)
    truth, folds = rng.integers(0, 2, 200), rng.integers(0, 5, 200)
    found = {one.what: one.words for one in find_shortcuts(dict.fromkeys(SIDES, truth * 1.0), truth, folds)}
    assert set(found) == set(SIDES)
    assert found["file format"].startswith("The format of the file alone tells the class right for 100% of the images")
    for what in ("image size", "file format", "bytes per pixel"):
        assert "says nothing of what is in the picture" in found[what]
    for what in ("mean colour", "border colour"):
        assert "may be how the things themselves differ" in found[what]


def test_a_side_of_another_name_is_spoken_of_by_it() -> None:
    truth = np.arange(100) % 2
    (one,) = find_shortcuts({"camera": truth * 1.0}, truth, np.arange(100) // 2 % 5)
    assert (one.what, one.accuracy.value) == ("camera", 1.0)
    assert one.words.startswith("Camera alone")


def test_the_most_telling_comes_first_and_equal_ones_by_name() -> None:
    rng = np.random.default_rng(2)
    truth, folds = rng.integers(0, 2, 300), rng.integers(0, 5, 300)
    half = np.where(rng.random(300) < 0.3, rng.integers(0, 2, 300), truth)
    found = find_shortcuts({"image size": half, "c": truth * 1.0, "b": truth * 1.0}, truth, folds)
    assert [one.what for one in found] == ["b", "c", "image size"]


def test_order_of_classes_makes_no_difference() -> None:
    rng = np.random.default_rng(3)
    truth, folds = rng.integers(0, 5, 500), rng.integers(0, 5, 500)
    sides = {**random_sides(rng, 500), "file format": truth // 2}
    one, other = (find_shortcuts(sides, order[truth], folds) for order in (np.arange(5), rng.permutation(5)))
    assert [found.what for found in one] == [found.what for found in other] == ["file format"]
    assert one[0].accuracy.value == pytest.approx(other[0].accuracy.value, abs=0.05)


def test_a_large_class_is_no_shortcut() -> None:
    rng = np.random.default_rng(4)
    truth = (rng.random(300) < 0.05).astype(np.int64)
    assert find_shortcuts(random_sides(rng, 300), truth, rng.integers(0, 5, 300)) == ()


def test_names_the_label_that_a_side_gives_away() -> None:
    rng = np.random.default_rng(5)
    labels, folds = rng.random((300, 4)) < 0.4, rng.integers(0, 5, 300)
    sides = {**random_sides(rng, 300), "file format": labels[:, 2] * 1}
    (one,) = find_shortcuts(sides, labels, folds, classes=("a", "b", "dog", "d"))
    assert one.what == "file format"
    assert "whether an image is labelled dog" in one.words
    assert one.accuracy.value == 1


def test_images_of_a_group_are_one_observation() -> None:
    truth, folds, groups = np.repeat([0, 1], 50), np.tile([0, 1], 50), [0] * 50 + [1] * 50
    assert find_shortcuts({"file format": truth}, truth, folds, groups) == ()
    (one,) = find_shortcuts({"file format": truth}, truth, folds)
    assert one.accuracy.n == 100


def test_a_class_of_groups_that_is_told_by_its_groups_alone_is_judged_across_folds() -> None:
    # Each group has its own size: out of fold, sizes of other groups say nothing.
    groups = np.repeat(np.arange(40), 5)
    truth = np.random.default_rng(6).integers(0, 2, 40)[groups]
    assert find_shortcuts({"image size": groups}, truth, groups % 5, groups.tolist()) == ()


def test_one_class_one_fold_and_no_images_give_nothing() -> None:
    some = np.arange(50.0)
    assert find_shortcuts({"image size": some}, np.zeros(50, np.int64), np.arange(50) % 5) == ()
    assert find_shortcuts({"image size": some}, np.arange(50) % 2, np.zeros(50, np.int64)) == ()
    assert find_shortcuts({"image size": some[:0]}, np.zeros(0, np.int64), np.zeros(0, np.int64)) == ()
    assert find_shortcuts({}, np.arange(50) % 2, np.arange(50) % 5) == ()


def test_what_is_missing_or_infinite_does_no_harm() -> None:
    rng = np.random.default_rng(7)
    truth, folds = np.arange(200) % 2, rng.integers(0, 5, 200)
    values = truth + rng.normal(0, 0.1, 200)
    values[:30], values[30:40] = np.nan, np.inf
    (one,) = find_shortcuts({"bytes per pixel": values}, truth, folds)
    assert np.isfinite([one.accuracy.value, one.accuracy.low, one.accuracy.high, one.baseline]).all()
    assert find_shortcuts({"bytes per pixel": np.full(200, np.nan)}, truth, folds) == ()


def test_ten_thousand_images_take_a_moment() -> None:
    rng = np.random.default_rng(8)
    sides, truth, folds = random_sides(rng, 10_000), rng.integers(0, 10, 10_000), rng.integers(0, 5, 10_000)
    takes_at_most(4, lambda: find_shortcuts(sides, truth, folds))
    assert find_shortcuts(sides, truth, folds) == ()
