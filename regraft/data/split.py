"""Which images train and which only judge: stratified, grouped, and the same on every run and machine.

Images are taken in the order of a hash of the seed and the image's name (or its group's), so the split depends neither on the
order of a directory listing nor on a generator's version, and adding images moves few of the others.
"""

import functools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.data.balance import deal_folds, hold_out, make_units
from regraft.data.masked import masks_of_test
from regraft.data.names import count_of, listing, printable
from regraft.data.read import read_evaluation, test_source, training_parts
from regraft.errors import DataUnusable, UsageError
from regraft.progress import Progress, Silent
from regraft.recipe import Data
from regraft.values import INSIDE, ImagePath, Member, Rejected, Sample, Samples, Split

FOLDS = 5
# Features of that many images make every fold a large problem, and a third of them leaves little noise in the choice.
FOLDS_OF_MANY, MANY = 3, 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """The two sides of a split, before folds: `how` and `drawn` as in Split."""

    train: Sequence[Sample]
    test: Sequence[Sample]
    how: str
    drawn: bool = False
    notes: tuple[str, ...] = ()
    rejected: tuple[Rejected, ...] = ()


class ReadTest(Protocol):
    """Reads a separate test set for a model with these classes: `read.read_evaluation`, `masked.read_masked_evaluation`."""

    def __call__(self, data: Data, classes: Sequence[str], *, multi_label: bool, progress: Progress) -> Samples: ...


def split_samples(
    samples: Samples, data: Data, seed: int, *, progress: Progress = Silent(), read_test: ReadTest = read_evaluation
) -> Split:
    """The images that train and those that judge, and the folds of the former.

    Raises UsageError for a group pattern that matches nothing, DataUnusable when all images are of one group, and what
    `read_evaluation` raises for a separate test set.
    """
    grouped, group_notes = _with_groups(samples.samples, data)
    sides = _sides(replace(samples, samples=grouped), data, seed, progress, read_test)
    train, test = _in_order(sides.train), _in_order(sides.test)
    return Split(
        classes=samples.classes,
        multi_label=samples.multi_label,
        train=train,
        test=test,
        folds_N=fold_numbers(train, None, seed),
        how=sides.how,
        drawn=sides.drawn,
        notes=(*group_notes, *sides.notes, *_shared_groups(train, test), *_class_notes(samples.classes, train, test)),
        rejected=sides.rejected,
    )


def keep_together(split: Split, data: Data, seed: int, alike_N: NDArray[np.int64]) -> Split:
    """The split with images that show the same on one side and in one fold.

    `alike_N` numbers, for each of `[*split.train, *split.test]`, the images that show the same; -1 for one that is alone.
    Groups that such images tie together become one. Where the data itself says what tests, only the folds are dealt anew:
    nothing is moved out of a test set that a person has made. Raises DataUnusable as `fold_numbers` does.
    """
    if not (alike_N >= 0).any():
        return split
    samples = _tied([*split.train, *split.test], alike_N)
    train, test, how = samples[: len(split.train)], samples[len(split.train) :], split.how
    if split.drawn:
        sides = _held_out(_in_order(samples), data, seed, copies=True)
        train, test, how = list(_in_order(sides.train)), list(_in_order(sides.test)), sides.how
    return replace(split, train=tuple(train), test=tuple(test), how=how, folds_N=fold_numbers(train, None, seed))


def _tied(samples: Sequence[Sample], alike_N: NDArray[np.int64]) -> list[Sample]:
    """The samples with groups that join those they had with those of images that show the same."""
    root: dict[object, object] = {}

    def find(key: object) -> object:
        while root.setdefault(key, key) != key:
            # Halved on the way: a group whose images have many copies is a long chain.
            root[key] = root[root[key]]
            key = root[key]
        return key

    keys = [("group", s.group) if s.group is not None else ("image", i) for i, s in enumerate(samples)]
    for key, number in zip(keys, alike_N, strict=True):
        if number >= 0:
            root[find(key)] = find(("alike", int(number)))
    names: dict[object, str] = {}
    for key, sample in zip(keys, samples, strict=True):
        name = sample.name if sample.group is None else sample.group
        names[find(key)] = min(names.get(find(key), name), name)
    alone = Counter(find(key) for key in keys)
    return [
        sample if sample.group is None and alone[find(key)] == 1 else replace(sample, group=names[find(key)])
        for key, sample in zip(keys, samples, strict=True)
    ]


