"""Labels that look wrong: planted ones found, none imagined, the expected number honest; mixed and unequal classes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from regraft.audits.classes import area_under_curve, imbalance_of, mixed_classes
from regraft.audits.labels import suspect_labels
from regraft.audits.noise import LabelNoise, doubts, fit_noise, log_odds_of
from regraft.errors import DataUnusable
from regraft.evaluate.probability import probabilities
from regraft.findings import Imbalance, Suspect
from regraft.values import Predictions

SEEDS = range(100)


def named(logits: NDArray[np.float64], targets: NDArray[np.int64] | NDArray[np.bool_]) -> Predictions:
    return Predictions(
        names=tuple(f"{row:05}.png" for row in range(len(logits))),
        classes=tuple(f"c{k}" for k in range(logits.shape[1])),
        logits_NK=logits,
        targets=targets,
        multi_label=targets.ndim == 2,
    )


def drawn(rng: np.random.Generator, n: int = 400, k: int = 5, sure: float = 3.0) -> Predictions:
    """Labels drawn from what the logits say: hard images among them, and not one wrong label."""
    logits = rng.normal(0, sure, (n, k))
    chances = probabilities(logits, multi_label=False)
    return named(logits, np.array([rng.choice(k, p=row) for row in chances]))


def drawn_labels(rng: np.random.Generator, n: int = 400, k: int = 6) -> Predictions:
    logits = rng.normal(-2, 4, (n, k))
    return named(logits, rng.random((n, k)) < probabilities(logits, multi_label=True))


def flip(seen: Predictions, share: float, rng: np.random.Generator) -> tuple[Predictions, NDArray[np.bool_]]:
    """With that share of labels wrong, and which."""
    assert seen.targets is not None
    if seen.multi_label:
        wrong = rng.random(seen.targets.shape) < share
        return replace(seen, targets=seen.targets ^ wrong), wrong
    k = len(seen.classes)
    wrong = rng.random(len(seen.names)) < share
    return replace(seen, targets=np.where(wrong, (seen.targets + rng.integers(1, k, len(wrong))) % k, seen.targets)), wrong


def suspects_of(seen: Predictions, limit: int | None = None) -> tuple[Suspect, ...]:
    return suspect_labels(seen, ["train"] * len(seen.names), fit_noise(seen), limit=limit)


def test_finds_most_labels_that_were_flipped_and_few_others() -> None:
    rng = np.random.default_rng(0)
    seen, wrong = flip(drawn(rng, 2000, 10, sure=6.0), 0.05, rng)
    names = {one.name for one in suspects_of(seen)}
    planted = {name for name, bad in zip(seen.names, wrong, strict=True) if bad}
    assert len(names & planted) >= 0.7 * len(planted)
    assert len(names & planted) >= 0.7 * len(names)


def test_suggests_the_label_from_before() -> None:
    rng = np.random.default_rng(1)
    before = drawn(rng, 1000, 5, sure=6.0)
    seen, _ = flip(before, 0.05, rng)
    assert before.targets is not None
    right = dict(zip(before.names, before.targets.tolist(), strict=True))
    hits = [one.suggested == f"c{right[one.name]}" for one in suspects_of(seen) if one.label != f"c{right[one.name]}"]
    assert len(hits) > 20
    assert np.mean(hits) > 0.7


@pytest.mark.parametrize("make", [drawn, drawn_labels])
def test_suspects_nothing_where_labels_are_what_the_logits_say(make) -> None:  # type: ignore[no-untyped-def]
    assert sum(bool(suspects_of(make(np.random.default_rng(seed)))) for seed in SEEDS) <= 5


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_expects_as_many_wrong_labels_as_there_are(scale: float) -> None:
    covered, values = 0, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        seen, wrong = flip(drawn(rng, 600), 0.06, rng)
        noise = fit_noise(replace(seen, logits_NK=seen.logits_NK * scale))
        values.append(noise.wrong.value - wrong.mean())
        covered += noise.wrong.low - 1e-9 <= wrong.mean() <= noise.wrong.high + 1e-9
        assert noise.sharpness == pytest.approx(1 / scale, rel=0.5)
    assert abs(np.mean(values)) < 0.01
    assert covered >= 35


def test_expects_wrong_labels_of_several_per_image() -> None:
    shares, found = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        seen, wrong = flip(drawn_labels(rng), 0.03, rng)
        shares.append(wrong.mean())
        found.append(fit_noise(seen).wrong.value)
    assert np.mean(found) == pytest.approx(np.mean(shares), abs=0.007)


def test_what_is_likely_wrong_is_wrong_that_often() -> None:
    rng = np.random.default_rng(2)
    seen, wrong = flip(drawn(rng, 20_000), 0.08, rng)
    chance = doubts(seen, fit_noise(seen))
    for low, high in ((0.02, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (chance >= low) & (chance < high)
        assert wrong[inside].mean() == pytest.approx(chance[inside].mean(), abs=0.05)


def test_log_odds_are_those_of_the_probabilities() -> None:
    rng = np.random.default_rng(3)
    seen = drawn(rng)
    assert seen.targets is not None
    chance = probabilities(seen.logits_NK * 1.7, multi_label=False)[np.arange(400), seen.targets]
    np.testing.assert_allclose(log_odds_of(seen.logits_NK, seen.targets, 1.7), np.log(chance / (1 - chance)), rtol=1e-6)


def corrected(logits: Sequence[float], given: Sequence[bool]) -> tuple[str, str]:
    """What the labels of one image, among many that are right, are and should be."""
    seen = drawn_labels(np.random.default_rng(4), 500, 3)
    assert seen.targets is not None
    seen.logits_NK[0], seen.targets[0] = logits, given
    found = suspects_of(seen)
    assert found[0].name == "00000.png"
    # Of 1,500 labels some are unlikely, as they should be.
    assert len(found) <= 4
    return found[0].label, found[0].suggested


def test_a_missing_label_is_named() -> None:
    assert corrected([14, 14, -14], [True, False, False]) == ("c0", "c0, c1")


def test_a_label_too_many_is_named() -> None:
    assert corrected([14, -14, -14], [True, True, False]) == ("c0, c1", "c0")


def test_no_label_left_is_said_in_a_word() -> None:
    assert corrected([-14, -14, -14], [True, False, False]) == ("c0", "none")


@pytest.mark.parametrize("make", [drawn, drawn_labels])
def test_order_of_classes_makes_no_difference(make) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(5)
    seen, _ = flip(make(rng, 500), 0.05, rng)
    assert seen.targets is not None
    order = rng.permutation(len(seen.classes))
    targets = seen.targets[:, order] if seen.multi_label else np.argsort(order)[seen.targets]
    turned = replace(seen, classes=tuple(seen.classes[k] for k in order), logits_NK=seen.logits_NK[:, order], targets=targets)
    one, other = suspects_of(seen), suspects_of(turned)
    assert one
    assert [suspect.name for suspect in one] == [suspect.name for suspect in other]
    assert [set(suspect.suggested.split(", ")) for suspect in one] == [set(suspect.suggested.split(", ")) for suspect in other]


def test_the_likeliest_come_first_and_equal_ones_by_name() -> None:
    logits = np.tile([[5.0, -5.0]], (300, 1))
    targets = np.zeros(300, np.int64)
    targets[[7, 3, 250, 90]] = 1
    logits[90] = [9, -9]
    found = suspects_of(named(logits, targets))
    assert [one.name for one in found] == ["00090.png", "00003.png", "00007.png", "00250.png"]
    assert [one.wrong for one in found] == sorted((one.wrong for one in found), reverse=True)
    assert [one.name for one in suspects_of(named(logits, targets), limit=2)] == ["00090.png", "00003.png"]


def test_says_where_a_suspect_belongs_and_what_the_heads_think() -> None:
    rng = np.random.default_rng(6)
    seen, _ = flip(drawn(rng, 500, sure=6.0), 0.05, rng)
    parts = ["train" if row % 2 else "test" for row in range(500)]
    for one in suspect_labels(seen, parts, fit_noise(seen)):
        assert one.part == parts[int(one.name[:5])]
        assert one.label != one.suggested
        assert 0 <= one.given < one.instead <= 1
        assert 0.5 <= one.wrong <= 1


@pytest.mark.parametrize("make", [drawn, drawn_labels])
def test_the_most_doubtful_can_be_had_in_any_case(make) -> None:  # type: ignore[no-untyped-def]
    seen = make(np.random.default_rng(0))
    noise, parts = fit_noise(seen), ["train"] * 400
    assert suspect_labels(seen, parts, noise) == ()
    found = suspect_labels(seen, parts, noise, always=7)
    assert len(found) == 7
    assert [one.given for one in found] == sorted(one.given for one in found)
    assert all(one.wrong < 0.5 and one.given < one.instead and one.label != one.suggested for one in found)
    agreeing = replace(seen, targets=seen.logits_NK > 0 if seen.multi_label else seen.logits_NK.argmax(axis=1))
    assert suspect_labels(agreeing, parts, fit_noise(agreeing), always=7) == ()


def test_one_class_and_one_image_give_nothing() -> None:
    alone = named(np.zeros((5, 1)), np.zeros(5, np.int64))
    assert fit_noise(alone).wrong.high == 0
    assert suspects_of(alone) == ()
    assert mixed_classes(alone) == ()
    single = named(np.array([[1.0, 2.0]]), np.array([1]))
    assert suspects_of(single) == ()
    assert mixed_classes(single) == ()


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def test_extreme_logits_give_numbers(value: float) -> None:
    logits = np.full((50, 3), 0.0)
    logits[:, 0] = value
    noise = fit_noise(named(logits, np.arange(50) % 3))
    assert np.isfinite([noise.wrong.value, noise.wrong.low, noise.wrong.high, noise.sharpness]).all()
    assert not np.isnan(doubts(named(logits, np.arange(50) % 3), noise)).any()
    several = named(logits, np.zeros((50, 3), np.bool_))
    assert np.isfinite(fit_noise(several).wrong.high)


def test_unlabelled_and_undefined_are_refused() -> None:
    seen = drawn(np.random.default_rng(7), 20)
    with pytest.raises(DataUnusable):
        fit_noise(replace(seen, targets=None))
    with pytest.raises(DataUnusable):
        fit_noise(replace(seen, logits_NK=np.full((20, 5), np.nan)))
    with pytest.raises(ValueError, match="part for each"):
        suspect_labels(seen, ["train"], LabelNoise(sharpness=1.0, log_odds=(0.0,), wrong=fit_noise(seen).wrong))


def with_gap(rng: np.random.Generator, sizes: Sequence[int], gaps: Sequence[float]) -> Predictions:
    """Classes whose own logit stands out by a gap, in noise."""
    targets = np.repeat(np.arange(len(sizes)), sizes)
    logits = rng.normal(size=(len(targets), len(sizes)))
    logits[np.arange(len(targets)), targets] += np.asarray(gaps)[targets]
    return named(logits, targets)


def test_classes_without_a_difference_are_mixed() -> None:
    found = 0
    for seed in SEEDS:
        seen = with_gap(np.random.default_rng(seed), [60, 60, 60], [0, 0, 8])
        pairs = mixed_classes(seen)
        assert {(pair.one, pair.other) for pair in pairs} <= {("c0", "c1")}
        found += len(pairs)
        assert all(pair.accuracy.n == 120 for pair in pairs)
    assert found >= 99


def test_classes_that_are_told_apart_are_not_mixed() -> None:
    clear = [with_gap(np.random.default_rng(seed), [40, 40, 40, 40], [2, 2, 2, 2]) for seed in SEEDS]
    assert sum(bool(mixed_classes(seen)) for seen in clear) <= 5


def test_a_rare_class_is_not_mixed_because_answers_lean_to_the_large_one() -> None:
    seen = with_gap(np.random.default_rng(8), [500, 20], [3, 3])
    leaning = replace(seen, logits_NK=seen.logits_NK + np.array([6.0, 0.0]))
    assert (leaning.logits_NK.argmax(axis=1) == 0).mean() > 0.95
    assert mixed_classes(leaning) == ()


def test_labels_that_always_come_together_are_told_apart_by_nothing() -> None:
    rng = np.random.default_rng(9)
    targets = rng.random((400, 3)) < 0.4
    logits = rng.normal(size=(400, 3)) + np.array([0.0, 0.0, 8.0]) * targets
    assert [(pair.one, pair.other) for pair in mixed_classes(named(logits, targets))] == [("c0", "c1")]


def test_few_images_are_not_called_mixed() -> None:
    assert mixed_classes(with_gap(np.random.default_rng(10), [9, 9], [0, 0])) == ()


def test_area_equals_scikit_learn_and_its_interval_covers() -> None:
    rng, covered = np.random.default_rng(11), 0
    for _ in range(300):
        ones, others = np.round(rng.normal(1, 1, 40), 1), np.round(rng.normal(0, 1, 25), 1)
        area = area_under_curve(ones, others)
        truth = np.repeat([1, 0], [40, 25])
        assert area.value == pytest.approx(roc_auc_score(truth, np.concatenate([ones, others])), abs=1e-12)
        covered += area.low <= 0.7602 <= area.high
    assert 0.91 <= covered / 300 <= 0.98


def test_unequal_classes() -> None:
    classes = ("a", "b", "c")
    targets = np.repeat([0, 1, 2], [5, 50, 20])
    assert imbalance_of(classes, targets) == Imbalance(largest="b", most=50, smallest="a", fewest=5)
    assert imbalance_of(classes, targets[1:]) is not None
    assert imbalance_of(classes, np.repeat([0, 1, 2], [6, 50, 20])) is None
    assert imbalance_of(classes, np.repeat([0, 1], [30, 30])) == Imbalance(largest="a", most=30, smallest="c", fewest=0)
    assert imbalance_of(("a",), np.zeros(9, np.int64)) is None
    assert imbalance_of(classes, np.zeros(0, np.int64)) is None
    several = np.zeros((40, 2), np.bool_)
    several[:, 0], several[:3, 1] = True, True
    assert imbalance_of(("x", "y"), several) == Imbalance(largest="x", most=40, smallest="y", fewest=3)
