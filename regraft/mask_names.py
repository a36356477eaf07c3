"""Names for the pictures of answers: those of the images, made safe, each its own, the same for the same inputs in order."""

import glob
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Final

OVERLAYS, PROBABILITIES = "overlays", "probabilities"
# What some file system does not take in a name.
_UNSAFE = re.compile(r'[<>:"/\\|?*]|^[. ]|[. ]$|^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)', re.IGNORECASE)
_LONGEST, _LONGEST_BYTES = 60, 120
# Endings of the files that are written: a folder that is called so could be in their way.
_OWN: Final = (".png", ".npz", ".jsonl")


def roots_of(arguments: Sequence[str]) -> tuple[Path, ...]:
    """The folders that images lie under, of what a person gave: folders, and patterns up to their first sign."""
    found = []
    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            found.append(Path())
        elif path.is_dir():
            found.append(path)
        elif glob.has_magic(argument) and not path.exists():
            fixed = [part for part in path.parents if not glob.has_magic(str(part))]
            found.append(fixed[0] if fixed else Path())
    return tuple(dict.fromkeys(found))


class MaskNames:
    """Gives each image a name without ending, relative to the folder of answers, with forward slashes.

    It is the image's own path below the first of `roots` that it lies under, led by the root's name where there are several;
    else the name of its file alone. Parts that not every file system takes are changed; of images that would have the same
    name, also where letters differ in case alone, those after the first get a digest of their path.
    """

    def __init__(self, roots: Sequence[Path] = ()) -> None:
        self._roots = sorted(roots, key=lambda root: -len(root.parts))
        self._several = len(self._roots) > 1
        self._given: dict[str, str] = {}
        self._used: set[str] = set()

    def keep(self, path: str, name: str) -> None:
        """The image `path` has got its name in an earlier run."""
        self._given[path] = name
        self._used.update(_keys(name))

    def name(self, path: str) -> str:
        """The name for the image `path`: the same each time it is asked for."""
        if path not in self._given:
            *folders, stem = self._parts(path)
            name = "/".join([*map(_safe_folder, folders), safe_part(stem)])
            if not self._used.isdisjoint(_keys(name)):
                name = f"{name}-{hashlib.sha256(path.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
            while not self._used.isdisjoint(_keys(name)):
                name += "_"
            self.keep(path, name)
        return self._given[path]

    def _parts(self, path: str) -> tuple[str, ...]:
        """Folders below the root, then the name of the file without its ending."""
        own = PurePath(path)
        for root in self._roots:
            if own.is_relative_to(root) and ".." not in (below := own.relative_to(root)).parts and below.parts:
                lead = (root.resolve().name or "images",) if self._several else ()
                return (*lead, *below.parts[:-1], below.stem)
        return (own.stem,)


def safe_part(part: str) -> str:
    """One part of a path as every file system takes it; it stays as it is where it does already."""
    composed = unicodedata.normalize("NFC", part)
    if composed.isprintable() and not _UNSAFE.search(composed) and 0 < len(composed.encode()) <= _LONGEST_BYTES:
        return composed
    plain = re.sub(r"[^\w-]+", "_", composed).strip("_")[:_LONGEST].encode()[:_LONGEST_BYTES].decode("utf-8", "ignore")
    return "image" if not plain or _UNSAFE.search(plain) else plain


def _safe_folder(part: str) -> str:
    safe = safe_part(part)
    return f"{safe}_" if safe.casefold().endswith(_OWN) else safe


def _keys(name: str) -> Iterable[str]:
    """What every file of the name is called, where letters of both cases are one."""
    folded = unicodedata.normalize("NFC", name).casefold()
    return [folded, f"{OVERLAYS}/{folded}", f"{PROBABILITIES}/{folded}"]
