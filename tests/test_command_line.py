"""The command line: what is printed where, which exit code, and how soon it starts. The library behind it is a stand-in."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from quick import takes_at_most
from rich.console import Console

import regraft
from regraft.cli.lines import PredictionLines
from regraft.cli.main import main
from regraft.cli.watch import BarWatch, LineWatch, duration, progress_line
from regraft.data.names import display_width
from regraft.errors import DataUnusable, OutOfSpace, UsageError
from regraft.place import reserved
from regraft.progress import Progress, Silent
from regraft.recipe import Recipe
from regraft.strategies import Auto, Gradual, Norm, Partial
from regraft.values import (
    ClassScore,
    Evaluation,
    HeadChoice,
    Interval,
    Prediction,
    Predictions,
    Rejected,
    RunSummary,
    ScoreIntervals,
    Scores,
)

CLASSES = ("[bold]cat", "dog\x1b[31m", "=cow")
ROOT = Path(__file__).parent.parent


def scores(n: int, nll: float = 0.3) -> Scores:
    accuracy = Interval(value=0.75, low=0.6, high=0.85, n=n)
    per_class = tuple(
        ClassScore(name=name, precision=0.5, recall=0.5, f1=float("nan"), support=n, predicted=n) for name in CLASSES
    )
    unknown = Interval(value=float("nan"), low=float("nan"), high=float("nan"), n=n)
    intervals = ScoreIntervals(
        macro_f1=unknown,
        nll=Interval(value=nll, low=nll - 0.1, high=nll + 0.1, n=n),
        ece=Interval(value=0.02, low=0.0, high=0.05, n=n),
    )
    confusion = np.arange(9, dtype=np.int64).reshape(3, 3)
    return Scores(
        n=n, accuracy=accuracy, macro_f1=float("nan"), nll=nll, ece=0.02, intervals=intervals, baseline=0.4,
        per_class=per_class, confusion_KK=confusion, classes=CLASSES,
    )  # fmt: skip


def summary(out: Path, command: str, *, test: bool) -> RunSummary:
    head = HeadChoice(tried=(), features="stages", l2=0.01, gradient_norm=1e-6, iterations=9, folds=5, balanced=False)
    bad = Rejected(path=Path("b.jpg"), name="b.jpg", code="truncated", reason="ends early")
    return RunSummary(
        run=out, backbone="efficientnet_lite0", strategy="head", classes=CLASSES, train=80, test=20 if test else 0,
        rejected=(bad,),
        test_scores=scores(20) if test else None, cross_validation=scores(80),
        seconds={"features": 1.0, "head": 2.0, "total": 3.5},
        engine="torch cpu fp32", engines=(), cache_hits=1, cache_misses=99, head=head, tree="photos/", notes=(), split="",
        command=command, report=out / "report.html",
    )  # fmt: skip


class StandIn:
    """Answers by the name of the file, as a model would by its content."""

    classes, notes = CLASSES, ()

    def iter_predict(
        self, paths: Iterable[str], *, top_k: int = 5, device: str = "auto", progress: Progress = Silent()
    ) -> Iterator[Prediction]:
        for path in paths:
            if "bad" in path:
                yield Prediction(path=path, status="failed", reason="ends early")
            else:
                share = len(path) % 10 / 10
                yield Prediction(path=path, status="ok", top=((CLASSES[0], share), (CLASSES[2], 1 - share))[:top_k])

    def predict(self, paths: Iterable[str], **options: Any) -> list[Prediction]:
        return list(self.iter_predict(paths, **options))

    def evaluate(self, data: object, *, device: str = "auto", progress: Progress = Silent()) -> Evaluation:
        predictions = Predictions(names=(), classes=CLASSES, logits_NK=np.zeros((0, 3)), targets=None)
        bad = Rejected(path=Path("b.jpg"), name="b\x1b.jpg", code="truncated", reason="ends early")
        return Evaluation(scores=scores(20), predictions=predictions, rejected=(bad,), notes=("a note",))


class Library:
    """What stands in for the modules that need torch, and what they were asked."""

    def __init__(self) -> None:
        self.recipe: Recipe | None = None
        self.out = Path()
        self.command = ""
        self.resume: Any = None
        self.model: Any = StandIn()
        self.asked: list[str] = []
        self.options: dict[str, object] = {}
        self.failure: BaseException | None = None

    def fit(self, recipe: Recipe, out: Path, *, resume: object = None, command: str = "", progress: Progress = Silent()) -> Any:
        self.recipe, self.out, self.command, self.resume = recipe, out, command, resume
        progress.note("what was found")
        if self.failure:
            raise self.failure
        return SimpleNamespace(summary=summary(out, command, test=recipe.data.test != "none"))

    def open(self, name: str | Path, **options: object) -> Any:
        self.asked.append(str(name))
        self.options = {key: value for key, value in options.items() if value}
        if self.failure:
            raise self.failure
        return self.model


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    lib = Library()
    modules: dict[str, dict[str, Any]] = {
        "regraft.pipeline": {"fit": lib.fit},
        "regraft.saved": {"load_classifier": lambda folder, **options: lib.open(f"run {folder}", **options)},
        "regraft.fitted": {"pretrained": lib.open, "Fitted": StandIn},
        "regraft.cache.stream": {"BATCH": 4},
        "regraft.cache.answer": {"MANY": 1000},
    }
    for name, content in modules.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    monkeypatch.chdir(tmp_path)
    for name in ("photos/cat/1.jpg", "photos/dog/2.jpg", "new/good.jpg", "new/bad.jpg", "runs/old/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    return lib


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], library: Library) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        code = main(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


# -- fit


def test_fit_ends_with_score_time_and_report(run: Run) -> None:
    code, out, err = run("fit", "photos")
    assert code == 0
    accuracy, took, report = out.splitlines()[-3:]
    assert accuracy.split() == [
        "accuracy",
        "75.0",
        "%",
        "(95",
        "%",
        "interval",
        "60.0",
        "to",
        "85.0",
        "%)",
        "on",
        "20",
        "test",
        "images",
    ]
    assert took.startswith("time")
    assert "3.5 s" in took
    assert report.split() == ["report", "runs/photos/report.html"]
    assert "what was found" in err
    assert "what was found" not in out


def test_fit_prints_the_fields_that_scripts_rely_on(run: Run) -> None:
    code, out, _ = run("fit", "photos", "--json")
    fields = json.loads(out)
    assert (code, out.count("\n")) == (0, 1)
    assert fields["images"] == {"train": 80, "test": 20, "rejected": 1}
    assert fields["test"]["accuracy"] == {"value": 0.75, "low": 0.6, "high": 0.85, "n": 20}
    assert fields["test"]["macro_f1"] is None
    assert set(fields["cross_validation"]) == set(fields["test"]) >= {"accuracy", "macro_f1", "nll", "ece", "intervals"}
    assert fields["test"]["intervals"]["ece"] == {"value": 0.02, "low": 0.0, "high": 0.05, "n": 20}
    assert fields["test"]["intervals"]["macro_f1"] == {"value": None, "low": None, "high": None, "n": 20}
    assert fields["seconds"] == {"features": 1.0, "head": 2.0, "total": 3.5}
    assert fields["cache"] == {"hits": 1, "misses": 99}
    assert (fields["run"], fields["report"]) == ("runs/photos", "runs/photos/report.html")
    assert (fields["backbone"], fields["strategy"], fields["engine"]) == ("efficientnet_lite0", "head", "torch cpu fp32")
    assert fields["classes"] == list(CLASSES)
    assert json.loads(run("fit", "photos", "--test", "none", "--json")[1])["test"] is None


def test_fit_makes_the_recipe_that_was_asked_for(run: Run, library: Library) -> None:
    words = [
        "fit",
        "photos",
        "--out",
        "runs/new",
        "--backbone",
        "timm:resnet50",
        "--weights",
        "w.safetensors",
        "--features",
        "last",
        "--balance",
        "auto",
        "--test",
        "other",
        "--test-share",
        ".3",
        "--size",
        "128",
        "--seed",
        "7",
        "--device",
        "cpu",
        "--cache",
        "c",
        "--group",
        "patient",
        "--group-pattern",
        "^(.)_",
        "--path-column",
        "p",
        "--label-column",
        "l",
        "--split-column",
        "s",
        "--skip-bad",
    ]
    assert run(*words)[0] == 0
    recipe = library.recipe
    assert recipe is not None
    data, head = recipe.data, recipe.strategy
    assert (recipe.backbone, recipe.weights, recipe.size, recipe.seed, recipe.device) == (
        "timm:resnet50", "w.safetensors", 128, 7, "cpu",
    )  # fmt: skip
    assert (data.path, data.test, data.test_share, data.skip_bad) == (Path("photos"), Path("other"), 0.3, True)
    assert (data.path_column, data.label_column, data.split_column) == ("p", "l", "s")
    assert (data.group_column, data.group_pattern) == ("patient", "^(.)_")
    assert (head.features, head.balance, recipe.cache, library.out) == ("last", "auto", Path("c"), Path("runs/new"))
    assert library.command == "regraft " + " ".join(words).replace("^(.)_", "'^(.)_'")


def test_fit_makes_the_training_that_was_asked_for(run: Run, library: Library) -> None:
    words = (
        "fit photos --strategy partial:2 --epochs 7 --minutes 1.5 --lr 0.01 --depth-decay 0.5 --optimizer sgd "
        "--schedule step:3 --batch-size 16 --augment strong --balance auto --freeze layer1 --freeze bn1 --tta "
        "--cache-size 2.5GB --from random --tensorboard"
    )
    assert run(*words.split())[0] == 0
    recipe = library.recipe
    assert recipe is not None
    assert recipe.strategy == Partial(
        stages=2,
        epochs=7,
        minutes=1.5,
        lr=0.01,
        depth_decay=0.5,
        optimizer="sgd",
        schedule="step:3",
        batch_size=16,
        augment="strong",
        balance="auto",
        freeze=("layer1", "bn1"),
        start="random",
    )
    assert (recipe.tta, recipe.cache_limit, recipe.go_on_from, recipe.tensorboard) == (True, 2_500_000_000, None, True)
    assert run("fit", "photos", "--strategy", "norm", "--from", "runs/old")[0] == 0
    assert library.recipe is not None
    assert (library.recipe.strategy, library.recipe.go_on_from) == (Norm(), Path("runs/old"))
    assert run("fit", "photos", "--strategy", "gradual:3")[0] == 0
    assert library.recipe.strategy == Gradual(epochs=3)
    assert run("fit", "photos", "--strategy", "auto", "--minutes", "3", "--lr", "0.1")[0] == 0
    assert library.recipe.strategy == Auto(minutes=3.0, training=replace(Auto().training, lr=0.1))


def test_an_interrupted_training_is_gone_on_with_and_a_finished_one_is_left_alone(run: Run, library: Library) -> None:
    assert run("fit", "photos", "--out", "runs/new", "--resume", "--allow-data-change")[0] == 0
    assert (library.out, library.resume.exact, library.resume.allow_data_change) == (Path("runs/new"), False, True)
    assert run("fit", "photos", "--out", "runs/new")[0] == 0
    assert library.resume is None
    state = Path("runs/new/.checkpoints/full/1.json")
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    library.recipe = None
    code, _, err = run("fit", "photos", "--out", "runs/new")
    assert (code, library.recipe) == (2, None)
    assert "--resume" in err
    assert run("fit", "photos", "--out", "runs/new", "--resume", "--exact")[0] == 0
    assert library.resume.exact
    assert run("fit", "photos", "--out", "runs/new", "--overwrite")[0] == 0
    assert library.resume is None
    library.recipe = None
    Path("runs/old/config.json").write_text('{\n "format": "regraft"\n}\n')
    Path("runs/old/report.html").touch()
    code, out, _ = run("fit", "photos", "--out", "runs/old", "--resume")
    assert (code, library.recipe) == (0, None)
    assert "finished already" in out
    Path("runs/old/report.json").write_text('{"summary": {"command": "regraft fit photos --size 64"}}')
    assert "made by `regraft fit photos --size 64`" in run("fit", "photos", "--out", "runs/old", "--resume")[1]
    code, out, _ = run("fit", "photos", "--out", "runs/old", "--resume", "--json")
    assert (code, json.loads(out)) == (0, {"run": "runs/old", "finished": True})


def test_going_on_writes_over_nothing_but_runs(run: Run, library: Library) -> None:
    Path("runs/mine").mkdir()
    Path("runs/mine/README.md").write_text("my notes")
    code, _, err = run("fit", "photos", "--out", "runs/mine", "--resume")
    assert (code, library.recipe) == (2, None)
    assert "something else" in err
    for name in ("config.json", "report.html"):  # not those of regraft
        Path("runs/mine", name).write_text("{}")
    assert (run("fit", "photos", "--out", "runs/mine", "--resume")[0], library.recipe) == (2, None)
    # What a fit leaves that was killed before there was a model, or before its report.
    for name, text in (("begun/metrics.jsonl", ""), ("saved/config.json", '{\n "format": "regraft"\n}\n')):
        path = Path("runs", name)
        path.parent.mkdir()
        path.write_text(text)
        library.recipe = None
        assert run("fit", "photos", "--out", str(path.parent), "--resume")[0] == 0
        assert library.recipe is not None


def test_going_on_finds_the_folder_that_the_interrupted_fit_had_gone_to(run: Run, library: Library) -> None:
    for name in ("photos", "photos-2", "photos-10", "photos-x"):
        Path("runs", name).mkdir()
        Path("runs", name, "config.json").write_text('{\n "format": "regraft"\n}\n')
        Path("runs", name, "report.html").touch()
    code, out, _ = run("fit", "photos", "--resume")
    assert (code, library.recipe) == (0, None)
    assert "runs/photos is finished" in out
    for name in ("photos-2", "photos-10", "photos-x"):
        state = Path("runs", name, ".checkpoints/full/1.json")
        state.parent.mkdir(parents=True)
        state.write_text("{}")
    code, _, err = run("fit", "photos", "--resume")
    assert (code, library.out) == (0, Path("runs/photos-10"))
    assert "runs/photos-10 holds a training that was interrupted" in err
    code, out, _ = run("fit", "photos", "--resume", "--out", "runs/photos")
    assert "runs/photos is finished" in out


def test_a_second_fit_goes_beside_the_first_and_says_so(run: Run, library: Library) -> None:
    Path("runs/photos").mkdir()
    assert (run("fit", "photos")[0], library.out) == (0, Path("runs/photos"))
    Path("runs/photos/config.json").write_text('{\n "format": "regraft"\n}\n')
    code, _, err = run("fit", "photos")
    assert (code, library.out) == (0, Path("runs/photos-2"))
    assert "runs/photos-2" in err
    assert run("fit", "photos", "--overwrite")[0] == 0
    assert library.out == Path("runs/photos")


def test_a_folder_with_something_in_it_is_not_written_to(run: Run, library: Library) -> None:
    Path("runs/mine").mkdir()
    Path("runs/mine/thesis.txt").write_text("all of it")
    for words in (("--out", "runs/mine"), ("--out", "runs/mine", "--overwrite"), ("--out", "new/good.jpg", "--overwrite")):
        code, out, err = run("fit", "photos", *words, "--json")
        assert (code, out, library.recipe) == (2, "", None), words
        assert "fix" in err
    for inside in ("photos", "photos/run"):
        assert run("fit", "photos", "--out", inside, "--overwrite")[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        "fit", "fit photos --sise 3", "fit photos --size 3", "fit photos --size x", "fit photos --features all", "nothing",
        "fit photos --strategy magic", "fit photos --epochs 3", "fit photos --strategy full --epochs 0",
        "fit photos --strategy full --lr nan", "fit photos --strategy full --schedule step:0", "fit photos --exact",
        "fit photos --strategy full --augment mirror", "fit photos --strategy auto --epochs 3", "fit photos --cache-size lots",
        "fit photos --strategy gradual:x", "fit photos --strategy partial:0",
        "fit photos --strategy auto --from random", "fit photos --from random", "fit photos --resume --overwrite",
        "fit photos --allow-data-change", "fit photos --strategy norm --depth-decay 2", "fit photos --tta=no",
        "fit photos --test-share 2", "fit photos --group-pattern (", "predict runs/old",
        "predict runs/old new --json --csv", "predict runs/old new --top-k 0", "predict runs/gone new",
        "evaluate runs/gone photos",
        "predict runs/old new --resume", "predict runs/old new --out rows.txt", "predict runs/old new --out gone/rows.csv",
        "predict runs/old new --out new", "predict runs/old new --out r.csv --resume --overwrite",
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_a_usage_error(run: Run, library: Library, words: str) -> None:
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert err
    assert "Traceback" not in err
    assert library.recipe is None
    assert not library.asked


# -- errors


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (UsageError(expected="e", got="g", fix="f"), 2),
        (DataUnusable(expected="e", got="g\x1b[2J", fix="f"), 3),
        (OutOfSpace(expected="e", got="g", fix="f"), 6),
        (OSError(28, "No space left on device", "x"), 6),
        (MemoryError(), 6),
        (PermissionError(13, "Permission denied", "photos/a\nb"), 2),
        (DataUnusable(expected="e", got="a\nb", fix="f"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_a_message_and_its_code(run: Run, library: Library, failure: BaseException, code: int) -> None:
    library.failure = failure
    got, out, err = run("fit", "photos", "--json")
    assert (got, out) == (code, "")
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert code == 130 or [line.split()[0] for line in err.splitlines()[-3:]] == ["expected", "got", "fix"]


def test_a_bug_is_one_line_and_a_log(run: Run, library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platformdirs.user_log_path", lambda *_, **__: tmp_path / "logs")
    library.failure = ZeroDivisionError("secret cause")
    code, out, err = run("fit", "photos")
    (log,) = (tmp_path / "logs").iterdir()
    assert (code, out) == (1, "")
    assert str(log) in err
    assert "Traceback" not in err
    assert "Traceback" in log.read_text()
    assert "secret cause" in log.read_text()
    code, _, err = run("fit", "photos", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert len([*(tmp_path / "logs").iterdir()]) == 1


def test_debug_after_two_dashes_is_a_file(run: Run) -> None:
    _, out, _ = run("predict", "runs/old", "--json", "--", "--debug")
    assert json.loads(out)["path"] == "--debug"


# -- evaluate


def test_evaluate_prints_its_fields(run: Run, library: Library) -> None:
    code, out, err = run("evaluate", "runs/old", "photos", "--json")
    fields = json.loads(out)
    assert (code, out.count("\n"), library.asked) == (0, 1, ["run runs/old"])
    assert {"n", "accuracy", "macro_f1", "nll", "ece", "per_class", "confusion", "classes", "rejected"} <= set(fields)
    assert (fields["n"], fields["rejected"], fields["macro_f1"]) == (20, 1, None)
    assert fields["confusion"] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [item["class"] for item in fields["per_class"]] == list(CLASSES)
    recall = fields["per_class"][0]["intervals"]["recall"]
    assert (recall["value"], recall["n"]) == (0.5, 20)
    assert recall["low"] < 0.5 < recall["high"]
    assert set(fields["intervals"]) == {"macro_f1", "nll", "ece"}
    assert "a note" in err
    assert "ends early" in err


def test_evaluate_prints_a_table_that_cannot_reach_the_terminal(run: Run) -> None:
    code, out, err = run("evaluate", "runs/old", "photos")
    assert code == 0
    assert "[bold]cat" in out
    assert "undefined" in out
    assert "75.0 % (95 % interval 60.0 to 85.0 %)" in out.splitlines()[-1]
    assert "2.0 % (95 % interval 0.0 to 5.0 %)" in out
    assert "0.300 (95 % interval 0.200 to 0.400)" in out
    assert "\x1b" not in out + err


# -- predict


def test_predict_prints_one_json_line_per_input_in_order(run: Run) -> None:
    code, out, err = run("predict", "runs/old", "new", "gone_bad.jpg", "new/good.jpg", "--json", "--top-k", "1")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 5
    assert [row["path"] for row in rows] == ["new/bad.jpg", "new/good.jpg", "gone_bad.jpg", "new/good.jpg"]
    assert [row["status"] for row in rows] == ["failed", "ok", "failed", "ok"]
    given = {name: rows[0][name] for name in ("path", "status", "reason", "predictions")}
    assert given == {"path": "new/bad.jpg", "status": "failed", "reason": "ends early", "predictions": []}
    assert (rows[1]["abstained"], rows[1]["why"]) == (False, None)
    assert rows[1]["predictions"] == [{"class": "[bold]cat", "probability": 0.2}]
    assert rows[1]["reason"] is None
    assert "2 of 4 failed" in err


def test_predict_prints_csv_and_lines_for_people(run: Run) -> None:
    assert run("predict", "runs/old", "new/good.jpg", "--csv", "--top-k", "2") == (
        0,
        "path,status,reason,class_1,probability_1,class_2,probability_2,abstained,why\n"
        "new/good.jpg,ok,,[bold]cat,0.2,'=cow,0.8,,\n",
        "",
    )
    code, out, _ = run("predict", "runs/old", "new/good.jpg", "a\x1b[2J_bad\n.jpg")
    assert code == 5
    good, bad = out.splitlines()
    assert good.split() == ["new/good.jpg", "20.0", "%", "[bold]cat", "80.0", "%", "=cow"]
    assert bad.endswith("failed: ends early")
    assert "\x1b" not in out


def test_all_bad_and_none_at_all_differ(run: Run, library: Library) -> None:
    assert run("predict", "runs/old", "bad1", "bad2", "--json")[0] == 5
    Path("empty").mkdir()
    code, out, err = run("predict", "runs/old", "empty", "--json")
    assert (code, out) == (3, "")
    assert "empty: no image in this folder" in err
    assert len(library.asked) == 1


def test_predict_asks_a_run_or_a_backbone(run: Run, library: Library) -> None:
    for name in ("runs/old", "efficientnet_lite0", "runs"):
        run("predict", name, "new/good.jpg")
    assert library.asked == ["run runs/old", "efficientnet_lite0", "run runs"]


SPECS = ["hub:owner/nets:make", "hub:./nets:make", "module:nets:make", "timm:resnet50", "torchvision:resnet18"]


@pytest.mark.parametrize("spec", SPECS)
def test_predict_takes_every_kind_of_backbone(run: Run, library: Library, spec: str) -> None:
    code = run("predict", spec, "new/good.jpg", "--trust", "--head-path", "fc", "--weights", "none")[0]
    assert (code, library.asked) == (0, [spec])
    assert library.options == {"weights": "none", "trust": True, "head_path": "fc"}


@pytest.mark.parametrize("command", [("predict", "runs/old", "new/good.jpg"), ("evaluate", "runs/old", "new")])
def test_the_network_of_a_run_is_named_again(run: Run, library: Library, command: tuple[str, ...]) -> None:
    run(*command, "--backbone", "hub:owner/nets:make", "--trust")
    assert library.asked == ["run runs/old"]
    assert library.options == {"backbone": "hub:owner/nets:make", "trust": True}


@pytest.mark.parametrize(
    "words", [("runs/old", "--weights", "none"), ("runs/old", "--head-path", "fc"), ("module:a:b", "--backbone", "module:a:b")]
)
def test_options_that_cannot_be_meant_together(run: Run, library: Library, words: tuple[str, ...]) -> None:
    code, out, err = run("predict", words[0], "new/good.jpg", *words[1:])
    assert (code, out, library.asked) == (2, "", [])
    assert "leave" in err


def test_fit_passes_on_where_the_network_comes_from(run: Run, library: Library) -> None:
    run("fit", "photos", "--backbone", "hub:owner/nets:make", "--trust", "--head-path", "net.fc", "--weights", "V2")
    recipe = library.recipe
    assert recipe is not None
    assert (recipe.backbone, recipe.trust, recipe.head_path, recipe.weights) == ("hub:owner/nets:make", True, "net.fc", "V2")


def test_predict_reads_a_list(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("list").open("wb") as file:
        file.write(b"a.jpg\0b\nad.jpg\0")
    with Path("list").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        code, out, _ = run("predict", "runs/old", "-", "--null", "--json")
    assert [json.loads(line)["path"] for line in out.splitlines()] == ["a.jpg", "b\nad.jpg"]
    assert code == 0


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_predict_writes_a_file_and_goes_on_with_it(run: Run, ending: str) -> None:
    files = [f"{'bad' if n % 10 == 0 else ''}{n}.jpg" for n in range(50)]
    code, out, err = run("predict", "runs/old", *files, "--out", f"rows.{ending}")
    assert (code, out) == (5, "")
    assert "50 rows, 5 of them failed" in err
    whole = Path(f"rows.{ending}").read_bytes()
    assert run("predict", "runs/old", *files, "--out", f"rows.{ending}")[0] == 2
    if ending != "parquet":
        Path(f"rows.{ending}").write_bytes(whole[: len(whole) // 2])
    code, out, err = run("predict", "runs/old", *files, "--out", f"rows.{ending}", "--resume")
    assert (code, out) == (5, "")
    assert "rows are there already" in err
    assert Path(f"rows.{ending}").read_bytes() == whole
    assert run("predict", "runs/old", "x.jpg", "--out", f"rows.{ending}", "--overwrite")[0] == 0
    assert len(Path(f"rows.{ending}").read_bytes()) < len(whole)


def test_predict_does_not_mix_rows_of_two_models(run: Run, library: Library) -> None:
    run("predict", "runs/old", "a.jpg", "b.jpg", "--out", "rows.csv")
    before = Path("rows.csv").read_bytes()

    class Other(StandIn):
        def iter_predict(self, paths: Iterable[str], **_: Any) -> Iterator[Prediction]:
            return (Prediction(path=path, status="ok", top=((CLASSES[1], 0.9), (CLASSES[0], 0.1))) for path in paths)

    library.model = Other()
    code, _, err = run("predict", "runs/old", "a.jpg", "b.jpg", "c.jpg", "--out", "rows.csv", "--resume")
    assert code == 2
    assert "this model made" in err
    assert Path("rows.csv").read_bytes() == before


def test_resuming_leaves_enough_images_for_the_same_engine(run: Run, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["regraft.cache.answer"], "MANY", 40)
    files = [f"{n}.jpg" for n in range(50)]
    run("predict", "runs/old", *files, "--out", "rows.csv")
    whole = Path("rows.csv").read_bytes()
    Path("rows.csv").write_bytes(whole[:-5])
    asked: list[int] = []

    class Counting(StandIn):
        def iter_predict(self, paths: Iterable[str], **options: Any) -> Iterator[Prediction]:
            every = list(paths)
            asked.append(len(every))
            return super().iter_predict(every, **options)

    library.model = Counting()
    assert run("predict", "runs/old", *files, "--out", "rows.csv", "--resume")[0] == 0
    assert asked == [1, 42]  # one to see that it is the same model, then all but 10 rows, in whole batches of 4
    assert Path("rows.csv").read_bytes() == whole


# -- cache


def test_cache_lists_and_clears_nothing_but_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from regraft.cache.store import Table

    Table.open(Path("c"), {"backbone": "lite\x1b0", "height": 224, "width_px": 224, "engine": "fp32"}, 4).append(
        [b"1" * 32, b"2" * 32], np.ones((2, 4), np.float32)
    )
    Path("c/mine.txt").write_text("keep")
    (table,) = json.loads(run("cache", "list", "--cache", "c", "--json")[1])["tables"]
    assert table["rows"] == 2
    assert table["bytes"] > 0
    code, out, _ = run("cache", "list", "--cache", "c")
    assert code == 0
    assert "lite\\x1b0" in out
    monkeypatch.setenv("REGRAFT_CACHE", "c")
    assert json.loads(run("cache", "clear", "--json")[1])["freed"] > 0
    assert "empty" in run("cache", "list")[1]
    assert Path("c/mine.txt").read_text() == "keep"


# -- progress


def test_progress_is_plain_lines_in_a_log_and_bars_on_a_terminal() -> None:
    log, screen = io.StringIO(), io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    for watch in (LineWatch(log, every=0.0), BarWatch(console)):
        with watch.task("features [b]", 40, "image") as task:
            for _ in range(4):
                task.advance(10)
        watch.note("read a\x1b[2Jb\n[bold]tree")
    lines = log.getvalue().splitlines()
    assert lines[1].startswith("features [b]: 20 of 40 images, ")
    assert lines[-2:] == ["read a\\x1b[2Jb", "[bold]tree"]
    assert "40/40" in screen.getvalue()
    assert "[bold]tree" in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()


def test_progress_says_rate_and_time_left() -> None:
    assert progress_line("features", 100, 400, "image", 2.0) == "features: 100 of 400 images, 50 images/s, 6 s left"
    assert progress_line("images", 10, 0, "images", 1.0) == "images: 10 images, 10 images/s"
    assert [duration(s) for s in (59.4, 200, 3900)] == ["59 s", "3 min 20 s", "1 h 5 min"]


# -- the process


def process(code: str, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=60, **options
    )


def of_children() -> float:
    """Processor seconds of the processes that have ended: who else is at work does not matter."""
    times = os.times()
    return times.children_user + times.children_system


def test_help_starts_at_once_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from regraft.cli.main import main; main(sys.argv[1:]); "
        "print([m for m in ('torch','numpy','pyarrow','PIL','sklearn') if m in sys.modules])"
    )
    for words in (["--help"], ["fit", "--help"], ["predict", "--help"], ["--version"]):
        done = process(code, *words)
        assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    command = [sys.executable, "-m", "regraft", "--help"]
    takes_at_most(0.3, lambda: subprocess.run(command, capture_output=True, check=True), clock=of_children)


def test_the_end_of_the_process_loses_nothing() -> None:
    """It leaves without taking the interpreter apart: handlers still run, what was printed arrives, the code is main's."""
    code = (
        "import atexit, sys; sys.argv[1:] = %s; print('first'); atexit.register(lambda: print('last'))\n"
        "from regraft.cli.start import entry; entry()"
    )
    done = process(code % ["--version"])
    assert done.stdout.splitlines() == ["first", f"regraft {regraft.__version__}", "last"]
    assert done.returncode == 0
    assert process(code % ["predict", "no/such/run", "x.jpg"]).returncode == 2


