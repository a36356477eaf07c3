"""A head of one's own: any module that fits, on pooled features or the map; solved where it is linear, else trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COLOURS, paint, paint_classes
from torch import Tensor, nn

import regraft
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.backbone.weights import digest
from regraft.cli.main import main
from regraft.errors import SavedModelRefused, UsageError
from regraft.strategies import Head, Training
from regraft.train.own_head import OwnHead, attach_own, fit_in, linear_of, offers_of, reads_the_same

RESNET = "torchvision:resnet18"
Trained = tuple[regraft.Fitted, Callable[..., Any], Path]


@pytest.fixture(scope="module")
def resnet() -> Backbone:
    return load_backbone(RESNET, weights="none", size=64)


def deep(width: int, classes: int) -> nn.Module:
    """The tutorial's custom model, as a head."""
    return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, classes))


def convolutional(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 1))


class Pointwise(nn.Module):
    """A head on tokens (N, L, C)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.dim() == 3
        logits: Tensor = self.layer(tokens).amax(dim=1)
        return logits


def fit(photos: Path, out: Path, module: Any, **options: Any) -> regraft.Fitted:
    """A fit of ResNet-18 with random weights at 64 pixels, unless `options` say otherwise."""
    training = Training(epochs=options.pop("epochs"), lr=1e-3) if "epochs" in options else None
    options.setdefault("strategy", Head(module=module, training=training))
    return regraft.fit(photos, out=out, device="cpu", weights="none", **{"backbone": RESNET, "size": 64, **options})


@pytest.mark.parametrize(
    ("made_by", "stage"),
    [
        (nn.Linear(512, 10), ""),
        (nn.Conv2d(512, 10, kernel_size=1), "layer4"),
        (nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 10)), ""),
        (deep, ""),
        (convolutional, "layer4"),
        (lambda width, classes: nn.Sequential(nn.Flatten(), nn.Linear(width * 4, classes)), "layer4"),
        (nn.LazyLinear(10), ""),
    ],
)
def test_what_a_head_takes_is_found_by_a_dry_run(resnet: Backbone, made_by: Any, stage: str) -> None:
    own = fit_in(made_by, offers_of(resnet), 10)
    assert own.stage == stage
    logits = attach_own(resnet, own)(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 10)


def test_the_offers_of_maps_tokens_and_channels_last() -> None:
    shapes = {
        "timm:vit_tiny_patch16_224": [(192,), (197, 192)],
        "torchvision:swin_t": [(768,), (768, 7, 7)],
        "torchvision:convnext_tiny": [(768,), (768, 7, 7)],
    }
    for name, wanted in shapes.items():
        backbone = load_backbone(name, weights="none")
        offers = offers_of(backbone)
        assert [offer.shape for offer in offers] == wanted, name
        assert [offer.channels for offer in offers] == [wanted[0][0]] * 2
        make = Pointwise if len(wanted[1]) == 2 else convolutional
        own = fit_in(make, offers, 4)
        assert attach_own(backbone, own)(torch.randn(2, 3, 224, 224)).shape == (2, 4)


@pytest.mark.parametrize(
    ("made_by", "words"),
    [
        (nn.Linear(512, 7), r"\(N, 512\): gave \(N, 7\)"),
        (nn.Linear(100, 10), r"\(N, 512, 2, 2\): RuntimeError"),
        (nn.Conv2d(512, 9, 1), r"\(N, 512, 2, 2\): gave \(N, 9, 2, 2\)"),
        (lambda classes: nn.Linear(512, classes), r"TypeError"),
        (lambda width, classes: "head", r"gave a str, which is no nn.Module"),
        (lambda width, classes: nn.Identity(), r"\(N, 512\): gave \(N, 512\)"),
    ],
)
def test_a_head_that_does_not_fit_is_told_which_shapes_were_offered(resnet: Backbone, made_by: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        fit_in(made_by, offers_of(resnet), 10)
    assert "pooled features (N, 512)" in caught.value.got
    assert "map of layer4 (N, 512, 2, 2)" in caught.value.got
    assert "(N, 10)" in caught.value.expected


def test_types_that_cannot_be_saved_are_refused_before_any_work(resnet: Backbone) -> None:
    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(512, 10)
            self.register_buffer("mask", torch.ones(3, dtype=torch.bool))

    with pytest.raises(UsageError, match="mask"):
        fit_in(Masked(), offers_of(resnet), 10)


@pytest.mark.parametrize(
    ("module", "linear"),
    [
        (nn.Linear(512, 10), True),
        (nn.Sequential(nn.Linear(512, 10)), True),
        (nn.Conv2d(512, 10, 1), True),
        (nn.Linear(512, 10, bias=False), False),
        (nn.Conv2d(512, 10, 1, stride=2), False),
        (nn.Conv2d(512, 10, 1, padding=1), False),
        (nn.Conv2d(512, 10, 3, padding=1), False),
        (nn.Sequential(nn.Linear(512, 10), nn.ReLU()), False),
    ],
)
def test_only_what_is_linear_with_a_bias_is_solved(module: nn.Module, linear: bool) -> None:
    own = OwnHead(module=module, stage="layer4" if isinstance(module, nn.Conv2d) else "")
    assert (linear_of(own) is not None) == linear


def test_the_tutorials_convolution_works_and_is_solved_in_place(photos: Path, tmp_path: Path, cache: Path) -> None:
    layer = nn.Conv2d(512, 3, kernel_size=1)
    before = layer.weight.clone()
    run = fit(photos, tmp_path / "run", layer)
    assert run.summary is not None
    assert run.summary.history is None
    assert run.summary.head.features == "last"
    assert run.summary.head.gradient_norm <= 1e-5
    assert any("solved to its optimum, not trained" in note for note in run.summary.notes)
    assert torch.equal(layer.weight, before), "the user's own module is left alone"
    # The mean over positions of a 1x1 convolution is a linear layer: ResNet-18 as everybody knows it.
    assert isinstance(run.to_torch().get_submodule("fc"), nn.Linear)
    plain = fit(photos, tmp_path / "plain", None, strategy=Head(features="last"))
    assert np.array_equal(run.head.weight_KD, plain.head.weight_KD)  # type: ignore[union-attr]
    again = regraft.load(tmp_path / "run")
    assert again.predict([photos / "blue" / "001.png"]) == run.predict([photos / "blue" / "001.png"])


def test_a_convolution_on_a_map_that_the_network_normalises_first_is_solved_on_its_mean(
    photos: Path, tmp_path: Path, cache: Path
) -> None:
    name = "timm:convnext_atto"
    backbone = load_backbone(name, weights="none", size=64)
    own = fit_in(nn.Conv2d(320, 3, 1), offers_of(backbone), 3)
    assert not reads_the_same(backbone, own)
    run = fit(photos, tmp_path / "run", nn.Conv2d(320, 3, 1), backbone=name)
    assert run.summary is not None
    assert run.summary.head.features == "map"
    assert run.head.taps == (own.stage,)  # type: ignore[union-attr]
    # The solved weights, put into the user's own layer, say the same.
    columns = run.head.weight_KD[:, 320:640]  # type: ignore[union-attr]
    assert not run.head.weight_KD[:, :320].any()  # type: ignore[union-attr]
    assert not run.head.weight_KD[:, 640:].any()  # type: ignore[union-attr]
    with torch.no_grad():
        layer = own.module
        assert isinstance(layer, nn.Conv2d)
        layer.weight.copy_(torch.from_numpy(columns)[:, :, None, None])
        assert layer.bias is not None
        layer.bias.copy_(torch.from_numpy(run.head.bias_K))  # type: ignore[union-attr]
        images = torch.randn(3, 3, 64, 64)
        assert torch.allclose(attach_own(run.backbone, own, run.temperature)(images), run.to_torch()(images), atol=1e-4)
    assert regraft.load(tmp_path / "run").predict([photos / "blue" / "001.png"])[0].status == "ok"


@pytest.fixture(scope="module", params=["pooled", "map", "tokens"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("own")
    photos = paint_classes(root / "photos", dict.fromkeys(COLOURS, 12))
    make: dict[str, Callable[..., Any]] = {"pooled": deep, "map": convolutional, "tokens": Pointwise}
    backbone = "timm:vit_tiny_patch16_224" if request.param == "tokens" else RESNET
    size = None if request.param == "tokens" else 64
    run = fit(photos, root / "run", make[request.param], backbone=backbone, size=size, cache=root / "cache", epochs=3)
    return run, make[request.param], photos


def test_a_trained_head_is_judged_beside_the_solved_one(trained: Trained) -> None:
    run, _, _ = trained
    assert run.summary is not None
    history = run.summary.history
    assert history is not None
    assert len(history.epochs) == 3
    assert (history.train, history.validation) == (24, 6)
    assert run.summary.cross_validation.n == 6
    assert run.summary.cross_validation.accuracy == history.accuracy
    assert history.gain == pytest.approx(history.accuracy.value - history.solved.value)
    assert run.folder is not None
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["number"] for row in rows] == [1, 2, 3]
    assert rows[2]["validation_loss"] == history.epochs[2].validation_loss
    page = (run.folder / "report.html").read_text()
    assert "solved linear head" in page
    assert 'id="training"' in page


def test_nothing_of_the_network_behind_a_trained_head_moved(trained: Trained) -> None:
    run, _, _ = trained
    assert digest(run.backbone.module) == run.backbone.weights_digest


def test_a_run_with_an_own_head_loads_with_that_head_alone(trained: Trained, tmp_path: Path) -> None:
    run, make, photos = trained
    assert run.folder is not None
    paths = sorted(photos.rglob("*.png"))[::5]
    again = regraft.load(run.folder, head=make)
    assert again.predict(paths, device="cpu") == run.predict(paths, device="cpu")
    assert digest(again.to_torch()) == digest(run.to_torch())
    config = json.loads((run.folder / "config.json").read_text())
    assert config["features"]["kind"] == "own"
    assert (config["training"]["l2"], config["training"]["gradient_norm"]) == (None, None)
    with pytest.raises(SavedModelRefused, match=r"head=\.\.\..*--head"):
        regraft.load(run.folder)
    with pytest.raises((SavedModelRefused, UsageError)):
        regraft.load(run.folder, head=nn.Sequential(nn.Linear(512, 5), nn.ReLU(), nn.Linear(5, 3)))


def test_an_own_head_with_the_same_weights_and_another_activation_is_refused(photos: Path, tmp_path: Path, cache: Path) -> None:
    fit(photos, tmp_path / "run", deep, epochs=1)

    def other(width: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, 64), nn.Sigmoid(), nn.BatchNorm1d(64), nn.Linear(64, classes))

    with pytest.raises(SavedModelRefused, match="answers a test image differently"):
        regraft.load(tmp_path / "run", head=other)


def test_a_linear_run_takes_no_head(photos: Path, tmp_path: Path, cache: Path) -> None:
    fit(photos, tmp_path / "run", None, strategy=Head(features="last"))
    with pytest.raises(UsageError, match="leave the head out"):
        regraft.load(tmp_path / "run", head=deep)


def test_the_same_seed_gives_the_same_head(photos: Path, tmp_path: Path, cache: Path) -> None:
    for name in ("one", "two"):
        fit(photos, tmp_path / name, deep, epochs=2)
    for name in ("model.safetensors", "config.json", "predictions.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_wrong_labels_of_test_images_change_nothing_of_a_trained_head(tmp_path: Path, cache: Path) -> None:
    split = paint_classes(tmp_path / "split" / "train", dict.fromkeys(COLOURS, 10)).parent
    paint_classes(split / "test", dict.fromkeys(COLOURS, 3))
    honest = fit(split, tmp_path / "honest", deep, epochs=2)
    for path in (split / "test").rglob("*.png"):
        paint(path, (128, 128, 128), side=50)
    fooled = fit(split, tmp_path / "fooled", deep, epochs=2)
    assert digest(honest.to_torch()) == digest(fooled.to_torch())


def test_without_test_images_the_validation_images_are_all_there_is(photos: Path, tmp_path: Path, cache: Path) -> None:
    run = fit(photos, tmp_path / "run", deep, epochs=1, test="none")
    assert run.summary is not None
    assert run.summary.test_scores is None
    assert "validation images" in (tmp_path / "run" / "report.html").read_text()


def test_several_labels_and_balance(tmp_path: Path, cache: Path) -> None:
    rows = ["path,label"]
    for name in COLOURS:
        for index in range(10):
            paint(tmp_path / name / f"{index}.png", COLOURS[name])
            rows.append(f"{name}/{index}.png,{name}{'|dark' if index % 2 else ''}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    strategy = Head(module=deep, training=Training(epochs=2), balance="auto")
    run = fit(tmp_path / "labels.csv", tmp_path / "run", None, strategy=strategy)
    assert run.summary is not None
    assert run.summary.cross_validation.confusion_KK is None
    assert run.multi_label


def test_a_head_without_anything_to_train_is_refused(photos: Path, tmp_path: Path, cache: Path) -> None:
    def still(width: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, classes), nn.ReLU()).requires_grad_(False)

    with pytest.raises(UsageError, match="can be trained"):
        fit(photos, tmp_path / "run", still)


def test_epochs_of_a_solved_head_are_refused() -> None:
    with pytest.raises(UsageError, match="solved to its optimum"):
        Head(training=Training(epochs=3))


def test_classes_that_a_head_is_to_balance_are_balanced_in_its_training_too() -> None:
    assert Head(module=deep, training=Training(epochs=2), balance="auto").how == Training(epochs=2, balance="auto")
    assert Head(module=deep, balance="auto").how.balance == "auto"
    assert Head(module=deep, training=Training(balance="auto")).how.balance == "auto"


@pytest.mark.usefixtures("cache")
def test_a_head_from_a_file_on_the_command_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = "nn.Linear(width, 9), nn.ReLU(), nn.Linear(9, classes)"
    code = f"from torch import nn\ndef make(width, classes):\n    return nn.Sequential({layers})\n"
    (tmp_path / "my_heads.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    network = ["--backbone", RESNET, "--weights", "none", "--size", "64", "--device", "cpu"]
    assert main(["fit", "photos", "--out", "run", "--head", "module:my_heads:make", "--epochs", "2", *network]) == 0
    said = capsys.readouterr()
    assert "epoch 2/2: loss" in said.err
    assert "solved linear head" in said.out
    image = str(photos / "blue" / "001.png")
    assert main(["predict", "run", image, "--json", "--head", "module:my_heads:make"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"
    assert main(["evaluate", "run", "photos", "--json", "--head", "module:my_heads:make"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 36
    assert main(["predict", "run", image]) == 4
    assert "--head" in capsys.readouterr().err
    assert main(["fit", "photos", "--out", "run2", "--head", "module:my_heads:mak", *network]) == 2
    assert "did you mean make" in capsys.readouterr().err
    assert main(["fit", "photos", "--out", "run3", "--head", "module:my_heads:make", "--strategy", "full", *network]) == 2
    assert main(["fit", "photos", "--out", "run4", "--strategy", "partial", *network]) == 2
    assert "partial:1" in capsys.readouterr().err
