"""Training checkpoints as data, written so that at every instant, power cuts included, the last one or the one before is whole.

Checkpoint 12 is two files, 000000012.safetensors and 000000012.json. Both are written under a hidden name in the same folder,
synced and renamed, and the folder is synced after each rename, so that they reach the disk in this order:

    1. the tensors     without its JSON, a file of tensors does not count
    2. the JSON        from its rename on, checkpoint 12 is the newest; it seals the tensors by size and SHA-256, and itself
    3. what is older than the checkpoint before is removed, and what killed saves left

Nobody else may write to the folder meanwhile: the run holds the lock of its own folder.
"""

import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from regraft.artifact.checkpoint_record import MAX_JSON_BYTES, Checkpoint, check_finite, parsed, sealed
from regraft.artifact.checkpoint_tensors import Layout, layout_of, read_tensors, specs_of, write_tensors
from regraft.artifact.durable import remove, reporting, sync_folder, write_synced
from regraft.artifact.files import open_regular, refusal
from regraft.errors import OutOfSpace, SavedModelRefused

_NAME = re.compile(r"(\.?)([0-9]{9,15})\.(safetensors|json)(\.tmp)?")
_MAX_NUMBER = 10**15 - 1
_EXPECTED = "the JSON of a checkpoint written by regraft"
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint as it was saved, its tensors on the CPU; `notes` are things a person should know of the loading."""

    checkpoint: Checkpoint
    notes: tuple[str, ...] = ()


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `folder` (made if need be) as its newest, and keep the one before; what has other names stays.

    The same checkpoint always gives the same bytes. Raises Diverged for NaN or infinity anywhere in it, OutOfSpace (or its
    child NotWritable) when the disk fails; then what was there before still loads. ValueError and TypeError are for what
    could not be read back: a dtype, a key or a number that a checkpoint does not have.
    """
    if not 0 <= checkpoint.number <= _MAX_NUMBER:
        raise ValueError(f"checkpoint {checkpoint.number}, not 0 to {_MAX_NUMBER}")
    check_finite(checkpoint)
    layout = layout_of(specs_of(checkpoint.tensors))
    draft = sealed(checkpoint, layout, sha256="0" * 64)
    parsed(draft, checkpoint.number)
    needed = layout.size + len(draft)
    check_room(folder, needed)
    with reporting(folder, needed):
        if not folder.is_dir():
            folder.mkdir(parents=True)
            sync_folder(folder.parent)
        _commit(folder, checkpoint, layout)
    _prune(folder, checkpoint.number)


