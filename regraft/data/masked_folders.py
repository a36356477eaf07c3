"""Folders of images with folders of masks: where they are, and which file belongs to which."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from regraft.data.folder import left_out_notes
from regraft.data.found import PARTS, Found
from regraft.data.names import count_of, listing, printable, sample_names, shown
from regraft.data.pairing import Pairs, check_pairs, pair
from regraft.data.walk import Walked, walk
from regraft.errors import DataUnusable
from regraft.recipe import Data
from regraft.values import Part, Rejected, Sample

IMAGES: Final = "images"
MASKS: Final = "masks"


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder of images and that of their masks; `part` where the folder above them is one."""

    images: Path
    masks: Path
    part: Part | None = None


def read_masked_folders(data: Data) -> tuple[Found, tuple[Rejected, ...]]:
    """The images below the folder `data.path` with their masks, and those without one. Raises DataUnusable."""
    root = data.local
    places = _places(data)
    samples: list[Sample] = []
    rejected: list[Rejected] = []
    notes: list[str] = []
    for place in places:
        images, masks = walk(place.images), walk(place.masks)
        below = _below(place.images, [other.masks for other in places])
        part_of = _parts(place, images, below)
        pairs = _paired(place, [image for image in images.images if not image.startswith(below)], masks, data)
        prefix = f"{place.images.relative_to(root).as_posix()}/" if place.images != root else ""
        paths = [*(image for image, _ in pairs.paired), *pairs.without, *(image for image, _ in pairs.clashing)]
        names = dict(zip(paths, sample_names([prefix + image for image in paths]), strict=True))
        samples += [
            Sample(path=place.images / image, name=names[image], part=part_of[image], mask=place.masks / mask)
            for image, mask in pairs.paired
        ]
        reasons = [*((image, "no mask of its name") for image in pairs.without), *pairs.clashing]
        rejected += [
            Rejected(path=place.images / image, name=names[image], code="no_mask", reason=why) for image, why in reasons
        ]
        if pairs.unused:
            notes.append(f"{count_of(len(pairs.unused), 'mask')} without an image left out: {listing(pairs.unused, 5)}")
        notes += [*left_out_notes(images), *(f"among the masks: {note}" for note in left_out_notes(masks))]
    title = f"{shown(root.resolve().name)}/"
    every = Found(root=root, title=title, samples=tuple(sorted(samples, key=lambda s: s.name)), notes=tuple(notes))
    return every, tuple(sorted(rejected, key=lambda problem: problem.name))


def _places(data: Data) -> list[_Place]:
    """Where images and masks are, as the text of `masked` shows."""
    root, masks = data.local, data.masks
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
            got=f"{printable(place.images)}: {len(named):,} in them and {len(stray):,} beside: {listing(stray, 5)}",
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
