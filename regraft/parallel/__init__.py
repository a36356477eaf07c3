"""Several processes become one group, work, and part; and whoever fails, all of them end, knowing who it was.

    with joined() as ranks:
        ...

`python -m regraft fit` does so by itself where torchrun has started it more than once. On one machine the processes meet in a
private folder and talk over the loopback interface: nothing of theirs listens beyond it.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import torch
import torch.distributed

# torch.distributed has them, too, and says nothing of their types.
from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore

from regraft.errors import NotWritable, RegraftError, UsageError
from regraft.launch import Launch, finished, launched
from regraft.parallel.board import Board, FolderBoard, Leaving, Process, StoreBoard, announce, failure_among, process_of
from regraft.parallel.group import Group, Signals, peer_failed
from regraft.ranks import Ranks, here

# Seconds for all processes to arrive.
_TO_ARRIVE = 120.0
_GROUPS: list[Group] = []


@contextmanager
def joined(device: str = "auto", *, note: Callable[[str], None] = lambda _: None, ending: bool = False) -> Iterator[Ranks]:
    """This process's place among those that torchrun has started; inside, `regraft.ranks.here()` is the same.

    On GPUs each process of a machine has its own. `note` hears what a person should know. `ending`: the process has nothing
    else to do, and does not listen to signals once an error is on its way.

    Raises PeerFailed, exit code 9, in place of whatever follows from the failure of another process; that process's own error
    is raised there. A process whose main thread waits where no exception reaches it says so on standard error and leaves with
    that code. UsageError where torchrun has not started this process, or there are too few GPUs.
    """
    group = _met(device, note)
    _GROUPS.append(group)
    try:
        group.begin()
        yield here()
        part()
    except BaseException as error:
        signals = Signals()
        group.ended.set()
        told = group.judged(error, signals)
        _leave(group, told)
        if not ending:
            signals.restore()
        if told is error:
            raise
        raise told from error
    else:
        group.ended.set()
        _leave(group, None)
        if group.launch.rank == 0:
            finished(group.launch)
    finally:
        _GROUPS.remove(group)


def part() -> None:
    """Wait for everybody, then dissolve the group: from here on each process is alone, and may end when it likes."""
    ranks = here()
    if ranks.alone:
        return
    ranks.wait()
    for group in _GROUPS:
        group.heartbeat.stop()
        group.parted = True
    torch.distributed.destroy_process_group()


def check_common(folder: Path) -> None:
    """Raise UsageError on every rank where one of them does not see what rank 0 writes to a folder."""
    ranks = here()
    if ranks.alone:
        return

    def write() -> Path:
        token = folder / f".regraft-{uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            token.touch()
        except OSError as error:
            fix = "choose a folder that may be written with --cache"
            raise NotWritable(expected=f"to keep features under {folder}", got=str(error), fix=fix) from error
        return token

    token = ranks.shared(write)
    missing = [rank for rank, there in enumerate(ranks.each(token.exists())) if not there]
    if ranks.first:
        token.unlink(missing_ok=True)
    if missing:
        error = UsageError(
            expected="a cache that all processes share",
            got=f"{folder}, of which rank {', '.join(map(str, missing))} does not see what rank 0 writes to it",
            fix="name a folder on storage that all machines share with --cache",
        )
        error.of_all = True
        raise error


def _met(device: str, note: Callable[[str], None]) -> Group:
    """This process among the others, once all are there."""
    launch = launched()
    if launch is None or launch.size == 1:
        raise UsageError(
            expected="several processes that torchrun has started",
            got="one process by itself",
            fix="torchrun --standalone --nproc-per-node 2 -m regraft fit DATA",
        )
    backend = _backend(device, launch)
    if launch.one_machine:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ[name] = _loopback()
        store: Store = FileStore(str(launch.folder() / "store"), launch.size)
        board: Board = FolderBoard(launch.folder())
    else:
        # Two connections: one would keep the heartbeat waiting while the other one waits.
        store, board = _agents_store(launch), StoreBoard(_agents_store(launch))
        if launch.rank == 0:
            note("several machines: what the processes send each other is neither encrypted nor authenticated;")
            note("keep it on a network that nobody else is on")
    announce(board, launch.rank)
    return Group(launch, board, store, _arrived(board, launch), backend)


def _agents_store(launch: Launch) -> Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and launch.rank == 0
    store = TCPStore(
        address, port, launch.size, hosts, timedelta(seconds=_TO_ARRIVE), wait_for_workers=False, multi_tenant=True
    )
    return PrefixStore(f"regraft/{launch.attempt}", store)


def _arrived(board: Board, launch: Launch) -> dict[int, Process]:
    """Where the other ranks run, once all are there. Asked for again and again: what waits in torch hears no signal."""
    until = time.monotonic() + _TO_ARRIVE
    found: dict[int, Process] = {}
    while True:
        for rank in set(range(launch.size)) - {launch.rank, *found}:
            if (process := process_of(board, rank)) is not None:
                found[rank] = process
        if len(found) == launch.size - 1:
            return found
        if (lost := failure_among(board, found)) is not None:
            raise peer_failed(lost)
        if time.monotonic() > until:
            missing = min(set(range(launch.size)) - {launch.rank, *found})
            raise peer_failed(Leaving(missing, 9, f"it has not come within {_TO_ARRIVE:.0f} s", missing))
        time.sleep(0.02)


def _backend(device: str, launch: Launch) -> str:
    """What the processes talk through; on GPUs each takes its own."""
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return "gloo"
    if launch.local_rank >= torch.cuda.device_count():
        raise UsageError(
            expected="a GPU for each process of a machine",
            got=f"{launch.local_size} processes and {torch.cuda.device_count()} GPU(s)",
            fix="torchrun --nproc-per-node gpu starts one for each; or use --device cpu",
        )
    torch.cuda.set_device(launch.local_rank)
    # What stands in main memory goes one way, what stands on GPUs the other.
    return "cpu:gloo,cuda:nccl"


def _loopback() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), "lo")


def _leave(group: Group, error: BaseException | None) -> None:
    """The last word, and no more heartbeats. The connections are left to the system: closing them would wait for the others."""
    group.heartbeat.stop()
    with suppress(Exception):
        group.say_leaving(error)
        if isinstance(error, RegraftError) and error.of_all:
            group.wait_for_words()
        group.tidy_for_the_dead()
