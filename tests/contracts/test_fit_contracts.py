"""What every fit keeps, for each source of backbones, task and choice of features."""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, paint
from numpy.typing import NDArray

from regraft.backbone.features import Normalise
from regraft.backbone.load import load_backbone
from regraft.backbone.weights import digest
from regraft.data.decode import load_pixels
from regraft.evaluate.metrics import score
from regraft.evaluate.probability import probabilities
from regraft.evaluate.table import read_predictions
from regraft.fitted import Fitted
from regraft.pipeline import fit
from regraft.recipe import Data, Recipe
from regraft.saved import load
from regraft.strategies import Features, Head

BACKBONES = {
    "efficientnet_lite0": (None, 64),
    "timm:mobilenetv3_small_050": ("none", 64),
    "timm:vit_tiny_patch16_224": ("none", None),
    "torchvision:resnet18": ("none", 64),
    "torchvision:squeezenet1_1": ("none", 64),
}
TASKS = ("binary", "multiclass", "multi-label")
FEATURES: tuple[Features, ...] = ("last", "stages")


@dataclass(frozen=True)
class Case:
    backbone: str
    task: str
    features: Features
    fitted: Fitted
    images: tuple[Path, ...]


def make_data(root: Path, task: str) -> Data:
    """24 pictures that colour tells apart: class folders, or a table where some pictures have two labels."""
    names = list(COLOURS)[: 2 if task == "binary" else 3]
    rows = ["path,label"]
    for name, index in product(names, range(24 // len(names))):
        paint(root / name / f"{index}.png", COLOURS[name])
        second = "|dark" if index % 2 else ""
        rows.append(f"{name}/{index}.png,{name}{second}")
    if task != "multi-label":
        return Data(path=root)
    (root / "labels.csv").write_text("\n".join(rows))
    return Data(path=root / "labels.csv")


@pytest.fixture(scope="module", params=list(product(BACKBONES, TASKS, FEATURES)), ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    backbone, task, features = request.param
    weights, size = BACKBONES[backbone]
    root = tmp_path_factory.mktemp("case")
    recipe = Recipe(
        data=make_data(root / "photos", task),
        backbone=backbone,
        weights=weights,
        strategy=Head(features=features),
        size=size,
        device="cpu",
        cache=root / "cache",
    )
    fitted = fit(recipe, root / "run")
    return Case(backbone, task, features, fitted, tuple(sorted((root / "photos").rglob("*.png")))[:5])


def logits_of(module: torch.nn.Module, fitted: Fitted, paths: tuple[Path, ...]) -> NDArray[np.float32]:
    preprocess = fitted.backbone.preprocess
    pixels = torch.from_numpy(np.stack([load_pixels(path, preprocess) for path in paths]))
    with torch.inference_mode():
        return module(Normalise(preprocess)(pixels)).numpy()  # type: ignore[no-any-return]


def test_the_run_folder_holds_what_it_promises(case: Case) -> None:
    assert case.fitted.folder is not None
    names = {path.name for path in case.fitted.folder.iterdir()}
    assert {"model.safetensors", "config.json", "predictions.parquet", "report.html"} <= names
    config = json.loads((case.fitted.folder / "config.json").read_text())
    assert config["classes"] == list(case.fitted.classes)
    assert config["features"]["kind"] == case.features


def test_scores_follow_from_the_saved_table_alone(case: Case) -> None:
    assert case.fitted.folder is not None
    assert case.fitted.summary is not None
    parts = read_predictions(case.fitted.folder / "predictions.parquet")
    test, cross_validation = score(parts["test"]), score(parts["cross-validation"])
    assert case.fitted.summary.test_scores is not None
    assert (test.accuracy, test.nll) == (case.fitted.summary.test_scores.accuracy, case.fitted.summary.test_scores.nll)
    assert cross_validation.accuracy == case.fitted.summary.cross_validation.accuracy
    assert test.n + cross_validation.n == 24
    assert not set(parts["test"].names) & set(parts["cross-validation"].names)


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
    least = 1e-3 if "fp32" in case.fitted.summary.engine else 0.15
    assert np.abs(shares - probabilities(test.logits_NK, case.task == "multi-label")).max() < least


def test_nothing_of_the_frozen_network_moved(case: Case) -> None:
    weights, size = BACKBONES[case.backbone]
    if weights is None:
        assert digest(case.fitted.backbone.module) == load_backbone(case.backbone, size=size).weights_digest
    assert digest(case.fitted.backbone.module) == case.fitted.backbone.weights_digest


def shapes(module: torch.nn.Module, head: str) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items() if not name.startswith(head)}


def test_a_head_on_the_last_features_gives_the_librarys_own_network(case: Case) -> None:
    module = case.fitted.to_torch()
    head = case.fitted.backbone.head
    plain = case.features == "last" and head.is_output and head.kind == "linear"
    assert (type(module) is type(case.fitted.backbone.module)) == plain
    if plain:
        assert shapes(module, head.path) == shapes(case.fitted.backbone.module, head.path)
        assert module.get_submodule(head.path).out_features == len(case.fitted.classes)
