"""Which images train and which judge: stratified, grouped, the same everywhere."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_files import put, put_classes

from regraft.data.read import read_samples
from regraft.data.split import fold_numbers, split_samples
from regraft.errors import DataUnusable, UnknownClass, UsageError
from regraft.recipe import Data
from regraft.values import Part, Sample, Samples, Split

ROOT = Path("photos")
DATA = Data(path=ROOT)


def sample(name: str, *labels: str, group: str | None = None, part: Part | None = None) -> Sample:
    return Sample(path=ROOT / name, name=name, labels=labels, group=group, part=part)


def collected(samples: Sequence[Sample], *, multi_label: bool = False) -> Samples:
    classes = tuple(sorted({label for s in samples for label in s.labels}))
    return Samples(root=ROOT, samples=tuple(samples), classes=classes, multi_label=multi_label)


def of_classes(part: Part | None = None, **counts: int) -> list[Sample]:
    above = f"{part}/" if part else ""
    return [sample(f"{above}{label}/{i}.png", label, part=part) for label, count in counts.items() for i in range(count)]


def count(samples: Sequence[Sample]) -> Counter[str]:
    return Counter(label for s in samples for label in s.labels)


def names(samples: Sequence[Sample]) -> list[str]:
    return [s.name for s in samples]


def check_whole(split: Split, samples: Sequence[Sample]) -> None:
    """Every image is on one side, each side is in order, and no fold is empty."""
    assert sorted([*names(split.train), *names(split.test)]) == sorted(names(samples))
    assert names(split.train) == sorted(names(split.train))
    assert names(split.test) == sorted(names(split.test))
    assert split.folds_N.dtype == np.int64
    assert len(split.folds_N) == len(split.train)
    assert set(split.folds_N.tolist()) == set(range(split.folds_N.max() + 1))
    assert split.folds_N.max() >= 1


def test_a_fifth_of_each_class_is_held_out() -> None:
    samples = of_classes(a=100, b=52, c=13, d=5, e=3, f=2)
    split = split_samples(collected(samples), DATA, 0)
    check_whole(split, samples)
    assert count(split.test) == {"a": 20, "b": 10, "c": 3, "d": 1, "e": 1}
    assert split.how.startswith("35 images of 175 (20 %) held out by class, seed 0")
    assert split.notes == ("no test images of f",)


def test_images_without_labels_are_held_out_by_chance() -> None:
    samples = [replace(sample, labels=()) for sample in of_classes(a=20)]
    split = split_samples(collected(samples), DATA, 0)
    check_whole(split, samples)
    assert split.how.startswith("4 images of 20 (20 %) held out by chance, seed 0")


def test_the_share_is_kept_but_two_images_stay() -> None:
    split = split_samples(collected(of_classes(a=10, b=4)), Data(path=ROOT, test_share=0.9), 0)
    assert count(split.train) == {"a": 2, "b": 2}


def test_the_split_of_today_is_that_of_next_year() -> None:
    """Written down: a change of hash, order or rounding changes what every user's scores rest on."""
    split = split_samples(collected(of_classes(a=12, b=6)), DATA, 7)
    assert names(split.test) == EXPECTED_TEST
    assert split.folds_N.tolist() == EXPECTED_FOLDS


EXPECTED_TEST = ["a/10.png", "a/9.png", "b/1.png"]
EXPECTED_FOLDS = [4, 1, 3, 0, 3, 4, 2, 0, 2, 1, 4, 1, 2, 0, 3]


def test_the_order_of_the_listing_does_not_matter() -> None:
    samples = of_classes(a=40, b=17, c=5) + [sample(f"m/{i}.png", "a", "b", group=f"g{i % 4}") for i in range(20)]
    expected = split_samples(collected(samples), DATA, 3)
    folds = dict(zip(names(expected.train), expected.folds_N.tolist(), strict=True))
    generator = random.Random(0)
    for _ in range(20):
        generator.shuffle(samples)
        split = split_samples(collected(samples), DATA, 3)
        assert (split.train, split.test, split.how) == (expected.train, expected.test, expected.how)
        numbers = fold_numbers(samples, None, 3)
        of_train = {s.name for s in split.train}
        assert len(numbers) == len(samples)
        assert dict(zip(names(split.train), split.folds_N.tolist(), strict=True)) == folds
        again = fold_numbers(train := [s for s in samples if s.name in of_train], None, 3)
        assert dict(zip(names(train), again.tolist(), strict=True)) == folds


