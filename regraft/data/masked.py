"""From folders or a table on disk to images with masks: every image accounted for, none with a mask that may be another's.

    photos/1.jpg      masks/1.png                 read with --masks masks; train/, val/, test/ on both sides or on none
    data/images/1.jpg       data/masks/1.png                        side by side, the masks in a folder of any name
    data/train/images/1.jpg data/train/masks/1.png                  the same in train/, val/ and test/

Two entries, as in `read`: `read_masked` for data to train on and `read_masked_evaluation` for data to judge a model on. Neither
decodes a mask; `settle.settle_masks` does, and finds what their values mean.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from regraft.data.excluded import read_excluded, without
from regraft.data.folder import left_out_notes
from regraft.data.found import PARTS, Found
from regraft.data.masked_table import read_masked_table
from regraft.data.names import count_of, listing, printable, sample_names, shown
from regraft.data.pairing import Pairs, check_pairs, pair
from regraft.data.read import FEWEST_IMAGES, check_test_source, judging, training_parts
from regraft.data.scan import scan_images
from regraft.data.tabular import is_table
from regraft.data.walk import Walked, walk
from regraft.errors import DataUnusable, TooFewImages, UsageError
from regraft.progress import Progress, Silent
from regraft.recipe import Data
from regraft.values import Part, Rejected, Sample, Samples

IMAGES: Final = "images"
MASKS: Final = "masks"
_PART_ORDER: Final[tuple[Part | None, ...]] = (None, "train", "val", "test")


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder of images and that of their masks; `part` where the folder above them is one."""

    images: Path
    masks: Path
    part: Part | None = None


def read_masked(data: Data, *, progress: Progress = Silent()) -> Samples:
    """All images of `data` with their masks, and what was set aside or left out; `labels` and `classes` are empty.

    Raises DataUnusable (layout, an image without a mask, a mask without an image), TooFewImages (fewer than two to train on),
    TooManyUnreadable, UsageError. With `data.skip_bad` what has no partner is set aside, with the code "no_mask" or a note.
    """
    data = _with_paths(data)
    excluded = read_excluded(data.exclude) if data.exclude else frozenset()
    found, unpaired = _read(data)
    if data.exclude:
        found = without(found, excluded, data.exclude)
    check_test_source(data)
    samples = _scanned(data, found, found.samples, unpaired, progress)
    training = training_parts({sample.part for sample in samples.samples}, data)
    usable = [sample for sample in samples.samples if sample.part in training]
    if len(usable) < FEWEST_IMAGES:
        raise TooFewImages(
            expected=f"at least {FEWEST_IMAGES} usable training images with masks",
            got=f"{printable(data.path)}: {count_of(len(usable), 'image')}, {count_of(len(samples.rejected), 'image')} set aside",
            fix="add images with masks (20 or more make a fair start)",
        )
    return samples


def read_masked_evaluation(
    data: Data, classes: Sequence[str] = (), *, multi_label: bool = False, progress: Progress = Silent()
) -> Samples:
    """The images with masks that judge a model: the test part where there is one, else val, else everything.

    `classes` are the model's, and are passed on; masks say theirs by values, see `settle.settle_masks`. `multi_label` is there
    so that this is called as `read.read_evaluation` is. Raises DataUnusable, TooManyUnreadable, UsageError.
    """
    data = _with_paths(data)
    found, unpaired = _read(data)
    chosen, notes = judging(found)
    samples = _scanned(data, found, chosen, unpaired, progress)
    return replace(samples, classes=tuple(classes), notes=(*samples.notes, *notes))


def masks_of_test(data: Data) -> Path | None:
    """Where the masks of a separate test set are: as told, else in a folder of the same name beside its images."""
    if data.test_masks is not None or data.masks is None:
        return data.test_masks
    return None if Path(data.masks).exists() else data.masks


