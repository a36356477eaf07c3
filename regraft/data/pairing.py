"""Which mask belongs to which image, by their paths below two folders.

A mask has its image's relative path but for the ending, or that with one of a few usual endings of the stem (`_mask`).
Nothing is opened here.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from regraft.data.names import composed, count_of, listing, printable
from regraft.errors import DataUnusable

# In the order of trust: tried only where no mask has the image's own stem.
STEM_ENDINGS: Final = ("_mask", "-mask", "_label", "_labels", "_gt", "_seg")
_FIRST: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Images with the file of their mask, as paths relative to the two folders; what could not be paired, and why in words.

    `clashing` are images of which two share a mask, or that have two masks; `unused` are masks of no image.
    """

    paired: tuple[tuple[str, str], ...]
    without: tuple[str, ...]
    clashing: tuple[tuple[str, str], ...]
    unused: tuple[str, ...]


def pair(images: Sequence[str], masks: Sequence[str]) -> Pairs:
    """Pair by relative path without suffix. Both are paths with forward slashes."""
    image_of, mask_of = _by_key(images), _by_key(masks)
    paired: list[tuple[str, str]] = []
    without: list[str] = []
    clashing: list[tuple[str, str]] = []
    used = set[str]()
    for key, same in image_of.items():
        found = mask_of.get(key) or [mask for ending in STEM_ENDINGS for mask in mask_of.get(key + ending, ())]
        if not found:
            without += same
        elif len(same) > 1:
            clashing += [(image, f"{found[0]} would be the mask of {listing(same)}") for image in same]
        elif len(found) > 1:
            clashing.append((same[0], f"the masks {listing(found)}"))
        else:
            paired.append((same[0], found[0]))
        used.update(found)
    return Pairs(
        paired=tuple(sorted(paired)),
        without=tuple(sorted(without)),
        clashing=tuple(sorted(clashing)),
        unused=tuple(sorted(set(masks) - used)),
    )


def check_pairs(pairs: Pairs, images: Path, masks: Path) -> None:
    """Raise DataUnusable unless each image has one mask and each mask its image; `images` and `masks` are for the message."""
    problems = [
        (pairs.without, "image", "without a mask", images),
        ([f"{image}: {why}" for image, why in pairs.clashing], "image", "with no one mask of their own", images),
        (pairs.unused, "mask", "without an image", masks),
    ]
    said = [
        f"{count_of(len(names), one)} {what} in {printable(folder)}: {listing(names, _FIRST)}"
        for names, one, what, folder in problems
        if names
    ]
    if said:
        raise DataUnusable(
            expected="one mask for each image, of the same relative path but for the ending (or with _mask after the stem)",
            got="; ".join(said),
            fix="add, rename or remove these files; or list the pairs in a table with the columns path and mask; "
            "or go on without them with --skip-bad",
        )


def _by_key(paths: Sequence[str]) -> dict[str, list[str]]:
    """Paths by what they are paired by: NFC, without the ending."""
    found = defaultdict[str, list[str]](list)
    for path in sorted(paths):
        stem, dot, _ = path.rpartition(".")
        found[composed(stem if dot and "/" not in path[len(stem) :] else path)].append(path)
    return dict(found)