def test_seeds_differ() -> None:
    samples = collected(of_classes(a=50, b=50))
    tests = [frozenset(names(split_samples(samples, DATA, seed).test)) for seed in range(5)]
    assert len(set(tests)) == 5


def test_adding_images_moves_few_of_the_others() -> None:
    before = of_classes(a=200, b=200)
    old = set(names(split_samples(collected(before), DATA, 0).test))
    added = [sample(f"a/new{i}.png", "a") for i in range(10)]
    new = set(names(split_samples(collected(before + added), DATA, 0).test)) - set(names(added))
    assert {name for name in old ^ new if name.startswith("b/")} == set()
    assert len(old ^ new) <= 10


def test_folds_are_balanced_in_every_class() -> None:
    samples = of_classes(a=103, b=51, c=7, d=5)
    folds = fold_numbers(samples, None, 0)
    assert folds.max() == 4
    for label in "abcd":
        per_fold = np.bincount(folds[[s.labels == (label,) for s in samples]], minlength=5)
        assert per_fold.max() - per_fold.min() <= 1
    assert np.ptp(np.bincount(folds)) <= 4


@pytest.mark.parametrize(
    ("smallest", "folds", "expected"), [(2, None, 5), (1, None, 5), (4, None, 5), (50, 3, 3), (50, None, 5)]
)
def test_a_small_class_costs_the_others_no_folds(smallest: int, folds: int | None, expected: int) -> None:
    assert fold_numbers(of_classes(a=50, b=smallest), folds, 0).max() + 1 == expected


def test_three_folds_for_many_images() -> None:
    assert fold_numbers(of_classes(a=10_001, b=10_000), None, 0).max() + 1 == 3
    assert fold_numbers(of_classes(a=10_000, b=10_000), None, 0).max() + 1 == 5


def test_two_images_of_a_class_are_in_two_folds() -> None:
    samples = of_classes(a=30, b=2, c=2)
    folds = fold_numbers(samples, None, 0)
    for label in "bc":
        assert len(set(folds[[s.labels == (label,) for s in samples]].tolist())) == 2


def random_samples(generator: random.Random) -> list[Sample]:
    """Up to 60 images in 2 to 5 classes and a few groups of any size, some of several classes, some images without a group."""
    classes = "abcde"[: generator.randint(2, 5)]
    groups = [f"g{i}" for i in range(generator.randint(1, 12))] + [None] * generator.randint(0, 3)
    samples = [
        sample(f"{i}.png", generator.choice(classes), group=generator.choice(groups)) for i in range(generator.randint(8, 60))
    ]
    return samples + [sample(f"{label}{i}.png", label) for label in classes for i in range(2)]


def test_groups_stay_together_in_1000_random_runs() -> None:
    generator = random.Random(20)
    divided = 0
    for seed in range(1_000):
        samples = random_samples(generator)
        split = split_samples(collected(samples), Data(path=ROOT, test_share=generator.choice([0.2, 0.5, 0.9])), seed)
        check_whole(split, samples)
        place: dict[str, set[int]] = defaultdict(set)
        for s in split.test:
            place[s.group or s.name].add(-1)
        for s, fold in zip(split.train, split.folds_N.tolist(), strict=True):
            place[s.group or s.name].add(fold)
        assert all(len(found) == 1 for found in place.values())
        kept, everything = count(split.train), count(samples)
        assert all(kept[label] >= 2 for label in everything)
        divided += bool(split.test)
    assert divided > 950


def test_the_share_is_near_with_groups_of_ten() -> None:
    samples = [sample(f"{label}/{i}.png", label, group=f"{label}{i // 10}") for label in "ab" for i in range(300)]
    split = split_samples(collected(samples), DATA, 0)
    assert count(split.test) == {"a": 60, "b": 60}
    assert "groups kept together" in split.how


