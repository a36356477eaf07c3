"""Pairs of processes that work together, or fail to: `python rank_scenes.py FOLDER SCENE ...` plays scenes, all at once.

Each scene is two forks of this process, which has imported torch once for all of them; what torchrun would tell them is in
their environment. For each process FOLDER gets SCENE-RANK.err, what it said, and SCENE-RANK.json, what it found out. At the end
a line of JSON with all exit codes is printed. A process that does not end is told to, as torchrun does, once the other one has
ended.
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from listening import listeners
from PIL import Image

from regraft.backbone.load import load_backbone
from regraft.cache.extract import extract_features
from regraft.cli import main as command
from regraft.errors import DataUnusable, RegraftError
from regraft.launch import launched, tidy
from regraft.parallel import check_common, joined
from regraft.ranks import ALONE, Ranks, here, on_this_machine
from regraft.values import Sample

Found = dict[str, Any]
# Seconds of silence; those in which every scene that waits for a signal has to have ended.
LIMIT, PATIENCE = 2.0, 40.0


def dies(ranks: Ranks, folder: Path) -> Found:
    """Rank 1 is killed while rank 0 waits for it."""
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.wait()
    return {}


def dies_early(ranks: Ranks, folder: Path) -> Found:
    """Rank 1 is killed while rank 0 works by itself."""
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        sum(range(10_000))
    return {}


def raises(ranks: Ranks, folder: Path) -> Found:
    """Rank 1 meets an error that a person can do something about."""
    if ranks.rank == 1:
        raise DataUnusable(expected="sound images", got="a broken one", fix="repair it")
    ranks.wait()
    return {}


def has_a_bug(ranks: Ranks, folder: Path) -> Found:
    """Rank 1 has a bug."""
    if ranks.rank == 1:
        raise ZeroDivisionError("of all things")
    ranks.total(torch.ones(3))
    return {}


def sleeps(ranks: Ranks, folder: Path) -> Found:
    """Rank 1 does nothing any more."""
    if ranks.rank == 1:
        time.sleep(1000)
    ranks.wait()
    return {}


def stops(ranks: Ranks, folder: Path) -> Found:
    """Rank 1 is stopped, and its heartbeat with it."""
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    ranks.wait()
    return {}


def all_raise(ranks: Ranks, folder: Path) -> Found:
    """What rank 0 meets for all, all raise."""

    def fails() -> None:
        assert here() == ALONE
        raise DataUnusable(expected="images", got="nothing", fix="check the path")

    ranks.shared(fails)
    return {}


def waits_long(ranks: Ranks, folder: Path) -> Found:
    """Rank 0 takes longer than anybody may be silent: the other one waits all the same."""
    until = time.monotonic() + 2 * LIMIT

    def works() -> int:
        while time.monotonic() < until:
            sum(range(10_000))
        return 7

    return {"got": ranks.shared(works)}


def agrees(ranks: Ranks, folder: Path) -> Found:
    """Everything that ranks can ask for."""
    check_common(folder / "common")
    own = {count: np.arange(count, dtype=np.float64)[ranks.mine(count)] for count in (0, 1, 2, 5)}
    order: list[int] = []
    found = {
        "rows": [ranks.rows(values).tolist() for values in own.values()],
        "each": ranks.each(f"of {ranks.rank}"),
        "total": ranks.total(torch.full((2,), float(ranks.rank + 1))).tolist(),
        "first": ranks.first_then(lambda: order.append(1) or (folder / f"made-{ranks.rank}").touch() or here().size),
        "made": sorted(path.name for path in folder.glob("made-*")),
        "shared": on_this_machine(),
    }
    listening = listeners(os.getpid())
    ranks.wait()
    return found | {"listening": listening, "there": launched() is not None}


def extracts(ranks: Ranks, folder: Path) -> Found:
    """Shares of images: five, two of which are broken; one alone; and more that are broken than may be, on both together."""
    torch.manual_seed(0)
    backbone = load_backbone("torchvision:resnet18", weights="none", size=32)
    samples, found = pictures(folder), Found()
    for name, chosen in (("five", samples), ("one", samples[:1])):
        got = extract_features(chosen, backbone, (), cache=folder / "cache", device="cpu", with_looks=True)
        assert got.looks is not None
        kept, rejected = got.kept_M.tolist(), [one.name for one in got.rejected]
        counted = {"hits": got.hits, "misses": got.misses}
        found[name] = {"kept": kept, "rejected": rejected, "digests": [one.hex() for one in got.digests], **counted}
        found[name] |= {"features": got.features[:].tolist(), "looks": len(got.looks)}
    try:
        extract_features(samples, backbone, (), cache=folder / "cache", device="cpu", most_rejected=1)
    except RegraftError as error:
        found["refused"] = type(error).__name__
    return found


def pictures(folder: Path) -> list[Sample]:
    """Five images; the third and the fourth, one of each rank, are broken in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(5):
        path = folder / f"{number}.png"
        samples.append(Sample(path=path, name=path.name, labels=("a",), part=None))
    return samples


