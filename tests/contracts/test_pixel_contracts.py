"""What every fit keeps where every pixel has an answer, for each layout of networks, strategy and decoder."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mask_scenes import paint_scenes
from PIL import Image

import regraft
from regraft.backbone.freeze import plan_training
from regraft.backbone.load import load_backbone
from regraft.backbone.pyramid import counted_from, pyramid_of
from regraft.backbone.weights import digest
from regraft.fitted_pixels import FittedPixels
from regraft.recipe import Data
from regraft.segments import Kind
from regraft.strategies import Decoding, Full, Gradual, Head, Norm, Partial, Strategy
from regraft.train.chance import seeded

# A convolutional network, a pyramid transformer whose maps have the channels last, and a plain one whose maps are tokens.
BACKBONES = {
    "efficientnet_lite0": (None, 64),
    "torchvision:swin_t": ("none", 64),
    "timm:vit_tiny_patch16_224": ("none", None),
}
HEAD = Decoding(epochs=1, views=1, precision="fp32")
# Every decoder and every strategy with the first network, and with the slower others those that differ in what crosses the
# boundary. Few steps: what every fit keeps does not hang on how long it is.
TRAINED: dict[str, tuple[str, Strategy]] = {
    "probe": ("linear", Head()),
    "head-small": ("small", HEAD),
    "head-fpn": ("fpn", HEAD),
    "head-deeplabv3+": ("deeplabv3+", HEAD),
    "partial-unet": ("unet", Partial(stages=1, epochs=1, views=1, batch_size=8, precision="fp32")),
    "norm-small": ("small", Norm(epochs=1, batch_size=8, precision="fp32")),
    "full-small": ("small", Full(epochs=1, batch_size=8, precision="fp32")),
    "gradual-linear": ("linear", Gradual(epochs=1, phases=2, views=1, batch_size=8, precision="fp32")),
}
KINDS: tuple[Kind, ...] = ("saliency", "semantic")
QUICK, FEW = "efficientnet_lite0", ("probe", "head-fpn", "partial-unet", "full-small")
CASES = [(name, how) for name in BACKBONES for how in TRAINED if name == QUICK or how in FEW]


@dataclass(frozen=True)
class Case:
    backbone: str
    how: str
    kind: Kind
    fitted: FittedPixels
    images: tuple[Path, ...]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of each kind, and one cache for all fits."""
    root = tmp_path_factory.mktemp("shared")
    for kind in KINDS:
        paint_scenes(root / kind, 10, kind)
    return root


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    backbone, how = request.param
    weights, size = BACKBONES[backbone]
    decoder, strategy = TRAINED[how]
    kind = KINDS[CASES.index(request.param) % 2]
    with pytest.MonkeyPatch.context() as patch:
        # A probe of few pixels is solved soon, and no worse a probe to begin with.
        patch.setattr("regraft.train.pixel_probe.MOST_OF_EACH", 16)
        fitted = regraft.fit(
            Data(path=shared / kind, task=kind),
            out=tmp_path_factory.mktemp("case") / "run",
            backbone=backbone,
            weights=weights,
            strategy=strategy,
            size=size,
            device="cpu",
            cache=shared / "cache",
            decoder=decoder,
        )
    assert isinstance(fitted, FittedPixels)
    assert fitted.folder is not None
    yield Case(backbone, how, kind, fitted, tuple(sorted((shared / kind / "images").iterdir()))[:4])
    shutil.rmtree(fitted.folder)


def test_a_mask_is_of_its_images_own_size(case: Case) -> None:
    answers = case.fitted.predict(case.images, probabilities=True, device="cpu")
    channels = 1 if case.kind == "saliency" else 3
    for path, answer in zip(case.images, answers, strict=True):
        with Image.open(path) as image:
            width, height = image.size
        assert answer.labels_HW is not None
        assert answer.probabilities_CHW is not None
        assert answer.labels_HW.shape == (height, width)
        assert answer.probabilities_CHW.shape == (channels, height, width)
        assert set(np.unique(answer.labels_HW)) <= set(range(len(case.fitted.classes)))
        assert [name for name, _ in answer.shares] == list(case.fitted.classes)
        assert sum(share for _, share in answer.shares) == pytest.approx(1)