def set_aside_notes(rejected: Sequence[Rejected]) -> list[str]:
    """One line that counts what was set aside, by reason."""
    codes = sorted(Counter(problem.code for problem in rejected).items())
    reasons = listing([f"{code.replace('_', ' ')} {count:,}" for code, count in codes])
    return [f"{count_of(len(rejected), 'image')} set aside: {reasons}"] if rejected else []


def _with_paths(data: Data) -> Data:
    """Python users write paths as text."""
    return replace(data, path=Path(data.path), masks=None if data.masks is None else Path(data.masks))


def _read(data: Data) -> tuple[Found, tuple[Rejected, ...]]:
    if data.path.is_file() and is_table(data.path):
        if data.masks is not None:
            raise UsageError(
                expected=f"either --masks or a table, whose column {data.mask_column!r} names the masks",
                got=f"both --masks {printable(data.masks)} and {printable(data.path)}",
                fix="leave --masks out, or give the folder of the images in place of the table",
            )
        return read_masked_table(data)
    if not data.path.is_dir():
        raise DataUnusable(
            expected="a folder of images with masks, or a table with the columns path and mask",
            got=f"nothing at {printable(data.path)}" if not data.path.exists() else f"the file {printable(data.path)}",
            fix="check the path" if not data.path.exists() else "give the folder that holds the images",
        )
    if data.group_column is not None:
        fix = "use --group-pattern, a regular expression on the path"
        raise UsageError(
            expected="a table for --group, which names a column", got=f"the folder {printable(data.path)}", fix=fix
        )
    return _read_folders(data)


def _scanned(data: Data, found: Found, chosen: Sequence[Sample], unpaired: Sequence[Rejected], progress: Progress) -> Samples:
    if not chosen:
        raise DataUnusable(
            expected="images with masks",
            got="; ".join([f"{printable(data.path)}: none", *found.notes]),
            fix="give images (.jpg, .png, .webp, .bmp, .gif, .tif) and for each a mask of the same name",
        )
    good, unreadable = scan_images(chosen, skip_bad=data.skip_bad, progress=progress)
    rejected = (*unpaired, *unreadable)
    return Samples(
        root=found.root,
        samples=good,
        classes=(),
        rejected=rejected,
        tree=_tree(found.title, chosen),
        notes=(*found.notes, *set_aside_notes(rejected)),
    )


def _read_folders(data: Data) -> tuple[Found, tuple[Rejected, ...]]:
    root = data.path
    places = _places(data)
    samples: list[Sample] = []
    rejected: list[Rejected] = []
    notes: list[str] = []
    for place in places:
        images, masks = walk(place.images), walk(place.masks)
        below = _below(place.images, [other.masks for other in places])
        part_of = _parts(place, images, below)
        found = _paired(place, [image for image in images.images if not image.startswith(below)], masks, data)
        prefix = f"{place.images.relative_to(root).as_posix()}/" if place.images != root else ""
        paths = [*(image for image, _ in found.paired), *found.without, *(image for image, _ in found.clashing)]
        names = dict(zip(paths, sample_names([prefix + image for image in paths]), strict=True))
        samples += [
            Sample(path=place.images / image, name=names[image], part=part_of[image], mask=place.masks / mask)
            for image, mask in found.paired
        ]
        reasons = [*((image, "no mask of its name") for image in found.without), *found.clashing]
        rejected += [
            Rejected(path=place.images / image, name=names[image], code="no_mask", reason=why) for image, why in reasons
        ]
        if found.unused:
            notes.append(f"{count_of(len(found.unused), 'mask')} without an image left out: {listing(found.unused, 5)}")
        notes += [*left_out_notes(images), *(f"among the masks: {note}" for note in left_out_notes(masks))]
    title = f"{shown(root.resolve().name)}/"
    found = Found(root=root, title=title, samples=tuple(sorted(samples, key=lambda s: s.name)), notes=tuple(notes))
    return found, tuple(sorted(rejected, key=lambda problem: problem.name))


