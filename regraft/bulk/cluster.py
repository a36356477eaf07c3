"""Ray: started on this machine for as long as it is needed, or joined where it runs already."""

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from regraft.errors import UsageError, first_line
from regraft.needs import check_installed
from regraft.recipe import Device

LOCAL = "local"
# Bytes for blocks under way on this machine: paths go out and rows of numbers come back.
_STORE = 512 * 2**20
# No figures of use are sent; and a line about every lost worker, which Ray prints on standard output, is none of our rows.
_ALWAYS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
# The first makes Ray listen on the loopback interface alone, in spite of its name; the second keeps it from writing on
# standard error what concerns those who work on Ray. What says the first to a Ray that is imported already is _ALSO.
# The third: a busy machine may need more than Ray's minute to start a process.
_FOR_LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_register_timeout_seconds": "600",
}
# Unless one of these is set, Ray keeps a token for all its clusters in the user's home, readable by others.
_TOKENS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_ALSO = "ENABLE_RAY_CLUSTER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How many workers there are, and what each has: processors, a share of an accelerator, a device."""

    workers: int
    cpus: int
    gpus: float
    device: str


def check_ray(address: str, workers: int | None = None) -> None:
    """Raise UsageError where Ray is not installed, or for a number of workers that cannot be."""
    check_installed("ray", "pandas", "fsspec", extra="ray", why=f"--ray {address}")
    if not address:
        raise UsageError(expected="--ray as local or an address", got="nothing", fix="--ray local, or --ray HOST:PORT")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise UsageError(expected="--workers of 1 or more", got=repr(workers), fix="leave it out: one for each processor")


@contextmanager
def ray_at(address: str, *, workers: int | None = None, device: Device = "auto") -> Iterator[Pool]:
    """Ray, and the pool of workers that it can have; where this process has joined a cluster before, that one.

    "local" starts Ray on this machine, on its loopback interface, and ends it at the end. An address ("auto", HOST:PORT,
    ray://HOST:PORT) joins a cluster and leaves it. `workers` is one for each accelerator or processor by default.

    Raises UsageError where Ray is not installed or cannot be reached.
    """
    check_ray(address, workers)
    # Before the first import, when they are read.
    for name, value in (_ALWAYS | _FOR_LOCAL if address == LOCAL else _ALWAYS).items():
        os.environ.setdefault(name, value)
    if address == LOCAL and not any(name in os.environ for name in _TOKENS):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # of this process and its children alone
    import ray

    joined_before = ray.is_initialized()
    if not joined_before:
        _start(ray, address, workers, device)
    try:
        yield _pool(ray, workers, device)
    finally:
        if not joined_before:
            ray.shutdown()


def _start(ray: Any, address: str, workers: int | None, device: Device) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    with _signals_kept(), _loopback_only(address == LOCAL), _stderr_closed():
        if address == LOCAL:
            from regraft.cache.stream import decoding_threads

            cpus = decoding_threads()
            ray.init(
                address=LOCAL,
                num_cpus=max(cpus, workers or 0),
                num_gpus=_gpus_here(device),
                include_dashboard=False,
                object_store_memory=_STORE,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
            return
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, AssertionError) as error:
            raise UsageError(
                expected=f"a Ray cluster at {address}",
                got=first_line(error),
                fix="check the address (ray status); --ray local needs no cluster",
            ) from error


def _gpus_here(device: Device) -> int:
    import torch

    return torch.cuda.device_count() if device in ("auto", "cuda") else 0


def _pool(ray: Any, workers: int | None, device: Device) -> Pool:
    """Raises UsageError where a device is asked for that the cluster does not have."""
    has = ray.cluster_resources()
    cpus, gpus = max(1, int(has.get("CPU", 1))), int(has.get("GPU", 0))
    # A worker that wants more processors than any machine has would be waited for without end.
    most = max([1, *(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])])
    if device == "cuda" and not gpus:
        raise UsageError(expected="accelerators for --device cuda", got="none among Ray's", fix="leave --device out")
    if gpus and device in ("auto", "cuda"):
        count = workers or gpus
        return Pool(workers=count, cpus=min(most, max(1, cpus // count)), gpus=min(1.0, gpus / count), device="cuda")
    count = workers or cpus
    own = "cpu" if device == "auto" else device
    return Pool(workers=count, cpus=min(most, max(1, cpus // count)), gpus=0.0, device=own)


@contextmanager
def _loopback_only(wanted: bool) -> Iterator[None]:
    """Ray replaces 127.0.0.1 by an address that other machines can reach, unless it takes itself for one without clusters."""
    from ray._private import ray_constants

    before = getattr(ray_constants, _ALSO)
    setattr(ray_constants, _ALSO, before and not wanted)
    try:
        yield
    finally:
        setattr(ray_constants, _ALSO, before)


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Ray's core says on standard error that it was told to be quiet. What goes wrong comes as an exception all the same."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts; what it means to this process is decided elsewhere."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
