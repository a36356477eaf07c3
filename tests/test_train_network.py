"""Training the last stages or the whole network: what is frozen stays, what is trained is saved, with heads of every kind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import COLOURS, paint, paint_classes
from torch import Tensor, nn

import regraft
from regraft.backbone.attach import HeadWeights, attach_head
from regraft.backbone.boundary import boundary_for, cut
from regraft.backbone.features import Features, later_stages
from regraft.backbone.freeze import plan_training
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.backbone.weights import digest
from regraft.cli.main import main
from regraft.errors import UsageError
from regraft.evaluate.table import read_predictions
from regraft.recipe import Own
from regraft.strategies import Auto, Full, Gradual, Norm, Partial, Scratch, Training
from regraft.train.auto import FEWEST_EPOCHS, Candidate
from regraft.train.chance import seeded
from regraft.train.convex import solve_head
from regraft.train.faster import rewritten
from regraft.train.fit_network import phases_of
from regraft.train.learning import learner_of
from regraft.train.lessons import Lessons
from regraft.train.loop import train
from regraft.train.network import Beginning, Copy, copy_to_train, taken_apart
from regraft.train.precision import StepPrecision

RESNET = "torchvision:resnet18"
# Random weights without the statistics of their own images take small steps only.
LEARNING = {
    "partial": Partial(stages=1, epochs=3),
    "full": Full(epochs=6, lr=1e-4),
    "norm": Norm(epochs=6, lr=3e-3),
    "gradual": Gradual(epochs=3, phases=2),
    "scratch": Scratch(epochs=6),
}


class Tiny(nn.Module):
    """The tutorials' custom layers: linear and ReLU, then with batch normalisation; a whole model made of them."""

    def __init__(self, classes: int = 3, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, width), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
        self.last = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.second(self.first(images)))
        return logits


def fit(photos: Path, out: Path, strategy: Any, **options: Any) -> regraft.Fitted:
    given = {"backbone": RESNET, "weights": "none", "size": 64, **options}
    return regraft.fit(photos, out=out, device="cpu", strategy=strategy, **given)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if not name.startswith("fc.")}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_classes(tmp_path_factory.mktemp("pictures"), dict.fromkeys(list(COLOURS)[:2], 16))


