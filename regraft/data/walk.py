"""Every image file below a folder, found once and without following links."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from regraft.data.names import printable
from regraft.errors import DataUnusable

# Of the formats that can be decoded (JPEG, PNG, WebP, BMP, GIF, TIFF), the endings in use. Lower case.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .jif .pjpeg .pjp .png .apng .webp .bmp .dib .gif .tif .tiff".split()  # noqa: SIM905
)
# Left behind by systems and tools, besides everything whose name starts with a dot. Lower case.
JUNK = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
        "__macosx",
        "__pycache__",
        "@eadir",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """Paths relative to the root, with forward slashes, spelled as on disk, sorted by code point.

    `folders` are those one or two levels down; `links` are not followed; `special` are pipes, devices and folders that lead
    back to one already seen; `others` are regular files that are no images by their ending; `junk` counts what was left out.
    """

    images: tuple[str, ...]
    folders: tuple[str, ...]
    links: tuple[str, ...]
    special: tuple[str, ...]
    others: tuple[str, ...]
    junk: int


def is_junk(name: str) -> bool:
    """Whether a file or folder of that name is hidden or a system's leftover."""
    return name.startswith(".") or name.casefold() in JUNK


def suffix_of(name: str) -> str:
    """The ending in lower case with its dot, or ''."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path for each of 70,000 files takes longer than finding them)


def walk(root: Path) -> Walked:
    """Look at everything below `root`, once; ends on any tree. Raises DataUnusable where a folder cannot be listed."""
    lists: dict[str, list[str]] = {kind: [] for kind in ("images", "folders", "links", "special", "others")}
    junk, seen, waiting = 0, set[tuple[int, int]](), [""]
    while waiting:
        inside = waiting.pop()
        entries = _entries(root, inside, seen)
        if entries is None:
            lists["special"].append(inside)
            continue
        for entry in entries:
            if is_junk(entry.name):
                junk += 1
                continue
            path = f"{inside}/{entry.name}" if inside else entry.name
            kind = _kind(entry)
            if kind == "folders":
                waiting.append(path)
                if path.count("/") > 1:
                    continue
            lists[kind].append(path)
    return Walked(**{kind: tuple(sorted(paths)) for kind, paths in lists.items()}, junk=junk)


def _entries(root: Path, inside: str, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]] | None:
    """What the folder `inside` holds; None where it was seen before, as with a mount of a folder into itself."""
    path = os.path.join(root, inside)  # noqa: PTH118
    try:
        status = os.stat(path)  # noqa: PTH116
        identity = (status.st_dev, status.st_ino)
        # Some file systems number nothing: 0 tells nothing.
        if status.st_ino and identity in seen:
            return None
        seen.add(identity)
        with os.scandir(path) as entries:
            return [*entries]
    except OSError as error:
        raise unlistable(Path(path), error) from None


def _kind(entry: os.DirEntry[str]) -> str:
    # Junctions (Windows) are links to folders; Python 3.11 cannot ask a DirEntry and sees a folder with this attribute.
    if entry.is_symlink() or (os.name == "nt" and _is_reparse_point(entry)):
        return "links"
    if entry.is_dir(follow_symlinks=False):
        return "folders"
    if not entry.is_file(follow_symlinks=False):
        return "special"
    return "images" if suffix_of(entry.name) in IMAGE_SUFFIXES else "others"


def _is_reparse_point(entry: os.DirEntry[str]) -> bool:
    tag = getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0)
    return bool(tag == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1))


def unlistable(path: Path, error: OSError) -> DataUnusable:
    """The error for a folder that is not there or may not be read."""
    reason = error.strerror or type(error).__name__
    return DataUnusable(
        expected="a folder that can be listed", got=f"{printable(path)}: {reason}", fix="check the path and its permissions"
    )
