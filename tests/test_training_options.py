"""Transforms of one's own, answers from both sides, and fits that begin with what another one trained."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COLOURS, paint_classes
from torch import Tensor, nn
from torchvision.transforms import v2
from training_problems import make_net, sha256, write_net

import regraft
from regraft.backbone.attach import BothSides
from regraft.backbone.features import FromPixels
from regraft.backbone.weights import digest
from regraft.cli.main import main
from regraft.data.decode import load_pixels
from regraft.errors import UsageError
from regraft.evaluate.table import read_predictions
from regraft.recipe import Own
from regraft.strategies import Full, Head, Partial

RESNET = "timm:test_resnet"
NET = "net_with_a_transform"
FAST: dict[str, Any] = {"precision": "fp32", "batch_size": 8, "lr": 1e-2, "start": "random"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("options")
    paint_classes(root / "photos", dict.fromkeys(COLOURS, 12))
    write_net(root, NET)
    return root


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny() -> Own:
    return Own(module=make_net(), input_shape=(3, 32, 32), name="tiny")


def fit(root: Path, out: Path, strategy: Any, **options: Any) -> regraft.Fitted:
    given = {"backbone": tiny(), "device": "cpu", "cache": root / "cache", **options}
    return regraft.fit(root / "photos", out=out, strategy=strategy, **given)


class Recording:
    """A transform that remembers what it was shown, and makes it darker."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, image: Tensor) -> Tensor:
        self.seen.append(image.clone())
        return (image.float() * 0.5).to(torch.uint8)


@pytest.mark.parametrize(
    ("strategy", "least"), [(Full(epochs=2, refit="never", **FAST), 40), (Partial(stages=1, epochs=2, views=2, **FAST), 20)]
)
def test_a_transform_of_ones_own_sees_the_pixels_of_training_images(
    strategy: Any, least: int, root: Path, tmp_path: Path
) -> None:
    recording = Recording()
    run = fit(root, tmp_path / "run", replace(strategy, augment=recording))
    # The first is made up: it is tried on that one before any work.
    shown = [image for image in recording.seen if image.dtype == torch.uint8][1:]
    assert len(shown) >= least
    assert {tuple(image.shape) for image in shown} == {(3, 32, 32)}
    pre = run.backbone.preprocess
    known = {load_pixels(path, pre).transpose(2, 0, 1).tobytes() for path in sorted((root / "photos").rglob("*.png"))}
    tested = {
        load_pixels(root / "photos" / name, pre).transpose(2, 0, 1).tobytes()
        for name in read_predictions(tmp_path / "run" / "predictions.parquet")["test"].names
    }
    found = {image.numpy().tobytes() for image in shown}
    assert found <= known
    # Images that judge are shown as they are, but for a sheet of examples in the report.
    assert len(found & tested) == 0
    plain = fit(root, tmp_path / "plain", replace(strategy, augment="none"))
    assert digest(plain.to_torch()) != digest(run.to_torch())
    assert regraft.load(tmp_path / "run", backbone=tiny()).predict([next((root / "photos").rglob("*.png"))])


def test_transforms_of_torchvision_serve_and_repeat_themselves(root: Path, tmp_path: Path) -> None:
    how = v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3), v2.RandomResizedCrop((32, 32), antialias=True)])
    for name in ("one", "two"):
        torch.rand(3)
        fit(root, tmp_path / name, Full(epochs=1, augment=how, **FAST))
    assert sha256(tmp_path / "one" / "model.safetensors") == sha256(tmp_path / "two" / "model.safetensors")


def test_a_transform_that_breaks_is_told_before_any_work(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **options: object) -> None:
        raise AssertionError("features are extracted")

    def broken(image: Tensor) -> Tensor:
        raise RuntimeError("boom")

    monkeypatch.setattr("regraft.prepare.extract_features", never)
    with pytest.raises(UsageError, match="RuntimeError: boom"):
        fit(root, tmp_path / "run", Full(epochs=1, augment=broken, **FAST))


def test_a_transform_that_gives_another_size_is_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\(3, 16, 16\)"):
        fit(root, tmp_path / "run", Full(epochs=1, augment=v2.CenterCrop(16), **FAST))


