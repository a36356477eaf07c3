"""The whole job where every pixel has an answer: it learns, repeats itself, goes on where it stopped, and refuses plainly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from image_files import tree_hash
from mask_scenes import paint_scenes, scene
from training_problems import Stopped, states_in

import regraft
from regraft import pixel_prepare
from regraft.artifact.checkpoint import save_checkpoint
from regraft.cli.main import main
from regraft.errors import UsageError
from regraft.fitted_pixels import FittedPixels
from regraft.recipe import Data
from regraft.segments import PixelSummary
from regraft.strategies import Auto, Decoding, Head
from regraft.train import checkpoints

DECODING = Decoding(epochs=2, views=1, augment="flip", precision="fp32")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """One thread, and a probe of few pixels, which is solved soon."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regraft.train.pixel_probe.MOST_OF_EACH", 24)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and one cache for all fits."""
    root = tmp_path_factory.mktemp("masks")
    for part, count, first in (("train", 15, 0), ("test", 4, 50)):
        paint_scenes(root / "plain" / part, count, "saliency", first=first)
    paint_scenes(root / "classes", 12, "semantic", ignored=True)
    return root


def fit(root: Path, out: Path, data: Data | None = None, **options: Any) -> FittedPixels:
    given = {"decoder": "linear", "size": 64, "device": "cpu", "cache": root / "cache", **options}
    fitted = regraft.fit(data or Data(path=root / "plain", task="saliency"), out=out, **given)
    assert isinstance(fitted, FittedPixels)
    return fitted


def told(fitted: FittedPixels) -> PixelSummary:
    assert fitted.summary is not None
    return fitted.summary


@pytest.fixture(scope="module")
def probe(root: Path, tmp_path_factory: pytest.TempPathFactory) -> FittedPixels:
    return fit(root, tmp_path_factory.mktemp("probe") / "run")


@pytest.fixture(scope="module")
def decoded(root: Path, tmp_path_factory: pytest.TempPathFactory) -> FittedPixels:
    return fit(root, tmp_path_factory.mktemp("decoded") / "run", decoder="small", strategy=DECODING)


def test_shapes_that_colour_tells_apart_are_found(root: Path, probe: FittedPixels) -> None:
    scores = told(probe).test_scores
    assert scores is not None
    assert scores.iou.value > 0.7
    assert scores.iou.value > scores.baseline + 0.3
    assert told(probe).history is None


def test_two_fits_give_the_same_bytes_and_the_second_decodes_nothing(root: Path, decoded: FittedPixels, tmp_path: Path) -> None:
    before = tree_hash(root / "plain")
    again = fit(root, tmp_path / "again", decoder="small", strategy=DECODING)
    assert decoded.folder is not None
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (decoded.folder / name).read_bytes(), name
    assert told(again).cache_misses == 0
    assert tree_hash(root / "plain") == before


def test_a_training_begins_at_the_solved_probe_and_learns_from_mirrored_masks(decoded: FittedPixels) -> None:
    history, scores = told(decoded).history, told(decoded).test_scores
    assert history is not None
    assert scores is not None
    assert history.start_accuracy == pytest.approx(history.solved.value, abs=1e-3)
    assert len(history.epochs) == 2
    # A mask that is not moved with its image would teach to undo what the probe has right.
    assert history.epochs[-1].accuracy > history.start_accuracy - 0.05
    assert scores.iou.value > 0.7


def test_evaluate_says_what_the_fit_said(root: Path, decoded: FittedPixels) -> None:
    found = decoded.evaluate(Data(path=root / "plain", task="saliency"), device="cpu").scores
    assert found == told(decoded).test_scores


def test_a_separate_test_has_masks_of_its_own(root: Path, tmp_path: Path) -> None:
    part = root / "plain"
    data = Data(
        path=part / "train" / "images",
        masks=part / "train" / "masks",
        test=part / "test" / "images",
        test_masks=part / "test" / "masks",
        task="saliency",
    )
    fitted = fit(root, tmp_path / "run", data)
    summary = told(fitted)
    assert (summary.train, summary.test) == (15, 4)
    assert summary.test_scores is not None
    assert summary.test_scores.iou.value > 0.7
    alone = Data(path=part / "test" / "images", masks=part / "test" / "masks", task="saliency")
    assert fitted.evaluate(alone, device="cpu").scores == summary.test_scores


def test_pixels_without_an_answer_count_nowhere(root: Path, tmp_path: Path) -> None:
    fitted = fit(root, tmp_path / "run", Data(path=root / "classes", task="semantic"))
    scores = told(fitted).test_scores
    assert scores is not None
    assert len(fitted.classes) == 3, "255 is no class"
    assert scores.iou.value > 0.7
    found = fitted.evaluate(Data(path=root / "classes", task="semantic"), device="cpu").counts
    for name, true in zip(found.names, found.true_NK, strict=True):
        assert true.sum() == scene(int(Path(name).stem))[1][6:].size


def test_stopped_after_any_state_it_ends_as_one_that_was_not(
    root: Path, decoded: FittedPixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def stop(folder: Path, checkpoint: Any) -> None:
        save_checkpoint(folder, checkpoint)
        written.append(1)
        raise Stopped

    monkeypatch.setattr(checkpoints, "save_checkpoint", stop)
    with pytest.raises(Stopped):
        fit(root, tmp_path / "run", decoder="small", strategy=DECODING)
    assert written
    assert states_in(tmp_path / "run")
    monkeypatch.undo()
    fit(root, tmp_path / "run", decoder="small", strategy=DECODING, resume=True)
    assert decoded.folder is not None
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (decoded.folder / "model.safetensors").read_bytes()
    assert not states_in(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start_from": "runs/other", "size": None}, "--from"),
        ({"tta": True}, "--tta"),
        ({"max_error": 0.1}, "--max-error"),
        ({"strategy": Auto()}, "auto"),
        ({"strategy": Head(module=torch.nn.Linear)}, "a head of your own"),
    ],
)
def test_what_is_made_for_classes_of_images_is_refused(root: Path, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit(root, tmp_path / "run", **options)


def test_a_decoder_is_for_pixels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="classification"):
        regraft.fit(tmp_path, strategy=Decoding())


@pytest.mark.parametrize("words", ["compare RUN RUN", "extend RUN DATA", "suggest RUN DATA", "predict RUN DATA --explain OUT"])
def test_commands_for_classes_of_images_say_so(
    words: str, root: Path, probe: FittedPixels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RUN": str(probe.folder), "DATA": str(root / "plain" / "test" / "images"), "OUT": str(tmp_path / "out")}
    code = main([places.get(word, word) for word in words.split()])
    said = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in said
    assert "pixel" in said or "mask" in said


def test_balance_weighs_rare_classes_in_the_loss_of_a_decoder_too(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, ...] | None] = []
    real = pixel_prepare.parse_loss

    def parse(text: str, weights: tuple[float, ...] | None = None) -> object:
        asked.append(weights)
        return real(text, weights)

    monkeypatch.setattr(pixel_prepare, "parse_loss", parse)
    fit(root, tmp_path / "plain")
    fit(root, tmp_path / "balanced", strategy=Head(balance="auto"))
    plain, balanced = asked
    assert plain is None
    assert balanced is not None
    assert balanced[1] > 1 > balanced[0]
