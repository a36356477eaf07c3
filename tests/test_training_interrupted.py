"""Fits that were interrupted: what goes on, what is refused and in which words, and that the end is the same."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COLOURS, paint, paint_classes
from torch import nn
from training_problems import Notes, Stopped, make_net, sha256, states_in, write_net

import regraft
from regraft.artifact.checkpoint import save_checkpoint
from regraft.artifact.checkpoint_record import Checkpoint
from regraft.cli.main import main
from regraft.errors import Interrupted, OutputExists, RunLocked
from regraft.place import reserved
from regraft.recipe import Own
from regraft.strategies import Auto, Full, Gradual, Head, Partial, Scratch, Training
from regraft.train import checkpoints

NET = "net_that_was_interrupted"
MODEL = "model.safetensors"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a file with a network, and one cache: the engine that is fastest is chosen once."""
    root = tmp_path_factory.mktemp("interrupted")
    paint_classes(root / "photos", dict.fromkeys(COLOURS, 12))
    write_net(root, NET)
    return root


class Stop:
    """Lets so many states be written, and then ends the process as far as anybody inside can tell."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.left, self.error, self.written = after, error, 0
        self.save = save_checkpoint

    def __call__(self, folder: Path, checkpoint: Checkpoint) -> None:
        self.save(folder, checkpoint)
        self.written += 1
        self.left -= 1
        if not self.left:
            raise self.error


def stop_after(monkeypatch: pytest.MonkeyPatch, states: int, error: BaseException | None = None) -> Stop:
    stop = Stop(states, error or Stopped())
    monkeypatch.setattr(checkpoints, "save_checkpoint", stop)
    return stop


def fit(root: Path, out: Path, strategy: Any, **options: Any) -> regraft.Fitted:
    own = Own(module=make_net(), input_shape=(3, 32, 32), name="tiny")
    given = {"backbone": own, "device": "cpu", "cache": root / "cache", **options}
    return regraft.fit(root / "photos", out=out, strategy=strategy, **given)


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def own_head(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, classes), nn.Tanh())


# From a random head, so that there is something to learn, and what is compared is not what all of them began with.
FAST: dict[str, Any] = {"precision": "fp32", "batch_size": 8, "lr": 1e-2, "start": "random"}
STRATEGIES: dict[str, tuple[Any, int]] = {
    "gradual": (Gradual(epochs=1, **FAST), 5),
    "partial": (Partial(stages=1, epochs=2, views=2, **FAST), 3),
    "full": (Full(epochs=2, ema=0.9, mixup=0.2, sizes=(24, 32), **FAST), 3),
    "scratch": (Scratch(epochs=2, **FAST), 3),
    "no refit": (Full(epochs=2, refit="never", **FAST), 3),
    "minutes": (Full(epochs=4, minutes=5.0, **FAST), 5),
    "gradual in time": (Gradual(epochs=5, minutes=2.5, phases=2, **FAST), 6),
    "from the solved head": (Partial(stages=2, epochs=1, precision="fp32", batch_size=8), 2),
    "a head of one's own": (Head(module=own_head, training=Training(epochs=2)), 3),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_stopped_after_any_state_a_fit_ends_as_one_that_was_not(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, least = STRATEGIES[name]
    # Of five epochs of half a minute two fit, which are run again on all images.
    monkeypatch.setattr("regraft.train.budget.epoch_seconds", lambda *_: 30.0)
    stop = stop_after(monkeypatch, -1)
    whole = fit(root, tmp_path / "whole", strategy)
    assert stop.written >= least
    assert not states_in(tmp_path / "whole")
    assert whole.summary is not None
    assert whole.summary.history is not None
    assert whole.summary.history.chosen > 0 or name in ("from the solved head", "a head of one's own")
    # Every second where there are several phases; else the first, one in the middle, and the last.
    every = range(1, stop.written + 1, 2) if name == "gradual" else {1, (stop.written + 1) // 2, stop.written}
    for number in every:
        run = tmp_path / f"stopped {number}"
        stop_after(monkeypatch, number)
        with pytest.raises(Stopped):
            fit(root, run, strategy)
        assert states_in(run)
        assert not (run / MODEL).exists()
        stop_after(monkeypatch, -1)
        notes = Notes()
        again = fit(root, run, strategy, resume=True, progress=notes)
        assert notes.about("going on from")
        assert sha256(run / MODEL) == sha256(tmp_path / "whole" / MODEL), number
        assert not states_in(run)
        assert (run / "predictions.parquet").read_bytes() == (tmp_path / "whole" / "predictions.parquet").read_bytes(), number
        assert metrics(run) == metrics(tmp_path / "whole"), number
        assert whole.summary is not None
        assert again.summary is not None
        assert again.summary.history is not None
        assert whole.summary.history is not None
        assert again.summary.history.chosen == whole.summary.history.chosen
        assert again.summary.history.share == whole.summary.history.share
        assert again.summary.history.accuracy == whole.summary.history.accuracy
    # A finished run is given back, whoever wrote its network or its head.
    notes = Notes()
    found = fit(root, run, strategy, resume=True, progress=notes)
    assert notes.about("finished already")
    path = root / "photos" / "amber" / "003.png"
    assert found.predict([path], device="cpu") == whole.predict([path], device="cpu")


def test_stopped_again_and_again_gradual_ends_the_same(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = Gradual(epochs=1, phases=2, **FAST)
    fit(root, tmp_path / "whole", strategy)
    turns = 0
    while turns < 40:
        stop_after(monkeypatch, 1)
        try:
            fit(root, tmp_path / "run", strategy, resume=True)
            break
        except Stopped:
            turns += 1
            assert states_in(tmp_path / "run")
    assert turns >= 3
    assert sha256(tmp_path / "run" / MODEL) == sha256(tmp_path / "whole" / MODEL)


def test_auto_goes_on_between_its_candidates_and_decides_nothing_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = Auto(minutes=300.0, training=Training(augment="light", precision="fp32", batch_size=8))
    monkeypatch.setattr("regraft.train.auto.MOST_EPOCHS", 3)
    stop = stop_after(monkeypatch, -1)
    whole = fit(root, tmp_path / "whole", strategy)
    assert whole.summary is not None
    tried = [one.strategy for one in whole.summary.compared]
    assert sorted(tried) == ["full", "head", "partial:2"]
    for number in range(1, stop.written + 1, 3):
        run = tmp_path / f"stopped {number}"
        stop_after(monkeypatch, number)
        with pytest.raises(Stopped):
            fit(root, run, strategy)
        stop_after(monkeypatch, -1)
        notes = Notes()
        with monkeypatch.context() as changed:
            # What was decided by the clock holds; what was not yet is decided by it now.
            decided = json.loads(next(iter(sorted((run / ".checkpoints" / "auto").glob("*.json"))[::-1])).read_text())
            if len(decided["facts"]["decided"]) == 2:
                changed.setattr("regraft.train.auto.MOST_EPOCHS", 7)
            again = fit(root, run, strategy, resume=True, progress=notes)
        assert again.summary is not None
        assert sha256(run / MODEL) == sha256(tmp_path / "whole" / MODEL), number
        assert [(one.strategy, one.kept) for one in again.summary.compared] == [
            (one.strategy, one.kept) for one in whole.summary.compared
        ]
        assert [one.nll for one in again.summary.compared] == [one.nll for one in whole.summary.compared]
        assert not states_in(run)


HOW = ["--strategy", "full", "--epochs", "2", "--batch-size", "8", "--lr", "0.01", "--from", "random"]
OPTIONS = ["--backbone", f"module:{NET}:make", "--device", "cpu", *HOW]
Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs `regraft fit` on a copy of the pictures and gives the code and all that was printed."""
    monkeypatch.chdir(root)
    monkeypatch.setenv("REGRAFT_CACHE", str(root / "cache"))

    def run(out: Path, *more: str, photos: Path = Path("photos")) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["fit", str(photos), "--out", str(out), *OPTIONS, *more])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.fixture(scope="module")
