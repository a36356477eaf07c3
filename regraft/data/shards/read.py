"""From shards to samples: every shard looked through once, names as a folder of the same images would have them."""

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from regraft.data.found import PARTS, Found
from regraft.data.names import count_of, listing, printable, sample_names, shown
from regraft.data.problem import Problem
from regraft.data.shards.columns import Row, Rows, read_rows
from regraft.data.shards.containers import opened
from regraft.data.shards.places import Shard, base_of, find_shards, title_of
from regraft.data.shards.ranges import Ranges, store_of
from regraft.data.shards.tar_samples import Item, Items, Members, image_members, read_tar
from regraft.errors import DataUnusable, UsageError, first_line
from regraft.progress import Progress, Silent
from regraft.recipe import Data, is_url
from regraft.values import INSIDE, ImagePath, Member, Sample

Made = TypeVar("Made")
TASK: Final = "reading shards"
# Looking through shards waits for the disk or the network more than it computes.
_THREADS: Final = 8
_MOST_CLASSES_BYTES: Final = 16 << 20
_CLASSES: Final = ("classes.json", "classes.txt")
_MOST_NOTES: Final = 10


def read_shards(data: Data, shards: Sequence[Shard], *, progress: Progress = Silent()) -> Found:
    """The labelled images in `shards`, in the order of their names; `data` says which columns of Parquet and Arrow are what.

    Raises DataUnusable where a shard cannot be read or relied on, two of them contradict each other, or no image has a label.
    """
    if data.group_column is not None and any(shard.kind == "tar" for shard in shards):
        raise UsageError(
            expected="a table for --group, which names a column",
            got=f"tar archives: {printable(data.path)}",
            fix='write {"group": ...} into the .json of each image, or use --group-pattern, a regular expression on its name',
        )
    classes = _class_lists(shards)

    def read(shard: Shard, ranges: Ranges) -> Items | Rows:
        if shard.kind == "tar":
            return read_tar(ranges, shard.place, classes.get(_folder_of(shard.place)))
        return read_rows(ranges, shard.place, shard.kind, data)

    found = _through(shards, read, progress)
    several = any(item.several for items in found for item in items.items)
    pairs = [(shard, item) for shard, items in zip(shards, found, strict=True) for item in items.items]
    named = _named(pairs)
    bare = [name for name, (_, item) in zip(named, pairs, strict=True) if not (item.labels or several or item.member.trouble)]
    samples = [
        Sample(
            path=item.member,
            name=name,
            labels=item.labels,
            part=item.part if isinstance(item, Row) and item.part is not None else shard.part,
            group=item.group,
        )
        for name, (shard, item) in zip(named, pairs, strict=True)
        # What cannot be opened is kept, to be set aside with its reason.
        if item.labels or several or item.member.trouble
    ]
    if bare and not any(sample.labels for sample in samples):
        raise _unlabelled(data, bare)
    return Found(
        root=Path(str(data.path)),
        title=f"{shown(title_of(data.path))}, {count_of(len(shards), 'shard')}",
        samples=tuple(sorted(samples, key=lambda sample: sample.name)),
        multi_label=several,
        notes=(*_notes([note for items in found for note in items.notes]), *_bare_notes(bare)),
    )


def list_members(source: str | Path) -> Members:
    """Every image in the shards that `source` names, whatever is said of it, shard by shard; none where it names no shards."""
    shards = find_shards(source)

    def read(shard: Shard, ranges: Ranges) -> Members:
        if shard.kind == "tar":
            return image_members(ranges, shard.place)
        rows = read_rows(ranges, shard.place, shard.kind, Data(path=shard.place), labelled=False)
        return Members(tuple(item.member for item in rows.items))

    found = _through(shards, read, Silent())
    cut = _notes([note for one in found for note in one.cut])
    return Members(tuple(member for one in found for member in one.members), tuple(cut))


def resolve(paths: Iterable[str | ImagePath]) -> list[ImagePath]:
    """Where each image is: a path, or for shards/000.tar::cat/1.jpg what lies inside of it; every shard is looked through once.

    A name that is not in its shard, or a shard that cannot be read, is given as one in which nothing can be opened.
    """
    return [_resolved(path) if isinstance(path, str) else path for path in paths]


def _resolved(path: str) -> ImagePath:
    place, mark, inner = path.partition(INSIDE)
    if not mark or Path(path).exists():
        return Path(path)
    known = _members(place, _stamp(place))
    if isinstance(known, str):
        return Member(container=place, inner=inner, trouble=("unreadable", known))
    return known.get(inner, Member(container=place, inner=inner, trouble=("missing", f"no such image in {place}")))


def _stamp(place: str) -> tuple[int, int] | None:
    try:
        status = Path(place).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4)
def _members(place: str, stamp: tuple[int, int] | None) -> dict[str, Member] | str:
    """The images of a shard by their names in it, or why it cannot be read. `stamp` is that of the file."""
    try:
        return {member.inner: member for member in reversed(list_members(place).members)}
    except (DataUnusable, UsageError) as error:
        return error.got


