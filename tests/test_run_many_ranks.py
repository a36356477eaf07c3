"""Several processes on one fit: the result is that of one, whoever fails is named, and nothing listens where others hear it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from conftest import paint_classes
from training_problems import write_net

from regraft.cache.stream import decoding_threads
from regraft.cli.main import main
from regraft.cli.together import placed
from regraft.launch import asked_for, launched, tidy
from regraft.parallel.board import FolderBoard, Leaving, Process, take_leave
from regraft.parallel.heartbeat import Heartbeat
from regraft.ranks import processors

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, forks")
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
LOOPBACK = "0100007F"


class Played:
    """What pairs of processes did, said and found out."""

    def __init__(self, folder: Path, codes: dict[str, list[int]]) -> None:
        self.folder, self.codes = folder, codes

    def said(self, scene: str) -> list[str]:
        """What the processes of a scene said, that of rank 0 first."""
        return [(self.folder / f"{scene}-{rank}.err").read_text() for rank in (0, 1)]

    def found(self, scene: str) -> list[dict[str, Any]]:
        """What they found out."""
        return [json.loads((self.folder / f"{scene}-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("scenes")
    command = [sys.executable, str(HERE / "rank_scenes.py"), str(folder)]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return Played(folder, json.loads(result.stdout.splitlines()[-1]))


TROUBLE = {
    "dies": (-9, "rank 1: its process .* was killed"),
    "dies_early": (-9, "rank 1: its process .* was killed"),
    "raises": (3, "rank 1: it expected sound images, got a broken one"),
    "has_a_bug": (1, "rank 1: ZeroDivisionError: of all things"),
    "sleeps": (9, "rank 1: it has done nothing for 2 s"),
    "stops": (-9, "rank 1: it has done nothing for 2 s"),
}


@pytest.mark.parametrize("scene", TROUBLE)
def test_all_processes_end_with_one_and_name_it(scene: str, played: Played) -> None:
    code, words = TROUBLE[scene]
    assert played.codes[scene] == [9, code]
    said = "".join(played.said(scene))
    assert said.count("expected every process of this fit to work to the end") == 1
    assert re.search(f"got {words}", said), said
    assert "Traceback" not in said


def test_what_all_meet_is_said_once(played: Played) -> None:
    assert played.codes["all_raise"] == [3, 3]
    assert "".join(played.said("all_raise")) == "expected images\n     got nothing\n     fix check the path\n"


def test_one_may_work_for_long_while_the_others_wait(played: Played) -> None:
    assert played.codes["waits_long"] == [0, 0], played.said("waits_long")
    assert played.found("waits_long") == [{"got": 7}] * 2


def test_processes_know_the_same(played: Played) -> None:
    assert played.codes["agrees"] == [0, 0], played.said("agrees")
    first, second = played.found("agrees")
    assert {**first, "made": None} == {**second, "made": None}
    assert first["rows"] == [[], [0.0], [0.0, 1.0], [0.0, 1.0, 2.0, 3.0, 4.0]]
    assert first["each"] == ["of 0", "of 1"]
    assert first["total"] == [3.0, 3.0]
    assert first["first"] == 1, "inside of it a process is alone"
    assert "made-0" in second["made"]


def test_nothing_listens_beyond_the_machine(played: Played) -> None:
    listening = [address for found in played.found("agrees") for address in found["listening"]]
    assert listening, "they talk over something"
    assert set(listening) == {LOOPBACK}


def test_shares_of_images_come_together_as_those_of_one_process(played: Played) -> None:
    assert played.codes["extracts"] == [0, 0], played.said("extracts")
    alone = json.loads((played.folder / "extracts-alone.json").read_text())
    assert alone["five"]["rejected"] == ["2.png", "3.png"]
    assert alone["refused"] == "TooManyUnreadable"
    for found in played.found("extracts"):
        for name in ("five", "one"):
            np.testing.assert_allclose(found[name].pop("features"), alone[name]["features"], rtol=1e-5, atol=1e-6)
        assert found == {
            key: {one: value for one, value in part.items() if one != "features"} if isinstance(part, dict) else part
            for key, part in alone.items()
        }


def test_no_folders_of_theirs_stay_behind(played: Played) -> None:
    kept = list(played.folder.glob("regraft-ranks-*/*/here-1"))
    # One that is stopped, and killed when the other one has left, takes nothing away.
    assert len(kept) <= 1, kept


NET = "net_of_ranks"
COMMAND = ["fit", "photos", "--backbone", f"module:{NET}:make", "--device", "cpu", "--size", "32"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the same 37 pictures: `one` of one process, `two` of two that torchrun has started."""
    root = tmp_path_factory.mktemp("ranks")
    paint_classes(root / "photos", {"amber": 13, "blue": 12, "cyan": 12})
    (root / "photos" / "blue" / "broken.png").write_bytes((root / "photos" / "blue" / "000.png").read_bytes()[:800])
    write_net(root, NET)
    own = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([ENVIRONMENT["PYTHONPATH"], str(root)])}
    own |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "REGRAFT_CACHE": str(root / "cache-of-two")}
    command = [*TORCHRUN, "--nproc-per-node", "2", "-m", "regraft", *COMMAND, "--out", "two"]
    result = subprocess.run(command, env=own, cwd=root, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stderr
    (root / "said").write_text(result.stdout + result.stderr)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("REGRAFT_CACHE", str(root / "cache-of-one"))
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        assert main([*COMMAND, "--out", "one"]) == 0
        torch.set_num_threads(before)
    return root


def test_two_processes_fit_the_head_of_one(root: Path) -> None:
    one, two = (safetensors.numpy.load_file(root / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=0, atol=1e-6, err_msg=name)


def test_two_processes_answer_and_score_as_one(root: Path) -> None:
    one, two = (pq.read_table(root / name / "predictions.parquet") for name in ("one", "two"))
    exact = ["path", "part", "label", "predicted", "correct"]
    assert one.select(exact).equals(two.select(exact))
    np.testing.assert_allclose(one["confidence"], two["confidence"], atol=1e-6)
    first, second = (json.loads((root / name / "report.json").read_text())["summary"] for name in ("one", "two"))
    for name in ("train", "test", "rejected", "cache_hits", "cache_misses", "split", "tree", "engine"):
        assert first[name] == second[name], name
    for name in ("test_scores", "cross_validation"):
        assert figures(second[name]) == pytest.approx(figures(first[name]), abs=1e-6)
    assert len(first["rejected"]) == 1


def figures(value: Any, name: str = "") -> dict[str, float]:
    """The numbers in a report, by where they stand."""
    parts = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    found = {f"{name}.{key}": part for key, part in parts if isinstance(part, int | float)}
    return found | {where: part for key, inner in parts for where, part in figures(inner, f"{name}.{key}").items()}


def test_only_the_first_process_talks(root: Path) -> None:
    said = (root / "said").read_text()
    assert said.count("cross-validated ") == 1
    assert said.count("images held out") == 1 or said.count("images of 37") == 1


def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **told: object) -> None:
    """The environment that torchrun makes."""
    usual = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "TORCHELASTIC_RUN_ID": tmp_path}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, value in {**usual, **told}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["predict", "run", "photos"], "`regraft predict` in 2 processes"),
        (["fit", "photos", "--task", "semantic"], "--task semantic"),
        (["fit", "photos", "--task", "saliency"], "--task saliency"),
    ],
)
def test_what_several_processes_cannot_work_on_is_refused(
    words: list[str], got: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, tmp_path)
    assert main(words) == 2
    assert got in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back afterwards
    assert main(words) == 2
    assert capsys.readouterr() == ("", ""), "said once"


