"""Where shards are: a file, a folder of them, a pattern, a URL of any of these; which part of the data each holds.

    shards/train-000.tar   shards/train/000.tar   train-00000-of-00004.parquet   shards-{000..009}.tar   s3://bucket/shards

The part is the name's first word, or the folder it is in. A folder holds shards where nothing in it is a class folder.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from regraft.data.found import PARTS
from regraft.data.names import listing, printable
from regraft.data.shards.layout import holds_images
from regraft.data.shards.ranges import store_of, unreachable
from regraft.data.tabular import PARQUET_SUFFIXES
from regraft.data.walk import IMAGE_SUFFIXES, is_junk, suffix_of, unlistable
from regraft.errors import DataUnusable, UsageError
from regraft.recipe import is_url
from regraft.values import Part

Kind = Literal["tar", "parquet", "arrow"]
KINDS: Final[dict[str, Kind]] = {".tar": "tar", ".arrow": "arrow", **dict.fromkeys(PARQUET_SUFFIXES, "parquet")}
# Folders between a data set's own and its files, as Hugging Face has them.
_BETWEEN: Final = "data"
COMPRESSED: Final = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_FIRST_WORD = re.compile(r"[A-Za-z]+(?=[-_.\d]|$)")
_MOST_FILES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of many images, its kind, and the part of the data that its name or folder says it is of."""

    place: str
    kind: Kind
    part: Part | None = None


def find_shards(source: str | Path) -> tuple[Shard, ...]:
    """The shards that `source` names, in order; none where it is something else: a folder of class folders, a table, nothing.

    Raises DataUnusable where a URL or pattern gives none, or archives are compressed; UsageError for a URL of no known kind.
    """
    if is_url(source):
        return _of_url(str(source))
    path = Path(source)
    if path.is_dir():
        return _of_folder(path)
    if path.exists():
        return _checked([str(path)])
    if _is_pattern(str(source)) and _may_hold(str(source)):
        return _of_pattern(str(source))
    return ()


def _may_hold(name: str) -> bool:
    return suffix_of(name) in KINDS


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text) or _BRACES.search(text) is not None


def _shard(place: str) -> Shard:
    return Shard(place, KINDS[suffix_of(place)], part_of(place))


def part_of(place: str) -> Part | None:
    """The part that a file's name begins with, or that its folder is called."""
    parts = place.replace("\\", "/").split("/")
    word = _FIRST_WORD.match(base_of(place))
    names = [word.group() if word else "", *parts[-2:-1], *(parts[-3:-2] if parts[-2:-1] == [_BETWEEN] else [])]
    return next((PARTS[name.casefold()] for name in names if name.casefold() in PARTS), None)


def base_of(place: str) -> str:
    """What a file is called without its folder and ending."""
    return os.path.splitext(place.replace("\\", "/").rpartition("/")[2])[0]  # noqa: PTH122 (a URL is no Path)


def _checked(files: Sequence[str]) -> tuple[Shard, ...]:
    """Those of the files of this machine that hold images; a table of paths is none."""
    if len(files) == 1 and files[0].lower().endswith(COMPRESSED):
        raise _compressed(files)
    kept = [name for name in files if _may_hold(name)]
    return tuple(_shard(name) for name in kept if KINDS[suffix_of(name)] != "parquet" or holds_images(Path(name)))


def _compressed(files: Sequence[str]) -> DataUnusable:
    return DataUnusable(
        expected="plain tar archives, whose images can be read where they lie",
        got=f"compressed ones: {listing(files, 3)}",
        fix="unpack the compression and keep the archives, for example: gunzip *.tar.gz",
    )


def _of_folder(folder: Path) -> tuple[Shard, ...]:
    """Shards of a folder, and of the parts' folders in it. () where an image or any other folder is in it, maybe a class."""
    files = list[str]()
    for path, is_folder in _entries(folder):
        if not is_folder:
            files.append(str(path))
        elif path.name.casefold() in PARTS or path.name == _BETWEEN:
            inside = [*_entries(path)]
            if any(below for _, below in inside):
                return ()
            files += [str(file) for file, _ in inside]
        else:
            return ()
    if any(suffix_of(file) in IMAGE_SUFFIXES for file in files):
        return ()
    shards = _checked([file for file in files if not file.lower().endswith(COMPRESSED)])
    if not shards and (packed := [file for file in files if file.lower().endswith(COMPRESSED)]):
        raise _compressed(packed)
    return shards


