"""Odd images and outliers: planted ones found, ordinary sets left alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from regraft.audits.oddities import find_oddities, outliers_of
from regraft.audits.spread import beyond
from regraft.findings import Odd

SEEDS = range(100)


def odd(
    width: NDArray[np.generic], height: NDArray[np.generic], contrast: NDArray[np.generic], sharpness: NDArray[np.generic]
) -> tuple[Odd, ...]:
    names = [f"{row}.png" for row in range(len(width))]
    return find_oddities(names, ["x"] * len(names), width_N=width, height_N=height, contrast_N=contrast, sharpness_N=sharpness)


def ordinary(rng: np.random.Generator, n: int = 300) -> list[NDArray[np.float64]]:
    """Photos of several sizes; contrast and sharpness vary as they do."""
    return [
        rng.choice([480.0, 640.0, 1024.0], n),
        rng.choice([480.0, 600.0, 768.0], n),
        rng.lognormal(4, 0.4, n),
        rng.lognormal(-2, 0.8, n),
    ]


def codes(found: tuple[Odd, ...]) -> dict[str, list[str]]:
    return {one.name: [other.code for other in found if other.name == one.name] for one in found}


def test_finds_what_was_planted_and_nothing_else() -> None:
    width, height, contrast, sharpness = ordinary(np.random.default_rng(0))
    width[3], height[3] = 20, 16
    contrast[5] = 0.5
    sharpness[7] = 1e-5
    width[9], height[9] = 2000, 300
    assert codes(odd(width, height, contrast, sharpness)) == {
        "3.png": ["tiny"],
        "5.png": ["blank"],
        "7.png": ["blurred"],
        "9.png": ["extreme shape"],
    }


def test_says_why() -> None:
    width, height, contrast, sharpness = ordinary(np.random.default_rng(1))
    width[0], height[0], contrast[1], sharpness[2] = 10, 12, 0.0, np.median(sharpness) / 1000
    reasons = [one.reason for one in odd(width, height, contrast, sharpness)]
    assert reasons[0].startswith("10 x 12 pixels")
    assert "0.0 of 255" in reasons[1]
    assert "0.1" in reasons[2]


@pytest.mark.parametrize("size", [30, 300, 3000])
def test_ordinary_sets_have_no_odd_images(size: int) -> None:
    assert sum(bool(odd(*ordinary(np.random.default_rng(seed), size))) for seed in SEEDS) <= 5


@pytest.mark.parametrize("factor", [1e-6, 1e3])
def test_a_set_that_is_soft_throughout_is_not_blurred(factor: float) -> None:
    width, height, contrast, sharpness = ordinary(np.random.default_rng(2))
    assert odd(width, height, contrast, sharpness * factor) == odd(width, height, contrast, sharpness) == ()


def test_a_set_of_small_pictures_is_not_tiny() -> None:
    n = 100
    assert odd(np.full(n, 8), np.full(n, 8), np.full(n, 40.0), np.full(n, 1.0)) == ()


def test_a_set_of_panoramas_has_its_own_proportion() -> None:
    width, height = np.full(100, 1000), np.full(100, 200)
    height[4], width[4] = 1000, 200
    found = odd(width, height, np.full(100, 40.0), np.ones(100))
    assert codes(found) == {"4.png": ["extreme shape"]}


def test_what_is_thin_is_not_tiny() -> None:
    width, height, contrast, sharpness = ordinary(np.random.default_rng(3))
    width[0], height[0] = 500, 20
    assert codes(odd(width, height, contrast, sharpness)) == {"0.png": ["extreme shape"]}


def test_blank_images_are_not_blurred_too_and_spoil_no_measure() -> None:
    width, height, contrast, sharpness = ordinary(np.random.default_rng(4))
    contrast[:200], sharpness[:200] = 0.0, 0.0
    sharpness[250] = 1e-6
    found = codes(odd(width, height, contrast, sharpness))
    assert found.pop("250.png") == ["blurred"]
    assert all(value == ["blank"] for value in found.values())
    assert len(found) == 200


def test_equal_images_are_not_odd() -> None:
    assert odd(np.full(50, 64), np.full(50, 64), np.full(50, 30.0), np.full(50, 0.0)) == ()
    empty = np.zeros(0)
    assert odd(empty, empty, empty, empty) == ()


@pytest.mark.parametrize("size", [20, 60, 500, 5000])
def test_few_sets_have_something_beyond_by_chance(size: int) -> None:
    rng = np.random.default_rng(5)
    draws = np.exp(rng.normal(0, 0.5, (400, size)))
    for side in (-1, 1):
        assert np.mean([beyond(values, side).any() for values in draws]) <= 0.04


def test_beyond_does_not_depend_on_scale_and_order() -> None:
    rng = np.random.default_rng(6)
    values = rng.lognormal(0, 1, 200)
    values[[5, 9]] = [1e4, 1e-4]
    order = rng.permutation(200)
    for side, row in ((1, 5), (-1, 9)):
        assert np.flatnonzero(beyond(values, side)).tolist() == [row]
        np.testing.assert_array_equal(beyond(values * 1e3, side)[order], beyond(values[order], side))


@pytest.mark.parametrize("draw", ["lognormal", "chi", "gamma"])
def test_ordinary_distances_have_no_outlier(draw: str) -> None:
    found = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        distances = {
            "lognormal": lambda rng=rng: rng.lognormal(0, 0.3, 400),
            "chi": lambda rng=rng: np.sqrt(rng.chisquare(20, 400)),
            "gamma": lambda rng=rng: rng.gamma(4, 1, 400),
        }[draw]()
        found += bool(outliers_of(distances, [str(row) for row in range(400)], ["x"] * 400))
    assert found <= 5


def test_outliers_come_with_how_many_times_the_usual_distance() -> None:
    rng = np.random.default_rng(7)
    distance = rng.lognormal(0, 0.1, 200)
    distance[[4, 11]] = np.median(distance) * np.array([5.0, 30.0])
    found = outliers_of(distance, [f"{row}" for row in range(200)], [f"c{row % 2}" for row in range(200)])
    assert [(one.name, one.label) for one in found] == [("11", "c1"), ("4", "c0")]
    assert [one.distance for one in found] == pytest.approx([30, 5], rel=0.02)


def test_equal_few_and_no_distances_have_no_outlier() -> None:
    assert outliers_of(np.ones(100), ["x"] * 100, ["x"] * 100) == ()
    assert outliers_of(np.zeros(100), ["x"] * 100, ["x"] * 100) == ()
    assert outliers_of(np.array([1.0, 1.0, 99.0]), ["a", "b", "c"], ["x"] * 3) == ()
    assert outliers_of(np.zeros(0), [], []) == ()


def test_equally_far_outliers_come_by_name() -> None:
    distance = np.ones(50)
    distance[[3, 1]] = 9
    names = [f"{50 - row:02}" for row in range(50)]
    assert [one.name for one in outliers_of(distance, names, ["x"] * 50)] == ["47", "49"]