def test_a_class_of_two_large_groups_still_has_a_test() -> None:
    samples = [sample(f"a/{i}.png", "a", group=f"a{i % 2}") for i in range(20)] + of_classes(b=20)
    split = split_samples(collected(samples), DATA, 0)
    assert count(split.test) == {"a": 10, "b": 4}
    assert "all training images of one group, so cross-validation cannot judge: a" in split.notes


def test_a_class_of_one_group_has_no_test_and_a_note() -> None:
    samples = [sample(f"a/{i}.png", "a", group="one") for i in range(20)] + of_classes(b=20)
    split = split_samples(collected(samples), DATA, 0)
    assert count(split.test) == {"b": 4}
    assert "no test images of a" in split.notes
    assert any("cross-validation cannot judge: a" in note for note in split.notes)


def test_a_single_group_is_refused() -> None:
    samples = [sample(f"{i}.png", "ab"[i % 2], group="one") for i in range(20)]
    with pytest.raises(DataUnusable, match=r"20 images in 1 group[\s\S]*leave out --group"):
        split_samples(collected(samples), DATA, 0)


def test_groups_by_pattern() -> None:
    samples = [sample(f"cat/p{i // 5}_{i}.png", "cat") for i in range(50)] + [sample(f"dog/q{i}.png", "dog") for i in range(20)]
    split = split_samples(collected(samples), Data(path=ROOT, group_pattern=r"/(p\d+)_"), 0)
    check_whole(split, samples)
    sides = {(s.group, s in split.test) for s in (*split.train, *split.test) if s.group}
    assert len(sides) == 10 == len({group for group, _ in sides})
    assert split.notes[0] == r"10 groups of images by '/(p\\d+)_'"
    assert split.notes[1].startswith("20 images not matched by the group pattern, each alone: dog/q0.png")
    whole = split_samples(collected(samples), Data(path=ROOT, group_pattern=r"^\w+/.\d"), 0)
    assert {s.group for s in whole.train} >= {"cat/p1"}


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'zebra' matches none of 8, such as a/0.png") as caught:
        split_samples(collected(of_classes(a=4, b=4)), Data(path=ROOT, group_pattern="zebra"), 0)
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="leave one of them out"):
        split_samples(collected(of_classes(a=4, b=4)), Data(path=ROOT, group_pattern="a", group_column="who"), 0)


def test_rare_labels_reach_both_sides() -> None:
    generator = random.Random(5)
    samples = []
    for i in range(200):
        labels = {"common"} if generator.random() < 0.9 else set()
        labels |= {f"rare{k}" for k in range(6) if (i + k) % 40 == 0} | ({"half"} if i % 2 else set())
        samples.append(sample(f"{i:03}.png", *sorted(labels)))
    split = split_samples(collected(samples, multi_label=True), DATA, 0)
    check_whole(split, samples)
    tested, everything = count(split.test), count(samples)
    assert split.multi_label
    for label, total in everything.items():
        assert abs(tested[label] - max(1, 0.2 * total)) <= max(1, 0.03 * total)
    for label in (f"rare{k}" for k in range(6)):
        carrying = [fold for s, fold in zip(split.train, split.folds_N.tolist(), strict=True) if label in s.labels]
        assert len(set(carrying)) == min(len(carrying), split.folds_N.max() + 1)


def test_the_data_s_own_test_part_judges_and_val_joins_training() -> None:
    samples = of_classes("train", a=9, b=9) + of_classes("val", a=3, b=3) + of_classes("test", a=2, b=2)
    split = split_samples(collected(samples), DATA, 0)
    check_whole(split, samples)
    assert {s.part for s in split.train} == {"train", "val"}
    assert {s.part for s in split.test} == {"test"}
    assert split.how == "the data's own test part, 4 images"
    assert split.notes == ("val joins the training images: it takes part in the cross-validation",)


def test_val_judges_where_there_is_no_test() -> None:
    samples = of_classes("train", a=9, b=9) + of_classes("val", a=3, b=3)
    split = split_samples(collected(samples), DATA, 0)
    assert {s.part for s in split.test} == {"val"}
    assert len(split.train) == 18
    assert split.notes == ("val serves as the test set, as there is no test part",)


def test_train_alone_is_held_out_from() -> None:
    split = split_samples(collected(of_classes("train", a=10, b=10)), DATA, 0)
    assert count(split.test) == {"a": 2, "b": 2}