def test_a_group_that_is_started_again_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taken = tmp_path / "runs" / "photos"
    taken.mkdir(parents=True)
    (taken / "config.json").touch()
    pretend(monkeypatch, tmp_path, TORCHELASTIC_MAX_RESTARTS=2, TORCHELASTIC_RESTART_COUNT=0)
    place, resume = placed(Path("photos"), None, overwrite=False, resume=False)
    assert (place.folder, resume) == (Path("runs/photos-2"), False)
    place.folder.mkdir()
    (place.folder / "metrics.jsonl").touch()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    again, resume = placed(Path("photos"), None, overwrite=True, resume=False)
    assert (again.folder, again.finished, resume) == (place.folder, False, True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    assert placed(Path("photos"), None, overwrite=False, resume=False)[0].folder == Path("runs/photos-3")


def test_processors_are_shared_among_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = decoding_threads()
    pretend(monkeypatch, tmp_path, WORLD_SIZE=4, LOCAL_WORLD_SIZE=2)
    assert alone == processors()
    assert decoding_threads() == max(1, alone // 2)
    assert asked_for() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert decoding_threads() == 1


def test_the_folder_between_processes_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path)
    launch = launched()
    assert launch is not None
    assert launch.folder().parent.stat().st_mode & 0o777 == 0o700
    assert launch.first_to_say("hello")
    assert not launch.first_to_say("hello")
    launch.root.chmod(0o755)
    with pytest.raises(Exception, match="a folder of this user's own"):
        launch.folder()
    shutil.rmtree(launch.root)
    launch.root.symlink_to(tmp_path)
    with pytest.raises(Exception, match="a folder of this user's own"):
        launch.folder()
    launch.root.unlink()


def test_the_last_process_takes_the_folder_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = []
    for rank in (0, 1):
        pretend(monkeypatch, tmp_path, RANK=rank, LOCAL_RANK=rank)
        launch = launched()
        assert launch is not None
        launches.append(launch)
    assert launches[0].folder() == launches[1].folder()
    tidy(launches[0])
    assert launches[0].root.exists()
    tidy(launches[1])
    assert not launches[0].root.exists()


def beating(board: FolderBoard, word: str, *, every: float = 0.02, limit: float = 0.2) -> tuple[Heartbeat, list[Leaving]]:
    """The heartbeat of rank 0 beside a rank 1 on another machine, that has said `word`."""
    lost: list[Leaving] = []
    board.write("beat-1", word)
    return Heartbeat(board, 0, {1: Process("elsewhere", 1)}, limit=limit, lost=lost.append, every=every), lost


def test_a_heartbeat_tells_who_is_silent_who_left_and_that_all_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = FolderBoard(tmp_path)
    heartbeat, _ = beating(board, "3 working")
    rounds = 0
    while (found := heartbeat._round()) is None:
        rounds += 1
    assert 9 <= rounds <= 11
    assert found.rank == 1
    heartbeat, _ = beating(board, "3 working")
    for count in range(30):
        board.write("beat-1", f"{count} working")
        assert heartbeat._round() is None
    monkeypatch.setattr("regraft.parallel.heartbeat._Pulse.word", lambda *_: "5 waiting")
    found = None
    for count in range(30):
        board.write("beat-1", f"{count} waiting")
        found = found or heartbeat._round()
    assert found is not None
    assert "every process has waited for the others" in found.words
    heartbeat, lost = beating(board, "3 working", limit=100)
    take_leave(board, Leaving(1, 6, "no space left", 1))
    heartbeat.start()
    heartbeat._thread.join(timeout=10)
    assert [one.words for one in lost] == ["no space left"]