def fold_numbers(samples: Sequence[Sample], folds: int | None, seed: int) -> NDArray[np.int64]:
    """The cross-validation fold of each of N training images, (N,) in 0..F-1; no fold is empty.

    Stratified by class, groups kept together. `folds` None means 5, or 3 above 20,000 images. There are never more folds than
    groups (images, where there are none). A class with fewer groups than folds is in some folds only: one small class must not
    cost the others their folds. Raises DataUnusable for a single group.
    """
    units = make_units(samples, seed)
    if len(units) < 2:
        raise DataUnusable(
            expected="two groups of training images or more",
            got=f"{count_of(len(samples), 'image')} in {count_of(len(units), 'group')}",
            fix="group by something that differs between images, or leave out --group and --group-pattern",
        )
    wanted = folds or (FOLDS_OF_MANY if len(samples) > MANY else FOLDS)
    return deal_folds(units, len(samples), max(2, min(wanted, len(units))))


def _in_order(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: sample.name))


def _sides(samples: Samples, data: Data, seed: int, progress: Progress, read_test: ReadTest) -> _Sides:
    if test_source(data) is not None:
        return _separate_test(samples, data, progress, read_test)
    own = [sample for sample in samples.samples if sample.part is not None]
    parts = {sample.part for sample in own}
    training = training_parts({sample.part for sample in samples.samples}, data)
    train = [sample for sample in samples.samples if sample.part in training]
    test = [sample for sample in samples.samples if sample.part not in training]
    if data.test == "none":
        own_test = "; the data's own test part trains too" if "test" in parts else ""
        return _Sides(train=train, test=(), how=f"no test set: every image trains, scores are cross-validated only{own_test}")
    if not test:
        return _held_out(train, data, seed)
    notes = ("val joins the training images: it takes part in the cross-validation",) if "val" in training else ()
    if "test" in parts:
        return _Sides(train=train, test=test, how=f"the data's own test part, {count_of(len(test), 'image')}", notes=notes)
    how = f"the data's val part, {count_of(len(test), 'image')}, as there is no test part; no choice is made by it"
    return _Sides(train=train, test=test, how=how, notes=("val serves as the test set, as there is no test part",))


def _held_out(samples: Sequence[Sample], data: Data, seed: int, *, copies: bool = False) -> _Sides:
    """Set a share of the images of each class aside; `copies`: some groups are of images that show the same."""
    aside = {index for unit in hold_out(make_units(samples, seed), data.test_share) for index in unit.members}
    train = [sample for index, sample in enumerate(samples) if index not in aside]
    grouped = any(sample.group is not None for sample in samples)
    kept = "copies of an image" if copies else "groups"
    drawn = "by class" if any(sample.labels for sample in samples) else "by chance"
    how = (
        f"{count_of(len(aside), 'image')} of {len(samples):,} ({100 * len(aside) / len(samples):.0f} %) held out {drawn}, "
        f"seed {seed}{f', {kept} kept together' if grouped else ''}; no choice is made by them"
    )
    notes = () if aside else ("too few images to hold any out: scores are cross-validated only",)
    return _Sides(train=train, test=[samples[index] for index in aside], how=how, drawn=True, notes=notes)


def _separate_test(samples: Samples, data: Data, progress: Progress, read_test: ReadTest) -> _Sides:
    """Judge on another folder or table; the data's own test part is left out, as are images that the test set holds too."""
    source = test_source(data)
    assert source is not None
    # The group column may be the training table's alone, and the other set need not be a table.
    other = replace(data, path=source, test="auto", group_column=None, masks=masks_of_test(data), test_masks=None)
    read = read_test(other, samples.classes, multi_label=samples.multi_label, progress=progress)
    training = training_parts({sample.part for sample in samples.samples}, data)
    file_of = _file_identity()
    tested = {file_of(sample.path) for sample in read.samples}
    train = [sample for sample in samples.samples if sample.part in training]
    clean = [sample for sample in train if file_of(sample.path) not in tested]
    return _Sides(
        train=clean,
        test=_groups_by_pattern(read.samples, data.group_pattern),
        how=f"tested on {printable(source)}, {count_of(len(read.samples), 'image')}",
        notes=(*read.notes, *_left_out(samples, train, clean)),
        rejected=read.rejected,
    )


