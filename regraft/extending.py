"""More images, or a class more, for a run whose old images need not be at hand: their features are still in the cache."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.artifact.load import read_config
from regraft.artifact.schema import Config, check_class_names
from regraft.audits.audit import names_of
from regraft.audits.copies import copies_of, find_copies, groups_of
from regraft.backbone.features import Features, later_stages
from regraft.backbone.model import Backbone
from regraft.cache.engines import give_back
from regraft.cache.extract import Extracted, extract_features, looks_table
from regraft.cache.store import Table, default_folder
from regraft.clock import Clock
from regraft.data.balance import hold_out, make_units
from regraft.data.read import read_more
from regraft.data.split import fold_numbers, keep_together
from regraft.errors import DataUnusable, UsageError
from regraft.fitted import Fitted
from regraft.kept import KeptImages, read_images
from regraft.pipeline import complete
from regraft.prepare import Prepared, described, looks_of, numbered, solve
from regraft.progress import Progress, Silent
from regraft.recipe import Data, Device, Recipe
from regraft.saved import load_classifier
from regraft.strategies import Head
from regraft.train.observed import observe
from regraft.values import Sample, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """Old and new images that train, and that judge."""

    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


def extend(
    run: Path,
    more: str | Path,
    out: Path,
    *,
    cache: Path | None = None,
    device: Device = "auto",
    command: str = "",
    progress: Progress = Silent(),
) -> Fitted:
    """Fit the head of `run` again on its own images and those in `more`, and write the result to `out`.

    `more` is a folder of class folders or a table, of known classes, new ones or both. A fifth of its images of each class
    joins the test images, where the run has any; one that shows the same as an old image joins that one. The old images are
    not read: their features are found in `cache` by the digests that the run holds.

    Raises UsageError for a run whose network was trained, or whose features are not in the cache any more, SavedModelRefused,
    and what `fit` raises for the new images.
    """
    clock = Clock()
    cache = cache or default_folder()
    with clock("backbone"):
        earlier, config = load_classifier(run), read_config(run)
        _check_solved(run, earlier, config)
        kept = read_images(run)
    with clock("data"):
        new = read_more(Data(path=more), multi_label=earlier.multi_label, progress=progress)
        classes = tuple(sorted({*earlier.classes, *new.classes}))
        check_class_names(classes)
        for note in (new.tree, *new.notes):
            progress.note(note)
    with clock("features"):
        backbone = earlier.backbone
        fresh = extract_features(
            new.samples,
            backbone,
            later_stages(backbone),
            cache=cache,
            device=device,
            engine=kept.engine,
            with_looks=True,
            progress=progress,
        )
        give_back()
        joined = _joined(run, kept, fresh, backbone, cache)
    seed = config.training.seed
    strategy = Head(balance="auto" if config.training.balanced else "none")
    recipe = Recipe(data=Data(path=more), strategy=strategy, seed=seed, device=device, cache=cache)
    with clock("copies"):
        readable = _told_apart(kept, [new.samples[i] for i in fresh.kept_M])
        # By number until their sides are known, which decide what to call them.
        numbers = [str(number) for number in range(len(joined.digests))]
        pairs = find_copies(looks_of(joined), joined.digests, numbers)
        sides = _sides(kept, readable, groups_of(pairs), seed)
        order = _order((*kept.train, *kept.test, *readable), sides)
        name_of = {numbers[i]: name for i, name in zip(order, names_of(sides.train, sides.test), strict=True)}
        alike = [replace(pair, one=name_of[pair.one], other=name_of[pair.other]) for pair in pairs]
        split = _split(run, more, classes, earlier.multi_label, sides, seed)
        split = keep_together(split, recipe.data, seed, numbered(alike, split))
        extracted = joined.reordered(order)
        observed = observe(split, extracted)
        copies = copies_of(alike, *described(observed.train, observed.test))
    with clock("head"):
        solved = solve(recipe, strategy, split, observed, extracted, progress)
    ready = Prepared(
        recipe=recipe,
        strategy=strategy,
        baseline=strategy,
        own=None,
        backbone=backbone,
        samples=replace(new, rejected=(*new.rejected, *fresh.rejected)),
        split=split,
        extracted=extracted,
        observed=replace(observed, rejected=()),
        copies=copies,
        solved=solved,
    )
    return complete(ready, clock, out, command=command, progress=progress)


def _check_solved(run: Path, earlier: Fitted, config: Config) -> None:
    if config.training.strategy != "head" or config.features.kind == "own" or earlier.mirrored:
        raise UsageError(
            expected="a run with a solved head on a frozen network",
            got=f"{run}: strategy {config.training.strategy}{', --tta' if earlier.mirrored else ''}",
            fix="fit again on all images: what was trained cannot be added to",
        )


def _joined(run: Path, kept: KeptImages, fresh: Extracted, backbone: Backbone, cache: Path) -> Extracted:
    """Features of the old training images, the old test images and the new images, in this order."""
    if fresh.table != kept.table:
        raise _gone(run, cache, f"its features are of another version of the network or its libraries ({kept.table})")
    width = Features(backbone, fresh.columns.taps).columns.width
    with closing(Table(cache / "features" / fresh.table, width)) as table, closing(looks_table(cache)) as seen:
        rows, looks = table.lookup(check=False), seen.lookup(check=False)
        lost = [d for d in kept.digests if d not in rows or d not in looks]
        if lost:
            raise _gone(run, cache, f"{len(lost):,} of {len(kept.digests):,} images are not there any more")
        digests = (*kept.digests, *fresh.digests)
        return replace(
            fresh,
            features=table.rows([rows[digest] for digest in digests]),
            looks=seen.rows([looks[digest] for digest in digests]),
            kept_M=np.arange(len(digests), dtype=np.int64),
            digests=digests,
            hits=fresh.hits + len(kept.digests),
        )


def _gone(run: Path, cache: Path, got: str) -> UsageError:
    return UsageError(
        expected=f"the features of the images of {run} in the cache {cache}",
        got=got,
        fix="give the --cache of that fit, or fit again on all images",
    )


def _told_apart(kept: KeptImages, new: Sequence[Sample]) -> list[Sample]:
    """The new images; one with the name of an old one goes by its path."""
    taken = {sample.name for sample in (*kept.train, *kept.test)}
    return [replace(sample, name=sample.path.as_posix()) if sample.name in taken else sample for sample in new]


def _sides(kept: KeptImages, new: Sequence[Sample], groups: Mapping[str, str], seed: int) -> _Sides:
    """Where the new images go: with an old one that shows the same, else a fifth of each class to the test images.

    `groups` names, by their numbers, images that show the same: old training images, old test images, new ones.
    """
    if not kept.test:
        return _Sides(train=(*kept.train, *new), test=())
    old = len(kept.train) + len(kept.test)
    tests = {groups[str(i)]: i >= len(kept.train) for i in range(old) if str(i) in groups}
    of_new = [groups.get(str(old + i)) for i in range(len(new))]
    grouped = [replace(sample, group=sample.group or group) for sample, group in zip(new, of_new, strict=True)]
    aside = {index for unit in hold_out(make_units(grouped, seed), Data(path=Path()).test_share) for index in unit.members}
    judges = [tests.get(group, i in aside) if group else i in aside for i, group in enumerate(of_new)]
    return _Sides(
        train=(*kept.train, *(sample for sample, judging in zip(new, judges, strict=True) if not judging)),
        test=(*kept.test, *(sample for sample, judging in zip(new, judges, strict=True) if judging)),
    )


def _split(run: Path, more: str | Path, classes: tuple[str, ...], multi_label: bool, sides: _Sides, seed: int) -> Split:
    bare = [name for name in classes if not any(name in sample.labels for sample in sides.train)]
    if bare:
        raise DataUnusable(
            expected="images to learn from in each class", got=f"none of {', '.join(bare[:5])}", fix=f"put more into {more}"
        )
    how = f"the images of {run.name} as they were split there; of the images added, a fifth of each class"
    return Split(
        classes=classes,
        multi_label=multi_label,
        train=sides.train,
        test=sides.test,
        folds_N=fold_numbers(sides.train, None, seed),
        how=how if sides.test else "no test set: every image trains, scores are cross-validated only",
    )


def _order(before: Sequence[Sample], sides: _Sides) -> NDArray[np.int64]:
    place = {id(sample): i for i, sample in enumerate(before)}
    return np.array([place[id(sample)] for sample in (*sides.train, *sides.test)], np.int64)
