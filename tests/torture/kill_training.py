"""Kills fits until one gets through: the model that is left has to be, byte for byte, that of a fit which nobody killed.

In three ways: forked children at random instants; forked children at every operation on a file of the run, one after another;
fresh processes at random instants. `make torture` runs all of it, `make test` a little. Prints what was done; exits with 1
where an end differs.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from conftest import COLOURS, paint_classes
from training_problems import make_net, sha256, states_in, write_net

import regraft
from regraft.strategies import Full, Gradual, Partial
from regraft.train import keeper

NET = "net_that_is_killed"
MODEL = "model.safetensors"
# From a random head, so that there is something to learn.
_HOW: dict[str, Any] = {"batch_size": 8, "lr": 1e-2, "start": "random"}
STRATEGIES: dict[str, Any] = {
    "partial:1": Partial(stages=1, epochs=2, views=2, **_HOW),
    "full": Full(epochs=2, ema=0.9, mixup=0.2, **_HOW),
    "gradual": Gradual(epochs=1, **_HOW),
}
# As the command line says it; for processes that are started anew.
OPTIONS = [
    "--strategy",
    "partial:1",
    "--epochs",
    "3",
    "--batch-size",
    "8",
    "--lr",
    "0.01",
    "--device",
    "cpu",
    "--from",
    "random",
]


@dataclass(frozen=True, slots=True)
class Whole:
    """A fit that nobody killed: its model, how long it took, and its cache, in which the choice of the engine stands."""

    model: str
    seconds: float
    cache: Path


@dataclass(slots=True)
class Counts:
    kills: int = 0
    ends: int = 0
    wrong: int = 0

    def end(self, name: str, run: Path, whole: Whole) -> None:
        """A fit got through."""
        self.ends += 1
        same = (run / MODEL).exists() and sha256(run / MODEL) == whole.model
        complete = all((run / one).exists() for one in ("config.json", "predictions.parquet", "report.json", "report.html"))
        if not (same and complete) or states_in(run):
            self.wrong += 1
            print(f"{name}: {run} ended otherwise: the same model {same}, complete {complete}, states left {states_in(run)}")
        shutil.rmtree(run, ignore_errors=True)


def fit(root: Path, run: Path, name: str, cache: Path) -> None:
    keeper.EVERY = -1.0  # a state after every step
    own = regraft.Own(module=make_net(), input_shape=(3, 32, 32), name="tiny")
    regraft.fit(root / "photos", out=run, backbone=own, strategy=STRATEGIES[name], device="cpu", cache=cache, resume=True)


def forked(work: Callable[[], None]) -> int:
    """The process id of a child that does some work, and nothing after it."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int, within: float) -> int | None:
    """The exit code of a child that ended by itself within so many seconds (negative: the signal); None: it was killed."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if status == -signal.SIGKILL else status


def whole_fit(root: Path, name: str) -> Whole:
    run, cache = root / "whole", root / f"cache of {name.replace(':', '-')}"
    # Here and not in a child: it measures engines, and imports what children then need not import.
    fit(root, run, name, cache)
    shutil.rmtree(run)
    began = time.monotonic()
    code = ended(forked(lambda: fit(root, run, name, cache)), 600)
    if code != 0:
        raise SystemExit(f"{name}: a fit that nobody killed left with {code}")
    found = Whole(sha256(run / MODEL), time.monotonic() - began, cache)
    shutil.rmtree(run)
    return found


def fresh_cache(root: Path, whole: Whole) -> Path:
    """Nothing but the choice of engines: kills hit the filling of the cache, too."""
    cache = root / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(whole.cache / "engines", cache / "engines")
    return cache


def kill_at_random(root: Path, wholes: dict[str, Whole], kills: int, chance: random.Random) -> Counts:
    """Forked children, each killed after a random time unless it is through before."""
    counts = Counts()
    while counts.kills < kills:
        name = chance.choice(list(wholes))
        run, cache = root / f"run {counts.ends}", fresh_cache(root, wholes[name])
        tries = 0
        while True:
            # Longer with each try, so that every fit gets through in the end.
            within = chance.uniform(0, wholes[name].seconds * (0.5 + tries / 10))
            code = ended(forked(lambda name=name, run=run, cache=cache: fit(root, run, name, cache)), within)  # type: ignore[misc]
            if code is not None:
                break
            counts.kills, tries = counts.kills + 1, tries + 1
        if code != 0:
            counts.wrong += 1
            print(f"{name}: left with {code} after {tries} kills")
        else:
            counts.end(name, run, wholes[name])
    return counts


class Killer:
    """Kills this process at an operation on a file of a run, counted from 1; 0: only counts."""

    EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")

    def __init__(self, run: Path, at: int) -> None:
        self.run, self.at, self.count = str(run), at, 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event in self.EVENTS and any(self.run in os.fsdecode(one) for one in args if isinstance(one, str | bytes | Path)):
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


def kill_at_operations(root: Path, wholes: dict[str, Whole], every: int) -> Counts:
    """Forked children, killed right before each `every`-th operation on a file of the run, then gone on with."""
    counts = Counts()
    for name, whole in wholes.items():
        at = 1
        while True:
            run = root / f"operation {at}"

            def work(name: str = name, run: Path = run, at: int = at, cache: Path = whole.cache) -> None:
                sys.addaudithook(Killer(run, at))
                fit(root, run, name, cache)

            code = ended(forked(work), 600)
            if code != -signal.SIGKILL:
                break
            counts.kills += 1
            code = ended(forked(lambda name=name, run=run, cache=whole.cache: fit(root, run, name, cache)), 600)  # type: ignore[misc]
            if code != 0:
                counts.wrong += 1
                print(f"{name}: killed at operation {at}, going on left with {code}")
            else:
                counts.end(f"{name}, killed at operation {at}", run, whole)
            at += every
        counts.end(name, run, whole)
        print(f"{name}: {at - every} operations on files", flush=True)
    return counts


def kill_processes(root: Path, kills: int, chance: random.Random) -> Counts:
    """`regraft fit --resume`, started anew each time."""
    counts = Counts()
    regraft_command = Path(sys.executable).with_name("regraft")
    environment = {**os.environ, "REGRAFT_CACHE": str(root / "cache of processes"), "REGRAFT_TEST_NAP": "0.05"}

    def start(run: Path) -> subprocess.Popen[bytes]:
        command = [
            regraft_command,
            "fit",
            "photos",
            "--out",
            run,
            "--backbone",
            f"module:{NET}:make",
            *OPTIONS,
            "--device",
            "cpu",
            "--resume",
        ]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=root, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)

    seconds = 0.0
    for _ in range(2):
        shutil.rmtree(root / "whole", ignore_errors=True)
        began = time.monotonic()
        if (code := start(root / "whole").wait(600)) != 0:
            raise SystemExit(f"a process that nobody killed left with {code}")
        seconds = time.monotonic() - began
    whole = Whole(sha256(root / "whole" / MODEL), seconds, root)
    while counts.kills < kills:
        run, tries = root / f"process {counts.ends}", 0
        while True:
            process = start(run)
            try:
                code = process.wait(chance.uniform(0, seconds * (0.8 + tries / 10)))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                counts.kills, tries = counts.kills + 1, tries + 1
        if code != 0:
            counts.wrong += 1
            print(f"process: left with {code} after {tries} kills")
        else:
            counts.end("process", run, whole)
    return counts


def torture(root: Path, names: list[str], *, forked_kills: int, every: int, processes: int, seed: int) -> int:
    torch.set_num_threads(1)
    paint_classes(root / "photos", dict.fromkeys(COLOURS, 10))
    write_net(root, NET)
    chance, wrong = random.Random(seed), 0
    wholes = {name: whole_fit(root, name) for name in names}
    jobs: list[tuple[str, int, Callable[[], Counts]]] = [
        ("at random, forked", forked_kills, lambda: kill_at_random(root, wholes, forked_kills, chance)),
        ("at operations on files, forked", every, lambda: kill_at_operations(root, wholes, every)),
        ("at random, fresh processes", processes, lambda: kill_processes(root, processes, chance)),
    ]
    for what, wanted, job in jobs:
        if wanted:
            counts = job()
            print(f"{what}: {counts.kills} kills, {counts.ends} fits got through, {counts.wrong} ended otherwise", flush=True)
            wrong += counts.wrong
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forked", type=int, default=120, help="kills of forked children at random instants")
    parser.add_argument("--every", type=int, default=1, help="kill at each N-th operation on a file of the run; 0: at none")
    parser.add_argument("--processes", type=int, default=20, help="kills of processes that are started anew")
    parser.add_argument("--only", choices=STRATEGIES, action="append", help="strategies that are fitted in forked children")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="regraft-torture-") as folder:
        return torture(
            Path(folder).resolve(),
            given.only or list(STRATEGIES),
            forked_kills=given.forked,
            every=given.every,
            processes=given.processes,
            seed=given.seed,
        )


if __name__ == "__main__":
    sys.exit(main())
