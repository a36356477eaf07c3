"""Read every mask once: what values mean, and which masks cannot be used with their images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from regraft.data.class_list import read_class_list
from regraft.data.decode import read_upright_size
from regraft.data.mask_map import FIRST, TASK, map_of_looks, map_to_judge
from regraft.data.masked import set_aside_notes
from regraft.data.masks import MaskLook, labels_in, look_at_mask, values_problem
from regraft.data.names import count_of, listing, printable, shown
from regraft.data.read import test_source
from regraft.data.scan import scan_images
from regraft.errors import DataUnusable, ImageRejected, UsageError
from regraft.progress import Progress, Silent
from regraft.recipe import Data
from regraft.segments import IGNORE, MaskMap
from regraft.values import Rejected, Sample, Samples, Split

SIZE, VALUES, IGNORED = "mask_size", "mask_values", "mask_ignored"


def settle_masks(
    samples: Samples, data: Data, *, like: MaskMap | None = None, progress: Progress = Silent()
) -> tuple[Samples, MaskMap]:
    """The samples whose masks can be used, with `classes` of the map, and what the values in their masks mean.

    `like` is the map of a trained model that these samples are to judge: its classes and their order are kept.
    A mask that cannot be decoded is set aside as an unreadable image is. One of another size than its image, with values that
    the map does not know, or with no pixel that counts is an error, unless `data.skip_bad`: then the image is set aside with
    the code "mask_size", "mask_values" or "mask_ignored".

    Raises DataUnusable, naming files and values, TooManyUnreadable, UnknownClass, UsageError.
    """
    if data.task == "classification":
        raise UsageError(expected="a task with masks", got="--task classification", fix="give --task saliency or semantic")
    listed = read_class_list(data.class_list) if data.class_list else None
    looks: dict[str, tuple[MaskLook, tuple[int, int]]] = {}
    masks = {sample.name: sample for sample in samples.samples}
    kind = data.task

    def check(_: object, name: str) -> Rejected | None:
        sample = masks[name]
        assert sample.mask is not None
        try:
            look = look_at_mask(sample.mask, _called(sample, samples), grey=kind == "saliency")
            looks[name] = look, read_upright_size(sample.path, name)
        except ImageRejected as error:
            return Rejected(path=sample.mask, name=name, code=error.code, reason=f"{error.got}; expected {error.expected}")
        return None

    good, unreadable = scan_images(samples.samples, skip_bad=data.skip_bad, progress=progress, check=check, task=TASK)
    seen = [looks[sample.name][0] for sample in good]
    if like is None:
        mask_map = map_of_looks(seen, kind, class_list=listed, ignore=data.ignore)
    else:
        mask_map = map_to_judge(seen, like, class_list=listed, ignore=data.ignore)
    unfit = [problem for sample in good if (problem := _problem(sample, *looks[sample.name], mask_map))]
    if unfit and (not data.skip_bad or len(unfit) == len(good)):
        raise _refused(unfit, mask_map)
    bad = {problem.name for problem in unfit}
    kept = tuple(sample for sample in good if sample.name not in bad)
    aside = (*unreadable, *unfit)
    notes = (*set_aside_notes(aside), *_share_notes([looks[sample.name][0] for sample in kept], mask_map))
    return (
        replace(
            samples,
            samples=kept,
            classes=mask_map.classes,
            rejected=(*samples.rejected, *aside),
            notes=(*samples.notes, *notes),
        ),
        mask_map,
    )


def settle_test(split: Split, data: Data, mask_map: MaskMap, *, progress: Progress = Silent()) -> tuple[Split, MaskMap]:
    """The same for the images of a separate test set, and what their masks mean; without one, the split and the map as given.

    Raises as `settle_masks` does.
    """
    source = test_source(data)
    if source is None:
        return split, mask_map
    place = Path(source)  # a URL holds no masks
    root = place if place.is_dir() else place.parent
    test, found = settle_masks(Samples(root=root, samples=split.test, classes=()), data, like=mask_map, progress=progress)
    notes = (*split.notes, *(f"test: {note}" for note in test.notes))
    return replace(split, test=test.samples, rejected=(*split.rejected, *test.rejected), notes=notes), found


def _called(sample: Sample, samples: Samples) -> str:
    """The mask's path as people know it."""
    assert sample.mask is not None
    if sample.mask.is_relative_to(samples.root):
        return printable(sample.mask.relative_to(samples.root).as_posix())
    # The beginning of a long path would leave no room for what is wrong with it.
    return printable(Path(*sample.mask.parts[-2:]).as_posix())


def _problem(sample: Sample, look: MaskLook, size: tuple[int, int], mask_map: MaskMap) -> Rejected | None:
    code, reason = "", ""
    if look.size != size:
        (width, height), (wide, high) = size, look.size
        turned = "; it is as the image is stored, before its EXIF orientation" if (wide, high) == (height, width) else ""
        code, reason = SIZE, f"{look.name} has {wide} x {high} pixels, the image {sample.name} {width} x {height}{turned}"
    elif problem := values_problem(look, mask_map):
        code, reason = VALUES, f"{look.name}: {problem}"
    elif set(labels_in(look, mask_map)) == {IGNORE}:
        code, reason = IGNORED, f"{look.name}: every pixel is ignored"
    return Rejected(path=sample.path, name=sample.name, code=code, reason=reason) if code else None


_CURES: Final = {
    SIZE: "save each mask at the size of its image, as it is seen upright",
    VALUES: "mend these masks, or say with --classes what the values mean, or with --ignore which one means nothing",
    IGNORED: "remove these masks and their images",
}


def _refused(unfit: Sequence[Rejected], mask_map: MaskMap) -> DataUnusable:
    codes = sorted({problem.code for problem in unfit})
    lines = "".join(f"\n       {shown(problem.reason)}" for problem in unfit[:FIRST])
    more = f"\n       and {len(unfit) - FIRST:,} more" if len(unfit) > FIRST else ""
    return DataUnusable(
        expected=f"masks of the sizes of their images, with these values: {'; '.join(mask_map.words[:20])}",
        got=f"{count_of(len(unfit), 'mask')} that cannot be used:{lines}{more}",
        fix=f"{'; '.join(_CURES[code] for code in codes)}; or go on without them with --skip-bad",
    )


def _share_notes(looks: Sequence[MaskLook], mask_map: MaskMap) -> list[str]:
    """How much of the pixels each class takes: a map that is upside down shows there."""
    totals = dict.fromkeys(range(len(mask_map.classes)), 0)
    for look in looks:
        for label, count in labels_in(look, mask_map).items():
            totals[label] = totals.get(label, 0) + count
    every = sum(totals.values())
    shares = [f"{name} {100 * totals[label] / every:.1f} %" for label, name in enumerate(mask_map.classes)]
    ignored = [f"ignored {100 * totals[IGNORE] / every:.1f} %"] if totals.get(IGNORE) else []
    unseen = [name for label, name in enumerate(mask_map.classes) if not totals[label]]
    notes = [f"pixels in masks: {listing([*shares, *ignored], 30)}"]
    return [*notes, f"in no mask: {listing(unseen)}"] if unseen else notes
