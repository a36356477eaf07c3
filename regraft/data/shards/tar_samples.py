"""Samples of tar archives in the way of WebDataset: what shares a key belongs together.

    000017.jpg  000017.cls  000017.json        key 000017: an image, the number of its class, or more in JSON

The key of a name is what stands before the first dot of its last part. `.json` says `label` (or `cls`, `class`: text, a number,
or a list where there are several), and if it likes `name` and `group`; else `.cls` holds a number, which classes.json or
classes.txt beside the archives names, or text.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from regraft.data.names import check_class_name, count_of, listing, printable, shown
from regraft.data.shards.ranges import Ranges
from regraft.data.shards.tar import Entry, list_tar, said_of
from regraft.data.walk import IMAGE_SUFFIXES, is_junk, suffix_of
from regraft.errors import DataUnusable
from regraft.values import Member

# What says a class and a name; a description of a picture may stand beside them.
_MOST_LABEL: Final = 1 << 20
LABEL_FIELDS: Final = ("label", "cls", "class")


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a shard: the name it is to have, and what is known of it. No labels: none are told."""

    member: Member
    name: str
    labels: tuple[str, ...] = ()
    several: bool = False
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Items:
    """The images of one shard, and what a person should know of it."""

    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Members:
    """The images in one shard or in several; `cut` names the archives that end too early, whose other images are missing."""

    members: tuple[Member, ...]
    cut: tuple[str, ...] = ()


def read_tar(ranges: Ranges, place: str, classes: Sequence[str] | None) -> Items:
    """The images of an archive with their labels; `classes` name the numbers in `.cls`.

    Raises DataUnusable where the archive or a label in it cannot be relied on; OSError.
    """
    listed = list_tar(ranges, place)
    images, beside, rest = _sorted_out(listed.entries)
    items = [_item(ranges, place, entry, beside.get(key_of(entry.name), {}), classes) for entry in images]
    return Items(tuple(items), (*listed.notes, *_notes(rest, place)))


def image_members(ranges: Ranges, place: str) -> Members:
    """Every image of an archive, in its order, one of each name, whatever is said of it. Raises as `read_tar` does."""
    listed = list_tar(ranges, place)
    images = (_member(entry, place) for entry in _sorted_out(listed.entries)[0])
    once = {member.inner: member for member in reversed([*images])}
    return Members(tuple(once.values())[::-1], listed.notes)


def key_of(name: str) -> str:
    """What the files of one sample share: their name up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition('.')[0]}"


def _sorted_out(entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, dict[str, Entry]], list[Entry]]:
    """Images; by key and ending what tells of them; everything else. Names that come twice are trouble from the second on."""
    images, rest, seen = list[Entry](), list[Entry](), set[str]()
    beside = defaultdict[str, dict[str, Entry]](dict)
    for entry in entries:
        if entry.name in seen and entry.trouble is None:
            entry = Entry(entry.name, entry.offset, entry.size, ("duplicate_name", "a name that its archive has twice"))
        seen.add(entry.name)
        suffix, last = suffix_of(entry.name), entry.name.rpartition("/")[2]
        if is_junk(last):
            rest.append(entry)
        elif suffix in IMAGE_SUFFIXES and last.count(".") == 1:
            images.append(entry)
        elif suffix in (".json", ".cls") and entry.trouble is None:
            beside[key_of(entry.name)][suffix] = entry
        else:
            rest.append(entry)
    # A picture such as 17.seg.png stands beside 17.jpg; where nothing else has its key, it is the image.
    keys = {key_of(entry.name) for entry in images}
    alone = [e for e in rest if suffix_of(e.name) in IMAGE_SUFFIXES and not is_junk(e.name.rpartition("/")[2])]
    alone = [entry for entry in alone if key_of(entry.name) not in keys]
    taken = {id(entry) for entry in alone}
    return [*images, *alone], beside, [entry for entry in rest if id(entry) not in taken]


def _notes(rest: Sequence[Entry], place: str) -> list[str]:
    troubled = [entry for entry in rest if entry.trouble is not None]
    plain = Counter(suffix_of(entry.name) or "no ending" for entry in rest if entry.trouble is None)
    notes = [f"{printable(place)}: {said_of(troubled)}"] if troubled else []
    if plain:
        endings = listing([f"{suffix} {count:,}" for suffix, count in sorted(plain.items())], 5)
        notes.append(f"{printable(place)}: {count_of(plain.total(), 'other file')} left out: {endings}")
    return notes


def _member(entry: Entry, place: str) -> Member:
    return Member(container=place, inner=entry.name, offset=entry.offset, size=entry.size, trouble=entry.trouble)


def _item(ranges: Ranges, place: str, entry: Entry, beside: Mapping[str, Entry], classes: Sequence[str] | None) -> Item:
    member = _member(entry, place)
    if ".json" in beside:
        told = _json(ranges, place, beside[".json"])
        label = next((told[field] for field in LABEL_FIELDS if told.get(field) is not None), None)
        if label is not None or ".cls" not in beside:
            labels = () if label is None else _labels(label, place, beside[".json"].name, classes)
            name, group = told.get("name"), told.get("group")
            return Item(
                member,
                name if isinstance(name, str) and name else entry.name,
                labels,
                isinstance(label, list),
                None if group is None else str(group),
            )
    if ".cls" in beside:
        text = _payload(ranges, place, beside[".cls"]).decode("utf-8", "replace").strip()
        return Item(member, entry.name, _labels(int(text) if text.isdecimal() else text, place, beside[".cls"].name, classes))
    return Item(member, entry.name)


def _json(ranges: Ranges, place: str, entry: Entry) -> dict[str, object]:
    try:
        told = json.loads(_payload(ranges, place, entry))
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        _refuse(place, entry.name, "no JSON object", 'write for example {"label": "cat"}')
    return told


def _payload(ranges: Ranges, place: str, entry: Entry) -> bytes:
    if entry.size > _MOST_LABEL:
        _refuse(place, entry.name, f"{entry.size:,} bytes", "leave in it what a label needs")
    return ranges.read(entry.offset, entry.size)


def _labels(label: object, place: str, name: str, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The sorted class names that a label stands for."""
    every = label if isinstance(label, list) else [label]
    texts = [_named(one, place, name, classes) for one in every]
    return tuple(sorted({check_class_name(text, f"{place}::{name}") for text in texts if text or not isinstance(label, list)}))


def _named(label: object, place: str, name: str, classes: Sequence[str] | None) -> str:
    """The name of a class: of a number the one in the list of classes, else the number as text."""
    if not isinstance(label, str | int | float):
        _refuse(place, name, f"a label of type {type(label).__name__}", "give labels as text or numbers")
    if isinstance(label, bool | str):
        return str(label).strip()
    if isinstance(label, float) and not label.is_integer():
        return str(label)
    number = int(label)
    if classes is None:
        return str(number)
    if not 0 <= number < len(classes):
        _refuse(place, name, f"class {number}, of {len(classes)} in the list of classes", "complete the list beside the shards")
    return classes[number]


def _refuse(place: str, name: str, got: str, fix: str) -> NoReturn:
    raise DataUnusable(expected="a label that can be understood", got=f"{printable(place)}::{shown(name)}: {got}", fix=fix)