def _places(data: Data) -> list[_Place]:
    """Where images and masks are, as the module's text shows."""
    root, masks = data.path, data.masks
    if masks is not None and masks.exists():
        if not masks.is_dir():
            raise _no_masks(root, f"the file {printable(masks)}", "give the folder that holds the masks")
        if _same(masks.parent, root) and (images := _inside(root, IMAGES)):
            return [_Place(images, masks)]
        if _same(masks, root):
            raise _no_masks(root, "the same folder for images and masks", "put the masks into a folder of their own")
        return [_Place(root, masks)]
    name = MASKS if masks is None else str(masks)
    if len(Path(name).parts) != 1:
        raise _no_masks(root, f"nothing at {printable(name)}", "check the path given with --masks")
    places = [_beside(root, name), *(_beside(folder, name, part) for folder, part in _part_folders(root))]
    found = [place for place in places if place is not None]
    if not found:
        raise _no_masks(
            root,
            f"{printable(root)} without {IMAGES}/ and {shown(name)}/ side by side, itself or in train/, val/, test/",
            "name the folder of the masks with --masks",
        )
    if found[0].part is None and len(found) > 1:
        fix = f"move {IMAGES}/ and {shown(name)}/ into train/, or take the part folders out"
        raise _no_masks(root, f"{printable(root)} with {IMAGES}/ both beside and inside of train/ or test/", fix)
    return found


def _no_masks(root: Path, got: str, fix: str) -> DataUnusable:
    return DataUnusable(expected=f"a folder of masks for the images in {printable(root)}", got=got, fix=fix)


def _beside(folder: Path, name: str, part: Part | None = None) -> _Place | None:
    images, masks = _inside(folder, IMAGES), _inside(folder, name)
    return _Place(images, masks, part) if images and masks else None


def _inside(folder: Path, name: str) -> Path | None:
    """The folder of that name in any case."""
    return next((path for path in _folders(folder) if path.name.casefold() == name.casefold()), None)


def _part_folders(root: Path) -> list[tuple[Path, Part]]:
    return [(path, PARTS[path.name.casefold()]) for path in _folders(root) if path.name.casefold() in PARTS]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()


def _below(images: Path, masks: Iterable[Path]) -> tuple[str, ...]:
    """The folders of masks that lie inside that of the images, relative to it, with a slash."""
    base = images.resolve()
    return tuple(f"{m.resolve().relative_to(base).as_posix()}/" for m in masks if m.resolve().is_relative_to(base))


def _parts(place: _Place, walked: Walked, below: tuple[str, ...]) -> dict[str, Part | None]:
    """The part of each image: that of its place, else by its first folder where all are parts."""
    images = [image for image in walked.images if not image.startswith(below)]
    first = {image: image.partition("/")[0].casefold() if "/" in image else "" for image in images}
    named = [image for image in images if first[image] in PARTS]
    if place.part is not None or not named:
        return dict.fromkeys(images, place.part)
    if stray := [image for image in images if first[image] not in PARTS]:
        raise DataUnusable(
            expected="images either all in train/, val/ and test/, or none",
            got=f"{printable(place.images)}: {count_of(len(named), 'image')} in them and {len(stray):,} beside: {listing(stray, 5)}",
            fix="move the others into train/, or rename the folders",
        )
    return {image: PARTS[first[image]] for image in images}


def _paired(place: _Place, images: Sequence[str], masks: Walked, data: Data) -> Pairs:
    found = pair(images, masks.images)
    if images and not found.paired and not masks.images:
        raise _no_masks(
            place.images,
            "; ".join([f"{printable(place.masks)}: no image file", *left_out_notes(masks)]),
            "save masks as PNG; arrays and drawings must be turned into images first",
        )
    if not data.skip_bad:
        check_pairs(found, place.images, place.masks)
    return found


def _tree(title: str, samples: Sequence[Sample]) -> str:
    """Title and parts with their numbers of images."""
    counts = Counter(sample.part for sample in samples)
    lines = [f"{title}  {count_of(len(samples), 'image')} with masks"]
    lines += [f"  {part}  {count_of(counts[part], 'image')}" for part in _PART_ORDER if part is not None and counts[part]]
    return "\n".join(lines)