@pytest.mark.parametrize(("name", "code"), [("half", 0), ("missing", 2)])
def test_the_command_line_takes_a_transform_from_a_file(
    name: str, code: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("REGRAFT_CACHE", str(root / "cache"))
    how = ["--strategy", "full", "--epochs", "2", "--lr", "0.01", "--from", "random"]
    options = ["--backbone", f"module:{NET}:make", "--device", "cpu", *how]
    assert main(["fit", "photos", "--out", str(tmp_path / "own"), *options, "--augment", f"module:{NET}:{name}"]) == code
    said = capsys.readouterr()
    if code:
        assert name in said.err
        assert not (tmp_path / "own").exists()
        return
    assert main(["fit", "photos", "--out", str(tmp_path / "none"), *options, "--augment", "none"]) == 0
    assert sha256(tmp_path / "own" / "model.safetensors") != sha256(tmp_path / "none" / "model.safetensors")


class Lopsided(nn.Module):
    """Looks at the left half of an image alone, so that both sides differ."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()
        self.conv, self.head = self.net.stem, nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(images[:, :, :, :16]).mean((2, 3)))
        return logits


@pytest.mark.parametrize("strategy", [Head(), Full(epochs=1, **FAST)], ids=["head", "full"])
def test_answers_from_both_sides_are_the_mean_before_and_after_loading(strategy: Any, root: Path, tmp_path: Path) -> None:
    def own() -> Own:
        return Own(module=Lopsided(), input_shape=(3, 32, 32))

    torch.manual_seed(0)
    run = fit(root, tmp_path / "run", strategy, backbone=(network := own()), tta=True)
    saved = read_predictions(tmp_path / "run" / "predictions.parquet")["test"]
    loaded = regraft.load(tmp_path / "run", backbone=Own(module=network.module, input_shape=(3, 32, 32)))
    module = loaded.to_torch()
    assert isinstance(module, BothSides)
    pre = loaded.backbone.preprocess
    plain = FromPixels(module.network, pre).eval()
    pixels = torch.from_numpy(np.stack([load_pixels(root / "photos" / name, pre) for name in saved.names]))
    with torch.inference_mode():
        sides = plain(pixels).double(), plain(pixels.flip(2)).double()
    mean = (sides[0] + sides[1]) / 2
    assert not torch.allclose(sides[0], mean, atol=1e-3)
    assert torch.allclose(torch.from_numpy(np.asarray(saved.logits_NK, np.float64)), mean, atol=1e-3)
    paths = [root / "photos" / name for name in saved.names]
    for row, logits in zip(loaded.predict(paths, top_k=3, device="cpu"), mean, strict=True):
        wanted = {name: float(value) for name, value in zip(loaded.classes, logits.softmax(0), strict=True)}
        assert dict(row.top) == pytest.approx(wanted, abs=1e-3)
    assert loaded.predict(paths, device="cpu") == run.predict(paths, device="cpu")
    # A mirrored image has the same answer.
    with torch.inference_mode():
        both = FromPixels(module, pre).eval()
        assert torch.allclose(both(pixels), both(pixels.flip(2)), atol=1e-5)


def test_a_fit_without_it_answers_from_one_side(root: Path, tmp_path: Path) -> None:
    run = fit(root, tmp_path / "run", Head())
    assert not isinstance(regraft.load(tmp_path / "run", backbone=tiny()).to_torch(), BothSides)
    assert not run.mirrored


def test_a_fit_goes_on_from_the_network_of_another(root: Path, tmp_path: Path) -> None:
    options = {"backbone": RESNET, "weights": "none", "size": 32}
    first = fit(root, tmp_path / "first", Partial(stages=1, epochs=2, **FAST), **options)
    start = {"backbone": regraft.recipe.DEFAULT_BACKBONE, "start_from": tmp_path / "first"}
    head = fit(root, tmp_path / "head", Head(features="last"), **start)
    # Nothing but the head is new.
    one, other = first.backbone.module.state_dict(), head.backbone.module.state_dict()
    names = [name for name in one if not name.startswith("fc.")]
    assert all(torch.equal(one[name], other[name]) for name in names)
    fresh = fit(root, tmp_path / "fresh", Head(features="last"), **options).backbone.module.state_dict()
    assert not all(torch.equal(one[name], fresh[name]) for name in names)
    deeper = fit(root, tmp_path / "deeper", Partial(stages=2, epochs=2, refit="never", **FAST), **start)
    after = deeper.backbone.module.state_dict()
    moved = {name.split(".")[0] for name in names if not torch.equal(one[name], after[name])}
    assert moved <= {"layer3", "layer4"}
    assert {name for name in names if name.startswith(("layer1", "layer2", "conv1"))}
    assert deeper.backbone.name == RESNET
    again = regraft.load(tmp_path / "deeper")
    paths = sorted((root / "photos").rglob("*.png"))[::7]
    assert again.predict(paths, device="cpu") == deeper.predict(paths, device="cpu")


def test_a_new_random_head_is_no_solved_one(root: Path, tmp_path: Path) -> None:
    losses = {}
    for start in ("random", "solved"):
        run = fit(root, tmp_path / start, Partial(stages=1, epochs=1, lr=1e-9, start=start, refit="never", precision="fp32"))
        assert run.summary is not None
        assert run.summary.history is not None
        losses[start] = run.summary.history.start_loss
    assert losses["random"] > 1.5 * losses["solved"]


def test_the_command_line_knows_both_ways_to_begin(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("REGRAFT_CACHE", str(root / "cache"))
    train = ["--strategy", "partial:1", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
    plain = [*train, "--backbone", RESNET, "--weights", "none", "--size", "32"]
    assert main(["fit", "photos", "--out", str(tmp_path / "first"), *plain, "--from", "random"]) == 0
    assert "a new random head" in (tmp_path / "first" / "report.html").read_text()
    assert main(["fit", "photos", "--out", str(tmp_path / "second"), *train, "--from", str(tmp_path / "first")]) == 0
    second = regraft.load(tmp_path / "second")
    assert second.backbone.name == RESNET
    assert second.backbone.preprocess.height == 32
    capsys.readouterr()
    assert main(["fit", "photos", "--out", str(tmp_path / "third"), *train, "--from", str(tmp_path / "nowhere")]) != 0
    assert "nowhere" in capsys.readouterr().err
    assert main(["fit", "photos", "--out", str(tmp_path / "third"), *plain, "--from", str(tmp_path / "first")]) == 2
    assert "--from" in capsys.readouterr().err