def test_import_brings_names_but_no_torch() -> None:
    code = (
        "import sys, regraft; print([m for m in ('torch', 'numpy') if m in sys.modules]); "
        "regraft.Recipe; regraft.UsageError; print('torch' in sys.modules)"
    )
    assert process(code).stdout.splitlines() == ["[]", "False"]
    assert regraft.__all__ == sorted(regraft.__all__)
    assert set(regraft.__all__) <= set(dir(regraft))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = regraft.no_such_name


def test_version_is_said() -> None:
    done = subprocess.run([sys.executable, "-m", "regraft", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"regraft {regraft.__version__}\n"


# A model that answers for ever, or slowly, in a process of its own.
ENDLESS = """
import sys, time, types
from regraft.values import Prediction
class Model:
    classes, notes = ('cat',), ()
    def iter_predict(self, paths, **_):
        for n in range(10**9):
            time.sleep(float(sys.argv[1]))
            yield Prediction(path=str(n), status='ok', top=(('cat', 1.0),))
sys.modules['regraft.fitted'] = types.SimpleNamespace(pretrained=lambda *a, **k: Model())
from regraft.cli.main import main
from regraft.cli.watch import BarWatch, LineWatch, duration, progress_line
sys.exit(main(['predict', 'lite', 'x.jpg', '--json']))
"""


def test_a_closed_pipe_is_a_quiet_end() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert json.loads(child.stdout.readline())["path"] == "0"
        child.stdout.close()
        assert child.wait(timeout=20) == 0
        assert child.stderr.read() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_with_their_codes(number: signal.Signals, code: int) -> None:
    # A shell that starts something in the background has it ignore Ctrl-C, and so do the children of that.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + ENDLESS
    with subprocess.Popen([sys.executable, "-c", heard, "0.01"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.send_signal(number)
        rows = child.stdout.read()
        assert child.wait(timeout=20) == code
        assert b"Traceback" not in child.stderr.read()
        assert rows == b"" or rows.endswith(b"\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no such device")
def test_a_full_disk_behind_standard_output_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", ENDLESS, "0"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=20
        )
    assert done.returncode == 6
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_letters_that_the_terminal_lacks_are_escaped() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    code = "from regraft.cli.main import main; main(['cache', 'list', '--cache', 'ü']); main(['predict', 'ü/x', 'y'])"
    done = process(code, env=environment)
    assert done.stdout == "\\xfc: empty\n"
    assert "\\xfc/x" in done.stderr
    assert "bug" not in done.stderr


def test_the_page_of_the_commands_is_current() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs/make_cli.py"), "--check"], check=False)
    assert done.returncode == 0, "run: python docs/make_cli.py"


def test_a_list_of_files_in_an_error_is_one_line_each(run: Run, library: Library) -> None:
    library.failure = DataUnusable(expected="e", got="2 unreadable:\n       a.png: empty\n       b.png: empty", fix="f")
    _, _, err = run("fit", "photos")
    assert err.splitlines()[-5:] == [
        "expected e",
        "     got 2 unreadable:",
        "       a.png: empty",
        "       b.png: empty",
        "     fix f",
    ]


def test_fit_names_the_images_that_were_set_aside(run: Run) -> None:
    assert "set aside: b.jpg: ends early" in run("fit", "photos")[2]


@pytest.mark.skipif(sys.platform == "win32", reason="closes streams by a shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_a_stream_closed_from_the_start_is_no_bug(closed: str) -> None:
    command = f'"{sys.executable}" -m regraft cache list --cache nowhere {closed}'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_narrow_terminal_loses_no_name_and_no_digit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = run("evaluate", "runs/old", "photos")[1]
    assert "class" in out
    assert "[bold]cat" in out
    assert "50.0 %" in out


def test_cache_refuses_a_file(run: Run) -> None:
    assert run("cache", "list", "--cache", "photos/cat/1.jpg")[0] == 2


def test_predicted_lines_are_in_columns(run: Run, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("list").open("wb") as file:
        file.write("a.jpg\n\u732b\u732b.jpg\nlonger_name.jpg\n".encode())
    long = "chimpanzee, chimp, Pan troglodytes, and more"
    monkeypatch.setattr(library.model, "classes", (long, *CLASSES[1:]))
    with Path("list").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        lines = run("predict", "runs/old", "-", "--top-k", "1")[1].splitlines()
    assert len({display_width(line[: line.index("%")]) for line in lines}) == 1
    assert PredictionLines((long,), 1, 1).encode(Prediction(path="a", status="ok", top=((long, 1.0),))).decode() == (
        "a  100.0 % chimpanzee, chimp, Pan troglody…\n"
    )


def test_another_model_is_noticed_by_what_is_least_certain(run: Run, library: Library) -> None:
    """Models agree on the easy images: asking one of those again tells nothing."""

    class Sure(StandIn):
        other = 0.6

        def iter_predict(self, paths: Iterable[str], **_: Any) -> Iterator[Prediction]:
            shares = ((path, 1.0 if "easy" in path else self.other) for path in paths)
            return (Prediction(path=path, status="ok", top=((CLASSES[0], share),)) for path, share in shares)

    library.model = Sure()
    run("predict", "runs/old", "easy.jpg", "hard.jpg", "--out", "rows.csv")
    library.model.other = 0.9
    assert run("predict", "runs/old", "easy.jpg", "hard.jpg", "--out", "rows.csv", "--resume")[0] == 2


def test_several_labels_say_what_accuracy_means(run: Run, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = library.model.evaluate("photos")
    many = replace(answer, scores=replace(answer.scores, confusion_KK=None))
    monkeypatch.setattr(library.model, "evaluate", lambda *_, **__: many)
    out = run("evaluate", "runs/old", "photos")[1]
    assert "every label right" in out
    assert "commonest set of labels" in out


def test_a_place_that_cannot_be_written_to_is_said_before_the_work(
    run: Run, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regraft.place.os.access", lambda _, mode: not mode & os.W_OK)
    code, _, err = run("fit", "photos", "--out", "elsewhere/run")
    assert code == 6
    assert "--out" in err
    assert library.recipe is None


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_a_second_fit_into_the_same_folder_is_refused_while_the_first_runs(run: Run, library: Library) -> None:
    with reserved(Path("runs/photos")):
        code, _, err = run("fit", "photos")
    assert (code, library.recipe) == (2, None)
    assert "one that is running now" in err
    assert run("fit", "photos")[0] == 0