def _left_out(samples: Samples, train: Sequence[Sample], clean: Sequence[Sample]) -> list[str]:
    notes = []
    if unused := len(samples.samples) - len(train):
        notes.append(f"the data's own test part, {count_of(unused, 'image')}, is not used")
    if shared := len(train) - len(clean):
        notes.append(f"{count_of(shared, 'image')} also in the test set, kept out of training")
    if lost := sorted(_labels_of(train) - _labels_of(clean)):
        raise DataUnusable(
            expected="training images that are not in the test set",
            got=f"no others of {listing(lost)}",
            fix="give a test set with other images, or leave out --test",
        )
    return notes


def _labels_of(samples: Sequence[Sample]) -> set[str]:
    return {label for sample in samples for label in sample.labels}


def _file_identity() -> Callable[[ImagePath], str]:
    """Tells files apart by where they really are; each folder is looked up once."""

    @functools.cache
    def real(folder: str) -> str:
        return os.path.realpath(folder)

    def identity(path: ImagePath) -> str:
        if isinstance(path, Member):
            place = path.container if path.remote else identity(Path(path.container))
            return f"{place}{INSIDE}{path.inner}"
        folder, name = os.path.split(path)
        return f"{real(folder)}/{name}"

    return identity


def _with_groups(samples: Sequence[Sample], data: Data) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """The samples with the groups that the pattern gives them; those it does not match stand alone."""
    if data.group_pattern is None:
        return tuple(samples), ()
    if data.group_column is not None:
        raise UsageError(
            expected="one way to group images", got="both --group and --group-pattern", fix="leave one of them out"
        )
    grouped = _groups_by_pattern(samples, data.group_pattern)
    alone = [sample.name for sample in grouped if sample.group is None]
    if len(alone) == len(samples):
        raise UsageError(
            expected="--group-pattern to match the names of images",
            got=f"{data.group_pattern!r} matches none of {len(samples):,}, such as {listing(alone, 3)}",
            fix="the pattern is searched in the path below the data's folder; '([^/]+)/[^/]+$' groups by folder",
        )
    groups = len({sample.group for sample in grouped} - {None})
    notes = [f"{count_of(groups, 'group')} of images by {data.group_pattern!r}"]
    if alone:
        notes.append(f"{count_of(len(alone), 'image')} not matched by the group pattern, each alone: {listing(alone, 3)}")
    return grouped, tuple(notes)


def _groups_by_pattern(samples: Sequence[Sample], pattern: str | None) -> tuple[Sample, ...]:
    if pattern is None:
        return tuple(samples)
    compiled = re.compile(pattern)

    def group_of(name: str) -> str | None:
        found = compiled.search(name)
        return found and found.group(1 if compiled.groups else 0)

    return tuple(replace(sample, group=group_of(sample.name)) for sample in samples)


def _shared_groups(train: Sequence[Sample], test: Sequence[Sample]) -> list[str]:
    """A warning where the data's own parts divide groups; the hold-out never does."""
    shared = sorted({s.group for s in train if s.group is not None} & {s.group for s in test if s.group is not None})
    if not shared:
        return []
    return [f"{count_of(len(shared), 'group')} in both training and test, which makes the score too good: {listing(shared, 5)}"]


def _class_notes(classes: Sequence[str], train: Sequence[Sample], test: Sequence[Sample]) -> list[str]:
    groups = defaultdict[str, set[str]](set)
    for sample in train:
        for label in sample.labels:
            groups[label].add(f"group {sample.group}" if sample.group is not None else f"image {sample.name}")
    alone = [name for name in classes if len(groups[name]) == 1]
    notes = [f"all training images of one group, so cross-validation cannot judge: {listing(alone)}"] if alone else []
    # Where masks have the classes, images have none.
    if test and _labels_of(train) and (missing := [name for name in classes if name not in _labels_of(test)]):
        notes.append(f"no test images of {listing(missing)}")
    return notes
