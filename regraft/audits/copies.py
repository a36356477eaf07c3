"""Images that are there more than once: the same file, the same pixels in another file, or an altered copy.

From pixels alone, so that every machine and every network finds the same. Altered means: encoded anew, resized, flipped,
turned by quarters, cropped by a few per cent, and several of these at once. The same drawing in other colours is not a copy.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from regraft.audits.alike import CROPPED, Compared, compare_nearest
from regraft.audits.cells import Search, search_for
from regraft.data.look import Looks
from regraft.findings import Alike, Copies, Sameness
from regraft.progress import Progress, Silent

SAME_FILE, SAME_PIXELS = "the same file", "the same pixels"
# By the ways of `candidates.ways_of`: which of them is a flip does not depend on which of the two is the copy.
_TURNED = (
    "",
    "flipped",
    "flipped upside down",
    "turned by a half",
    "flipped and turned",
    "turned by a quarter",
    "turned by a quarter",
    "flipped and turned",
)
_LOOSEST_LAST = get_args(Sameness)


def find_copies(
    looks: Looks,
    digests: Sequence[bytes],
    names: Sequence[str],
    *,
    search: Search | None = None,
    progress: Progress = Silent(),
) -> tuple[Alike, ...]:
    """The pairs among N images that show the same; `looks` (N,), SHA-256 of the files, names, all in the same order.

    Images that are equal are each paired with the first of them by name, which alone is compared with others. Sorted by name,
    and the same for every order of the images; the correlations of altered copies agree between machines to about 1e-5.
    `search` None: as `cells.search_for` says of so many images. Above 50,000 the nearest of each come from an index, which may
    miss some; what it finds is judged as ever.
    """
    order = sorted(range(len(names)), key=lambda index: names[index])
    first_of_file: dict[bytes, int] = {}
    first_of_pixels: dict[bytes, int] = {}
    found: list[Alike] = []
    for index in order:
        one = first_of_file.setdefault(digests[index], index)
        if one != index:
            found.append(_equal(names[one], names[index], "file"))
            continue
        one = first_of_pixels.setdefault(looks["pixels"][index].tobytes(), index)
        if one != index:
            found.append(_equal(names[one], names[index], "pixels"))
    different = np.array(list(first_of_pixels.values()), np.intp)
    found += _altered(looks, names, different, search or search_for(len(names)), progress)
    return tuple(sorted(found, key=lambda pair: (pair.one, pair.other)))


def copies_of(alike: Sequence[Alike], names: Sequence[str], labels: Sequence[str], parts: Sequence[str]) -> tuple[Copies, ...]:
    """Images that are tied together by pairs, `labels` and `parts` in the order of `names`.

    Those across parts come first, then those across classes, then the largest. `change` is what most of their loosest pairs
    underwent.
    """
    place = {name: index for index, name in enumerate(names)}
    key_of = groups_of(alike)
    members: dict[str, set[str]] = {}
    for name, key in key_of.items():
        members.setdefault(key, set()).add(name)
    pairs: dict[str, list[Alike]] = {}
    for pair in alike:
        pairs.setdefault(key_of[pair.one], []).append(pair)
    found = [_together(sorted(group), pairs[key], place, labels, parts) for key, group in members.items()]
    return tuple(sorted(found, key=lambda c: (not c.across_parts, not c.across_classes, -len(c.names), c.names)))


def groups_of(alike: Sequence[Alike]) -> dict[str, str]:
    """For each image that has copies the first name of those that it is tied to, its own perhaps. Others are not in it."""
    above: dict[str, str] = {}

    def root(name: str) -> str:
        above.setdefault(name, name)
        while above[name] != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    for pair in alike:
        low, high = sorted((root(pair.one), root(pair.other)))
        above[high] = low
    return {name: root(name) for name in sorted(above)}


def _equal(one: str, other: str, sameness: Sameness) -> Alike:
    change = SAME_FILE if sameness == "file" else SAME_PIXELS
    return Alike(one=one, other=other, sameness=sameness, change=change, similarity=1.0)


def _altered(
    looks: Looks, names: Sequence[str], different: NDArray[np.intp], search: Search, progress: Progress
) -> Iterator[Alike]:
    compared = compare_nearest(looks, different, search, progress=progress)
    copies = np.flatnonzero(compared.copies_P)
    # A pair may have been laid on each other in several ways: the best one is told, the plainest of those that tie.
    order = np.lexsort((compared.ways_P[copies], compared.grey.whole[copies]))
    best = {(int(one), int(other)): at for at in copies[order[::-1]] for one, other in [compared.pairs_P2[at]]}
    for (one, other), at in best.items():
        yield Alike(
            one=names[one],
            other=names[other],
            sameness="altered",
            change=_change(compared, at, looks[one], looks[other]),
            similarity=round(float(compared.grey.likeness[at]), 4),
        )


def _change(compared: Compared, at: np.intp, one: np.void, other: np.void) -> str:
    """What was done, as far as it shows."""
    way = compared.ways_P[at]
    cropped = bool(compared.moved_P[at] > CROPPED)
    sides = ("height", "width") if way >= 4 else ("width", "height")
    resized = not cropped and any(one[name] != other[side] for name, side in zip(("width", "height"), sides, strict=True))
    done = [_TURNED[way], "cropped" if cropped else "", "resized" if resized else ""]
    return ", ".join(word for word in done if word) or "encoded anew"


def _together(
    names: Sequence[str], pairs: Sequence[Alike], place: Mapping[str, int], labels: Sequence[str], parts: Sequence[str]
) -> Copies:
    sameness: Sameness = max((pair.sameness for pair in pairs), key=_LOOSEST_LAST.index)
    changes = Counter(pair.change for pair in pairs if pair.sameness == sameness)
    return Copies(
        names=tuple(names),
        labels=tuple(labels[place[name]] for name in names),
        parts=tuple(parts[place[name]] for name in names),
        sameness=sameness,
        change=min(changes, key=lambda change: (-changes[change], change)),
    )
