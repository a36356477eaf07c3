"""Scores of pixels against scikit-learn, brute force and simulation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quick import takes_at_most
from scipy.ndimage import gaussian_filter
from sklearn.metrics import accuracy_score, f1_score, fbeta_score, jaccard_score

from regraft.errors import DataUnusable
from regraft.evaluate import expected_calibration_error, reliability, wilson
from regraft.evaluate.pixel_calibration import (
    calibrate_pixels,
    calibration_error_of_levels,
    reliability_of_levels,
    reliability_of_pixels,
    sample_pixels,
)
from regraft.evaluate.pixel_scores import disagreements, image_ious, image_scores, score_pixels, telling_images
from regraft.evaluate.pixel_threshold import THRESHOLDS, choose_threshold, judged_threshold, scores_at
from regraft.evaluate.pixels import count_pixels, gather_counts, near_enough
from regraft.evaluate.resample import ends_of_figures
from regraft.segments import IGNORE, LEVELS, PixelCounts
from regraft.values import Predictions

Map = NDArray[np.uint8]


def regions(random: np.random.Generator, classes: int, shape: tuple[int, int] = (40, 36), width: float = 4.0) -> Map:
    return gaussian_filter(random.normal(size=(classes, *shape)), (0, width, width)).argmax(axis=0).astype(np.uint8)


def pairs(count: int, classes: int, *, seed: int = 0, ignored: bool = True) -> list[tuple[Map, Map]]:
    """Maps, and answers that share much with them; a band of each map is to be ignored."""
    random, found = np.random.default_rng(seed), []
    for _ in range(count):
        truth, other = regions(random, classes), regions(random, classes)
        answer = np.where(gaussian_filter(random.normal(size=truth.shape), 5) > 0.05, other, truth).astype(np.uint8)
        if ignored:
            truth = truth.copy()
            truth[: random.integers(0, 8)] = IGNORE
        found.append((truth, answer))
    return found


def counted(maps: list[tuple[Map, Map]], classes: int, kind: Any = "semantic", **more: Any) -> PixelCounts:
    rows = [count_pixels(truth, answer, classes) for truth, answer in maps]
    return gather_counts(rows, [f"{i}.png" for i in range(len(rows))], [f"c{k}" for k in range(classes)], kind, **more)


def flat(maps: list[tuple[Map, Map]]) -> tuple[NDArray[Any], NDArray[Any]]:
    known = [truth != IGNORE for truth, _ in maps]
    return tuple(np.concatenate([pair[i][k] for pair, k in zip(maps, known, strict=True)]) for i in range(2))  # type: ignore[return-value]


def brute_edges(labels: Map, predicted: Map, k: int, radius: float) -> tuple[int, int, int, int]:
    """Pixel by pixel, as the definition says."""
    predicted = np.where(labels == IGNORE, IGNORE, predicted)
    height, width = labels.shape

    def edge(of: Map) -> NDArray[Any]:
        found = []
        for y, x in zip(*np.nonzero(of == k), strict=True):
            beside = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            inside = [of[at] for at in beside if 0 <= at[0] < height and 0 <= at[1] < width]
            if any(value not in (k, IGNORE) for value in inside):
                found.append((y, x))
        return np.array(found).reshape(-1, 2)

    true, answer = edge(labels), edge(predicted)
    distances = np.hypot(*(true[:, None] - answer[None]).transpose(2, 0, 1))
    near = distances <= radius
    return len(true), int(near.any(axis=1).sum()), len(answer), int(near.any(axis=0).sum())


@pytest.mark.parametrize(("classes", "radius"), [(2, 1), (5, 3), (5, 0), (9, 2), (20, 7), (70, 50)])
def test_edges_are_counted_as_they_are_defined(classes: int, radius: int) -> None:
    random = np.random.default_rng(classes)
    labels, predicted = (regions(random, classes, (17, 23), 1.5) for _ in range(2))
    labels[random.random(labels.shape) < 0.08] = IGNORE
    row = count_pixels(labels, predicted, classes, tolerance=radius)
    found = np.stack([row.true_edge_K, row.true_edge_found_K, row.predicted_edge_K, row.predicted_edge_right_K], axis=1)
    assert found.tolist() == [list(brute_edges(labels, predicted, k, radius)) for k in range(classes)]


def test_ignored_pixels_count_nowhere() -> None:
    random = np.random.default_rng(1)
    labels, predicted, other = (regions(random, 3) for _ in range(3))
    labels[5:25, 10:] = IGNORE
    probability = random.random(labels.shape)
    one = count_pixels(labels, predicted, 3, probability_HW=probability)
    changed = np.where(labels == IGNORE, other, predicted)
    two = count_pixels(labels, changed, 3, probability_HW=np.where(labels == IGNORE, 0.3, probability))
    for name in ("true_K", "predicted_K", "both_K", "true_edge_K", "predicted_edge_K", "predicted_edge_right_K", "levels_2L"):
        assert (getattr(one, name) == getattr(two, name)).all()
    assert one.true_K.sum() == one.predicted_K.sum() == np.count_nonzero(labels != IGNORE)
    assert one.levels_2L is not None
    assert one.levels_2L.sum(axis=1).tolist() == [one.true_K[0], one.true_K[1:].sum()]


def test_what_cannot_be_counted_is_refused() -> None:
    labels = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match="one shape"):
        count_pixels(labels, labels.T, 2)
    with pytest.raises(ValueError, match="answers from 0 to 1"):
        count_pixels(labels, labels + 2, 2)
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        count_pixels(labels + 3, labels, 2)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        count_pixels(labels, labels, 2, probability_HW=np.full((4, 5), np.nan))
    with pytest.raises(DataUnusable, match="to be ignored"):
        score_pixels(counted([(labels + IGNORE, labels)], 2))
    with pytest.raises(DataUnusable, match="no image"):
        score_pixels(counted([], 2))


def test_counting_is_quick() -> None:
    random = np.random.default_rng(0)
    labels, predicted = (regions(random, 6, (288, 256), 12.0) for _ in range(2))
    takes_at_most(0.01, lambda: count_pixels(labels, predicted, 6))
    assert near_enough(288, 256) == 3
    assert near_enough(8, 8) == 1


def test_scores_of_classes_are_those_of_scikit_learn() -> None:
    maps = pairs(6, 5)
    truth, answer = flat(maps)
    scores = score_pixels(counted(maps, 5), draws=50)
    assert scores.iou.value == pytest.approx(jaccard_score(truth, answer, average="macro"))
    assert scores.dice.value == pytest.approx(f1_score(truth, answer, average="macro"))
    assert scores.pixel_accuracy.value == pytest.approx(accuracy_score(truth, answer))
    assert scores.pooled_iou.value == pytest.approx(jaccard_score(truth, answer, average="micro"))
    ious = jaccard_score(truth, answer, average=None)
    assert [row.iou.value for row in scores.per_class] == pytest.approx(ious.tolist())
    assert (scores.mae, scores.f_measure, scores.threshold) == (None, None, None)
    best = max(jaccard_score(truth, np.full_like(truth, k), average=None, labels=range(5)).mean() for k in range(5))
    assert scores.baseline == pytest.approx(best)
    f = [score_pixels(counted([pair], 5), draws=50).per_class for pair in maps]
    mean = np.nanmean([[row.boundary_f for row in rows] for rows in f])
    assert scores.boundary_f.value == pytest.approx(np.nanmean([row.boundary_f for row in scores.per_class]))
    assert 0.3 < mean < 1


def test_a_class_that_is_nowhere_has_no_score_and_one_only_answered_has_none_right() -> None:
    maps = pairs(3, 3, ignored=False)
    maps[0][1][:2] = 3
    scores = score_pixels(counted(maps, 5), draws=50)
    assert np.isnan(scores.per_class[4].iou.value)
    assert scores.per_class[3].iou.value == 0
    assert np.isnan(scores.per_class[3].recall)
    assert scores.iou.value == pytest.approx(jaccard_score(*flat(maps), average="macro", labels=range(4)))
    assert [row.images for row in scores.per_class] == [3, 3, 3, 0, 0]


def test_scores_of_an_object_are_means_over_images() -> None:
    maps = pairs(7, 2, seed=3)
    random = np.random.default_rng(3)
    chances = [np.clip(np.where(answer == 1, 0.5, 0.0) + random.random(answer.shape) * 0.499, 0, 1) for _, answer in maps]
    rows = [count_pixels(*pair, 2, probability_HW=chance) for pair, chance in zip(maps, chances, strict=True)]
    counts = gather_counts(rows, ["x"] * 7, ("background", "object"), "saliency")
    scores = score_pixels(counts, draws=50)
    each = [flat([pair]) for pair in maps]
    assert scores.iou.value == pytest.approx(np.mean([jaccard_score(*pair) for pair in each]))
    assert scores.dice.value == pytest.approx(np.mean([f1_score(*pair) for pair in each]))
    assert scores.f_measure is not None
    assert scores.f_measure.value == pytest.approx(np.mean([fbeta_score(*pair, beta=0.3**0.5) for pair in each]))
    assert scores.pooled_iou.value == pytest.approx(jaccard_score(*flat(maps)))
    errors = [np.abs(c - t)[t != IGNORE].mean() for c, (t, _) in zip(chances, maps, strict=True)]
    assert scores.mae is not None
    assert scores.mae.value == pytest.approx(np.mean(errors), abs=1 / 510)
    assert scores.threshold == 0.5
    assert np.allclose(scores_at(counts, 0.5), image_ious(counts))
    at = [jaccard_score(t[t != IGNORE], (c >= THRESHOLDS[180])[t != IGNORE]) for c, (t, _) in zip(chances, maps, strict=True)]
    assert np.allclose(scores_at(counts, THRESHOLDS[180]), at)


def test_an_empty_object_found_empty_is_right_and_an_ignored_image_is_left_out() -> None:
    nothing, some = np.zeros((6, 6), np.uint8), np.zeros((6, 6), np.uint8)
    some[2:4, 2:4] = 1
    maps = [(nothing, nothing), (nothing, some), (some, nothing), (np.full_like(some, IGNORE), some)]
    counts = counted(maps, 2, "saliency")
    scores = score_pixels(counts, draws=50)
    assert (scores.n, scores.iou.n) == (3, 3)
    assert scores.iou.value == scores.dice.value == scores.boundary_f.value == pytest.approx(1 / 3)
    assert scores.baseline == pytest.approx(2 / 3)
    assert [row.iou for row in image_scores(counts)][:3] == [1, 0, 0]
    assert np.isnan(image_scores(counts)[3].iou)
    assert disagreements(counts).tolist() == [1, 2, 0]


def test_intervals_go_by_the_groups_that_images_were_drawn_in() -> None:
    maps = pairs(12, 3, seed=5)
    alone = score_pixels(counted(maps, 3))
    # Every image four times: four times the images, and no more known.
    repeated = [pair for pair in maps for _ in range(4)]
    grouped = score_pixels(counted(repeated, 3, groups=[str(i // 4) for i in range(48)]))
    unaware = score_pixels(counted(repeated, 3))
    assert grouped.iou.value == pytest.approx(alone.iou.value)
    assert grouped.iou.high - grouped.iou.low == pytest.approx(alone.iou.high - alone.iou.low, rel=0.1)
    assert unaware.iou.high - unaware.iou.low < 0.6 * (alone.iou.high - alone.iou.low)
    one = score_pixels(counted(maps, 3, groups=["same"] * 12))
    assert np.isnan([one.iou.low, one.iou.high]).all()


def test_intervals_of_a_faultless_answer_are_not_certain() -> None:
    maps = [(truth, truth) for truth, _ in pairs(9, 2, ignored=False)]
    scores = score_pixels(counted(maps, 2, "saliency"), draws=100)
    assert (scores.iou.value, scores.iou.high) == (1.0, 1.0)
    assert scores.iou.low == pytest.approx(wilson(9, 9).low)


@pytest.mark.parametrize("images", [12, 40])
def test_intervals_cover_the_truth_as_often_as_they_say(images: int) -> None:
    """300 sets of images whose IoU has a long tail to the left, as those of a network have: a figure for each set."""
    ious_NS = np.random.default_rng(images).beta(5, 1.2, (images, 300))
    low_S, high_S = ends_of_figures(lambda sums: sums / images, ious_NS, draws=1000)
    hits = (low_S <= 5 / 6.2) & (high_S >= 5 / 6.2)
    assert 0.92 <= hits.mean() <= 0.98
    # They miss on both sides.
    assert (high_S < 5 / 6.2).any()
    assert (low_S > 5 / 6.2).any()


def test_intervals_cover_the_mean_of_ratios_with_a_rare_class() -> None:
    """Mean IoU over four classes of uneven pixels, one of them in every twelfth image: 300 sets of 40 images."""
    random = np.random.default_rng(4)

    def pixels(images: int, sets: int) -> NDArray[Any]:
        there = random.random((images, sets, 4)) < (1, 0.9, 0.5, 0.08)
        union = random.lognormal(0, 0.7, there.shape) * there
        both = union * random.beta(4, 1.5, (images, sets, 1)) * random.beta(6, 1.5, union.shape)
        return np.concatenate([both, union], axis=-1)

    def mean_iou(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        both, union = np.split(sums.reshape(*sums.shape[:-1], -1, 8), 2, axis=-1)
        return np.nanmean(np.divide(both, union, out=np.full(union.shape, np.nan), where=union > 0), axis=-1)

    truth = mean_iou(pixels(100_000, 1).sum(axis=0))
    low_S, high_S = ends_of_figures(mean_iou, pixels(40, 300).reshape(40, -1), draws=500)
    assert 0.92 <= ((low_S <= truth) & (truth <= high_S)).mean() <= 0.98


def test_the_interval_of_the_mean_iou_is_that_of_the_images_own() -> None:
    counts = counted(pairs(15, 2, seed=8), 2, "saliency")
    iou = score_pixels(counts, draws=500, seed=3).iou
    ends = ends_of_figures(lambda sums: sums / 15, image_ious(counts)[:, None], draws=500, seed=3)[:, 0]
    assert (iou.low, iou.high) == pytest.approx(tuple(ends))
    assert iou.low < iou.value < iou.high


def test_ends_of_a_mean_follow_the_normal_distribution_where_there_are_many() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 500)
    low, high = ends_of_figures(lambda sums: sums / 500, values[:, None], draws=2000)[:, 0]
    error = values.std(ddof=1) / np.sqrt(500)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.2 * error)


def object_levels(shift: float, images: int, seed: int = 0) -> NDArray[np.int64]:
    """Objects whose probabilities lie around 1/2 + shift, so that this would be the best threshold."""
    random, rows = np.random.default_rng(seed), []
    for _ in range(images):
        truth = random.random(2000) < 0.4
        chance = np.clip(0.5 + shift + np.where(truth, 0.12, -0.12) + random.normal(0, 0.06, 2000), 0, 1)
        row = count_pixels(truth[None].astype(np.uint8), truth[None].astype(np.uint8), 2, probability_HW=chance[None])
        rows.append(row.levels_2L)
    return np.stack(rows)


@pytest.mark.parametrize("shift", [-0.2, 0.15])
def test_a_threshold_is_chosen_where_it_is_clearly_better(shift: float) -> None:
    levels = object_levels(shift, 30)
    chosen = choose_threshold(levels)
    assert chosen == pytest.approx(0.5 + shift, abs=0.05)
    judged = judged_threshold(levels, chosen, "validation")
    assert judged.iou == max(judged.curve)
    assert judged.iou > judged.iou_at_half + 0.1
    assert judged.images == 30


def test_a_threshold_stays_in_the_middle_without_grounds() -> None:
    assert choose_threshold(object_levels(0.2, 1)) == 0.5
    assert choose_threshold(np.zeros((3, 2, LEVELS), np.int64)) == 0.5
    # Certain answers: every threshold is as good as every other.
    sure = np.zeros((20, 2, LEVELS), np.int64)
    sure[:, 0, 0], sure[:, 1, -1] = 70, 30
    assert choose_threshold(sure) == 0.5
    assert choose_threshold(object_levels(0.2, 40), groups=["same"] * 40) == 0.5


def test_the_calibration_error_of_levels_is_that_of_the_pixels() -> None:
    random = np.random.default_rng(2)
    chance = (random.integers(0, 256, (9, 4000)) / 255).astype(np.float32)
    truth = (random.random(chance.shape) < chance**1.5).astype(np.uint8)
    rows = [count_pixels(t[None], t[None], 2, probability_HW=c[None]) for t, c in zip(truth, chance, strict=True)]
    levels = np.stack([row.levels_2L for row in rows if row.levels_2L is not None])
    # Off the edges of bins, where rounding of logits would decide.
    logits = np.log(np.clip(chance, 1e-7, 1 - 1e-7).astype(np.float64)) - np.log1p(
        -np.clip(chance, 1e-7, 1 - 1e-7).astype(float)
    )
    flat_logits = (logits - 1e-6).reshape(-1, 1)
    as_images = Predictions(
        names=("",) * flat_logits.size, classes=("object",), logits_NK=flat_logits, targets=truth.reshape(-1, 1) == 1,
        multi_label=True,
    )  # fmt: skip
    assert calibration_error_of_levels(levels) == pytest.approx(expected_calibration_error(as_images), abs=1e-4)
    bins, plain = reliability_of_levels(levels), reliability(as_images)
    assert [b.accuracy.n for b in bins] == [b.accuracy.n for b in plain]
    assert [b.accuracy.value for b in bins] == pytest.approx([b.accuracy.value for b in plain])
    unit = np.repeat(np.arange(9), 4000)
    sampled = reliability_of_pixels(flat_logits, truth.ravel().astype(np.int64), unit)
    assert [b.accuracy.value for b in sampled] == pytest.approx([b.accuracy.value for b in bins])
    joined = reliability_of_levels(levels, np.arange(9) // 3)
    assert all(one.accuracy.value == other.accuracy.value for one, other in zip(joined, bins, strict=True))


@pytest.mark.parametrize("channels", [1, 4])
def test_a_temperature_makes_probabilities_of_pixels_true(channels: int) -> None:
    random = np.random.default_rng(channels)
    true_logits = random.normal(0, 2, (channels, 60, 50)).astype(np.float32)
    if channels == 1:
        labels = (random.random((60, 50)) < 1 / (1 + np.exp(-true_logits[0]))).astype(np.uint8)
    else:
        labels = (true_logits + random.gumbel(size=true_logits.shape)).argmax(axis=0).astype(np.uint8)
    labels[:3] = IGNORE
    logits_PC, labels_P = sample_pixels(3 * true_logits, labels, 2500, 7)
    assert (logits_PC.shape, labels_P.max() < max(channels, 2)) == ((2500, channels), True)
    again = sample_pixels(3 * true_logits, labels, 2500, 7)
    assert (again[0] == logits_PC).all()
    assert len(sample_pixels(true_logits, labels, 10**6, 7)[1]) == 57 * 50
    found = calibrate_pixels(logits_PC, labels_P, "validation", 1)
    assert found.temperature == pytest.approx(3, rel=0.12)
    assert found.nll_after < found.nll_before
    assert found.ece_after < 0.05 < found.ece_before
    fixed = calibrate_pixels(logits_PC, labels_P, "test", 1, temperature=1.0)
    assert fixed.nll_after == fixed.nll_before


def test_telling_images_are_the_best_the_middle_and_the_worst() -> None:
    some = np.zeros((10, 10), np.uint8)
    some[:, :5] = 1
    answers = [some.copy() for _ in range(9)]
    for i, answer in enumerate(answers):
        answer[: i + 1, :5] = 0
    counts = counted([(some, answer) for answer in answers], 2, "saliency")
    best, median, worst = telling_images(counts, 3)
    assert (best, sorted(median), worst) == ((0, 1, 2), [3, 4, 5], (8, 7, 6))
    few = replace(counts, **{name: getattr(counts, name)[:2] for name in ("true_NK", "predicted_NK", "both_NK")})
    assert telling_images(few, 3) == ((0,), (), (1,))
    everything = [number for kind in telling_images(counts, 9) for number in kind]
    assert sorted(everything) == list(range(9))
