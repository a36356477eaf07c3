"""What every fit keeps, for each source of backbones, task, choice of features and strategy."""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, paint
from numpy.typing import NDArray

from regraft.backbone.attach import HeadWeights
from regraft.backbone.features import Normalise
from regraft.backbone.freeze import plan_training
from regraft.backbone.load import load_backbone
from regraft.backbone.weights import digest
from regraft.data.decode import load_pixels
from regraft.evaluate.metrics import score
from regraft.evaluate.probability import probabilities
from regraft.evaluate.table import read_predictions
from regraft.fitted import Fitted
from regraft.pipeline import fit
from regraft.recipe import Data, Recipe
from regraft.saved import load_classifier as load
from regraft.strategies import Auto, Features, Full, Gradual, Head, Norm, Partial, Scratch, Strategy, Training
from regraft.train.chance import seeded

BACKBONES = {
    "efficientnet_lite0": (None, 64),
    "timm:mobilenetv3_small_050": ("none", 64),
    "timm:vit_tiny_patch16_224": ("none", None),
    "torchvision:resnet18": ("none", 64),
    "torchvision:squeezenet1_1": ("none", 64),
}
TASKS = ("binary", "multiclass", "multi-label")
FEATURES: tuple[Features, ...] = ("last", "stages")
HEADS: dict[str, Strategy] = {name: Head(features=name) for name in FEATURES}
# Few steps: what every fit keeps does not hang on how long it is. Precisions have tests of their own.
TRAINED: dict[str, Strategy] = {
    "partial:1": Partial(stages=1, epochs=1, views=2, precision="fp32"),
    "norm": Norm(epochs=1, precision="fp32"),
    "full": Full(epochs=1, precision="fp32"),
    "gradual": Gradual(epochs=1, phases=2, views=2, precision="fp32"),
    "scratch": Scratch(epochs=1, precision="fp32"),
    "auto": Auto(minutes=0.05, training=Training(precision="fp32", augment="light")),
}
# Every task with every way to train, and every network too, though not all three with each other.
CASES = [
    *product(BACKBONES, TASKS, HEADS),
    *((backbone, TASKS[(i + j) % len(TASKS)], name) for i, backbone in enumerate(BACKBONES) for j, name in enumerate(TRAINED)),
]


@dataclass(frozen=True)
class Case:
    backbone: str
    task: str
    strategy: Strategy
    fitted: Fitted
    images: tuple[Path, ...]

    @property
    def plain(self) -> bool:
        """Whether the head reads the last features alone."""
        assert isinstance(self.fitted.head, HeadWeights)
        return not self.fitted.head.taps


