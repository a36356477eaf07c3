"""A data set that goes by a name, written down once as a folder of class folders, and from then on read like any folder.

    CACHE/datasets/CIFAR10/about.json
    CACHE/datasets/CIFAR10/CIFAR10/train/cat/000009.png      the item CIFAR10(train=True)[9]
    CACHE/downloads/CIFAR10/                                 files that a person put there, where there is no network

Files that a data set was published as are kept as they are; images in arrays become PNG files, which lose nothing.
"""

import json
import operator
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from regraft.data.disk import is_full, keeping
from regraft.data.named import NamedSet, named_set
from regraft.data.names import composed, count_of, listing, printable
from regraft.data.torchvision_sets import Opened, check_known, open_parts
from regraft.data.walk import IMAGE_SUFFIXES, is_junk, suffix_of
from regraft.errors import DataUnusable, RegraftError, UsageError, first_line
from regraft.lock import holding
from regraft.progress import Progress, Silent, Task
from regraft.recipe import Data, located

FORMAT = 1
_ABOUT = "about.json"
# Those that PNG holds as they are.
_MODES = {"1", "L", "LA", "RGB", "RGBA", "I;16"}
# Bytes; file systems stop at 255, and the number of the class may follow.
_LONGEST_NAME = 200


def on_disk(data: Data, cache: Path, *, progress: Progress = Silent()) -> Data:
    """`data` with paths only: a data set that it names, as the images or as the test set, is made a folder below `cache`.

    Raises UsageError for a name or an option that is not known, DataUnusable where its files cannot be had, OutOfSpace,
    NotWritable, RunLocked.
    """
    data = replace(data, path=_folder(data.path, cache, progress))
    return data if data.test in ("auto", "none") else replace(data, test=_folder(data.test, cache, progress))


def _folder(path: str | Path, cache: Path, progress: Progress) -> str | Path:
    chosen = named_set(path)
    return located(path) if chosen is None else materialise(chosen, cache, progress=progress)


def materialise(chosen: NamedSet, cache: Path, *, progress: Progress = Silent()) -> Path:
    """The folder of class folders that holds a data set; made where it is not there yet, seen by nobody until it is whole."""
    kept = cache / "datasets"
    folder = kept / chosen.key
    if _is_whole(folder):
        return folder / chosen.title
    check_known(chosen)
    with keeping(chosen.spec, cache), _working_folder(kept, chosen) as work:
        if not _is_whole(folder):
            made = _make(chosen, work, cache / "downloads" / chosen.name, progress)
            if folder.exists():
                shutil.rmtree(folder)
            made.rename(folder)
    return folder / chosen.title


@dataclass(frozen=True, slots=True)
class KeptSet:
    """One data set of the cache, for people: its name, how many images, and bytes on disk."""

    name: str
    images: int
    bytes: int


def kept_sets(cache: Path) -> list[KeptSet]:
    """Every whole data set of a cache folder, by name."""
    found = []
    for path in sorted((cache / "datasets").glob(f"[!.]*/{_ABOUT}")):
        if _is_whole(path.parent):
            about = json.loads(path.read_bytes())
            size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
            found.append(KeptSet(str(about.get("data")), sum(about.get("images", {}).values()), size))
    return found


