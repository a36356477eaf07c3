"""`regraft.compare`: two finished runs on the images that both answered, from their tables of predictions. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regraft.data.names import listing
from regraft.errors import DataUnusable, UsageError
from regraft.evaluate.mistakes import labels
from regraft.evaluate.paired import Comparison, paired
from regraft.evaluate.probability import known_truth
from regraft.evaluate.table import read_predictions
from regraft.kind import kind_of_run
from regraft.values import Predictions

if TYPE_CHECKING:
    from regraft.fitted import Fitted

TABLE = "predictions.parquet"
# What judges a run where it has no test: one word to ask for either.
_JUDGED = ("validation", "cross-validation")


def compare(first: "str | Path | Fitted", second: "str | Path | Fitted", *, part: str | None = None) -> Comparison:
    """Which of two runs is better on the images that both answered, and whether chance explains the difference.

    A run is its folder, the predictions.parquet in it, or what `fit` and `load` return. Images are matched by name. `part` is
    "test", or "validation" for the validation images or the cross-validation; by default the test of a run that has one.
    Neither the models nor the images are opened.

    Raises UsageError where a run or a part is not there, SavedModelRefused for a damaged table, DataUnusable where the runs
    share no image, or differ in their classes or in the labels of shared images.
    """
    folders = (_folder(first), _folder(second))
    for folder in folders:
        _check_kind(folder)
    one, other = (_part(folder, part) for folder in folders)
    names = _told_apart(folders)
    parts, whole = (one[0], other[0]), (one[1], other[1])
    _check_classes(whole, names)
    shared = _shared(whole, names)
    sides = (_at(whole[0], shared, whole[0].classes), _at(whole[1], shared, whole[0].classes))
    _check_labels(sides, names)
    groups = sides[0].groups or sides[1].groups
    alone = (len(whole[0].names) - len(shared), len(whole[1].names) - len(shared))
    return paired(
        replace(sides[0], groups=groups),
        replace(sides[1], groups=groups),
        runs=names,
        parts=parts,
        alone=alone,
        notes=_notes(names, parts, alone, len(shared), groups),
    )


def _check_kind(folder: Path) -> None:
    kind = kind_of_run(folder)
    if kind != "classification":
        raise UsageError(
            expected="two runs that classify images",
            got=f"{folder}, which answers for every pixel ({kind})",
            fix="compare what regraft evaluate --json says of both on the same images",
        )


def _folder(run: "str | Path | Fitted") -> Path:
    if isinstance(run, str | Path):
        return Path(run)
    if run.folder is None:
        raise UsageError(
            expected="two runs", got="a network that is not saved as a run", fix="give runs that regraft.fit has written"
        )
    return run.folder


def _told_apart(folders: tuple[Path, Path]) -> tuple[str, str]:
    """How the runs are called: by their folders, with their places where those are the same."""
    first, second = (str(folder.parent if folder.name == TABLE else folder) for folder in folders)
    return (first, second) if first != second else (f"{first} (first)", f"{second} (second)")


def _part(run: Path, wanted: str | None) -> tuple[str, Predictions]:
    """The predictions to compare, and which they are."""
    if not run.exists():
        raise UsageError(
            expected="the folder of a run, such as runs/photos",
            got=f"{run}: no such folder",
            fix="make one: regraft fit photos/",
        )
    parts = read_predictions(run / TABLE if run.is_dir() else run)
    names = ("test", *_JUDGED) if wanted is None else _JUDGED if wanted in _JUDGED else (wanted,)
    for name in names:
        if name in parts:
            return name, parts[name]
    raise UsageError(
        expected=f"predictions of the part {wanted or 'test'} in {run}",
        got=", ".join(parts) or "none",
        fix=f"--part {'validation' if wanted == 'test' else 'test'}, or compare runs that have it",
    )


def _check_classes(whole: tuple[Predictions, Predictions], names: tuple[str, str]) -> None:
    if whole[0].multi_label != whole[1].multi_label:
        several = names[0] if whole[0].multi_label else names[1]
        raise DataUnusable(
            expected="two runs of one kind", got=f"several labels per image in {several} alone", fix="compare it with its like"
        )
    first, second = (set(predictions.classes) for predictions in whole)
    if first != second:
        sides = zip(names, (first - second, second - first), strict=True)
        got = [f"{name} alone has {listing(sorted(rest), 5)}" for name, rest in sides if rest]
        raise DataUnusable(
            expected="two runs with the same classes",
            got="; ".join(got),
            fix="compare runs that were fitted on the same classes",
        )


def _shared(whole: tuple[Predictions, Predictions], names: tuple[str, str]) -> tuple[str, ...]:
    """The names of images that both have, in the order of the first."""
    known = set(whole[1].names)
    shared = tuple(name for name in whole[0].names if name in known)
    if not shared:
        examples = " and ".join(f"{listing(p.names, 1) or 'none'} in {name}" for p, name in zip(whole, names, strict=True))
        raise DataUnusable(
            expected="images that both runs answered, matched by name",
            got=f"none of {len(whole[0].names):,} and {len(whole[1].names):,}: {examples}",
            fix="fit both on the same data with the same --test and --seed",
        )
    return shared


def _at(predictions: Predictions, names: Sequence[str], classes: tuple[str, ...]) -> Predictions:
    """The predictions of these images alone, with the classes in this order."""
    rows = {name: row for row, name in enumerate(predictions.names)}
    chosen = [rows[name] for name in names]
    columns = [predictions.classes.index(name) for name in classes]
    targets = known_truth(predictions)
    return Predictions(
        names=tuple(names),
        classes=classes,
        logits_NK=predictions.logits_NK[np.ix_(chosen, columns)],
        targets=targets[np.ix_(chosen, columns)] if predictions.multi_label else np.argsort(columns)[targets[chosen]],
        multi_label=predictions.multi_label,
        groups=None if predictions.groups is None else tuple(predictions.groups[row] for row in chosen),
    )


def _check_labels(sides: tuple[Predictions, Predictions], names: tuple[str, str]) -> None:
    first, second = known_truth(sides[0]), known_truth(sides[1])
    differ = np.flatnonzero((first != second).reshape(len(first), -1).any(axis=1))
    if len(differ):
        row, classes = differ[0], sides[0].classes
        one, other = (", ".join(labels(classes, truth[row])) or "no label" for truth in (first, second))
        raise DataUnusable(
            expected="the same labels of the images that both runs answered",
            got=f"{len(differ):,} of {len(first):,} differ: "
            f"{sides[0].names[row]} is {one} in {names[0]}, {other} in {names[1]}",
            fix="fit one of them again on the labels of the other",
        )


def _notes(
    names: tuple[str, str], parts: tuple[str, str], alone: tuple[int, int], shared: int, groups: tuple[str, ...] | None
) -> tuple[str, ...]:
    notes = []
    if any(alone):
        more = " and ".join(f"{count:,} only in {name}" for count, name in zip(alone, names, strict=True) if count)
        notes.append(f"not the same images: {more}; compared on the {shared:,} in both")
    notes += [f"{name}: {_HOW[part]}" for name, part in zip(names, parts, strict=True) if part in _HOW]
    if groups is not None:
        notes.append(f"images of one group count as one draw: {len(set(groups)):,} groups")
    return tuple(notes)


_HOW: Mapping[str, str] = {
    "validation": "its validation images, which chose its epoch, and not its test",
    "cross-validation": "its cross-validation, by heads that had not seen the image, and not its test",
}
