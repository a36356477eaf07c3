"""fit, evaluate and predict where every pixel has an answer: options, printing and files. The model is a stand-in."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.cli.main import main
from regraft.errors import UsageError
from regraft.kind import kind_of_run
from regraft.progress import Progress, Silent
from regraft.recipe import Data, Recipe
from regraft.segments import Kind, PixelAnswer, PixelClassScore, PixelCounts, PixelEvaluation, PixelScores
from regraft.values import Interval, Rejected

NAN = float("nan")


def interval(value: float, n: int = 12) -> Interval:
    return Interval(value=value, low=value - 0.05, high=value + 0.05, n=n)


def scores(kind: Kind, classes: tuple[str, ...]) -> PixelScores:
    per_class = tuple(
        PixelClassScore(
            name=name, iou=interval(0.7), dice=0.8, precision=0.85, recall=NAN, boundary_f=0.6, pixels=900, images=7
        )
        for name in classes
    )
    single = kind == "saliency"
    return PixelScores(
        n=12, kind=kind, iou=interval(0.71), dice=interval(0.82), pixel_accuracy=interval(0.93), boundary_f=interval(0.64),
        pooled_iou=interval(0.75), baseline=0.31, per_class=per_class, classes=classes,
        mae=interval(0.06) if single else None, f_measure=interval(0.87) if single else None,
        threshold=0.45 if single else None,
    )  # fmt: skip


class StandIn:
    """Calls the pixels of an object those that are brighter than 128; reads the images as a model would."""

    notes = ("a note",)

    def __init__(self, kind: Kind = "saliency") -> None:
        self.kind = kind
        self.classes = ("background", "object") if kind == "saliency" else ("background", "[bold]cat", "dog\x1b[31m")
        self.asked: list[str] = []
        self.options: list[dict[str, Any]] = []
        self.above = 128
        self.data: Data | None = None

    def iter_predict(
        self,
        paths: Iterable[str],
        *,
        whole: bool = False,
        probabilities: bool = False,
        device: str = "auto",
        progress: Progress = Silent(),
    ) -> Iterator[PixelAnswer]:
        self.options.append({"whole": whole, "probabilities": probabilities, "device": device})
        for path in paths:
            self.asked.append(Path(path).name)
            yield self._answer(path, probabilities)

    def _answer(self, path: str, probabilities: bool) -> PixelAnswer:
        if "bad" in path or not Path(path).is_file():
            return PixelAnswer(path=path, status="failed", reason="ends early")
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
        labels = (grey > self.above).astype(np.uint8) * (len(self.classes) - 1)
        shares = tuple((name, float((labels == index).mean())) for index, name in enumerate(self.classes))
        channels = 1 if self.kind == "saliency" else len(self.classes)
        values = np.repeat(grey[np.newaxis] / 255, channels, axis=0).astype(np.float16) if probabilities else None
        return PixelAnswer(path=path, status="ok", labels_HW=labels, probabilities_CHW=values, shares=shares)

    def predict(self, paths: Iterable[str], **options: Any) -> list[PixelAnswer]:
        return list(self.iter_predict(paths, **options))

    def evaluate(self, data: Data, *, device: str = "auto", progress: Progress = Silent()) -> PixelEvaluation:
        self.data = data
        none = np.zeros((0, len(self.classes)), np.int64)
        counts = PixelCounts(
            names=(), classes=self.classes, kind=self.kind, true_NK=none, predicted_NK=none, both_NK=none, true_edge_NK=none,
            true_edge_found_NK=none, predicted_edge_NK=none, predicted_edge_right_NK=none,
        )  # fmt: skip
        bad = Rejected(path=Path("b.jpg"), name="b\x1b.jpg", code="truncated", reason="ends early")
        return PixelEvaluation(scores=scores(self.kind, self.classes), counts=counts, rejected=(bad,), notes=("a note",))


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model() -> StandIn:
    return StandIn()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], model: StandIn) -> Run:
    def load(folder: str, **_: object) -> StandIn:
        assert Path(folder).name == model.kind
        return model

    monkeypatch.setitem(sys.modules, "regraft.saved", SimpleNamespace(load=load, load_classifier=load))
    monkeypatch.chdir(tmp_path)
    for kind in ("saliency", "semantic", "classification"):
        (tmp_path / "runs" / kind).mkdir(parents=True)
        (tmp_path / "runs" / kind / "config.json").write_text(json.dumps({"task": kind}))
    for number, name in enumerate(("a/one.png", "a/two.png", "b/one.png", "b/bad.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((20, 30, 3), np.uint8)
        pixels[: 5 * (number + 1)] = 200
        Image.fromarray(pixels).save(path)

    def call(*words: str) -> tuple[int, str, str]:
        code = main(words)
        printed = capsysbinary.readouterr()
        return code, printed.out.decode(), printed.err.decode()

    return call


def pixels_of(path: str | Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


# -- what a run is


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"task": "saliency"}', "saliency"),
        ('{"task": "semantic"}', "semantic"),
        ('{"task": "classification"}', "classification"),
        ('{"classes": []}', "classification"),
        ('{"task": ["saliency"]}', "classification"),
        ("[]", "classification"),
        ("{", "classification"),
        ("[" * 100_000, "classification"),
        (None, "classification"),
    ],
)
def test_the_kind_of_a_run_is_read_from_its_config(tmp_path: Path, text: str | None, kind: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert kind_of_run(tmp_path) == kind


# -- predict


def test_predict_writes_masks_where_the_images_lie(run: Run, model: StandIn) -> None:
    code, out, err = run("predict", "runs/saliency", "photos", "--out", "masks_out")
    assert code == 5
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [f"photos/{name}.png" for name in ("a/one", "a/two", "b/bad", "b/one")]
    assert lines[0].split() == ["photos/a/one.png", "75.0", "%", "background", "25.0", "%", "object"]
    assert "failed: ends early" in lines[2]
    assert "3 masks, 1 images failed" in err
    assert "1 of 4 failed" in err
    mask = pixels_of("masks_out/a/two.png")
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[:10] == 255).all()
    assert (mask[10:] == 0).all()
    assert pixels_of("masks_out/overlays/b/one.png").shape == (20, 30, 3)
    assert not Path("masks_out/b/bad.png").exists()
    assert not Path("masks_out/probabilities").exists()


def test_predict_prints_a_json_line_for_each_image(run: Run, model: StandIn) -> None:
    words = ("predict", "runs/saliency", "photos/b", "--out", "out", "--json", "--no-overlays", "--probabilities", "--whole")
    code, out, _ = run(*words)
    assert code == 5
    failed, ok = [json.loads(line) for line in out.splitlines()]
    assert failed == {
        "path": "photos/b/bad.png", "status": "failed", "reason": "ends early", "mask": None, "overlay": None,
        "probabilities": None, "shares": [],
    }  # fmt: skip
    assert ok["mask"] == "out/one.png"
    assert ok["overlay"] is None
    assert ok["shares"] == [{"class": "background", "share": 0.25}, {"class": "object", "share": 0.75}]
    assert model.options == [{"whole": True, "probabilities": True, "device": "auto"}]
    assert not Path("out/overlays").exists()
    probability = pixels_of(ok["probabilities"])
    assert probability.dtype == np.uint16
    np.testing.assert_allclose(probability[0, 0] / 65535, 200 / 255, atol=1e-3)


@pytest.mark.parametrize("model", [StandIn("semantic")])
def test_predict_keeps_the_indices_of_classes(run: Run, model: StandIn) -> None:
    code, out, _ = run("predict", "runs/semantic", "photos/a", "--out", "out", "--csv", "--probabilities")
    assert code == 0
    header, *rows = csv.reader(io.StringIO(out))
    assert header[6:] == ["share background", "share [bold]cat", "share dog\x1b[31m"]
    assert rows[0][:6] == ["photos/a/one.png", "ok", "", "out/one.png", "out/overlays/one.png", "out/probabilities/one.npz"]
    assert [float(value) for value in rows[0][6:]] == [0.75, 0.0, 0.25]
    with Image.open("out/one.png") as mask:
        assert mask.mode == "P"
        assert set(np.unique(np.asarray(mask))) == {0, 2}
    assert Path("out/classes.csv").read_text().splitlines()[1] == "0,background,#000000"
    _, out, _ = run("predict", "runs/semantic", "photos/a", "--out", "lines", "--top-k", "1")
    assert out.splitlines()[0].split()[1:] == ["75.0", "%", "background"]


@pytest.mark.parametrize("model", [StandIn("semantic")])
def test_names_of_classes_cannot_reach_the_terminal(run: Run, model: StandIn) -> None:
    _, out, _ = run("predict", "runs/semantic", "photos/a", "--out", "out")
    assert "\x1b" not in out
    assert "dog\\x1b[31m" in out


def test_images_of_the_same_name_have_masks_of_their_own(run: Run) -> None:
    code, out, _ = run("predict", "runs/saliency", "photos/a/one.png", "photos/b/one.png", "--out", "out", "--json")
    assert code == 0
    first, second = (json.loads(line)["mask"] for line in out.splitlines())
    assert first == "out/one.png"
    assert second != first
    assert (pixels_of(first) == 255).mean() == 0.25
    assert (pixels_of(second) == 255).mean() == 0.75


def test_predict_goes_on_where_it_was_cut_short(run: Run, model: StandIn) -> None:
    words = ("predict", "runs/saliency", "photos", "--out", "out", "--json")
    _, first, _ = run(*words)
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    Path("out/a/two.png").unlink()
    model.asked.clear()
    code, second, _ = run(*words, "--resume")
    assert code == 5
    assert second == first
    # One is asked again to see whether it is the same model; then what is missing and what failed.
    assert model.asked == ["one.png", "two.png", "bad.png"]
    changed = {str(path) for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"out/a/two.png", "out/overlays/a/two.png"}


def test_masks_of_another_model_are_not_mixed_in(run: Run, model: StandIn) -> None:
    run("predict", "runs/saliency", "photos", "--out", "out")
    model.above = 250
    code, _, err = run("predict", "runs/saliency", "photos", "--out", "out", "--resume")
    assert code == 2
    assert "25 % of its pixels are otherwise now" in err
    code, _, _ = run("predict", "runs/saliency", "photos", "--out", "out", "--overwrite")
    assert code == 5
    assert pixels_of("out/a/one.png").max() == 0


def test_a_folder_with_something_in_it_is_not_written_to(run: Run) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    words = ("predict", "runs/saliency", "photos", "--out", "out")
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "--out" in err
    assert run(*words, "--overwrite")[0] == 5
    assert Path("out/mine.txt").read_text() == "mine"


def test_no_image_is_written_over(run: Run) -> None:
    before = {path: path.read_bytes() for path in Path("photos").rglob("*.png")}
    for folder in ("photos", "photos/a", "."):
        code, out, err = run("predict", "runs/saliency", "photos/a", "--out", folder, "--overwrite")
        assert (code, out) == (2, "")
        assert "outside of" in err
    assert before == {path: path.read_bytes() for path in Path("photos").rglob("*.png")}


def test_masks_of_an_earlier_run_are_no_images(run: Run, model: StandIn) -> None:
    assert run("predict", "runs/saliency", "photos", "--out", "photos/masks")[0] == 5
    code, out, err = run("predict", "runs/saliency", "photos", "--out", "photos/masks", "--overwrite")
    assert code == 5
    assert len(out.splitlines()) == 4
    assert "6 images in photos/masks were left out" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("saliency", "photos"), "--out masks_out/"),
        (("saliency", "photos", "--out", "rows.csv"), "--csv > rows.csv"),
        (("saliency", "photos", "--out", "o", "--json", "--csv"), "--json or --csv"),
        (("saliency", "photos", "--out", "o", "--resume", "--overwrite"), "leave one out"),
        (("saliency", "photos", "--out", "o", "--explain", "e"), "--explain"),
        (("saliency", "photos", "--out", "o", "--weights", "none"), "--weights"),
        (("classification", "photos", "--overlays"), "leave --overlays out"),
        (("classification", "photos", "--probabilities"), "leave --probabilities out"),
        (("classification", "photos", "--whole"), "leave --whole out"),
    ],
)
def test_options_that_cannot_be_meant(run: Run, words: tuple[str, ...], said: str) -> None:
    code, out, err = run("predict", f"runs/{words[0]}", *words[1:])
    assert (code, out) == (2, "")
    assert said in err
    assert not Path("o").exists()


# -- evaluate


def test_evaluate_prints_its_fields(run: Run, model: StandIn) -> None:
    code, out, err = run("evaluate", "runs/saliency", "test/photos", "--masks", "test/masks", "--json")
    assert code == 0
    fields = json.loads(out)
    assert fields["n"] == 12
    assert fields["iou"] == pytest.approx({"value": 0.71, "low": 0.66, "high": 0.76, "n": 12})
    assert {key: fields[key]["value"] for key in ("dice", "pixel_accuracy", "mae", "f_measure", "boundary_f")} == {
        "dice": 0.82, "pixel_accuracy": 0.93, "mae": 0.06, "f_measure": 0.87, "boundary_f": 0.64,
    }  # fmt: skip
    assert [one["class"] for one in fields["per_class"]] == ["background", "object"]
    assert fields["per_class"][1]["recall"] is None
    assert fields["rejected_images"] == [{"path": "b.jpg", "code": "truncated", "reason": "ends early"}]
    assert "a note" in err
    assert "b\\x1b.jpg" in err
    assert model.data is not None
    assert (model.data.task, model.data.masks) == ("saliency", Path("test/masks"))


@pytest.mark.parametrize("model", [StandIn("semantic")])
def test_evaluate_prints_a_table_that_ends_with_the_score(run: Run, model: StandIn) -> None:
    code, out, _ = run("evaluate", "runs/semantic", "test/photos", "--masks", "test/masks")
    assert code == 0
    lines = out.splitlines()
    assert "\x1b" not in out
    assert any(line.startswith("[bold]cat") and "70.0 %" in line and "undefined" in line for line in lines)
    assert lines[-1] == "mean IoU        71.0 % (95 % interval 66.0 to 76.0 %) on 12 images"
    assert "threshold" not in out
    assert json.loads(run("evaluate", "runs/semantic", "t", "--masks", "m", "--json")[1])["mae"] is None


def test_masks_are_for_runs_that_answer_for_pixels(run: Run) -> None:
    code, out, err = run("evaluate", "runs/classification", "photos", "--masks", "masks")
    assert (code, out) == (2, "")
    assert "leave --masks out" in err


# -- fit


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that were fitted; the fit itself ends with a usage error, so that nothing has to be printed."""
    seen: list[Recipe] = []

    def fit(recipe: Recipe, out: Path, **_: object) -> None:
        seen.append(recipe)
        raise UsageError(expected="a stand-in", got="a fit", fix="none")

    monkeypatch.setitem(sys.modules, "regraft.pixel_pipeline", SimpleNamespace(fit=fit))
    monkeypatch.setitem(sys.modules, "regraft.train.checkpoints", SimpleNamespace(Resume=SimpleNamespace))
    return seen