@pytest.fixture(scope="module", params=["partial:1", "full", "norm", "gradual:1", "scratch"])
def run(request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> regraft.Fitted:
    strategies = {
        "partial:1": Partial(stages=1, epochs=2, precision="fp32", refit="never"),
        "full": Full(epochs=2, augment="flip", precision="fp32", refit="never"),
        "norm": Norm(epochs=2, precision="fp32"),
        "gradual:1": Gradual(epochs=1, phases=2, precision="fp32", refit="never"),
        "scratch": Scratch(epochs=6, augment="flip", precision="fp32", refit="always"),
    }
    root = tmp_path_factory.mktemp("network")
    return fit(pictures, root / "run", strategies[request.param], cache=root / "cache")


def kind_of(run: regraft.Fitted) -> str:
    assert run.summary is not None
    return run.summary.strategy


def learned(backbone: Backbone, strategy: Any, *, half: bool = False) -> Copy:
    """A copy that was trained on noise, of which it remembers enough to be better than its random head."""
    with seeded(0):
        pixels = torch.randint(0, 256, (8, 64, 64, 3)).to(torch.uint8)
        network = copy_to_train(backbone, None, 2, 512)
    rows = np.arange(8)
    for phase in phases_of(backbone, strategy):
        with seeded(1):
            values = torch.randn(8, *phase.boundary.shapes[0]) if phase.boundary.nodes else pixels
        lessons = Lessons(
            read=lambda rows, _, values=values: (values[rows],),  # type: ignore[misc]
            targets=rows % 2,
            weights=np.ones(8),
            train=rows,
            validation=rows,
        )
        plan = plan_training(backbone, phase.trains, freeze=strategy.freeze)
        learner = replace(learner_of(network, phase.boundary, plan, strategy, "cpu"), precision=StepPrecision(half=half))
        with rewritten(learner.module, (values[:2],), fold=not learner.moves_statistics):
            course = train(learner, lessons, strategy, seed=0)
        assert course.chosen > 0
    return network


@pytest.mark.parametrize(
    "strategy",
    [
        Partial(stages=1, epochs=3),
        Partial(stages=2, epochs=3),
        Full(epochs=6, lr=3e-4, mixup=0.0),
        Norm(epochs=6, lr=3e-3),
        Gradual(epochs=2, phases=2),
        Scratch(epochs=6),
    ],
    ids=lambda strategy: strategy.name,
)
@pytest.mark.parametrize("half", [False, True])
def test_what_the_strategy_freezes_is_bit_for_bit_what_it_was(strategy: Any, half: bool) -> None:
    backbone = load_backbone(RESNET, weights="none", size=64)
    before = {name: value.clone() for name, value in state(backbone.module).items()}
    network = learned(backbone, strategy, half=half)
    after = state(network.backbone.module)
    assert list(after) == list(before), "layers that were rewritten for the training are back in their places"
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    plan = plan_training(backbone, phases_of(backbone, strategy)[-1].trains)
    assert not moved & set(plan.frozen)
    assert {name for name in plan.trainable if not name.startswith("fc.")} <= moved
    # Statistics of normalisation stay, but for a network that learns from nothing.
    assert any("running" in name for name in moved) == isinstance(strategy, Scratch)
    if isinstance(strategy, Partial | Gradual):
        shallow = strategy == Partial(stages=1, epochs=3)
        assert {name.split(".")[0] for name in moved} == {"layer4", "layer3"} - ({"layer3"} if shallow else set())
    if isinstance(strategy, Norm):
        layers = dict(backbone.module.named_modules())
        assert {type(layers[name.rpartition(".")[0]]) for name in moved} == {nn.BatchNorm2d}
    assert digest(backbone.module) == backbone.weights_digest


@pytest.mark.parametrize("strategy", LEARNING.values(), ids=LEARNING)
def test_what_was_trained_is_what_is_taken_apart_and_put_together_again(strategy: Any) -> None:
    backbone = load_backbone(RESNET, weights="none", size=64)
    network = learned(backbone, strategy)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits = network.backbone.module.eval()(images)
    result, head = taken_apart(network, backbone, strategy.name)
    with torch.inference_mode():
        assert torch.allclose(attach_head(result, head)(images), logits, atol=1e-5)
    again, _ = taken_apart(learned(backbone, strategy), backbone, strategy.name)
    assert result.weights_digest == again.weights_digest
    assert result.weights_digest != backbone.weights_digest
    assert [layer.shape for layer in result.module.state_dict().values()] == [
        layer.shape for layer in backbone.module.state_dict().values()
    ]
    assert not any(value.requires_grad for value in result.module.parameters())


def test_a_trained_network_loads_bit_for_bit_and_is_a_plain_one(run: regraft.Fitted, pictures: Path) -> None:
    assert run.folder is not None
    paths = sorted(pictures.rglob("*.png"))[::6]
    again = regraft.load(run.folder)
    assert again.predict(paths, device="cpu") == run.predict(paths, device="cpu")
    assert isinstance(run.head, HeadWeights)
    images = torch.randn(2, 3, 64, 64)
    if run.head.taps:
        # The head reads stages beside the last features, as the solved one did: around the plain network, not in it.
        plain = torchvision.models.resnet18(num_classes=1000)
        plain.load_state_dict(run.backbone.module.state_dict())
        whole = attach_head(replace(run.backbone, module=plain), run.head.at(run.temperature))
    else:
        whole = torchvision.models.resnet18(num_classes=2)
        whole.load_state_dict(run.to_torch().state_dict())
    with torch.inference_mode():
        assert torch.equal(whole.eval()(images), again.to_torch()(images))


def test_what_is_written_down_is_what_the_model_says(run: regraft.Fitted, pictures: Path) -> None:
    assert run.folder is not None
    assert run.summary is not None
    assert run.summary.history is not None
    assert run.summary.test_scores is not None
    parts = read_predictions(run.folder / "predictions.parquet")
    assert set(parts) == {"test", "validation"}
    assert len(parts["validation"].names) == run.summary.history.validation
    test = run.evaluate(pictures, device="cpu").predictions
    logits = dict(zip(test.names, test.logits_NK, strict=True))
    # What crosses a boundary is kept as bf16, which has 8 significant bits; pixels are kept as they are.
    least = 2e-2 if kind_of(run).startswith(("partial", "gradual")) else 1e-3
    for name, part in parts.items():
        same = np.allclose(part.logits_NK, np.stack([logits[image] for image in part.names]), atol=least)
        # Trained again on all images, it has seen those for validation: their answers are of the model that had not.
        assert same == (name == "test" or not run.summary.history.refitted), name
    config = json.loads((run.folder / "config.json").read_text())
    assert config["training"]["strategy"] == kind_of(run)
    assert (config["training"]["l2"], config["training"]["folds"]) == (None, None)
    assert config["weights_digest"] == run.backbone.weights_digest
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(run.summary.history.epochs)


@pytest.mark.parametrize("strategy", [Partial(stages=1, epochs=1), Scratch(epochs=1, augment="flip")])
def test_the_same_seed_gives_the_same_bytes_and_nothing_is_decoded_twice(
    photos: Path, tmp_path: Path, cache: Path, strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regraft import pipeline
    from regraft.cache import stream

    first = fit(photos, tmp_path / "one", strategy)
    monkeypatch.setattr(stream, "load_pixels", lambda *_: pytest.fail("decoded again"))
    monkeypatch.setattr(stream, "load_pixels_and_look", lambda *_: pytest.fail("decoded again"))
    # A few mistakes are looked at once more, for their pictures.
    monkeypatch.setattr(pipeline, "mistake_overlays", lambda *_, **__: {})
    torch.rand(3)
    fit(photos, tmp_path / "two", strategy)
    for name in ("model.safetensors", "config.json", "predictions.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    monkeypatch.undo()
    other = fit(photos, tmp_path / "three", strategy, seed=1)
    assert digest(other.to_torch()) != digest(first.to_torch())


def test_auto_keeps_what_is_clearly_better_on_the_same_images_and_says_why(photos: Path, tmp_path: Path, cache: Path) -> None:
    run = fit(photos, tmp_path / "run", Auto(minutes=0.1, training=Training(precision="fp32")))
    assert run.summary is not None
    compared = {one.strategy: one for one in run.summary.compared}
    assert next(iter(compared)) == "head"
    assert set(compared) == {"head", "full", "partial:2"}
    (kept,) = (one for one in compared.values() if one.kept)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept.strategy == run.summary.strategy == config["training"]["strategy"]


def test_auto_says_how_much_time_what_it_leaves_out_would_need() -> None:
    candidate = Candidate(setup=20.0, each=2.0)
    assert candidate.seconds_of(FEWEST_EPOCHS) == 26.0
    assert candidate.epochs_in(26.0) == FEWEST_EPOCHS
    assert candidate.epochs_in(25.9) < FEWEST_EPOCHS


def test_auto_without_time_leaves_all_out_and_says_what_it_would_take(photos: Path, tmp_path: Path, cache: Path) -> None:
    run = fit(photos, tmp_path / "run", Auto(minutes=0.01, training=Training(precision="fp32")))
    assert run.summary is not None
    left = [one.note for one in run.summary.compared if one.strategy != "head"]
    needs = [float(note.rpartition(" ")[2]) for note in left]
    assert all("3 of them need about --minutes" in note for note in left)
    assert min(needs) >= 0.1


def test_test_images_choose_nothing(tmp_path: Path, cache: Path) -> None:
    split = paint_classes(tmp_path / "split" / "train", dict.fromkeys(COLOURS, 8)).parent
    paint_classes(split / "test", dict.fromkeys(COLOURS, 3))
    honest = fit(split, tmp_path / "honest", Full(epochs=2, lr=1e-2, precision="fp32"))
    for path in (split / "test").rglob("*.png"):
        paint(path, (128, 128, 128), side=50)
    fooled = fit(split, tmp_path / "fooled", Full(epochs=2, lr=1e-2, precision="fp32"))
    assert digest(honest.to_torch()) == digest(fooled.to_torch())


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("torchvision:squeezenet1_1", Partial(stages=2, epochs=1, precision="fp32")),  # computes on after its head
        ("torchvision:squeezenet1_1", Scratch(epochs=1, precision="fp32")),
        ("timm:deit_tiny_distilled_patch16_224", Partial(stages=1, epochs=1, precision="fp32")),  # two heads, averaged
        ("timm:deit_tiny_distilled_patch16_224", Norm(epochs=1, precision="fp32")),
        ("torchvision:googlenet", Full(epochs=1, precision="fp32")),  # auxiliary heads in train mode
    ],
)
def test_heads_of_every_kind_are_trained_saved_and_loaded(
    photos: Path, tmp_path: Path, cache: Path, name: str, strategy: Any
) -> None:
    size = None if "deit" in name else 64
    trained = fit(photos, tmp_path / "run", strategy, backbone=name, size=size)
    assert trained.summary is not None
    paths = sorted(photos.rglob("*.png"))[::6]
    assert regraft.load(tmp_path / "run").predict(paths, device="cpu") == trained.predict(paths, device="cpu")
    saved = read_predictions(tmp_path / "run" / "predictions.parquet")["test"]
    module = trained.to_torch()
    assert not module.training
    for row, logits in zip(trained.predict([photos / n for n in saved.names], top_k=1), saved.logits_NK, strict=True):
        assert row.top[0][0] == saved.classes[int(logits.argmax())]


@pytest.mark.parametrize("name", [RESNET, "torchvision:squeezenet1_1", "timm:deit_tiny_distilled_patch16_224"])
@pytest.mark.parametrize("what", ["pixels", "partial:1"])
@pytest.mark.parametrize("stages", [False, True])
def test_a_copy_starts_as_the_network_with_the_solved_head(name: str, what: str, stages: bool) -> None:
    backbone = load_backbone(name, weights="none")
    boundary = boundary_for(backbone, what)
    taps = later_stages(backbone) if stages else ()
    columns = Features(backbone, taps).columns
    draw = np.random.default_rng(0)
    features_ND = draw.normal(2, 3, (30, columns.width)).astype(np.float32)
    solved = solve_head(features_ND, np.arange(30) % 3, classes=3, l2=0.1)
    weight_KD, bias_K = solved.unstandardised()
    head = HeadWeights(taps=taps, weight_KD=weight_KD.astype(np.float32), bias_K=bias_K.astype(np.float32))
    start = Beginning(
        taps=taps,
        solved=solved,
        mean_D=solved.standardiser.mean_D,
        scale_D=solved.standardiser.scale_D,
    )
    network = copy_to_train(backbone, start, 3, columns.last_width)
    suffix = network.suffix(boundary)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        values = cut(backbone, boundary).prefix(images)
        if before := network.before(boundary):
            # What earlier stages give crosses the boundary pooled, last of all.
            features = Features(backbone, before)
            values = (*values, features(images)[:, features.columns.last_width :])
        assert torch.allclose(suffix.eval()(*values), attach_head(backbone, head)(images), atol=1e-4)
    assert not {id(p) for p in suffix.parameters()} & {id(p) for p in backbone.module.parameters()}
    result, again = taken_apart(network, backbone, what)
    with torch.no_grad():
        assert torch.allclose(attach_head(result, again)(images), attach_head(backbone, head)(images), atol=1e-4)


def test_a_network_of_ones_own_is_trained_from_scratch_and_keeps_a_head_of_the_right_size(
    photos: Path, tmp_path: Path, cache: Path
) -> None:
    with seeded(0):
        module = Tiny()
    before = digest(module)
    own = Own(module=module, input_shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
    run = fit(photos, tmp_path / "run", Scratch(epochs=10, precision="fp32"), backbone=own, weights=None, size=None)
    assert digest(module) == before
    assert run.summary is not None
    assert run.summary.test_scores is not None
    assert run.summary.test_scores.accuracy.value > 0.5
    again = regraft.load(tmp_path / "run", backbone=Own(module=Tiny(), input_shape=(3, 16, 16)))
    paths = sorted(photos.rglob("*.png"))[::6]
    assert again.predict(paths, device="cpu") == run.predict(paths, device="cpu")
    network = copy_to_train(load_backbone(own), None, 3, 16)
    assert torch.equal(network.heads[0].weight, module.last.weight)  # type: ignore[arg-type]
    other = copy_to_train(load_backbone(own), None, 5, 16)
    assert other.heads[0].weight.shape == (5, 16)  # type: ignore[union-attr]


def test_a_size_that_auxiliary_heads_refuse_is_told(photos: Path, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="larger --size"):
        fit(photos, tmp_path / "run", Scratch(epochs=1), backbone="torchvision:inception_v3", size=80)
    assert not (tmp_path / "run").exists()


def test_a_network_that_gives_something_else_in_train_mode_is_told(photos: Path, tmp_path: Path, cache: Path) -> None:
    class Moody(Tiny):
        def forward(self, images: Tensor) -> Any:
            logits = super().forward(images)
            return {"logits": logits} if self.training else logits

    own = Own(module=Moody(), input_shape=(3, 16, 16))
    with pytest.raises(UsageError, match="gave a dict"):
        fit(photos, tmp_path / "run", Scratch(epochs=1), backbone=own, weights=None, size=None)


def test_without_test_images_the_validation_images_are_all_there_is(photos: Path, tmp_path: Path, cache: Path) -> None:
    run = fit(photos, tmp_path / "run", Partial(stages=1, epochs=1, precision="fp32"), test="none")
    assert run.summary is not None
    assert run.summary.test_scores is None
    assert set(read_predictions(tmp_path / "run" / "predictions.parquet")) == {"validation"}


@pytest.mark.parametrize("rule", ["layer4", "1", "layer4."])
def test_what_is_frozen_by_rule_keeps_its_bits(rule: str) -> None:
    backbone = load_backbone(RESNET, weights="none", size=64)
    before = {name: value.clone() for name, value in state(backbone.module).items()}
    after = state(learned(backbone, Partial(stages=2, epochs=3, freeze=(rule,))).backbone.module)
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"layer3"}


def test_a_rule_that_matches_nothing_is_told_before_any_work(photos: Path, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(regraft.UsageError, match="layer9"):
        regraft.fit(photos, out=tmp_path / "run", strategy=regraft.Full(freeze=("layer9",)), size=32)
    assert not (cache / "features").exists()


def test_more_stages_than_there_are_is_told(photos: Path, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="partial:N with N from 1 to"):
        fit(photos, tmp_path / "run", Partial(stages=40, epochs=1))


@pytest.mark.usefixtures("cache")
def test_the_command_line_trains_and_a_later_head_leaves_no_stale_curve(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["fit", "photos", "--out", "run", "--backbone", RESNET, "--weights", "none", "--size", "64", "--device", "cpu"]
    assert main([*options, "--strategy", "partial:1", "--epochs", "1", "--json"]) == 0
    said = capsys.readouterr()
    fields = json.loads(said.out)
    assert fields["strategy"] == "partial:1"
    assert fields["cross_validation"]["accuracy"]["n"] == 6
    assert "epoch 1/1" in said.err
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    assert main([*options, "--overwrite"]) == 0
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    for wrong in (["--strategy", "partial:x"], ["--strategy", "ful"], ["--strategy", "full:2"], ["--epochs", "3"]):
        assert main([*options, "--overwrite", *wrong]) == 2, wrong