def newest_checkpoint(folder: Path) -> Found | None:
    """The newest whole checkpoint in `folder`; None where none was ever finished.

    A damaged one is passed over for the one before it, with a note. Raises SavedModelRefused when all are damaged.
    """
    files = [file for file in _files(folder) if not file.temporary]
    finished = {file.number for file in files if file.suffix == "json"}
    bad = {file.number: "was not finished" for file in files if file.number not in finished}
    for number in sorted(finished, reverse=True):
        try:
            checkpoint = _read(folder, number)
        except SavedModelRefused as error:
            bad[number] = f"is damaged ({error.got})"
        else:
            newer = sorted((other for other in bad if other > number), reverse=True)
            notes = tuple(f"checkpoint {other} {bad[other]}: going on from {number}" for other in newer)
            return Found(checkpoint=checkpoint, notes=notes)
    if finished:
        raise _all_damaged(folder, bad)
    return None


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run that is finished, and the folder unless it holds anything else; failures are ignored."""
    with suppress(OSError, SavedModelRefused):
        # In two sweeps, so that a kill between them leaves nothing that looks like a damaged checkpoint.
        for suffix in ("json", "safetensors"):
            for file in _files(folder):
                if file.suffix == suffix:
                    remove(file.path)
            sync_folder(folder)
        folder.rmdir()


def check_room(folder: Path, needed: int) -> None:
    """Raise OutOfSpace unless `needed` bytes are free where `folder` is or will be.

    A run takes up to three times what a checkpoint takes: two are kept while the next is written.
    """
    with reporting(folder, needed):
        there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        usage = shutil.disk_usage(there)
    # Some network and user-space file systems say that they have no room at all.
    if usage.total and usage.free < needed:
        raise OutOfSpace(
            expected=f"room for {needed:,} bytes in {folder}",
            got=f"{usage.free:,} bytes free",
            fix="free some space, or give another folder with --out; what was there is untouched",
        )


def _read(folder: Path, number: int) -> Checkpoint:
    path = _path(folder, number, "json")
    with open_regular(path, _EXPECTED) as file:
        text = file.read(min(file.size, MAX_JSON_BYTES + 1))
    try:
        value = parsed(text, number)
        layout = layout_of(value["tensors"])
        if value["bytes"] != layout.size:
            raise ValueError("another size than its tensors have")
    except ValueError as error:
        raise refusal(path, expected=_EXPECTED, got=str(error)) from None
    tensors = read_tensors(_path(folder, number, "safetensors"), layout, value["sha256"])
    return Checkpoint(number=number, tensors=MappingProxyType(tensors), facts=MappingProxyType(value["facts"]))


def _commit(folder: Path, checkpoint: Checkpoint, layout: Layout) -> None:
    tensors, facts = (_path(folder, checkpoint.number, suffix) for suffix in ("safetensors", "json"))
    new_tensors, new_facts = (path.with_name(f".{path.name}.tmp") for path in (tensors, facts))
    with ExitStack() as undo:
        for path in (new_tensors, new_facts):
            remove(path)  # left by a save that was killed
            undo.callback(remove, path)
        text = sealed(checkpoint, layout, sha256=write_tensors(new_tensors, checkpoint.tensors, layout))
        undo.callback(_remove_unless_named, tensors, facts, text)
        new_tensors.replace(tensors)
        sync_folder(folder)
        write_synced(new_facts, text)
        new_facts.replace(facts)
        sync_folder(folder)


def _remove_unless_named(tensors: Path, facts: Path, text: bytes) -> None:
    # Asked of the disk: an interrupt may fall between the rename of the JSON and the line after it.
    with suppress(OSError):
        if not facts.exists() or facts.read_bytes() != text:
            remove(tensors)


def _prune(folder: Path, number: int) -> None:
    # Higher numbers too: they are what could not be read when the run went on from a lower one.
    with suppress(OSError, SavedModelRefused):
        files = _files(folder)
        before = max((file.number for file in files if file.suffix == "json" and file.number < number), default=number)
        for file in files:
            if file.temporary or file.number not in (number, before):
                remove(file.path)


class _File(NamedTuple):
    """A file of a checkpoint. Sorted by number, then the JSON before the tensors: a checkpoint without either is damaged."""

    number: int
    suffix: str
    temporary: bool
    path: Path


def _path(folder: Path, number: int, suffix: str) -> Path:
    return folder / f"{number:09d}.{suffix}"


def _files(folder: Path) -> list[_File]:
    """Files in `folder` that this module writes, in order; none where there is no such folder. Raises SavedModelRefused."""
    try:
        matches = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise refusal(folder, expected="a folder of checkpoints", got=error.strerror or str(error)) from None
    # Hidden and .tmp, or neither; and numbers in their one spelling.
    return sorted(
        _File(int(match[2]), match[3], bool(match[4]), path)
        for path, match in matches
        if match and bool(match[1]) == bool(match[4]) and match[2] == f"{int(match[2]):09d}"
    )


def _all_damaged(folder: Path, bad: Mapping[int, str]) -> SavedModelRefused:
    reasons = [f"{number} {bad[number]}" for number in sorted(bad, reverse=True)]
    more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    return SavedModelRefused(
        expected=f"a whole checkpoint in {folder}",
        got=f"none: {'; '.join(reasons[:_SHOWN])}{more}",
        fix="bring the folder back from a copy, or start the run anew with --overwrite",
    )
