"""The learning curve: the law and its band against simulations, parts that are fair, and a projection of real solutions."""

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from regraft.evaluate.compare import covariance_of_means, mean_and_error
from regraft.evaluate.learning import Level, describe_curve
from regraft.evaluate.power_law import draw_errors, fit_power_law
from regraft.report.learning import learning_curve_figure, learning_curve_words
from regraft.train.convex import solve_head
from regraft.train.learning_curve import MANY, learning_curve, parts_of
from regraft.train.parts import deal, rarest, units_of
from regraft.train.path import choose_l2
from regraft.values import Interval, LearningCurve, PowerLaw, Projection

SIZES = (50.0, 100.0, 200.0, 400.0, 640.0)


def law_at(sizes: tuple[float, ...], floor: float, scale: float, exponent: float) -> NDArray[np.float64]:
    return np.array([PowerLaw(floor=floor, scale=scale, exponent=exponent)(n) for n in sizes])


def images(
    count: int, *, width: int = 12, classes: int = 3, apart: float = 0.6
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(3)
    targets = np.arange(count) % classes
    features = rng.normal(size=(count, width)) + apart * rng.normal(size=(classes, width))[targets]
    return features.astype(np.float32), targets


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(0.05, 2.0, 0.5), (0.0, 0.9, 0.3), (0.1, 5.0, 0.9), (0.2, 0.0, 0.5)])
def test_a_law_is_recovered_from_its_points(floor: float, scale: float, exponent: float) -> None:
    found = fit_power_law(SIZES, law_at(SIZES, floor, scale, exponent), 1e-6 * np.eye(5))
    for n in (25, 500, 5000):
        assert found(n) == pytest.approx(floor + scale * n**-exponent, abs=1e-3)
    if scale:
        assert found.exponent == pytest.approx(exponent, abs=0.02)


def test_a_curve_that_rises_has_a_flat_law() -> None:
    law = fit_power_law(SIZES, np.array([0.1, 0.11, 0.12, 0.13, 0.14]), 1e-4 * np.eye(5))
    assert law(10_000) == pytest.approx(law(50), abs=1e-6)
    assert law.floor >= 0
    assert law.scale >= 0
    steep = draw_errors(SIZES, np.array([0.1, 0.2, 0.3, 0.4, 0.5]), 1e-6 * np.eye(5), [640.0, 1280.0], seed=0)
    np.testing.assert_array_equal(steep[:, 0], steep[:, 1])
    assert steep[:, 0].std() > 0.05


def test_the_band_covers_what_it_should() -> None:
    """Points scattered around known laws with a known covariance: the error at twice the images lies in about 95 % of bands."""
    rng = np.random.default_rng(0)
    covariance = 4e-5 * (0.6 * np.ones((5, 5)) + 0.4 * np.eye(5))
    root, inside, trials = np.linalg.cholesky(covariance), 0, 150
    for trial in range(trials):
        exponent = rng.uniform(0.2, 0.9)
        floor, falling = rng.uniform(0, 0.15), rng.uniform(0.02, 0.15)
        truth = law_at((*SIZES, 1600.0), floor, falling * 640**exponent, exponent)
        drawn = draw_errors(SIZES, truth[:5] + root @ rng.normal(size=5), covariance, [1600.0], seed=trial)
        low, high = np.percentile(drawn, [2.5, 97.5])
        inside += low <= truth[5] <= high
    assert 0.90 <= inside / trials <= 0.99