def _through(shards: Sequence[Shard], read: Callable[[Shard, Ranges], Made], progress: Progress) -> list[Made]:
    """What `read` finds in each shard, several at a time. Raises DataUnusable with the name of one that cannot be read."""

    def look(shard: Shard) -> Made:
        try:
            return read(shard, opened(shard.place, anew=True))
        except Problem as problem:
            got, fix = f"{printable(shard.place)}: {problem.got}", problem.fix
        except OSError as error:
            got, fix = f"{printable(shard.place)}: {error.strerror or first_line(error)}", "check the file and the connection"
        raise DataUnusable(expected="shards that can be read", got=got, fix=fix)

    found: list[Made] = []
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="shards") as pool, progress.task(TASK, len(shards), "shard") as task:
        waiting = [pool.submit(look, shard) for shard in shards]
        try:
            for future in waiting:
                found.append(future.result())
                task.advance()
        finally:
            for future in waiting:
                future.cancel()
    return found


def _named(pairs: Sequence[tuple[Shard, Item]]) -> list[str]:
    """The name of each image, all different: as told, with its shard before it where several are called so."""
    # What cannot be opened takes no name from what can.
    count = Counter(item.name for _, item in pairs if item.member.trouble is None)
    return sample_names(
        [
            item.name
            if item.name and count[item.name] == (item.member.trouble is None)
            else f"{_called(shard)}/{item.name or item.member.inner}"
            for shard, item in pairs
        ]
    )


def _called(shard: Shard) -> str:
    """A shard's name with the part that its folder says: train/000."""
    base = base_of(shard.place)
    return base if shard.part is None or base.casefold().startswith(shard.part) else f"{shard.part}/{base}"


def _folder_of(place: str) -> str:
    return place.rpartition("/")[0] if is_url(place) else str(Path(place).parent)


def _class_lists(shards: Sequence[Shard]) -> dict[str, list[str]]:
    """By folder the names of the classes that are numbers there, from a list beside the shards, or above a part's folder."""
    found = dict[str, list[str]]()
    for folder in sorted({_folder_of(shard.place) for shard in shards if shard.kind == "tar"}):
        above = [_folder_of(folder)] if any(_is_part(s, folder) for s in shards) else []
        lists = (names for place in (folder, *above) for file in _CLASSES if (names := _class_list(place, file)) is not None)
        if (names := next(lists, None)) is not None:
            found[folder] = names
    return found


def _is_part(shard: Shard, folder: str) -> bool:
    last = folder.replace("\\", "/").rpartition("/")[2]
    return shard.part is not None and _folder_of(shard.place) == folder and last.casefold() in PARTS


def _class_list(folder: str, file: str) -> list[str] | None:
    """The names in classes.json (a list, or an object from name to number) or classes.txt (one a line); None without it."""
    place = f"{folder.rstrip('/')}/{file}"
    text = _text(place)
    if text is None:
        return None
    if file.endswith(".txt"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and all(isinstance(number, int) for number in told.values()):
        told = sorted(told, key=lambda name: int(told[name])) if sorted(told.values()) == [*range(len(told))] else None
    if not isinstance(told, list) or not all(isinstance(name, str) for name in told):
        raise DataUnusable(
            expected="a list of class names, the first being that of class 0",
            got=f"{printable(place)}: something else",
            fix='write for example ["cat", "dog"]',
        )
    return told


def _text(place: str) -> str | None:
    """A small text file here or elsewhere; None where there is none."""
    try:
        if is_url(place):
            system, path = store_of(place)
            data = system.cat_file(path, end=_MOST_CLASSES_BYTES)
        elif Path(place).is_file() and Path(place).stat().st_size <= _MOST_CLASSES_BYTES:
            data = Path(place).read_bytes()
        else:
            return None
    except Exception:  # what a store says of a file that is not there is its own
        return None
    return str(data.decode("utf-8-sig", "replace"))


def _notes(notes: Sequence[str]) -> list[str]:
    """The first of many notes on shards, and how many more there are."""
    more = [f"and {len(notes) - _MOST_NOTES:,} more notes on shards"] if len(notes) > _MOST_NOTES else []
    return [*notes[:_MOST_NOTES], *more]


def _bare_notes(bare: Sequence[str]) -> list[str]:
    return [f"{count_of(len(bare), 'image')} without a label, left out: {listing(sorted(bare), 5)}"] if bare else []


def _unlabelled(data: Data, bare: Sequence[str]) -> DataUnusable:
    return DataUnusable(
        expected="images with labels in the shards",
        got=f"{printable(data.path)}: none of {len(bare):,}, such as {listing(sorted(bare), 3)}",
        fix='write a .json ({"label": "cat"}) or a .cls beside each image of an archive; `regraft shard` does, from folders',
    )
