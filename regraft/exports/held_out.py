"""The images that an export is tried on: those that judged the run, found again by their content; or a folder of images."""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from regraft.cache.stream import in_threads
from regraft.data.decode import read_image
from regraft.data.folder import list_images
from regraft.data.shards.read import list_members
from regraft.errors import DataUnusable, ImageRejected, RegraftError, UsageError
from regraft.kept import KeptImages, read_images
from regraft.values import ImagePath, Member, Sample

_REPORT = "report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Images to try an export on, and training images to calibrate int8 with. `on` names the first; `lost` were not found.

    Paths of the samples are where they are now. `labelled`: their labels are those of the run.
    """

    images: tuple[Sample, ...]
    train: tuple[Sample, ...]
    on: str
    lost: int = 0
    labelled: bool = True


def find_trial(run: Path | None, folder: Path | None) -> Trial:
    """The images that judged the run, its training images where nothing was held out: in `folder`, or where the fit had them.

    Images of a folder that are none of the run's are tried all the same, without labels. Raises UsageError where the images
    are not there any more, DataUnusable for a folder without images.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(expected="a folder of images for --images", got=f"{folder}: no such folder", fix="name another")
    kept = _kept(run)
    roots = [folder] if folder is not None else _roots(run) if run is not None else []
    for root in roots:
        if kept is not None and (found := _found(kept, root)):
            return found
    if folder is not None:
        paths = list_images(folder)
        if not paths:
            raise DataUnusable(expected="images to try the export on", got=f"none under {folder}", fix="name another --images")
        images = tuple(Sample(path=path, name=path.relative_to(folder).as_posix()) for path in paths)
        return Trial(images=images, train=(), on=f"images in {folder}", labelled=False)
    raise UsageError(
        expected="the images that judged the run, to try the export on",
        got=f"none of them {f'under {roots[0]}' if roots else 'where the fit had them'}" if run else "a network without a run",
        fix="name their folder, or any other images: --images DIR; or --unverified, for a file that nobody has tried",
    )


def _kept(run: Path | None) -> KeptImages | None:
    if run is None:
        return None
    try:
        return read_images(run)
    except RegraftError:  # a run of an earlier version: its images are not listed
        return None


def _roots(run: Path) -> list[Path]:
    """Where the fit had its images, as far as the run's command tells."""
    try:
        words = shlex.split(json.loads((run / _REPORT).read_text(encoding="utf-8"))["summary"]["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    beside = [Path(), *list(run.resolve().parents)[:3]]
    found = [base / word for word in words[2:] if not word.startswith("-") for base in beside]
    roots = [path if path.is_dir() else path.parent for path in found if path.exists()]
    return [root for root in dict.fromkeys(roots) if not root.resolve().is_relative_to(run.resolve())]


def _found(kept: KeptImages, root: Path) -> Trial | None:
    """The run's images under `root`, by their content; None where none of those that judged it is there."""
    samples = (*kept.train, *kept.test)
    digests = dict(zip((sample.name for sample in samples), kept.digests, strict=True))
    here = _by_name(samples, digests, root)
    judges = kept.test or kept.train
    if not any(sample.name in here for sample in judges):
        here = _by_content(digests, root)
    images = tuple(replace(s, path=here[s.name]) for s in judges if s.name in here)
    train = tuple(replace(s, path=here[s.name]) for s in kept.train if s.name in here)
    if not images:
        return None
    on = "test images" if kept.test else "training images"
    return Trial(images=images, train=train, on=on, lost=len(judges) - len(images))


def _by_name(samples: Sequence[Sample], digests: Mapping[str, bytes], root: Path) -> dict[str, ImagePath]:
    paths: list[tuple[str, ImagePath]] = [(sample.name, root / sample.name) for sample in samples]
    read = in_threads(lambda item: _digest(item[1]), paths)
    return {name: path for (name, path), digest in zip(paths, read, strict=True) if digest == digests[name]}


def _by_content(digests: Mapping[str, bytes], root: Path) -> dict[str, ImagePath]:
    paths: list[ImagePath] = [*list_members(root).members] or [*list_images(root)]
    known = dict(zip(in_threads(_digest, paths), paths, strict=True))
    return {name: known[digest] for name, digest in digests.items() if digest in known}


def _digest(path: ImagePath) -> bytes | None:
    try:
        if isinstance(path, Member):
            return hashlib.sha256(read_image(path)).digest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (OSError, ImageRejected):
        return None