def test_draws_are_the_same_every_time_and_agree_with_the_law() -> None:
    errors = law_at(SIZES, 0.05, 2.0, 0.5)
    one, again = (draw_errors(SIZES, errors, 1e-8 * np.eye(5), [1000.0], seed=1) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert np.median(one) == pytest.approx(0.05 + 2 / 1000**0.5, abs=2e-3)


def test_two_points_are_too_few() -> None:
    with pytest.raises(ValueError, match="numbers of images"):
        fit_power_law((10, 20), np.array([0.2, 0.1]), np.eye(2))


def test_the_covariance_of_means_is_that_of_single_columns() -> None:
    rng = np.random.default_rng(1)
    values, groups = rng.normal(size=(60, 3)), rng.integers(0, 20, 60)
    covariance = covariance_of_means(values, groups)
    for column in range(3):
        assert np.sqrt(covariance[column, column]) == pytest.approx(mean_and_error(values[:, column], groups.tolist())[1])
    alone = covariance_of_means(values, np.arange(60))
    np.testing.assert_allclose(alone, np.cov(values.T) / 60)


def test_parts_have_each_class_in_its_proportion_and_smaller_ones_lie_inside() -> None:
    targets = np.repeat([0, 1, 2], [160, 80, 16])
    dealt = deal(targets, np.arange(256), seed=0)
    for divisor in (2, 4, 8, 16):
        for part in range(divisor):
            np.testing.assert_array_equal(np.bincount(targets[dealt % divisor == part]), np.array([160, 80, 16]) // divisor)
    assert set(np.flatnonzero(dealt % 8 == 3)) < set(np.flatnonzero(dealt % 4 == 3))
    assert not np.array_equal(dealt, deal(targets, np.arange(256), seed=1))
    np.testing.assert_array_equal(dealt, deal(targets, np.arange(256), seed=0))


def test_groups_stay_together() -> None:
    units = units_of(["a", None, "a", "b", None, "b", "b"])
    np.testing.assert_array_equal(units, [0, 1, 0, 2, 3, 2, 2])
    dealt = deal(np.array([0, 0, 0, 1, 1, 1, 1]), units, seed=0)
    assert dealt[0] == dealt[2]
    assert len(set(dealt[[3, 5, 6]])) == 1
    assert len(set(dealt)) == 4


def test_an_image_with_several_labels_stands_for_the_rarest() -> None:
    truth = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(rarest(truth), [1, 0, 2, 3])


@pytest.mark.parametrize("divisor", [2, 4, 8, 16])
def test_with_many_images_those_that_judge_are_in_no_part(divisor: int) -> None:
    numbers = np.arange(160)
    judges = numbers[numbers % 4 == 3]
    parts = parts_of(divisor, many=True)
    assert parts
    assert not any((judges % divisor == part).any() for part in parts)


@pytest.mark.parametrize("balanced", [False, True])
def test_a_point_is_what_refitting_its_parts_says(balanced: bool) -> None:
    features, targets = images(240)
    folds = np.arange(240) // 3 % 5
    result = choose_l2(features, targets, folds, classes=3, balanced=balanced, grid=(0.1,))
    curve = learning_curve(features, targets, folds, result.out_of_fold_logits_NK, classes=3, l2=0.1, balanced=balanced, seed=4)
    assert [point.images for point in curve.points] == [15, 30, 60, 120, 192]
    assert curve.points[-1].accuracy == pytest.approx((result.out_of_fold_logits_NK.argmax(axis=1) == targets).mean())
    dealt = deal(targets, np.arange(240), seed=4)
    for point, divisor in zip(curve.points[:-1], (16, 8, 4, 2), strict=True):
        right = np.zeros((240, 2))
        for part in range(point.heads):
            rows, others = dealt % divisor == part, dealt % divisor != part
            head = solve_head(features[rows], targets[rows], classes=3, l2=0.1 * 240 / rows.sum(), tolerance=1e-7)
            right[others] += np.stack(
                [head.logits(features[others]).argmax(axis=1) == targets[others], np.ones(others.sum())], 1
            )
        assert point.accuracy == pytest.approx((right[:, 0] / right[:, 1]).mean(), abs=0.01)


def test_the_projection_meets_what_twice_the_images_give() -> None:
    features, targets = images(6000, apart=0.35)
    test, gains, inside = slice(1200, 6000), [], 0
    for draw in range(6):
        rows = np.random.default_rng(draw).permutation(1200)
        folds = np.arange(600) % 5
        found = {}
        for count in (600, 1200):
            part, truth = features[rows[:count]], targets[rows[:count]]
            found[count] = choose_l2(part, truth, np.arange(count) % 5, classes=3, grid=(1.0, 0.3, 0.1, 0.03))
        half = found[600]
        curve = learning_curve(
            features[rows[:600]], targets[rows[:600]], folds, half.out_of_fold_logits_NK, classes=3, l2=half.l2, seed=draw
        )
        right = {n: (result.head.logits(features[test]).argmax(axis=1) == targets[test]).mean() for n, result in found.items()}
        double = next(one for one in curve.projections if one.images == 1200)
        gains.append(double.gain.value - (right[1200] - right[600]))
        inside += double.gain.low <= right[1200] - right[600] <= double.gain.high
    assert inside >= 5
    assert abs(np.mean(gains)) < 0.01


def test_several_labels_and_groups() -> None:
    features, targets = images(200)
    truth = np.stack([targets == 0, targets > 0, features[:, 0] > 0.5], axis=1)
    folds = np.arange(200) // 2 % 4
    groups = [f"g{index // 2}" for index in range(200)]
    result = choose_l2(features, truth, folds, classes=3, multi_label=True, grid=(0.1,))
    curve = learning_curve(features, truth, folds, result.out_of_fold_logits_NK, classes=3, l2=0.1, groups=groups)
    assert curve.multi_label
    assert curve.law is not None
    every = ((result.out_of_fold_logits_NK > 0) == truth).all(axis=1).mean()
    assert curve.points[-1].accuracy == pytest.approx(every)
    again = learning_curve(features, truth, folds, result.out_of_fold_logits_NK, classes=3, l2=0.1, groups=groups)
    assert again == curve


def test_many_images_are_judged_by_a_quarter_of_them() -> None:
    features, targets = images(MANY, width=4)
    folds = np.arange(MANY) // 3 % 3
    result = choose_l2(features, targets, folds, classes=3, grid=(0.1,))
    curve = learning_curve(features, targets, folds, result.out_of_fold_logits_NK, classes=3, l2=0.1)
    assert curve.judged == MANY // 4
    assert [point.heads for point in curve.points] == [2, 2, 2, 1, 1]


def test_few_images_have_no_law() -> None:
    features, targets = images(24)
    folds = np.arange(24) % 4
    result = choose_l2(features, targets, folds, classes=3, grid=(0.1,))
    curve = learning_curve(features, targets, folds, result.out_of_fold_logits_NK, classes=3, l2=0.1)
    assert curve.law is None
    assert "too few" in learning_curve_words(curve)
    few_groups = [f"g{index % 4}" for index in range(24)]
    alone = learning_curve(features, targets, folds, result.out_of_fold_logits_NK, classes=3, l2=0.1, groups=few_groups)
    assert len(alone.points) == 1
    assert learning_curve_figure(alone) is None


def test_no_mistake_is_not_a_certainty() -> None:
    none = [Level(images=n, wrong_HJ=np.zeros((1, 40)), nll_HJ=np.full((1, 40), 0.01)) for n in (10, 20, 32)]
    curve = describe_curve(none, np.arange(40), images=40, multi_label=False, seed=0)
    assert curve.projections[-1].accuracy.low < 1
    assert "hardly help" in learning_curve_words(curve)


def projected(low: float, value: float, high: float, images: int = 2000) -> LearningCurve:
    def one(count: int) -> Projection:
        right = Interval(value=0.9 + value, low=0.9 + low, high=0.9 + high, n=images)
        return Projection(images=count, accuracy=right, gain=Interval(value=value, low=low, high=high, n=images))

    law = PowerLaw(floor=0.0, scale=1.0, exponent=0.5)
    counts = sorted({images + 500, images * 3 // 2, images * 2})
    return LearningCurve(points=(), images=images, judged=images, law=law, projections=tuple(one(n) for n in counts))


def test_words_say_what_more_images_would_bring() -> None:
    words = learning_curve_words(projected(0.008, 0.021, 0.035)).replace("\u00a0", " ")
    assert words == "Twice the images would bring about 2.1 points (95 % band 0.8 to 3.5), 500 more about 2.1 (0.8 to 3.5)."
    assert "500 more" not in learning_curve_words(projected(0.008, 0.021, 0.035, images=500))
    assert learning_curve_words(projected(-0.001, 0.002, 0.006)).startswith("More images of this kind will hardly help")
    assert "\u22120.1 to 0.6" in learning_curve_words(projected(-0.001, 0.002, 0.006))
    assert learning_curve_words(projected(0.0, 0.06, 0.15)).startswith("There are too few images to tell")


def test_the_figure_has_every_point_and_stays_within_its_box() -> None:
    features, targets = images(240)
    folds = np.arange(240) // 3 % 5
    result = choose_l2(features, targets, folds, classes=3, grid=(0.1,))
    curve = learning_curve(features, targets, folds, result.out_of_fold_logits_NK, classes=3, l2=0.1)
    figure = learning_curve_figure(curve)
    assert figure is not None
    assert figure.count("<circle") == len(curve.points)
    assert 'class="band one"' in figure
    assert 'class="curve one ahead"' in figure
    for corner in re.findall(r'points="([^"]+)"', figure):
        for x, y in (pair.split(",") for pair in corner.split()):
            assert 0 <= float(x) <= 480
            assert 0 <= float(y) <= 330