def test_none_trains_on_everything() -> None:
    data = Data(path=ROOT, test="none")
    samples = of_classes("train", a=5, b=5) + of_classes("test", a=2, b=2)
    split = split_samples(collected(samples), data, 0)
    assert (len(split.train), split.test) == (14, ())
    assert "the data's own test part trains too" in split.how
    assert len(split_samples(collected(of_classes(a=5, b=5)), data, 0).train) == 10


def test_too_few_images_to_hold_any_out_is_noted() -> None:
    split = split_samples(collected(of_classes(a=2, b=2)), DATA, 0)
    assert split.test == ()
    assert "too few images to hold any out: scores are cross-validated only" in split.notes


def test_a_group_in_both_parts_is_noted() -> None:
    samples = [sample(f"{p}/{i}.png", "ab"[i % 2], group=f"g{i}", part=p) for p in ("train", "test") for i in range(4)]
    split = split_samples(collected([*samples, *of_classes("train", a=2, b=2)]), DATA, 0)
    assert "4 groups in both training and test, which makes the score too good: g0, g1, g2, g3" in split.notes


def test_a_separate_test_set_is_matched_by_name(tmp_path: Path) -> None:
    photos = put_classes(tmp_path / "photos", cat=4, dog=4, emu=4)
    other = put(put_classes(tmp_path / "other", emu=2, cat=3), *(f"cat/more{i}.png" for i in range(20)))
    put(other, "emu/broken.png", content=b"broken")
    data = Data(path=photos, test=other)
    split = split_samples(read_samples(data), data, 0)
    assert split.classes == ("cat", "dog", "emu")
    assert (count(split.train), count(split.test)) == ({"cat": 4, "dog": 4, "emu": 4}, {"cat": 23, "emu": 2})
    assert [r.name for r in split.rejected] == ["emu/broken.png"]
    assert any(note.endswith("not judged there: dog") for note in split.notes)
    assert str(other) in split.how


def test_a_separate_test_set_with_an_unknown_class_is_refused(tmp_path: Path) -> None:
    data = Data(path=put_classes(tmp_path / "photos", cat=4, dog=4), test=put_classes(tmp_path / "other", Dog=1))
    with pytest.raises(UnknownClass, match=r"Dog \(as in Dog/000.png\); did you mean 'dog'"):
        split_samples(read_samples(data), data, 0)


def test_a_separate_test_set_replaces_the_own_one(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for part in ("train", "val"):
        put_classes(photos / part, cat=4, dog=4)
    put_classes(photos / "test", cat=2, dog=2, unknown=1)
    data = Data(path=photos, test=put_classes(tmp_path / "other", cat=1, dog=1))
    split = split_samples(read_samples(data), data, 0)
    assert ({s.part for s in split.train}, len(split.test)) == ({"train", "val"}, 2)
    assert "the data's own test part, 5 images, is not used" in split.notes


def test_images_of_the_test_set_do_not_train(tmp_path: Path) -> None:
    photos = put_classes(tmp_path / "photos", cat=6, dog=6)
    table = tmp_path / "test.csv"
    (tmp_path / "link").symlink_to(photos)
    table.write_text("path,label\nphotos/cat/000.png,cat\nlink/dog/001.png,dog\n")
    data = Data(path=photos, test=str(table))
    split = split_samples(read_samples(data), data, 0)
    assert not {"cat/000.png", "dog/001.png"} & set(names(split.train))
    assert len(split.train) == 10
    assert "2 images also in the test set, kept out of training" in split.notes
    same = Data(path=photos, test=photos)
    with pytest.raises(DataUnusable, match="training images that are not in the test set"):
        split_samples(read_samples(same), same, 0)


def test_the_pattern_groups_a_separate_test_set_too(tmp_path: Path) -> None:
    photos = put(tmp_path / "photos", *(f"{c}/p{i}_{k}.png" for c in ("cat", "dog") for i in range(4) for k in range(2)))
    other = put(tmp_path / "other", "cat/p1_9.png", "dog/z_1.png")
    data = Data(path=photos, test=other, group_pattern="(p.)_")
    split = split_samples(read_samples(data), data, 0)
    assert [s.group for s in split.test] == ["p1", None]
    assert any(note.startswith("1 group in both training and test") for note in split.notes)
