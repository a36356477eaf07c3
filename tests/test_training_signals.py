"""Real processes: told to end they keep their state and leave in time, killed they lose little, and the end is the same."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import COLOURS, paint_classes
from training_problems import sha256, states_in, write_net

from regraft.cli.main import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
NET = "net_that_gets_signals"
MODEL = "model.safetensors"
HOW = ["--strategy", "partial:1", "--epochs", "30", "--batch-size", "8", "--lr", "0.01", "--from", "random"]
COMMAND = ["--backbone", f"module:{NET}:make", "--device", "cpu", *HOW]
TORTURE = Path(__file__).parent / "torture" / "kill_training.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("signals")
    paint_classes(root / "photos", dict.fromkeys(COLOURS, 12))
    write_net(root, NET)
    return root


@pytest.fixture
def _in_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(root)
    monkeypatch.setenv("REGRAFT_CACHE", str(root / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def wanted(root: Path) -> str:
    """The digest of the model of a fit that nobody disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("REGRAFT_CACHE", str(root / "cache"))
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        assert main(["fit", "photos", "--out", "whole", *COMMAND]) == 0
        torch.set_num_threads(before)
    return sha256(root / "whole" / MODEL)


def start(out: Path, *, nap: float) -> subprocess.Popen[str]:
    """The command as people run it; each pass through the last stage takes `nap` seconds longer."""
    command = [Path(sys.executable).with_name("regraft"), "fit", "photos", "--out", out, *COMMAND]
    environment = {**os.environ, "REGRAFT_TEST_NAP": str(nap)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_states(process: subprocess.Popen[str], out: Path, count: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        newest = [int(Path(name).stem) for name in states_in(out)]
        if newest and max(newest) >= count - 1:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    pytest.fail("no state was written")


CASES = {
    "term": ([signal.SIGTERM], 143, 0.1),
    "interrupt": ([signal.SIGINT], 130, 0.1),
    "term twice": ([signal.SIGTERM, signal.SIGTERM], 143, 1.0),
    "kill": ([signal.SIGKILL], -signal.SIGKILL, 0.1),
}


@pytest.mark.usefixtures("_in_root")
@pytest.mark.parametrize("case", CASES)
def test_a_process_that_gets_a_signal_goes_on_later_and_ends_the_same(case: str, wanted: str, tmp_path: Path) -> None:
    signals, code, nap = CASES[case]
    out = tmp_path / "run"
    process = start(out, nap=nap)
    try:
        # Of a training with long steps the first state, which is there before any of them.
        wait_for_states(process, out, 1 if case == "term twice" else 3)
        before = states_in(out)
        began = time.monotonic()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.2)
        _, said = process.communicate(timeout=60)
        seconds = time.monotonic() - began
    finally:
        process.kill()
    assert process.returncode == code, said
    assert seconds < 40
    assert not (out / "config.json").exists()
    after = states_in(out)
    assert after
    if case in ("term", "interrupt"):
        assert "the same command with --resume goes on" in said
        # What was done since the state before is kept, too, unless it was being written just then.
        assert max(after) >= max(before)
    assert main(["fit", "photos", "--out", str(out), *COMMAND, "--resume"]) == 0
    assert sha256(out / MODEL) == wanted
    assert not states_in(out)


def test_fits_that_are_killed_until_they_get_through_end_the_same() -> None:
    """A little of `make torture`."""
    command = [sys.executable, TORTURE, "--only", "partial:1", "--forked", "4", "--every", "60", "--processes", "0"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    counts = [tuple(map(int, found)) for found in re.findall(r"(\d+) kills, (\d+) fits got through, (\d+) ", result.stdout)]
    assert len(counts) == 2, result.stdout
    assert counts[0][0] >= 4
    assert counts[1][0] >= 3
    assert all(ends >= 1 and wrong == 0 for _, ends, wrong in counts)
