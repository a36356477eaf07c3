"""Where a run goes: never over something that somebody may want to keep."""

import fnmatch
import glob
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from regraft.data.named import named_set
from regraft.data.shards.places import title_of
from regraft.errors import NotWritable, OutputExists, SavedModelRefused, UsageError
from regraft.lock import holding
from regraft.recipe import is_url


@dataclass(frozen=True, slots=True)
class Place:
    """A folder to write to, and a line to tell where it is not the one that was to be expected.

    `finished`: there is a run already that was to be gone on with.
    """

    folder: Path
    note: str = ""
    finished: bool = False


def next_to(run: Path) -> Path:
    """The first of RUN-2, RUN-3 and so on that is free."""
    return next(folder for folder in _numbered(run) if not folder.exists())


def place_run(data: str | Path, out: Path | None, *, overwrite: bool, resume: bool = False) -> Place:
    """The folder for a run on `data`; nothing is created or removed here.

    Without `out` it is runs/NAME, NAME being the data's; where that is taken, runs/NAME-2 and so on, unless `overwrite`.
    An `out` that is taken raises OutputExists unless `overwrite`, which replaces runs of regraft and nothing else. So does a
    training that was interrupted, which `resume` goes on with: then the folder is taken as it is. Without `out` that is the
    last of runs/NAME, runs/NAME-2 and so on in which one was interrupted.
    Raises UsageError for a place inside of the data, where the next fit would take it for a class, NotWritable where nothing
    can be written: said now and not after the work.
    """
    named = named_set(data)
    name = named.title if named else _title(data)
    folder = _checked(data, Path("runs") / name if out is None else out)
    _check_writable(folder)
    if resume:
        return _gone_on_with(folder, named=out is not None)
    if not is_taken(folder):
        return Place(folder)
    if is_interrupted(folder) and not overwrite:
        raise OutputExists(
            expected=f"{folder} to be new or empty",
            got=f"{folder}: a training that was interrupted",
            fix="--resume goes on with it, --overwrite starts anew; or give another --out",
        )
    if overwrite:
        _refuse_foreign(folder, "--overwrite may replace")
        return Place(folder)
    if out is not None:
        raise OutputExists(
            expected=f"{folder} to be new or empty",
            got=f"{folder}: something is in it already",
            fix="--overwrite replaces an earlier run; or give another --out",
        )
    free = next(other for other in _numbered(folder) if not is_taken(other))
    return Place(free, f"{folder} holds an earlier run: this one goes to {free} (--overwrite would replace it)")


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep other fits of this machine out of `folder` until this one has ended, however it ends. Raises RunLocked.

    The lock is no file of the folder, which need not be there yet. Where there are no locks, the fit goes without.
    """
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with ExitStack() as held:
        with suppress(OSError):
            path = Path(tempfile.gettempdir()) / f"regraft-{name}.lock"
            held.enter_context(holding(path, flags, expected=f"no other fit into {folder}", got="one that is running now"))
        yield


# Where trainings keep their states. The config's name is artifact.load's, which is not imported here: it brings torch with it.
STATES, CONFIG_FILE = ".checkpoints", "config.json"
# What a fit writes last, and what it may leave behind where it is killed before there is a model.
_LAST, _BEGUN = "report.html", ("metrics.jsonl", "tensorboard", "model-*.safetensors")


def is_interrupted(folder: Path) -> bool:
    """Whether a training was interrupted here, be it one that was to replace a finished run: a run that ends removes them."""
    return any((folder / STATES).glob("*/*.json"))


def _gone_on_with(folder: Path, *, named: bool) -> Place:
    """The place of a training that was interrupted, or is to begin. Raises OutputExists for a folder of something else."""
    if is_interrupted(folder):
        return Place(folder)
    if not named and (last := _last_interrupted(folder)):
        return Place(last, f"{last} holds a training that was interrupted: going on with it")
    if folder.exists() and not _only_begun(folder):
        _refuse_foreign(folder, "--resume may go on with")
    return Place(folder, finished=(folder / CONFIG_FILE).exists() and (folder / _LAST).exists())


def _last_interrupted(folder: Path) -> Path | None:
    """Of the folders that runs on the same data went to because the first was taken, the last with an interrupted training."""
    ends = (other.name.removeprefix(f"{folder.name}-") for other in folder.parent.glob(f"{glob.escape(folder.name)}-*"))
    there = {int(end): folder.with_name(f"{folder.name}-{end}") for end in ends if end.isascii() and end.isdigit()}
    return next((there[number] for number in sorted(there, reverse=True) if is_interrupted(there[number])), None)


def _only_begun(folder: Path) -> bool:
    """Whether nothing is there but what a fit leaves that is killed before it has a model."""
    if not folder.is_dir():
        return False
    entries = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    return all(any(fnmatch.fnmatchcase(name, pattern) for pattern in _BEGUN) for name in entries)


def is_taken(folder: Path) -> bool:
    """Whether anything is there but an empty folder or what an interrupted fit left (hidden files but a training's states)."""
    try:
        return any(not entry.name.startswith(".") or entry.name == STATES for entry in folder.iterdir())
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return True


def _numbered(folder: Path) -> Iterator[Path]:
    return (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))


def _title(data: str | Path) -> str:
    """What a run on `data` is called: the name of its folder, or of its file without the ending."""
    path = Path(data)
    if is_url(data) or not path.exists():
        return title_of(data)
    return (path if path.is_dir() else path.with_suffix("")).resolve().name or "data"


def is_inside(data: str | Path, folder: Path) -> bool:
    """Whether a folder to write to lies among the images, where it would be read as some of them."""
    return not is_url(data) and Path(data).is_dir() and folder.resolve().is_relative_to(Path(data).resolve())


def _checked(given: str | Path, folder: Path) -> Path:
    if is_inside(given, folder):
        data = Path(given)
        raise UsageError(
            expected="a run folder outside of the images",
            got=f"{folder}, which is inside of {data}: the next fit would take it for a class",
            fix=f"give another one with --out, for example --out {data.resolve().parent / 'runs' / data.resolve().name}",
        )
    return folder


def _check_writable(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
        raise NotWritable(
            expected=f"to be able to write to {folder}",
            got=f"{there}: no permission, or a read-only disk",
            fix="check its permissions, or give another folder with --out",
        )


def _refuse_foreign(folder: Path, what: str) -> None:
    from regraft.artifact.load import read_object
    from regraft.artifact.schema import FORMAT

    if is_interrupted(folder):
        return
    try:
        ours = folder.is_dir() and read_object(folder / CONFIG_FILE).get("format") == FORMAT
    except SavedModelRefused:
        ours = False
    if not ours:
        raise OutputExists(
            expected=f"{folder} to be a run of regraft, which {what}",
            got=f"{folder}: something else, or a damaged run",
            fix="give another --out, or delete it yourself",
        )