def _entries(folder: Path) -> Iterator[tuple[Path, bool]]:
    """What a folder holds, by name, and whether each is a folder; links and leftovers of systems are passed over."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise unlistable(folder, error) from None
    for entry in found:
        if not is_junk(entry.name) and not entry.is_symlink():
            yield folder / entry.name, entry.is_dir(follow_symlinks=False)


def expand(pattern: str) -> list[str]:
    """Every text that the braces of a pattern stand for: {000..009} numbers, {a,b} words. Raises UsageError for too many."""
    found, waiting = list[str](), [pattern]
    while waiting:
        text = waiting.pop(0)
        # Not one pair of braces that says nothing: a file may be called so.
        braces = next((match for match in _BRACES.finditer(text) if _choices(match.group(1))), None)
        if braces is None:
            found.append(text)
        else:
            waiting += [f"{text[: braces.start()]}{choice}{text[braces.end() :]}" for choice in _choices(braces.group(1))]
        if len(found) + len(waiting) > _MOST_FILES:
            raise UsageError(
                expected=f"a pattern of at most {_MOST_FILES:,} files", got=printable(pattern), fix="give the folder, or fewer"
            )
    return found


def _choices(inside: str) -> Sequence[str]:
    if numbers := _RANGE.fullmatch(inside):
        first, last = numbers.groups()
        step = 1 if int(first) <= int(last) else -1
        count = min(abs(int(last) - int(first)) + 1, _MOST_FILES + 1)
        return [str(int(first) + step * i).zfill(len(first) if first[0] == "0" else 0) for i in range(count)]
    return inside.split(",") if "," in inside else []


def _of_pattern(pattern: str) -> tuple[Shard, ...]:
    files = list[str]()
    for text in expand(pattern):
        files += sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else [text]  # noqa: PTH207
    missing = [name for name in files if not Path(name).exists()]
    if missing or not files:
        got = (
            f"{len(missing):,} of {len(files):,} not there: {listing(missing, 5)}"
            if missing
            else f"nothing at {printable(pattern)}"
        )
        fix = f"give a narrower range, or {_BRACES.sub('*', pattern)}, which takes those that are there"
        raise DataUnusable(
            expected="shards at each place that the pattern names",
            got=got,
            fix=fix if len(missing) < len(files) else "check the path",
        )
    return _not_none(_checked(files), pattern)


def _not_none(shards: tuple[Shard, ...], source: str) -> tuple[Shard, ...]:
    if not shards:
        raise DataUnusable(
            expected=f"shards ({', '.join(KINDS)}) with images in them",
            got=f"none at {printable(source)}",
            fix="`regraft shard` makes some of a folder of images; or give the folder itself, on this machine",
        )
    return shards


def _of_url(url: str) -> tuple[Shard, ...]:
    system, _ = store_of(url)
    files = list[str]()
    for text in expand(url):
        if glob.has_magic(text):
            files += [_as_url(text, name) for name in _asked(lambda t=text: system.glob(t), text)]
        elif text.lower().endswith(COMPRESSED):
            raise _compressed([text])
        elif _may_hold(text):
            files.append(text)
        else:
            files += _in_remote_folder(system, text.rstrip("/"))
    return _not_none(tuple(_shard(name) for name in sorted(files) if _may_hold(name)), url)


def _in_remote_folder(system: Any, url: str) -> list[str]:
    """The files of a folder elsewhere and of the folders in it, parts or not."""
    found = _asked(lambda: system.find(system._strip_protocol(url), maxdepth=3), url)
    return [_as_url(url, name) for name in found]


def _asked(ask: Any, url: str) -> Iterable[str]:
    try:
        return [str(name) for name in ask()]
    except Exception as error:
        raise unreachable(url, error) from error


def _as_url(asked: str, found: str) -> str:
    """The URL of a file by the name that the store has for it."""
    return found if is_url(found) else f"{asked.partition('://')[0]}://{found.lstrip('/')}"


def title_of(source: str | Path) -> str:
    """What data is called that lies at a path, a pattern or a URL, without endings: shards of s3://bucket/shards-{0..9}.tar."""
    last = re.sub(r"[{*?\[].*", "", str(source).rstrip("/").replace("\\", "/").rpartition("/")[2])
    last = last[: -len(suffix_of(last))] if suffix_of(last) in KINDS else last
    parent = Path(str(source)).parent.name if not last.strip("-_.") else ""
    return last.strip("-_.") or parent.rstrip(":") or "data"