def _is_whole(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / _ABOUT).read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _working_folder(kept: Path, chosen: NamedSet) -> Iterator[Path]:
    """A hidden folder that is gone afterwards, and empty at first: what a killed process left in it is removed."""
    work = kept / f".{chosen.key}"
    work.mkdir(parents=True, exist_ok=True)
    expected, got = f"no other process making {chosen.spec} in {kept}", "one that is doing so now"
    flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
    with holding(work, flags, expected=expected, got=got, fix="wait until it ends"):
        for left in work.iterdir():
            shutil.rmtree(left)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _make(chosen: NamedSet, work: Path, put: Path, progress: Progress) -> Path:
    """The whole folder, still in `work`, where an interrupted download or extraction is left behind."""
    files = work / "files"
    if put.is_dir():
        shutil.copytree(put, files, copy_function=_link)
    else:
        files.mkdir()
        progress.note(f"{chosen.spec}: getting its files, once")
    parts = open_parts(chosen, files, put)
    images = work / "made" / chosen.title
    try:
        counts, renamed = _write(chosen, parts, images, progress)
    except RegraftError:
        raise
    except BaseException:
        # A full disk, or Ctrl-C: nothing is wrong with the files, which may have taken long to come.
        with suppress(OSError):
            put.parent.mkdir(exist_ok=True)
            files.rename(put)
        raise
    images_of = {opened.part or "all": count for opened, count in zip(parts, counts, strict=True)}
    about = {"format": FORMAT, "data": chosen.spec, "images": images_of, "renamed": renamed}
    (work / "made" / _ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _settle()
    said = ", ".join(f"{count:,} in {part}" if part != "all" else f"{count:,}" for part, count in images_of.items())
    progress.note(f"{chosen.spec}: {said} images, kept in {printable(work.parent / chosen.key)}")
    return work / "made"


def _settle() -> None:
    """Have the disk hold what was written before a name says that it is whole; one call for 70,000 files."""
    if hasattr(os, "sync"):
        os.sync()


def _write(chosen: NamedSet, parts: Sequence[Opened], root: Path, progress: Progress) -> tuple[list[int], dict[str, str]]:
    """All images below `root`; how many of each part, and what the classes that cannot be folders are called there."""
    total = sum(len(opened.items) for opened in parts)
    counts, renamed = [], dict[str, str]()
    with progress.task(f"unpacking {chosen.name}", total, "images") as task:
        for opened in parts:
            folders = folder_names(opened.names)
            renamed |= {n: f for n, f in zip(opened.names, folders, strict=True) if n != f}
            writer = _Writer(chosen, opened, folders, root / opened.part if opened.part else root)
            counts.append(writer.write(task))
    if not any(counts):
        raise _not_classes(chosen, "no image with a class")
    if renamed:
        progress.note(f"classes called otherwise, to be folders: {listing([f'{n} ({f})' for n, f in renamed.items()], 5)}")
    for opened, count in zip(parts, counts, strict=True):
        if left := len(opened.items) - count:
            progress.note(f"{count_of(left, 'image')} of {opened.part or chosen.spec} without a class, left out")
    return counts, renamed


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes one part below `root`, each image in its class folder, named by its position in the data set."""

    chosen: NamedSet
    opened: Opened
    folders: Sequence[str]
    root: Path

    def write(self, task: Task) -> int:
        """Every image that has a class; how many those are."""
        written, made = 0, set[Path]()
        for index in range(len(self.opened.items)):
            image, label = self._item(index)
            if label is not None and label >= 0:
                folder = self.root / (self.folders[label] if label < len(self.folders) else str(label))
                if folder not in made:
                    folder.mkdir(parents=True, exist_ok=True)
                    made.add(folder)
                _put_image(image, folder / f"{index:06}")
                written += 1
            task.advance()
        return written

    def _item(self, index: int) -> tuple[Path | Image.Image, int | None]:
        """An image, or its file, and the number of its class; None or one below 0 where it has none."""
        try:
            item = self.opened.items[index]
        except Exception as error:
            if is_full(error):
                raise
            raise DataUnusable(
                expected=f"image {index} of {self.chosen.spec} to be readable",
                got=f"{type(error).__name__}: {first_line(error)}",
                fix=f"its files may be damaged: remove those in downloads/{self.chosen.name} of the cache, and run this again",
            ) from error
        image, label = item if isinstance(item, tuple) and len(item) == 2 else (None, None)
        if not isinstance(image, (Path, Image.Image)):
            raise _not_classes(self.chosen, f"a {type(item if image is None else image).__name__}")
        try:
            return image, None if label is None else operator.index(label)
        except TypeError:
            raise _not_classes(self.chosen, f"a {type(label).__name__} as the class") from None


def _not_classes(chosen: NamedSet, got: str) -> UsageError:
    return UsageError(
        expected="a data set of images with one class each",
        got=f"{chosen.spec}: {got}",
        fix="write its images to class folders yourself, and give the folder",
    )


def _put_image(image: Path | Image.Image, stem: Path) -> None:
    # An image that was opened and not changed knows its file.
    file = image if isinstance(image, Path) else Path(getattr(image, "filename", "") or "")
    if suffix_of(file.name) in IMAGE_SUFFIXES and file.is_file():
        _link(file, f"{stem}{suffix_of(file.name)}")
        return
    opened: Any = Image.open(image) if isinstance(image, Path) else image
    (opened if opened.mode in _MODES else opened.convert("RGB")).save(f"{stem}.png")


def _link(source: str | Path, target: str | Path) -> None:
    """The same file under another name where that can be, else a copy."""
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def folder_names(names: Sequence[str]) -> list[str]:
    """What the folder of each class is called: its name, where every file system takes it; else as near to it as can be.

    Names that are the same, or differ in upper and lower case only, get the number of their class.
    """
    plain = [_folder_name(name, number) for number, name in enumerate(names)]
    count = Counter(name.casefold() for name in plain)
    return [name if count[name.casefold()] == 1 else f"{name} ({number})" for number, name in enumerate(plain)]


def _folder_name(name: str, number: int) -> str:
    clean = "".join("-" if letter in '/\\:*?"<>|' else letter for letter in composed(name) if letter.isprintable())
    clean = clean.strip().encode()[:_LONGEST_NAME].decode(errors="ignore").rstrip(" .")
    # Hidden, or a system's: such folders are passed over.
    return f"_{clean}" if is_junk(clean) else clean or str(number)
