"""A folder of class folders, with or without train/, val/ and test/ above them.

    photos/cat/1.jpg                  photos/train/cat/1.jpg
    photos/dog/park/2.jpg             photos/test/dog/2.jpg

Parts go by the names train, val (valid, validation) and test in any case; everything below a class folder is of that class.
Class folders whose names are two spellings of one text (Unicode NFC and NFD) are one class.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from regraft.data.found import PARTS, EmptyClass, Found
from regraft.data.names import check_class_name, composed, count_of, listing, printable, sample_names, shown
from regraft.data.walk import Walked, suffix_of, walk
from regraft.errors import DataUnusable
from regraft.values import Sample

MOST_LINKS_LISTED = 100


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a path is: its part folder ('' without parts) and class folder ('' outside of any), as spelled on disk."""

    part: str
    label: str


def list_images(folder: Path) -> list[Path]:
    """All image files below an unlabelled folder, by their endings, sorted by name; links and junk are left out.

    Raises DataUnusable where a folder cannot be listed.
    """
    images = walk(folder).images
    return [folder / image for _, image in sorted(zip(sample_names(images), images, strict=True))]


def read_folder(root: Path) -> Found:
    """The images of `root` with their classes and parts. Raises DataUnusable where the layout cannot be told."""
    walked = walk(root)
    parts = _part_folders(root, walked)
    placed = {image: _place(image, parts) for image in walked.images}
    inside = [image for image in walked.images if placed[image].label]
    labels = {(place.part, place.label): place.label for place in placed.values() if place.label}
    names = {key: check_class_name(label, str(root / key[0] / label)) for key, label in labels.items()}
    samples = [
        Sample(
            path=root / image,
            name=name,
            labels=(names[placed[image].part, placed[image].label],),
            part=PARTS.get(placed[image].part.casefold()),
        )
        for image, name in zip(inside, sample_names(inside), strict=True)
    ]
    loose = [image for image in walked.images if not placed[image].label]
    return Found(
        root=root,
        title=f"{shown(root.resolve().name)}/",
        samples=tuple(sorted(samples, key=lambda sample: sample.name)),
        empty=_empty_classes(walked, parts, set(labels)),
        notes=(*_twins(labels), *_loose(loose), *_outside(walked, parts), *left_out_notes(walked)),
    )


def _part_folders(root: Path, walked: Walked) -> frozenset[str]:
    """The folders of `root` that are parts of the data set, as spelled on disk; none where they are classes."""
    top = {path for path in walked.folders if "/" not in path}
    nested = {path.partition("/")[0] for path in walked.folders if "/" in path}
    holding = {path.partition("/")[0] for path in walked.images if "/" in path}
    named = {path for path in top if path.casefold() in PARTS}
    if named and not named & nested and holding and holding <= named:
        raise DataUnusable(
            expected="a folder for each class inside of train/ and test/",
            got=f"{printable(root)}: {listing(sorted(holding))} without class folders",
            fix=f"sort the images into folders named after their classes, such as {sorted(holding)[0]}/cat/",
        )
    # A class may be called "train", beside "bus" and "car"; a part has folders in it.
    if not named & nested:
        return frozenset()
    if stray := sorted(holding - named):
        raise DataUnusable(
            expected="either class folders, or train/ and test/ with class folders in them",
            got=f"{printable(root)} with both: {listing(sorted(named & nested))} beside {listing(stray)}",
            fix="move the class folders into train/, or take the part folders out",
        )
    return frozenset(named)


def _place(image: str, parts: frozenset[str]) -> _Place:
    first, _, rest = image.partition("/")
    if parts:
        label, _, below = rest.partition("/")
        return _Place(first if first in parts else "", label if first in parts and below else "")
    return _Place("", first if rest else "")


def _empty_classes(walked: Walked, parts: frozenset[str], used: set[tuple[str, str]]) -> tuple[EmptyClass, ...]:
    """Class folders without images, with what they hold instead; links and other files often explain it."""
    places = [(path, _place(f"{path}/-", parts)) for path in walked.folders if path.count("/") == bool(parts)]
    empty = [(path, place) for path, place in places if place.label and (place.part, place.label) not in used]
    prefixes = {f"{path}/" for path, _ in empty}
    links, others = _by_prefix(walked.links, prefixes), _by_prefix(walked.others, prefixes)
    return tuple(
        EmptyClass(
            name=composed(place.label),
            part=PARTS.get(place.part.casefold()),
            holds=_contents(links[f"{path}/"], others[f"{path}/"]),
        )
        for path, place in empty
    )


def _by_prefix(paths: Iterable[str], prefixes: set[str]) -> defaultdict[str, list[str]]:
    found = defaultdict[str, list[str]](list)
    for path in paths:
        ends = [i + 1 for i, letter in enumerate(path) if letter == "/"][:2]
        for prefix in {path[:end] for end in ends} & prefixes:
            found[prefix].append(path)
    return found


def _contents(links: Sequence[str], others: Sequence[str]) -> str:
    held = [count_of(len(links), "symbolic link")] if links else []
    held += [f"{count_of(len(others), 'other file')} ({_endings(others)})"] if others else []
    return ", ".join(held) or "nothing"


def _endings(paths: Iterable[str]) -> str:
    counts = Counter(suffix_of(path) or "no ending" for path in paths)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return listing([f"{suffix} {count:,}" for suffix, count in ranked], limit=5)


def _twins(labels: dict[tuple[str, str], str]) -> list[str]:
    spellings = defaultdict[str, set[str]](set)
    for label in labels.values():
        spellings[composed(label)].add(label)
    merged = sorted(name for name, spelled in spellings.items() if len(spelled) > 1)
    return [f"spelled in two ways in Unicode and taken as one class each: {listing(merged)}"] if merged else []


def _loose(images: Sequence[str]) -> list[str]:
    if not images:
        return []
    return [f"{count_of(len(images), 'image')} in no class folder, left out: {listing(images, 5)}"]


def _outside(walked: Walked, parts: frozenset[str]) -> list[str]:
    """Folders beside train/ and test/; `_part_folders` made sure that they hold no images."""
    stray = [path for path in walked.folders if "/" not in path and path not in parts] if parts else []
    return [f"folders without images, left out: {listing(stray)}"] if stray else []


def left_out_notes(walked: Walked) -> list[str]:
    """Lines about whatever is no image."""
    notes = []
    if walked.links:
        links = count_of(len(walked.links), "symbolic link")
        notes.append(f"{links} not followed: {listing(walked.links, MOST_LINKS_LISTED)}")
    if walked.special:
        notes.append(f"neither file nor folder, or a folder met before, left out: {listing(walked.special)}")
    if walked.others:
        notes.append(f"{count_of(len(walked.others), 'file')} without an image's ending left out: {_endings(walked.others)}")
    if walked.junk:
        notes.append(f"{count_of(walked.junk, 'hidden or system entry', 'hidden or system entries')} left out")
    return notes
