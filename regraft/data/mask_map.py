"""What the values of all masks of a data set mean, found by looking at every one of them once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from regraft.data.class_list import ClassList, read_class_list
from regraft.data.mask_coding import mapped, with_classes
from regraft.data.masks import MaskLook, classes_of, is_soft, labels_in, look_at_mask, values_problem
from regraft.data.masks_saliency import saliency_map
from regraft.data.masks_semantic import semantic_map
from regraft.data.names import count_of, listing, shown
from regraft.data.scan import THREADS
from regraft.errors import DataUnusable
from regraft.progress import Progress, Silent
from regraft.segments import IGNORE, Kind, MaskMap

TASK: Final = "reading masks"
FIRST: Final = 5


def find_mask_map(
    paths: Sequence[Path],
    kind: Kind,
    *,
    class_list: Path | None = None,
    ignore: int | None = None,
    progress: Progress = Silent(),
) -> MaskMap:
    """Look at all masks and find what their values mean; see `map_of_looks`. Raises DataUnusable, ImageRejected."""
    look = partial(look_at_mask, grey=kind == "saliency")
    looks = []
    with ThreadPoolExecutor(THREADS) as pool, progress.task(TASK, len(paths), "masks") as task:
        for found in pool.map(look, paths):
            looks.append(found)
            task.advance()
    listed = read_class_list(class_list) if class_list is not None else None
    mask_map = map_of_looks(looks, kind, class_list=listed, ignore=ignore)
    if problems := [(look, reason) for look in looks if (reason := values_problem(look, mask_map))]:
        raise unfit(problems, mask_map)
    return mask_map


def map_of_looks(
    looks: Sequence[MaskLook],
    kind: Kind,
    *,
    class_list: ClassList | None = None,
    ignore: int | None = None,
    judging: bool = False,
) -> MaskMap:
    """What the values of these masks mean. Files that the map does not serve are told by `masks.values_problem`.

    Saliency: 0 is background, and any one other value of a file the object; levels with soft edges between 0 and 255 are cut
    at 128. Semantic: values are indices of classes; 255 is IGNORE unless it is listed, or the only value beside 0. A class list
    decides for both. `ignore` is IGNORE too. `judging`: the masks need not show every class.

    Raises DataUnusable where the values fit no such meaning, naming a file and its values.
    """
    if not looks:
        raise DataUnusable(expected="masks", got="none", fix="give the folder that holds the masks with --masks")
    find = saliency_map if kind == "saliency" else semantic_map
    mask_map = find(looks, class_list, ignore)
    if not judging:
        _check_seen(looks, mask_map)
    return mask_map


def map_to_judge(
    looks: Sequence[MaskLook], like: MaskMap, *, class_list: ClassList | None = None, ignore: int | None = None
) -> MaskMap:
    """What these masks mean to a model that was trained with `like`: its classes, in its order, in the coding of these files.

    Raises UnknownClass for a class that the model does not have, and as `map_of_looks` does.
    """
    if class_list is not None:
        return with_classes(map_of_looks(looks, like.kind, class_list=class_list, ignore=ignore, judging=True), like.classes)
    if like.kind == "semantic":
        return like if ignore is None else _ignoring(like, ignore)
    fits = ignore is None and not is_soft(like) and not any(values_problem(look, like) for look in looks)
    return like if fits else map_of_looks(looks, like.kind, ignore=ignore, judging=True)


def _ignoring(mask_map: MaskMap, ignore: int) -> MaskMap:
    by_colour = bool(mask_map.colours)
    ignored = {ignore * 0x010101 if by_colour else ignore: IGNORE}
    return mapped(mask_map.kind, mask_map.classes, classes_of(mask_map) | ignored, by_colour=by_colour)


def unfit(problems: Sequence[tuple[MaskLook, str]], mask_map: MaskMap) -> DataUnusable:
    """The error for masks with values that the map does not know."""
    lines = "".join(f"\n       {shown(look.name)}: {reason}" for look, reason in problems[:FIRST])
    more = f"\n       and {len(problems) - FIRST:,} more" if len(problems) > FIRST else ""
    return DataUnusable(
        expected=f"masks of these values:\n       {'; '.join(mask_map.words[:30])}",
        got=f"{count_of(len(problems), 'mask')} with others:{lines}{more}",
        fix="mend these masks; or say with --classes what the values mean, or with --ignore which one means nothing; "
        "or go on without them with --skip-bad",
    )


def _check_seen(looks: Sequence[MaskLook], mask_map: MaskMap) -> None:
    usable = [look for look in looks if not values_problem(look, mask_map)]
    seen = {label for look in usable for label in labels_in(look, mask_map)} - {IGNORE}
    if usable and (len(seen) < 2 if mask_map.kind == "semantic" else 1 not in seen):
        names = listing([mask_map.classes[label] for label in sorted(seen)]) or "no class"
        raise DataUnusable(
            expected="masks that show two classes or more",
            got=f"{count_of(len(usable), 'mask')} of {names} only, such as {shown(usable[0].name)}: "
            f"{'; '.join(mask_map.words[:12])}",
            fix="check the masks; or say with --classes what their values mean",
        )