def paint(folder: Path) -> None:
    """Write the images of `pictures`."""
    for number, sample in enumerate(pictures(folder)):
        noise = np.random.default_rng(number).integers(0, 255, (40, 40, 3))
        Image.fromarray(noise.astype(np.uint8)).save(sample.path)
    for name in ("2.png", "3.png"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])


SCENES: dict[str, Callable[[Ranks, Path], Found]] = {
    scene.__name__: scene
    for scene in (dies, dies_early, raises, has_a_bug, sleeps, stops, all_raise, waits_long, agrees, extracts)
}


def play(scene: str, rank: int, folder: Path) -> None:
    """One process of a scene, to its end."""
    with (folder / f"{scene}-{rank}.err").open("w") as said:
        os.dup2(said.fileno(), 2)
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "localhost"}
    os.environ |= {name: str(value) for name, value in told.items()}
    os.environ |= {"TORCHELASTIC_RUN_ID": f"{folder} {scene} {os.getppid()}", "XDG_STATE_HOME": str(folder)}
    tempfile.tempdir = str(folder)
    os.environ["REGRAFT_PEER_SECONDS"] = str(LIMIT if scene in ("sleeps", "stops", "waits_long") else 60)

    def run(_: list[str]) -> int:
        with joined("cpu", ending=True) as ranks:
            found = SCENES[scene](ranks, folder)
        (folder / f"{scene}-{rank}.json").write_text(json.dumps(found))
        assert here() == ALONE
        return 0

    command._run = run  # a command of its own, with all that is around commands
    code = command.main([])
    launch = launched()
    assert launch is not None
    tidy(launch)
    os._exit(code)


def main() -> None:
    """Play the scenes and print how all processes ended."""
    torch.set_num_threads(1)
    folder, scenes = Path(sys.argv[1]), sys.argv[2:] or list(SCENES)
    paint(folder)
    processes: dict[int, tuple[str, int]] = {}
    for scene in scenes:
        for rank in (0, 1):
            if not (pid := os.fork()):
                play(scene, rank, folder)
            processes[pid] = scene, rank
    codes: dict[str, list[int | None]] = {scene: [None, None] for scene in scenes}
    until = time.monotonic() + PATIENCE
    while processes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            scene, rank = processes.pop(pid)
            codes[scene][rank] = os.waitstatus_to_exitcode(status)
            for other, (same, _) in processes.items():
                if same == scene and scene in ("sleeps", "stops"):
                    os.kill(other, signal.SIGTERM if scene == "sleeps" else signal.SIGKILL)
        elif time.monotonic() > until:
            for other in processes:
                os.kill(other, signal.SIGKILL)
            until += 1000
        else:
            time.sleep(0.01)
    if "extracts" in scenes:  # not before the forks: they would get locks of threads that they do not have
        paint(folder / "alone")
        (folder / "extracts-alone.json").write_text(json.dumps(extracts(ALONE, folder / "alone")))
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
