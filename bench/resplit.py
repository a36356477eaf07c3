"""The same images in another arrangement: other splits, or only a few of them."""

import hashlib
import os
import shutil
from collections import defaultdict
from pathlib import Path

EACH = 6


def by_class(root: Path) -> dict[str, list[tuple[str, Path]]]:
    """(part, file) of every class of a folder with train/ and test/, in a stable order."""
    found: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for path in sorted(root.glob("*/*/*")):
        found[path.parent.name].append((path.parent.parent.name, path))
    return found


def split_again(root: Path, target: Path, seed: int) -> Path:
    """train/ and test/ of `root` thrown together and drawn again by a hash of name and seed; as many of each class in test/."""
    for name, files in by_class(root).items():
        ordered = sorted(files, key=lambda item: hashlib.sha256(f"{seed}/{item[0]}/{item[1].name}".encode()).digest())
        tests = sum(part == "test" for part, _ in files)
        for index, (part, path) in enumerate(ordered):
            link(path, target / ("test" if index < tests else "train") / name / f"{part}-{path.name}")
    return target


def fewer(root: Path, target: Path) -> Path:
    """A few images of each class and part, for trying the benchmarks out."""
    for name, files in by_class(root).items():
        for wanted in ("train", "test"):
            for path in [path for part, path in files if part == wanted][:EACH]:
                link(path, target / wanted / name / path.name)
    return target


def link(source: Path, target: Path) -> None:
    """The same file at another place: a hard link, for regraft does not follow symbolic ones; a copy across disks."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