def test_a_loaded_run_answers_bit_for_bit_the_same(case: Case) -> None:
    assert case.fitted.folder is not None
    again = regraft.load(case.fitted.folder)
    assert isinstance(again, FittedPixels)
    both = (model.predict(case.images, probabilities=True, device="cpu") for model in (case.fitted, again))
    for one, other in zip(*both, strict=True):
        assert one.labels_HW is not None
        assert np.array_equal(one.labels_HW, other.labels_HW)  # type: ignore[arg-type]
        assert np.array_equal(one.probabilities_CHW, other.probabilities_CHW)  # type: ignore[arg-type]
    assert (again.mask_map.values, again.threshold) == (case.fitted.mask_map.values, case.fitted.threshold)


def test_images_of_any_size_give_logits_of_that_size(case: Case) -> None:
    module = case.fitted.to_torch()
    side = case.fitted.backbone.preprocess.width
    with torch.inference_mode():
        logits = module(torch.zeros(1, 3, side, side))
    assert logits.shape == (1, case.fitted.mask_map.channels, side, side)
    assert logits.isfinite().all()


def test_the_run_folder_and_the_scores(case: Case) -> None:
    summary, folder = case.fitted.summary, case.fitted.folder
    assert summary is not None
    assert folder is not None
    assert {"model.safetensors", "config.json", "report.html"} <= {path.name for path in folder.iterdir()}
    assert not any(path.name.startswith(".") for path in folder.iterdir())
    assert (summary.train, summary.test) == (8, 2)
    assert summary.test_scores is not None
    for scores in (summary.test_scores, summary.judged, summary.probe):
        for interval in (scores.iou, scores.dice, scores.pixel_accuracy):
            assert 0 <= interval.low <= interval.value <= interval.high <= 1
        assert 0 <= scores.baseline <= 1
    assert 0 < summary.threshold < 1
    trained = case.how != "probe"
    assert (summary.history is not None) == trained
    assert summary.strategy == (case.how.split("-")[0] if trained else "head").replace("partial", "partial:1").replace(
        "gradual", "gradual:1"
    )
    assert summary.decoder == TRAINED[case.how][0]


def test_a_training_begins_at_the_solved_probe(case: Case) -> None:
    """At what probes say to validation images that they had not seen; what is kept of a boundary is of half precision."""
    assert case.fitted.summary is not None
    history = case.fitted.summary.history
    if history is not None:
        assert history.start_accuracy == pytest.approx(history.solved.value, abs=0.01)


def test_nothing_of_what_is_frozen_moved(case: Case) -> None:
    weights, size = BACKBONES[case.backbone]
    with seeded(0):
        original = load_backbone(case.backbone, weights=weights, size=size, whole_image=True)
    assert case.fitted.summary is not None
    kept, after = case.fitted.summary.strategy, case.fitted.backbone
    if kept == "head":
        assert digest(after.module) == original.weights_digest == after.weights_digest
        return
    assert after.weights_digest != original.weights_digest
    before_state, after_state = original.module.state_dict(), after.module.state_dict()
    assert list(before_state) == list(after_state)
    moved = {name for name in before_state if not torch.equal(before_state[name], after_state[name])}
    plan = plan_training(counted_from(original, pyramid_of(original)), "partial:2" if kept.startswith("gradual") else kept)
    assert moved <= set(plan.trainable), "frozen weights, and statistics of norms, stay"
    history = case.fitted.summary.history
    assert history is not None
    assert bool(moved) == (history.chosen > 0), "what trains is what the head reads"
