"""One lock serves saves and fits: one process at a time, and none for longer than it lives."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from regraft.artifact.durable import locked
from regraft.errors import RunLocked
from regraft.place import reserved

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
Lock = Callable[[Path], AbstractContextManager[None]]


@pytest.mark.parametrize(("lock", "who"), [(locked, "process saving to"), (reserved, "fit into")])
def test_a_lock_is_held_once_and_let_go(lock: Lock, who: str, tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(RunLocked, match=f"no other {who} {tmp_path}"), lock(tmp_path):
        pytest.fail("both hold it")
    with pytest.raises(ZeroDivisionError), lock(tmp_path):
        raise ZeroDivisionError
    with lock(tmp_path):
        pass


@pytest.mark.parametrize("lock", [locked, reserved])
def test_a_lock_ends_with_its_process(lock: Lock, tmp_path: Path) -> None:
    module, name = lock.__module__, lock.__name__
    code = (
        f"import os, sys\nfrom pathlib import Path\nfrom {module} import {name}\n"
        f"with {name}(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunLocked), lock(tmp_path):
            pytest.fail("both hold it")
        other.kill()
    with lock(tmp_path):
        pass


def test_a_fit_that_saves_does_not_lock_itself_out(tmp_path: Path) -> None:
    with reserved(tmp_path), locked(tmp_path):
        pass


def test_a_fit_goes_without_a_lock_where_none_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    ran = []
    with reserved(tmp_path / "run"):
        ran.append(True)
    with pytest.raises(FileNotFoundError, match="from inside"), reserved(tmp_path / "run"):
        raise FileNotFoundError("from inside")
    assert ran
    assert not os.listdir(tmp_path)  # noqa: PTH208


def test_a_folder_that_is_not_there_cannot_be_saved_to(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "missing"):
        pytest.fail("there is nothing to lock")
