"""Between a fitted model and its files: which tensors are kept, and how the network is built again around them."""

import hashlib
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from regraft.artifact.checks import TensorSpec
from regraft.artifact.load import SavedModel, load_model
from regraft.artifact.schema import (
    ArchitectureRecord,
    Config,
    FeaturesRecord,
    PreprocessRecord,
    ScoreRecord,
    ScoresRecord,
    TrainingRecord,
)
from regraft.backbone.attach import HeadWeights
from regraft.backbone.features import Features
from regraft.backbone.load import rebuild_backbone
from regraft.backbone.model import Architecture, Backbone
from regraft.data.preprocess import Preprocess
from regraft.errors import RegraftError, SavedModelRefused
from regraft.fitted import Fitted
from regraft.values import RunSummary

_PREFIX, _WEIGHT, _BIAS = "backbone.", "head.weight", "head.bias"
_PACKAGES = ("regraft", "torch", "torchvision", "timm", "openvino", "numpy", "pillow", "safetensors")


def versions() -> dict[str, str]:
    """Installed versions of what decides a result."""
    found = {"python": python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def to_saved(fitted: Fitted, summary: RunSummary, *, fingerprint: str, seed: int) -> SavedModel:
    """The fitted model as plain data: the frozen network without its old head, and the new head."""
    assert fitted.head is not None, "a pretrained network as it is has nothing to save"
    tensors = {_PREFIX + name: value.numpy() for name, value in _kept(fitted.backbone).items()}
    tensors |= {_WEIGHT: fitted.head.weight_KD, _BIAS: fitted.head.bias_K}
    config = Config(
        multi_label=fitted.multi_label,
        classes=fitted.classes,
        architecture=ArchitectureRecord(**asdict(fitted.backbone.architecture)),
        weights_digest=fitted.backbone.weights_digest,
        features=FeaturesRecord(
            kind="stages" if fitted.head.taps else "last", taps=fitted.head.taps, width=int(fitted.head.weight_KD.shape[1])
        ),
        preprocess=PreprocessRecord(**asdict(fitted.backbone.preprocess)),
        training=TrainingRecord(
            samples=summary.train,
            test_samples=summary.test,
            data_fingerprint=fingerprint,
            split=summary.split,
            seed=seed,
            strategy=summary.strategy,
            l2=summary.head.l2,
            gradient_norm=summary.head.gradient_norm,
            folds=summary.head.folds,
            balanced=summary.head.balanced,
        ),
        scores=ScoresRecord(
            test=ScoreRecord.of(summary.test_scores) if summary.test_scores else None,
            cross_validation=ScoreRecord.of(summary.cross_validation),
        ),
        versions=summary.versions,
    )
    return SavedModel(config=config, tensors=tensors)


def _kept(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Parameters and buffers of the network except its old head's, which nothing uses any more."""
    old_head = backbone.head.path + "."
    return {name: value.detach().cpu() for name, value in backbone.module.state_dict().items() if not name.startswith(old_head)}


def load(folder: str | Path) -> Fitted:
    """The fitted model of a run folder. Needs neither the network, nor the training images, nor anything but the folder.

    Raises SavedModelRefused for a damaged, hostile or unknown file.
    """
    folder = Path(folder)
    built: list[Backbone] = []

    def expected(config: Config) -> dict[str, TensorSpec]:
        built[:] = [_rebuild(config, folder)]
        return _specs(built[0], config)

    saved = load_model(folder, expected=expected)
    backbone, tensors = built[0], saved.tensors
    kept = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
    state = {name: torch.from_numpy(np.array(value)) for name, value in kept.items()}
    backbone.module.load_state_dict({**backbone.module.state_dict(), **state})
    head = HeadWeights(taps=saved.config.features.taps, weight_KD=_array(tensors[_WEIGHT]), bias_K=_array(tensors[_BIAS]))
    return Fitted(
        backbone=replace(backbone, weights_digest=saved.config.weights_digest),
        head=head,
        classes=saved.config.classes,
        multi_label=saved.config.multi_label,
        folder=folder,
        notes=saved.notes,
    )


def _array(value: object) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def _rebuild(config: Config, folder: Path) -> Backbone:
    preprocess = Preprocess(**config.preprocess.model_dump())
    architecture = Architecture(source=config.architecture.source, name=config.architecture.name)
    try:
        return rebuild_backbone(architecture, preprocess, weights=f"saved in {folder}")
    except RegraftError as error:
        raise SavedModelRefused(
            expected=f"{folder} to name a network that this version of regraft can build",
            got=f"{architecture.source}:{architecture.name}: {error.got}",
            fix="install the versions that its config.json lists under versions",
        ) from error


def _specs(backbone: Backbone, config: Config) -> dict[str, TensorSpec]:
    """Names, shapes and types of every tensor that a model with this config has."""
    unknown = [tap for tap in config.features.taps if tap not in {stage.name for stage in backbone.stages}]
    width = Features(backbone, config.features.taps).columns.width if not unknown else -1
    if width != config.features.width:
        raise SavedModelRefused(
            expected=f"features of {backbone.name} as its stages give them",
            got=f"unknown stages {unknown[:5]}" if unknown else f"{config.features.width} features where they give {width}",
            fix="the file was changed or made by other versions; fit again",
        )
    specs = {_PREFIX + name: TensorSpec(tuple(value.shape), _dtype(value)) for name, value in _kept(backbone).items()}
    classes = len(config.classes)
    return {**specs, _WEIGHT: TensorSpec((classes, width)), _BIAS: TensorSpec((classes,))}


def _dtype(value: torch.Tensor) -> Literal["float32", "int64"]:
    return "int64" if value.dtype == torch.int64 else "float32"


def fingerprint(names: tuple[str, ...], labels: tuple[tuple[str, ...], ...], digests: tuple[bytes, ...]) -> str:
    """SHA-256 that changes when an image, its name or its labels do, and not with the order of reading."""
    total = hashlib.sha256()
    for name, label, digest in sorted(zip(names, labels, digests, strict=True)):
        total.update(repr((name, label, digest)).encode("utf-8", "surrogatepass"))
    return total.hexdigest()