def make_data(root: Path, task: str) -> None:
    """24 pictures that colour tells apart: class folders, or a table where some pictures have two labels."""
    names = list(COLOURS)[: 2 if task == "binary" else 3]
    rows = ["path,label"]
    for name, index in product(names, range(24 // len(names))):
        paint(root / name / f"{index}.png", COLOURS[name])
        second = "|dark" if index % 2 else ""
        rows.append(f"{name}/{index}.png,{name}{second}")
    if task == "multi-label":
        (root / "labels.csv").write_text("\n".join(rows))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of each task, and one cache for all fits."""
    root = tmp_path_factory.mktemp("shared")
    for task in TASKS:
        make_data(root / task, task)
    return root


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    backbone, task, name = request.param
    weights, size = BACKBONES[backbone]
    photos = shared / task
    recipe = Recipe(
        data=Data(path=photos / "labels.csv" if task == "multi-label" else photos),
        backbone=backbone,
        weights=weights,
        strategy=(HEADS | TRAINED)[name],
        size=size,
        device="cpu",
        cache=shared / "cache",
    )
    fitted = fit(recipe, tmp_path_factory.mktemp("case") / "run")
    return Case(backbone, task, recipe.strategy, fitted, tuple(sorted(photos.rglob("*.png")))[:5])


def logits_of(module: torch.nn.Module, fitted: Fitted, paths: tuple[Path, ...]) -> NDArray[np.float32]:
    preprocess = fitted.backbone.preprocess
    pixels = torch.from_numpy(np.stack([load_pixels(path, preprocess) for path in paths]))
    with torch.inference_mode():
        return module(Normalise(preprocess)(pixels)).numpy()  # type: ignore[no-any-return]


def test_the_run_folder_holds_what_it_promises(case: Case) -> None:
    assert case.fitted.folder is not None
    assert case.fitted.summary is not None
    names = {path.name for path in case.fitted.folder.iterdir()}
    assert {"model.safetensors", "config.json", "predictions.parquet", "report.html", "report.json", "README.md"} <= names
    config = json.loads((case.fitted.folder / "config.json").read_text())
    assert config["classes"] == list(case.fitted.classes)
    assert config["features"]["kind"] == ("last" if case.plain else "stages")
    if isinstance(case.strategy, Head):
        assert config["features"]["kind"] == case.strategy.features
    assert ("metrics.jsonl" in names) >= (case.fitted.summary.history is not None)
    assert not any(name.startswith(".") for name in names), "the states of a training go with its end"


def test_scores_follow_from_the_saved_table_alone(case: Case) -> None:
    assert case.fitted.folder is not None
    assert case.fitted.summary is not None
    parts = read_predictions(case.fitted.folder / "predictions.parquet")
    summary = case.fitted.summary
    other = "validation" if summary.history else "cross-validation"
    assert set(parts) == {"test", other}
    test, cross_validation = score(parts["test"]), score(parts[other])
    assert case.fitted.summary.test_scores is not None
    assert (test.accuracy, test.nll) == (case.fitted.summary.test_scores.accuracy, case.fitted.summary.test_scores.nll)
    assert cross_validation.accuracy == case.fitted.summary.cross_validation.accuracy
    assert test.n + cross_validation.n + (summary.history.train if summary.history else 0) == 24
    assert not set(parts["test"].names) & set(parts[other].names)


def test_a_loaded_model_answers_bit_for_bit_the_same(case: Case) -> None:
    assert case.fitted.folder is not None
    again = load(case.fitted.folder)
    assert again.predict(case.images, device="cpu") == case.fitted.predict(case.images, device="cpu")
    assert again.classes == case.fitted.classes


def test_to_torch_is_what_predict_uses(case: Case) -> None:
    logits_NK = logits_of(case.fitted.to_torch(), case.fitted, case.images)
    expected = probabilities(logits_NK, case.task == "multi-label")
    for row, prediction in zip(expected, case.fitted.predict(case.images, top_k=9, device="cpu"), strict=True):
        assert dict(prediction.top) == pytest.approx(dict(zip(case.fitted.classes, row.tolist(), strict=True)), abs=1e-5)


def test_saved_logits_are_the_models_own(case: Case) -> None:
    """The report scores features of the fastest engine that agrees, the model answers in fp32.

    With an fp32 engine they are the same up to rounding; half precision, where it was found near enough, stays close.
    """
    assert case.fitted.folder is not None
    test = read_predictions(case.fitted.folder / "predictions.parquet")["test"]
    root = case.images[0].parent.parent
    logits_NK = logits_of(case.fitted.to_torch(), case.fitted, tuple(root / name for name in test.names))
    shares = probabilities(logits_NK, case.task == "multi-label")
    assert case.fitted.summary is not None
    # What crosses a boundary is kept as bf16, and so read when a training is judged.
    halves = "fp32" not in case.fitted.summary.engine or case.fitted.summary.strategy.startswith(("partial", "gradual"))
    least = 0.15 if halves else 1e-3
    assert np.abs(shares - probabilities(test.logits_NK, case.task == "multi-label")).max() < least


def test_nothing_of_what_is_frozen_moved(case: Case) -> None:
    weights, size = BACKBONES[case.backbone]
    with seeded(0):
        original = load_backbone(case.backbone, weights=weights, size=size, whole_image=True)
    assert case.fitted.summary is not None
    kept = case.fitted.summary.strategy
    if kept == "head":
        assert digest(case.fitted.backbone.module) == original.weights_digest == case.fitted.backbone.weights_digest
        return
    assert case.fitted.backbone.weights_digest != original.weights_digest
    before, after = original.module.state_dict(), case.fitted.backbone.module.state_dict()
    assert list(before) == list(after)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    # Of gradual unfreezing the second and last of its phases.
    plan = plan_training(original, "partial:2" if kept.startswith("gradual") else kept)
    statistics = set(before) - set(plan.trainable) - set(plan.frozen)
    assert not moved & set(plan.frozen)
    assert kept == "scratch" or not moved & statistics


def shapes(module: torch.nn.Module, head: str) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items() if not name.startswith(head)}


def test_a_head_on_the_last_features_gives_the_librarys_own_network(case: Case) -> None:
    module = case.fitted.to_torch()
    head = case.fitted.backbone.head
    plain = case.plain and head.is_output and head.kind == "linear"
    assert (type(module) is type(case.fitted.backbone.module)) == plain
    if plain:
        assert shapes(module, head.path) == shapes(case.fitted.backbone.module, head.path)
        assert module.get_submodule(head.path).out_features == len(case.fitted.classes)
