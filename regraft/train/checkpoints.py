"""Where a run keeps the states of its trainings, and whether a state belongs to what is asked for now."""

import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from regraft.artifact.checkpoint import newest_checkpoint, remove_checkpoints, save_checkpoint
from regraft.artifact.checkpoint_record import Checkpoint
from regraft.errors import DataUnusable, NotExact, UsageError
from regraft.place import STATES, is_interrupted
from regraft.progress import Progress, Silent
from regraft.ranks import here
from regraft.strategies import Strategy
from regraft.train.keeper import Keeper, Kept, Nowhere
from regraft.train.spread import is_asked

_SHOWN = 5
_OF_STRATEGY = "strategy."
# What the command line says of a strategy; other choices go by their names in Python.
_OPTIONS = ("epochs", "minutes", "lr", "optimizer", "schedule", "batch_size", "augment", "balance", "depth_decay", "features")
_CLASSES = "classes"  # what was asked for with the data
_ONE = {"processes": "1"}  # what need not be said


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a training follows from.

    `asked`: what a person chose; `images`: the fingerprint of the data; `machine`: what decides the last bits of a result.
    """

    asked: Mapping[str, str]
    images: str
    machine: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """How to go on from an interrupted run.

    `exact` refuses where the result could differ from an uninterrupted one's in its last bits; `allow_data_change` goes on with
    other images.
    """

    exact: bool = False
    allow_data_change: bool = False


def machine(device: str) -> dict[str, str]:
    """What decides the last bits of a result on this machine."""
    ranks = here()
    processes = f"{ranks.size}{' with FSDP2' * is_asked(ranks)}"
    return ({} if ranks.alone else {"processes": processes}) | {
        "torch": torch.__version__,
        "device": device,
        "threads": str(torch.get_num_threads()),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def asked_of(strategy: Strategy, **others: object) -> dict[str, str]:
    """What was chosen, as texts; functions go by their names."""
    fields = {f"{_OF_STRATEGY}{name}": _text(value) for name, value in asdict(strategy).items()}
    return {"strategy": strategy.name} | fields | {name: _text(value) for name, value in others.items()}


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_text(one)}" for name, one in sorted(value.items()))
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else repr(value)


class DiskKeeper:
    """Keeps the states of one strategy in a folder of its own."""

    def __init__(self, folder: Path, identity: Identity, resume: Resume, progress: Progress) -> None:
        self._folder, self._identity, self._number = folder, identity, 0
        self._before: Kept | None = None
        found = newest_checkpoint(folder)
        if found is None:
            return
        for note in found.notes:
            progress.note(note)
        facts = dict(found.checkpoint.facts)
        _check(facts.pop("asked"), facts.pop("images"), facts.pop("machine"), identity, resume, folder, progress)
        self._number = found.checkpoint.number + 1
        self._before = Kept(tensors=found.checkpoint.tensors, facts=facts)

    def keep(self, state: Kept) -> None:
        facts = {**state.facts, **asdict(self._identity)}
        save_checkpoint(self._folder, Checkpoint(number=self._number, tensors=state.tensors, facts=facts))
        self._number += 1

    def recall(self) -> Kept | None:
        return self._before


def keepers_in(
    run: Path, identity: Identity, *, resume: Resume | None, progress: Progress = Silent()
) -> Callable[[str], Keeper]:
    """What gives each strategy of a run its keeper; without `resume` all start from nothing."""
    root = run / STATES
    there: dict[str, Keeper] = {}
    if resume is None:
        forget(run)
    elif not is_interrupted(run):
        progress.note(f"no checkpoint in {root}: starting from the beginning")
    else:
        # All of them at once: those of another strategy are refused too, and not passed by.
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
        there = {folder.name: DiskKeeper(folder, identity, resume, progress) for folder in folders}
        progress.note(f"going on from {root}")

    def keeper(name: str) -> Keeper:
        folder = root / name.replace(":", "-")
        return there.pop(folder.name, None) or DiskKeeper(folder, identity, resume or Resume(), progress)

    return keeper


class _OfAll:
    """The keeper of a group: rank 0 keeps, and what it recalls, all have."""

    def __init__(self, own: Keeper) -> None:
        self._own = own

    def keep(self, state: Kept) -> None:
        self._own.keep(state)

    def recall(self) -> Kept | None:
        return here().shared(self._recalled)

    def _recalled(self) -> Kept | None:
        before = self._own.recall()
        # Views that nobody can write to cannot be sent, either.
        return before and Kept(tensors=dict(before.tensors), facts=dict(before.facts))


def of_all(make: Callable[[], Callable[[str], Keeper]]) -> Callable[[str], Keeper]:
    """The keepers that `make` gives, for all processes of a group: only rank 0 makes, reads and writes them."""
    if here().alone:
        return make()
    made: list[Callable[[str], Keeper]] = []
    here().shared(lambda: made.append(make()))

    def keeper(name: str) -> Keeper:
        own: list[Keeper] = []
        here().shared(lambda: own.append(made[0](name)))
        return _OfAll(own[0] if here().first else Nowhere())

    return keeper


def forget(run: Path) -> None:
    """Remove the states of a run that is finished, or starts anew."""
    root = run / STATES
    if root.is_dir():
        for folder in sorted(root.iterdir()):
            remove_checkpoints(folder)
        with suppress(OSError):  # something else lies in it
            root.rmdir()


def _check(
    asked: Mapping[str, str],
    images: str,
    where: Mapping[str, str],
    identity: Identity,
    resume: Resume,
    folder: Path,
    progress: Progress,
) -> None:
    """Raise where a state is of another training; say where it would end with other last bits."""
    differing = _differing(asked, identity.asked)
    if len(differing) == 1 and asked.get(_CLASSES) != identity.asked.get(_CLASSES):
        raise DataUnusable(
            expected=f"the classes that the training in {folder.parent} was begun with",
            got=differing[0],
            fix="bring them back, or start anew with --overwrite: a head for other classes is another one",
        )
    if differing:
        raise UsageError(
            expected=f"the choices that the training in {folder.parent} was begun with",
            got="; ".join(differing[:_SHOWN]),
            fix="give the same options as then, or start anew with --overwrite in place of --resume",
        )
    if images != identity.images and not resume.allow_data_change:
        raise DataUnusable(
            expected=f"the images that the training in {folder.parent} was begun with",
            got="others: some were added, removed, changed or labelled anew",
            fix="bring them back, go on all the same with --allow-data-change, or start anew with --overwrite",
        )
    reasons = _differing({**_ONE, **where}, {**_ONE, **identity.machine})
    if images != identity.images:
        reasons.append("other images")
    if reasons and resume.exact:
        raise NotExact(
            expected="to go on exactly as if the training had never stopped (--exact)",
            got="; ".join(reasons),
            fix="go on where it was begun, or leave --exact out",
        )
    if reasons:
        progress.note(f"the result may differ in its last bits from that of a run that was not stopped: {'; '.join(reasons)}")


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    names = sorted({*before, *now})
    return [
        f"{_spoken(name)} was {_given(before.get(name))}, now {_given(now.get(name))}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _spoken(name: str) -> str:
    field = name.removeprefix(_OF_STRATEGY)
    return f"--{field.replace('_', '-')}" if field != name and field in _OPTIONS else field


def _given(value: str | None) -> str:
    return "not given" if value in (None, "None") else str(value)