def test_fit_makes_the_recipe_that_was_asked_for(run: Run, fitted: list[Recipe]) -> None:
    words = "--task semantic --masks m --classes c.txt --decoder fpn --loss ce+2*lovasz --ignore 7 --test t --test-masks tm"
    run("fit", "photos", *words.split())
    recipe = fitted[0]
    data = recipe.data
    assert (data.task, data.masks, data.class_list, data.ignore) == ("semantic", Path("m"), Path("c.txt"), 7)
    assert (data.test, data.test_masks) == (Path("t"), Path("tm"))
    assert (recipe.decoder, recipe.loss) == ("fpn", "ce+2*lovasz")
    run("fit", "photos", "--task", "saliency")
    assert (fitted[1].decoder, fitted[1].loss, fitted[1].data.masks) == ("auto", "ce+dice", None)


def test_a_decoder_is_for_pixels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="saliency"):
        regraft.fit(tmp_path, strategy=regraft.Decoding())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--masks m", "--task"),
        ("--decoder unet", "leave --decoder out"),
        ("--loss dice", "leave --loss out"),
        ("--task saliency --decoder unnet", "did you mean unet?"),
        ("--task saliency --loss bce+dice", "ce, dice, lovasz, focal"),
        ("--task saliency --loss ce+ce", "each loss once"),
        ("--task saliency --loss 0*ce", "0*ce"),
        ("--task saliency --loss ce+", "'ce+'"),
    ],
)
def test_a_fit_that_cannot_be_meant_is_refused(run: Run, fitted: list[Recipe], words: str, said: str) -> None:
    code, out, err = run("fit", "photos", *words.split())
    assert (code, out) == (2, "")
    assert said in err
    assert not fitted
