"""From a folder, a table or shards to samples that can be used: every image accounted for, every class with a name.

Two entries: `read_samples` for data to train on, which must be fit for it, and `read_evaluation` for data to judge a model on,
whose classes are the model's own.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from regraft.data.excluded import read_excluded, without
from regraft.data.folder import read_folder
from regraft.data.found import EmptyClass, Found
from regraft.data.names import count_of, guess, listing, printable, shown
from regraft.data.scan import rejection_notes, scan_images
from regraft.data.shards.places import find_shards
from regraft.data.shards.read import read_shards
from regraft.data.table import read_table
from regraft.data.tabular import CSV_SUFFIXES, PARQUET_SUFFIXES, is_table
from regraft.data.tree import draw_tree
from regraft.errors import DataUnusable, TooFewImages, UnknownClass, UsageError
from regraft.progress import Progress, Silent
from regraft.recipe import Data, located
from regraft.values import Part, Rejected, Sample, Samples

# One image to train on and one to choose by.
FEWEST_IMAGES = 2
_ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")


def read_samples(data: Data, *, progress: Progress = Silent()) -> Samples:
    """All images of `data`, their classes, and what was set aside or left out; `classes` are those of the training images.

    Raises DataUnusable (layout, labels, fewer than two classes, an empty class), TooFewImages (fewer than two usable training
    images in a class), UnknownClass (a class only in val or test), TooManyUnreadable, UsageError.
    """
    excluded = read_excluded(data.exclude) if data.exclude else frozenset()
    found = read_source(data, progress)
    if data.exclude:
        found = without(found, excluded, data.exclude)
    check_test_source(data)
    training = training_parts({sample.part for sample in found.samples}, data)
    _check_not_empty(data, found, training)
    classes = _check_classes(data, found, training)
    good, rejected = scan_images(found.samples, skip_bad=data.skip_bad, progress=progress)
    _check_enough(data, good, rejected, classes, training, found.notes)
    return Samples(
        root=found.root,
        samples=good,
        classes=classes,
        multi_label=found.multi_label,
        rejected=rejected,
        tree=draw_tree(found.title, found.samples, classes),
        notes=(*found.notes, *_class_notes(found, classes), *rejection_notes(rejected)),
    )


def read_more(data: Data, *, multi_label: bool | None, progress: Progress = Silent()) -> Samples:
    """Labelled images to add to others: any number of classes, whatever parts they are in; `classes` are their labels, sorted.

    `multi_label` says what the others have, None: there are no others. Raises DataUnusable where there are no images, or where
    they have several labels and the others one, TooManyUnreadable, UsageError.
    """
    found = read_source(data, progress)
    if found.multi_label and multi_label is False:
        raise DataUnusable(
            expected="one label for each image, as the others have",
            got=f"{printable(data.path)} with several labels per image",
            fix="give one label per image",
        )
    if not found.samples:
        raise DataUnusable(expected="labelled images to add", got=f"{printable(data.path)}: none", fix=_layout_cure(found))
    good, rejected = scan_images(found.samples, skip_bad=data.skip_bad, progress=progress)
    classes = tuple(sorted({label for sample in good for label in sample.labels}))
    return Samples(
        root=found.root,
        samples=good,
        classes=classes,
        multi_label=found.multi_label if multi_label is None else multi_label,
        rejected=rejected,
        tree=draw_tree(found.title, found.samples, classes),
        notes=(*found.notes, *_empty_notes(found), *rejection_notes(rejected)),
    )


def read_evaluation(
    data: Data | str | Path, classes: Sequence[str], *, multi_label: bool = False, progress: Progress = Silent()
) -> Samples:
    """The labelled images that judge a model with these `classes`: the test part where there is one, else val, else everything.

    Classes are matched by name. The result has the model's `classes`, in the model's order; one without images gives a note.
    Raises UnknownClass for a class that the model does not have, DataUnusable, TooManyUnreadable, UsageError.
    """
    data = data if isinstance(data, Data) else Data(path=data)
    found = read_source(data, progress)
    if found.multi_label and not multi_label:
        raise DataUnusable(
            expected="one label for each image, as the model was trained",
            got=f"{printable(data.path)} with several labels per image",
            fix="evaluate on data with one label per image, or train a model on data with several",
        )
    chosen, part_notes = judging(found)
    if not chosen:
        raise DataUnusable(
            expected="labelled images to evaluate on", got=f"{printable(data.path)}: none", fix=_layout_cure(found)
        )
    _check_known(chosen, classes, f"{printable(data.path)}", "the model")
    good, rejected = scan_images(chosen, skip_bad=data.skip_bad, progress=progress)
    used = {label for sample in chosen for label in sample.labels}
    return Samples(
        root=found.root,
        samples=good,
        classes=tuple(classes),
        multi_label=multi_label,
        rejected=rejected,
        tree=draw_tree(found.title, chosen, sorted(used)),
        notes=(
            *found.notes,
            *_empty_notes(found),
            *part_notes,
            *_missing(classes, used, "the data to evaluate on"),
            *rejection_notes(rejected),
        ),
    )


def training_parts(parts: Iterable[Part | None], data: Data) -> frozenset[Part | None]:
    """The parts whose images train and choose. Whatever is in no other part may be judged on.

    val trains too (in the cross-validation) unless it has to serve as the test set; with test="none" everything trains.
    """
    present = frozenset(parts)
    if data.test == "none":
        return present
    if not present & {"train", None}:
        return frozenset()
    val_is_test = data.test == "auto" and "test" not in present
    return present - ({"val"} if val_is_test else {"test"})


def test_source(data: Data) -> str | Path | None:
    """The separate test set that was named, or None."""
    return None if data.test in ("auto", "none") else located(data.test)


def check_test_source(data: Data) -> None:
    """Raise DataUnusable for a test set that is not there, before hours may go into the training images."""
    source = test_source(data)
    if source is None or find_shards(source):
        return
    path = Path(source)
    if not path.is_dir() and not (path.is_file() and is_table(path)):
        raise _no_source(path)


def read_source(data: Data, progress: Progress = Silent()) -> Found:
    """What `data.path` holds, whatever it is. Raises DataUnusable, UsageError."""
    if shards := find_shards(data.path):
        return read_shards(data, shards, progress=progress)
    path = data.local
    if path.is_dir():
        if data.group_column is not None:
            fix = "use --group-pattern, a regular expression on the path"
            raise UsageError(expected="a table for --group, which names a column", got=f"the folder {printable(path)}", fix=fix)
        return read_folder(path)
    if path.is_file() and is_table(path):
        return read_table(data)
    raise _no_source(path)


def _no_source(path: Path) -> DataUnusable:
    if not path.exists():
        # A Path makes one slash of the two in s3://
        url = re.match(r"[a-z][a-z0-9+.-]+:/", path.as_posix())
        got, fix = f"nothing at {printable(path)}", "give a URL as text, not as a Path" if url else "check the path"
    elif path.suffix.lower() in _ARCHIVES:
        got, fix = f"the archive {printable(path)}", "unpack it and give the folder"
    else:
        got, fix = f"the file {printable(path)}", "give the folder that holds a folder for each class"
    tables = ", ".join([*CSV_SUFFIXES, *PARQUET_SUFFIXES])
    return DataUnusable(expected=f"a folder of class folders, a table ({tables}) or shards (.tar)", got=got, fix=fix)


def _check_not_empty(data: Data, found: Found, training: frozenset[Part | None]) -> None:
    """Every class folder to train on must hold images, and there must be some."""
    if empty := [entry for entry in found.empty if entry.part in (None, "train")]:
        raise DataUnusable(
            expected="images in every class folder",
            got=f"{printable(data.path)}: {count_of(len(empty), 'class folder')} without an image: {_described(empty)}",
            fix=_empty_cure(empty),
        )
    if not any(sample.part in training for sample in found.samples):
        parts = sorted({str(sample.part) for sample in found.samples})
        got = f"images in {listing(parts)} only" if parts else "; ".join(["no image in a class folder", *found.notes])
        raise DataUnusable(
            expected="labelled images to train on", got=f"{printable(data.path)}: {got}", fix=_layout_cure(found)
        )


def _described(empty: Sequence[EmptyClass]) -> str:
    return listing([f"{entry.name} (holds {entry.holds})" for entry in empty])


def _layout_cure(found: Found) -> str:
    if any("symbolic link" in note for note in found.notes) and not found.samples:
        return "copy the files (cp -rL) or make hard links instead; or list the images in a table, whose paths may be links"
    return (
        "make a folder for each class with its images in it (train/cat/1.jpg or cat/1.jpg), or give a table with labels, "
        "or shards (.tar, .parquet, .arrow)"
    )


def _empty_cure(empty: Sequence[EmptyClass]) -> str:
    if any("symbolic link" in entry.holds for entry in empty):
        return "symbolic links are not followed: copy the files (cp -rL), or list the images in a table; or remove the folder"
    return "put images into it (.jpg, .png, .webp, .bmp, .gif, .tif), or remove the folder"


def _check_classes(data: Data, found: Found, training: frozenset[Part | None]) -> tuple[str, ...]:
    """The sorted classes of the training images; those of other parts must be among them."""
    classes = tuple(sorted({label for sample in found.samples if sample.part in training for label in sample.labels}))
    if len(classes) < 2:
        raise DataUnusable(
            expected="two classes or more",
            got=_noted(f"{printable(data.path)}: {f'only {shown(classes[0])!r}' if classes else 'none'}", found.notes),
            fix=_one_class_cure(data, found, classes),
        )
    # With a test set of its own, the data's own test part is not used and may hold anything.
    if test_source(data) is None:
        others = [sample for sample in found.samples if sample.part not in training]
        _check_known(others, classes, printable(data.path), "train", found.notes)
    return classes


def _noted(got: str, notes: Sequence[str]) -> str:
    """What is wrong, with what was noted on the way: an archive that was cut short may be why images are missing."""
    return "; ".join([got, *notes])


def _one_class_cure(data: Data, found: Found, classes: Sequence[str]) -> str:
    """One class folder with folders in it is most often the folder that was meant."""
    paths = [sample.path for sample in found.samples if isinstance(sample.path, Path)]
    if isinstance(data.path, Path) and data.path.is_dir() and classes and paths:
        inside = [path.relative_to(data.path).parts for path in paths]
        below = sorted({parts[1] for parts in inside if len(parts) > 2})
        if len(below) > 1:
            return f"did you mean {printable(data.path / inside[0][0])}, which holds {listing(below, 4)}?"
    return "add a folder (or rows) of at least one other class, for example of pictures that show none of it"


def _check_known(samples: Sequence[Sample], classes: Sequence[str], where: str, owner: str, notes: Sequence[str] = ()) -> None:
    """Raise UnknownClass unless every label is among `classes`, those of `owner`."""
    examples = {label: sample for sample in reversed(samples) for label in sample.labels}
    unknown = sorted(set(examples) - set(classes))
    if not unknown:
        return
    meant = guess(unknown[0], classes)
    hint = f"; did you mean {shown(meant)!r}?" if meant else ""
    raise UnknownClass(
        expected=f"only classes that {owner} has: {listing(classes)}",
        got=_noted(f"{where}: {listing(unknown)} (as in {shown(examples[unknown[0]].name)}){hint}", notes),
        fix="rename or remove the class" + (", or add images of it to train" if owner == "train" else ", or train with it"),
    )


def _check_enough(
    data: Data,
    good: Sequence[Sample],
    rejected: Sequence[Rejected],
    classes: Sequence[str],
    training: frozenset[Part | None],
    notes: Sequence[str],
) -> None:
    """Raise TooFewImages unless every class keeps at least two training images."""
    counts = Counter(label for sample in good if sample.part in training for label in sample.labels)
    few = [f"{name} {counts[name]}" for name in classes if counts[name] < FEWEST_IMAGES]
    if few:
        unreadable = f"; {count_of(len(rejected), 'unreadable image')} not counted" if rejected else ""
        raise TooFewImages(
            expected=f"at least {FEWEST_IMAGES} usable training images in each class",
            got=_noted(f"{printable(data.path)}: {listing(few)}{unreadable}", notes),
            fix="add images of it (20 or more make a fair start), merge it with another class, or remove it",
        )


def _class_notes(found: Found, classes: Sequence[str]) -> list[str]:
    notes = _empty_notes(found)
    by_folded = defaultdict[str, list[str]](list)
    for name in classes:
        by_folded[name.casefold()].append(name)
    if twins := ["/".join(names) for names in by_folded.values() if len(names) > 1]:
        notes.append(f"classes that differ in upper and lower case only, taken as different: {listing(twins)}")
    for part in ("val", "test"):
        used = {label for sample in found.samples if sample.part == part for label in sample.labels}
        if used:
            notes += _missing(classes, used, part)
    return notes


def _empty_notes(found: Found) -> list[str]:
    return [f"class folders without an image: {_described(found.empty)}"] if found.empty else []


def _missing(classes: Sequence[str], used: set[str], where: str) -> list[str]:
    missing = [name for name in classes if name not in used]
    if not missing:
        return []
    return [f"{count_of(len(missing), 'class', 'classes')} without images in {where}, not judged there: {listing(missing)}"]


def judging(found: Found) -> tuple[tuple[Sample, ...], list[str]]:
    """The samples of the part that judges best, and what a person should know of that choice."""
    present = {sample.part for sample in found.samples}
    for part in ("test", "val"):
        if part in present:
            chosen = tuple(sample for sample in found.samples if sample.part == part)
            return chosen, [f"only {part} is evaluated"] if len(present) > 1 else []
    if present == {"train"}:
        return found.samples, ["only train is there: if the model was trained on it, its score says little"]
    return found.samples, []
