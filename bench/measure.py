"""Fresh processes, their time and memory, and what many runs say together."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

Ours = TypeVar("Ours")
Peer = TypeVar("Peer")
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("regraft", "torch", "torchvision", "timm", "openvino", "scikit-learn", "numpy", "pillow")
# The instructions that decide which precision is fastest.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")


class BenchmarkFailed(Exception):
    """A measured process failed or did not print its line; the message has its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One finished process: wall seconds, peak resident bytes of it and its children, its last JSON line (or empty)."""

    seconds: float
    peak_bytes: int
    line: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What runs of the same thing gave; `centre` is their median, or their mean where a figure asks for it."""

    centre: float
    low: float
    high: float
    runs: int


def run_process(command: Sequence[str], *, sample_memory: bool = False) -> Process:
    """Run `command` from the root of the project and wait for it.

    `sample_memory` also adds up the children's memory, twice a second; without it the peak is the process's own, exact.
    Raises BenchmarkFailed.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT)
        try:
            tree = TreeMemory(process.pid) if sample_memory else None
            _, status, usage = os.wait4(process.pid, 0)
            seconds, process.returncode = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.kill()
        unit = 1 if sys.platform == "darwin" else 1024
        peak = max(usage.ru_maxrss * unit, tree.stop() if tree else 0)
        if process.returncode != 0:
            raise BenchmarkFailed(f"`{shown(command)}` ended with exit code {process.returncode}:\n{text(err)[-2000:]}")
        return Process(seconds=seconds, peak_bytes=peak, line=last_line(text(out)))


class TreeMemory:
    """Adds up the resident memory of a process, and what its children have of their own, while they run.

    A child that was just forked shows all of its parent's memory as its own; pages are counted once.
    """

    def __init__(self, pid: int) -> None:
        self.peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(pid,), daemon=True)
        self._thread.start()

    def _watch(self, pid: int) -> None:
        while not self._done.wait(0.5):
            try:
                process = psutil.Process(pid)
                children = sum(one.memory_full_info().uss for one in process.children(recursive=True))
                self.peak = max(self.peak, process.memory_info().rss + children)
            except psutil.Error:
                continue

    def stop(self) -> int:
        """The peak in bytes."""
        self._done.set()
        self._thread.join()
        return self.peak


def text(file: Any) -> str:
    """All that was written to an open file."""
    file.seek(0)
    return str(file.read())


def last_line(output: str) -> dict[str, Any]:
    """The last line of `output` as a JSON object; empty when it is none."""
    lines = output.strip().splitlines()
    if not lines or not lines[-1].startswith("{"):
        return {}
    found = json.loads(lines[-1])
    return found if isinstance(found, dict) else {}


def shown(command: Sequence[str]) -> str:
    """A command as a person would type it in the project's folder, without this machine's paths."""
    words = ["python" if word == sys.executable else word.replace(f"{ROOT}{os.sep}", "") for word in command]
    return " ".join(words)


def spread(values: Sequence[float], *, mean: bool = False) -> Spread:
    """Median (or mean) and range of at least one value."""
    centre = statistics.fmean(values) if mean else statistics.median(values)
    return Spread(centre=centre, low=min(values), high=max(values), runs=len(values))


def alternate(ours: Callable[[int], Ours], peer: Callable[[int], Peer], pairs: int) -> list[tuple[Ours, Peer]]:
    """Us, peer, us, peer ...: what slows the machine for a while slows both. Each gets the number of its pair."""
    return [(ours(index), peer(index)) for index in range(pairs)]


def warm(folder: Path) -> int:
    """Read every file once, so that no run pays for a cold disk; returns the bytes."""
    return sum(len(path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def machine() -> dict[str, Any]:
    """What a reader needs to place a figure: processor, memory, versions. Nothing that names the machine."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "architecture": platform.machine(),
        "flags": [flag for flag in FLAGS if flag in processor_flags()],
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def processor_flags() -> set[str]:
    """The instruction sets Linux reports; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    line = next((line for line in info.read_text().splitlines() if line.lower().startswith(("flags", "features"))), ":")
    return set(line.split(":", 1)[1].split())


def version(name: str) -> str:
    """The installed version of a package, or "none"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"
