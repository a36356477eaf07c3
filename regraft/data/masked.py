"""From folders or a table on disk to images with masks: every image accounted for, none with a mask that may be another's.

    photos/1.jpg      masks/1.png                 read with --masks masks; train/, val/, test/ on both sides or on none
    data/images/1.jpg       data/masks/1.png                        side by side, the masks in a folder of any name
    data/train/images/1.jpg data/train/masks/1.png                  the same in train/, val/ and test/

Two entries, as in `read`: `read_masked` for data to train on and `read_masked_evaluation` for data to judge a model on. Neither
decodes a mask; `settle.settle_masks` does, and finds what their values mean.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from regraft.data.excluded import read_excluded, without
from regraft.data.found import Found
from regraft.data.masked_folders import read_masked_folders
from regraft.data.masked_table import read_masked_table
from regraft.data.names import count_of, listing, printable
from regraft.data.read import FEWEST_IMAGES, check_test_source, judging, training_parts
from regraft.data.scan import scan_images
from regraft.data.shards.places import find_shards
from regraft.data.tabular import is_table
from regraft.errors import DataUnusable, TooFewImages, UsageError
from regraft.progress import Progress, Silent
from regraft.recipe import Data
from regraft.values import Part, Rejected, Sample, Samples

_PART_ORDER: Final[tuple[Part | None, ...]] = (None, "train", "val", "test")


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
            got=f"{printable(data.path)}: {count_of(len(usable), 'image')}, {len(samples.rejected):,} set aside",
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
    return replace(data, masks=None if data.masks is None else Path(data.masks))


def _read(data: Data) -> tuple[Found, tuple[Rejected, ...]]:
    if find_shards(data.path):
        raise UsageError(
            expected="a folder of images with masks, or a table with the columns path and mask",
            got=f"shards at {printable(data.path)}, which hold images with classes alone",
            fix="unpack them to images/ and masks/; or leave --task out",
        )
    if data.local.is_file() and is_table(data.local):
        if data.masks is not None:
            raise UsageError(
                expected=f"either --masks or a table, whose column {data.mask_column!r} names the masks",
                got=f"both --masks {printable(data.masks)} and {printable(data.path)}",
                fix="leave --masks out, or give the folder of the images in place of the table",
            )
        return read_masked_table(data)
    if not data.local.is_dir():
        raise DataUnusable(
            expected="a folder of images with masks, or a table with the columns path and mask",
            got=f"nothing at {printable(data.path)}" if not data.local.exists() else f"the file {printable(data.path)}",
            fix="check the path" if not data.local.exists() else "give the folder that holds the images",
        )
    if data.group_column is not None:
        fix = "use --group-pattern, a regular expression on the path"
        raise UsageError(
            expected="a table for --group, which names a column", got=f"the folder {printable(data.path)}", fix=fix
        )
    return read_masked_folders(data)


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


def _tree(title: str, samples: Sequence[Sample]) -> str:
    """Title and parts with their numbers of images."""
    counts = Counter(sample.part for sample in samples)
    lines = [f"{title}  {count_of(len(samples), 'image')} with masks"]
    lines += [f"  {part}  {count_of(counts[part], 'image')}" for part in _PART_ORDER if part is not None and counts[part]]
    return "\n".join(lines)
