"""What a person gives to predict, expanded to one path per row: files, folders, patterns, a list on standard input."""

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from regraft.errors import DataUnusable, UsageError
from regraft.values import INSIDE, ImagePath, Member

STANDARD_INPUT = "-"
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Inputs:
    """Paths in order, to be read once.

    `cut` names archives that end too early, whose other images are missing; it is part of the `notes`.
    """

    paths: Iterator[str]
    notes: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


def expand_inputs(arguments: Sequence[str], *, listed: BinaryIO | None = None, null: bool = False) -> Inputs:
    """Every input of `arguments`, in their order.

    A folder gives its images, sorted; shards (a folder of them, a file, a pattern, a URL) the images in them; another pattern
    (`*`, `?`, `[...]`, `**`) what it matches, sorted; `-` the paths that `listed` holds, one per line, or ended by NUL with
    `null`, taken as they are. Anything else is a path, whether or not it exists: it gets its row. Raises DataUnusable when that
    is no input at all, or a shard cannot be read.
    """
    found = {argument: _expand(argument) for argument in dict.fromkeys(arguments) if argument != STANDARD_INPUT}
    expanded = {argument: paths for argument, (paths, _) in found.items()}
    nothing = [argument for argument, paths in expanded.items() if not paths]
    cut = tuple(note for _, notes in found.values() for note in notes)
    notes = (*(f"{argument}: {_why_empty(argument)}" for argument in nothing), *cut)
    source = read_list(listed, null=null) if listed is not None else iter(())
    # A pattern or folder that holds nothing still has to be seen in the rows, or a script would take its absence for success.
    parts = (source if a == STANDARD_INPUT else expanded[a] or _kept_pattern(a) for a in arguments)
    paths: Iterator[str] = itertools.chain.from_iterable(parts)
    if len(nothing) == len(expanded):
        paths = _not_empty(paths if STANDARD_INPUT in arguments else iter(()), notes)
    return Inputs(paths, notes, cut)


def _expand(argument: str) -> tuple[list[str], tuple[str, ...]]:
    """The paths that an argument stands for, and the archives among them that were cut short."""
    from regraft.data.shards.read import list_members

    if INSIDE in argument:
        return _outside(argument), ()
    listed = list_members(argument)
    # As shards/000.tar::cat/1.jpg.
    return [str(member) for member in listed.members] or _outside(argument), listed.cut


def _outside(argument: str) -> list[str]:
    """The paths that an argument stands for which is no shard."""
    path = Path(argument)
    if path.is_dir():
        return _images_in(path)
    if _is_pattern(argument):
        # Path.glob knows no absolute patterns.
        matches = (match for match in glob.iglob(argument, recursive=True) if not _is_hidden(match, argument))  # noqa: PTH207
        return [image for match in sorted(matches) for image in _matched(match, argument)]
    return [argument]


def _is_pattern(argument: str) -> bool:
    # A file whose own name holds such a letter is meant as itself: the shell has already expanded what it would.
    return glob.has_magic(argument) and not os.path.lexists(argument)


def _kept_pattern(argument: str) -> list[str]:
    return [argument] if _is_pattern(argument) else []


def _matched(match: str, pattern: str) -> list[str]:
    """What one match of a pattern stands for. `**` also matches every folder on the way, whose images it matches anyway."""
    if not Path(match).is_dir():
        return [match]
    return [] if "**" in pattern else _images_in(Path(match))


def _is_hidden(match: str, pattern: str) -> bool:
    from regraft.data.walk import is_junk

    name = Path(match).name
    return is_junk(name) and not Path(pattern).name.startswith(".")


def _images_in(folder: Path) -> list[str]:
    from regraft.data.folder import list_images

    return [str(path) for path in list_images(folder)]


def _why_empty(argument: str) -> str:
    return "no image in this folder" if Path(argument).is_dir() else "nothing matches this pattern"


def _not_empty(paths: Iterator[str], notes: Iterable[str]) -> Iterator[str]:
    """The same paths; raises DataUnusable where there is none."""
    first = next(paths, None)
    if first is None:
        raise DataUnusable(
            expected="at least one image to predict",
            got="; ".join(notes) or "an empty list on standard input",
            fix="check the path; images are found by their endings: .jpg .png .webp .bmp .gif .tif",
        )
    return itertools.chain([first], paths)


def read_list(stream: BinaryIO, *, null: bool) -> Iterator[str]:
    """The paths of a list, as they come; empty ones are left out. Bytes that are not UTF-8 keep their meaning as file names."""
    end, rest = (b"\0" if null else b"\n"), b""
    while chunk := _read_some(stream):
        *whole, rest = (rest + chunk).split(end)
        yield from (os.fsdecode(name) for name in map(_bare, whole) if name)
    if rest := _bare(rest):
        yield os.fsdecode(rest)


def _read_some(stream: BinaryIO) -> bytes:
    # read1 gives what is there: a list that is still being made is worked on as it comes.
    return stream.read1(_CHUNK) if hasattr(stream, "read1") else stream.read(_CHUNK)


def _bare(name: bytes) -> bytes:
    return name.removesuffix(b"\r")


def checked_paths(paths: Iterable[str | ImagePath]) -> list[tuple[ImagePath, str]]:
    """Where each image is, and as it was given. Raises UsageError for what is no list of paths.

    Text such as shards/000.tar::cat/1.jpg is an image inside of a shard.
    """
    if isinstance(paths, str | bytes | Path | Member) or not isinstance(paths, Iterable):
        raise UsageError(expected="a list of paths", got=f"the single value {paths!r}", fix="put it in a list: predict([path])")
    listed = list(paths)
    if wrong := [path for path in listed if not isinstance(path, str | Path | Member)]:
        kind = type(wrong[0]).__name__
        raise UsageError(expected="paths of image files", got=f"a {kind} among them", fix="give each as str or pathlib.Path")
    if not any(isinstance(path, str) and INSIDE in path for path in listed):
        return [(Path(path) if isinstance(path, str) else path, str(path)) for path in listed]
    from regraft.data.shards.read import resolve

    return [*zip(resolve(listed), map(str, listed), strict=True)]