def wanted(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the model that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("REGRAFT_CACHE", str(root / "cache"))
        assert main(["fit", "photos", "--out", str(out), *OPTIONS]) == 0
    return sha256(out / MODEL)


@pytest.fixture
def interrupted(root: Path, say: Say, tmp_path: Path) -> Path:
    """A run that was told to end after its third state."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2, Interrupted(signal.SIGTERM))
        code, text = say(out)
    assert code == 143
    assert "--resume goes on" in text
    assert states_in(out)
    assert not (out / "config.json").exists()
    return out


def test_the_same_line_with_resume_goes_on_and_ends_the_same(interrupted: Path, wanted: str, say: Say) -> None:
    code, text = say(interrupted, "--resume")
    assert code == 0
    assert "going on from" in text
    assert "may differ" not in text
    assert sha256(interrupted / MODEL) == wanted
    assert (interrupted / "report.html").exists()
    # Finished: said, and nothing is touched.
    before = {path: path.stat().st_mtime_ns for path in interrupted.rglob("*")}
    code, text = say(interrupted, "--resume")
    assert code == 0
    assert "is finished already" in text
    code, text = say(interrupted, "--resume", "--json")
    assert code == 0
    assert json.loads(text.splitlines()[-1]) == {"run": str(interrupted), "finished": True}
    assert {path: path.stat().st_mtime_ns for path in interrupted.rglob("*")} == before


def test_exact_goes_on_where_nothing_differs(interrupted: Path, wanted: str, say: Say) -> None:
    code, _ = say(interrupted, "--resume", "--exact")
    assert code == 0
    assert sha256(interrupted / MODEL) == wanted


def test_without_a_word_an_interrupted_training_is_not_thrown_away(interrupted: Path, wanted: str, say: Say) -> None:
    before = states_in(interrupted)
    code, text = say(interrupted)
    assert code == 2
    assert "a training that was interrupted" in text
    assert "--resume" in text
    assert "--overwrite" in text
    assert states_in(interrupted) == before
    code, text = say(interrupted, "--overwrite")
    assert code == 0
    assert "going on" not in text
    assert sha256(interrupted / MODEL) == wanted
    assert not states_in(interrupted)


def test_python_is_told_both_ways_too(interrupted: Path, root: Path) -> None:
    with pytest.raises(OutputExists) as caught:
        fit(root, interrupted, Full(epochs=2))
    assert "--resume" in caught.value.fix
    assert "--overwrite" in caught.value.fix


def test_resume_with_nothing_to_go_on_with_begins_and_says_so(wanted: str, say: Say, tmp_path: Path) -> None:
    code, text = say(tmp_path / "run", "--resume")
    assert code == 0
    assert "no checkpoint" in text
    assert "starting from the beginning" in text
    assert sha256(tmp_path / "run" / MODEL) == wanted


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--lr", "0.5"], "--lr was 0.01, now 0.5"),
        (["--epochs", "3"], "--epochs was 2, now 3"),
        (
            ["--optimizer", "sgd", "--batch-size", "9"],
            "--batch-size was 8, now 9; --optimizer was 'adamw', now 'sgd'",
        ),
        (["--augment", "none"], "--augment was 'light', now 'none'"),
        (["--seed", "1"], "seed was 0, now 1"),
        (["--strategy", "partial:1"], "strategy was full, now partial:1"),
        (["--test", "none"], "was"),
    ],
)
def test_other_options_are_refused_by_name(interrupted: Path, say: Say, more: list[str], words: str) -> None:
    before = states_in(interrupted)
    code, text = say(interrupted, "--resume", *more)
    assert code == 2, text
    assert words in " ".join(text.split())
    assert "--overwrite" in text
    assert states_in(interrupted) == before


@pytest.mark.parametrize("wrong", [["--exact"], ["--allow-data-change"], ["--resume", "--overwrite"]])
def test_options_that_belong_together_are_told(wrong: list[str], say: Say, tmp_path: Path) -> None:
    code, text = say(tmp_path / "run", *wrong)
    assert code == 2
    assert "--resume" in text
    assert not (tmp_path / "run").exists()


def edited(photos: Path) -> None:
    paint(photos / "amber" / "003.png", COLOURS["amber"], side=50)


def added(photos: Path) -> None:
    for number in range(100, 105):
        paint(photos / "blue" / f"{number}.png", COLOURS["blue"])


def removed(photos: Path) -> None:
    for number in range(3):
        (photos / "cyan" / f"00{number}.png").unlink()


def labelled_anew(photos: Path) -> None:
    (photos / "cyan" / "005.png").rename(photos / "amber" / "005 c.png")


@pytest.mark.parametrize("change", [edited, added, removed, labelled_anew], ids=lambda change: change.__name__)
def test_other_images_are_refused_unless_they_are_allowed(
    change: Callable[[Path], None], interrupted: Path, root: Path, say: Say, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(root / "photos", photos)
    change(photos)
    before = states_in(interrupted)
    code, text = say(interrupted, "--resume", photos=photos)
    assert code == 3, text
    assert "--allow-data-change" in text
    assert states_in(interrupted) == before
    code, text = say(interrupted, "--resume", "--allow-data-change", "--exact", photos=photos)
    assert code == 8, text
    assert "other images" in text
    code, text = say(interrupted, "--resume", "--allow-data-change", photos=photos)
    # Where the solved head reads other features of these images there is nothing to go on with.
    assert code == (3 if change is labelled_anew else 0), text
    assert ("reads other features" in text) == (code == 3)
    assert "may differ" in text
    assert "other images" in text


def test_another_class_is_another_training(interrupted: Path, root: Path, say: Say, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(root / "photos", photos)
    for number in range(8):
        paint(photos / "green" / f"{number}.png", (20, 200, 30))
    for more in ([], ["--allow-data-change"]):
        code, text = say(interrupted, "--resume", *more, photos=photos)
        assert code == 3, text
        assert "green" in text
        assert "--overwrite" in text


def test_another_number_of_threads_is_told_or_refused(interrupted: Path, say: Say) -> None:
    torch.set_num_threads(2)
    code, text = say(interrupted, "--resume", "--exact")
    assert code == 8, text
    assert "threads was 1, now 2" in " ".join(text.split())
    code, text = say(interrupted, "--resume")
    assert code == 0
    assert "may differ in its last bits" in " ".join(text.split())
    assert "threads was 1, now 2" in " ".join(text.split())


def test_a_second_process_on_one_run_is_refused(interrupted: Path, say: Say) -> None:
    before = states_in(interrupted)
    with reserved(interrupted):
        code, text = say(interrupted, "--resume")
    assert code == 2
    assert "one that is running now" in text
    assert states_in(interrupted) == before


def test_python_is_refused_too(root: Path, tmp_path: Path) -> None:
    with reserved(tmp_path / "run"), pytest.raises(RunLocked):
        fit(root, tmp_path / "run", Full(epochs=1), resume=True)


def test_a_damaged_state_is_passed_over_and_told(interrupted: Path, wanted: str, say: Say) -> None:
    newest = sorted((interrupted / ".checkpoints" / "full").glob("*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-9])
    code, text = say(interrupted, "--resume")
    assert code == 0
    assert "is damaged" in text
    assert sha256(interrupted / MODEL) == wanted


def test_where_all_states_are_damaged_nothing_starts_from_zero_in_silence(interrupted: Path, say: Say) -> None:
    for path in (interrupted / ".checkpoints" / "full").glob("*.safetensors"):
        path.write_bytes(b"")
    code, text = say(interrupted, "--resume")
    assert code == 4
    assert "--overwrite" in text


def test_a_training_that_was_to_replace_a_finished_run_goes_on_too(say: Say, wanted: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert say(out, "--lr", "1e-5")[0] == 0
    old = sha256(out / MODEL)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 2, Interrupted(signal.SIGINT))
        assert say(out, "--overwrite")[0] == 130
    assert sha256(out / MODEL) == old
    # Neither is lost without a word, and going on is no "finished already".
    code, text = say(out)
    assert code == 2
    assert "--resume" in text
    assert "--overwrite" in text
    code, text = say(out, "--resume")
    assert code == 0
    assert "going on from" in text
    assert sha256(out / MODEL) == wanted


@pytest.mark.parametrize("where", ["regraft.pipeline.write_predictions", "regraft.pipeline.write_report"])
def test_a_kill_between_the_model_and_the_report_is_mended(
    where: str, say: Say, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    out = tmp_path / "run"

    def killed(*_: Any, **__: Any) -> None:
        raise Interrupted(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, killed)
        assert say(out)[0] == 143
    code, text = say(out, "--resume")
    assert code == 0, text
    assert sha256(out / MODEL) == wanted
    assert (out / "predictions.parquet").exists()
    assert (out / "report.html").exists()
    assert not states_in(out)
