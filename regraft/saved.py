"""Between a fitted model and its files: which tensors are kept, and how the network is built again around them."""

import hashlib
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regraft.artifact.checks import TensorSpec
from regraft.artifact.load import CONFIG_FILE, SavedModel, load_model, read_object
from regraft.artifact.schema import (
    MAX_ANSWER,
    AbstainRecord,
    ArchitectureRecord,
    Config,
    FeaturesRecord,
    NoveltyRecord,
    PreprocessRecord,
    ScoreRecord,
    ScoresRecord,
    TrainingRecord,
)
from regraft.backbone.attach import HeadWeights
from regraft.backbone.features import Features, FromPixels
from regraft.backbone.graph import FLAT
from regraft.backbone.head import BY_USER
from regraft.backbone.load import rebuild_backbone
from regraft.backbone.model import Architecture, Backbone
from regraft.backbone.weights import put_state
from regraft.data.preprocess import Preprocess
from regraft.errors import RegraftError, SavedModelRefused, UsageError
from regraft.evaluate.abstain import Thresholds
from regraft.evaluate.novelty import Novelty
from regraft.fitted import Fitted
from regraft.fitted_pixels import FittedPixels
from regraft.recipe import Own
from regraft.saved_pixels import empty_head, fitted_of, head_specs, kept_of
from regraft.train.own_head import MadeBy, OwnHead, fit_in, offer_at
from regraft.train.pixel_network import PixelHead
from regraft.values import RunSummary

_PREFIX, _HEAD, _WEIGHT, _BIAS = "backbone.", "head.", "head.weight", "head.bias"
_AXES, _KNOWN = "novelty.axes", "novelty.known"
# The same machine gives the same logits; another, or other versions, differ in the fourth digit or later.
_SAME_ANSWER = 0.01
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
    tensors = {_PREFIX + name: value.numpy() for name, value in kept_of(fitted.backbone).items()}
    tensors |= _head_tensors(fitted.head)
    if fitted.novelty is not None:
        tensors |= {_AXES: fitted.novelty.axes_RD, _KNOWN: fitted.novelty.known_MR}
    config = Config(
        multi_label=fitted.multi_label,
        mirrored=fitted.mirrored,
        temperature=fitted.temperature,
        abstain=_abstain(fitted, summary),
        novelty=_novelty_record(fitted.novelty),
        classes=fitted.classes,
        architecture=_architecture(fitted),
        weights_digest=fitted.backbone.weights_digest,
        features=_features_record(fitted.backbone, fitted.head),
        preprocess=PreprocessRecord(**asdict(fitted.backbone.preprocess)),
        training=TrainingRecord(
            samples=summary.train,
            test_samples=summary.test,
            data_fingerprint=fingerprint,
            split=summary.split,
            seed=seed,
            strategy=summary.strategy,
            l2=None if summary.history else summary.head.l2,
            gradient_norm=None if summary.history else summary.head.gradient_norm,
            folds=None if summary.history else summary.head.folds,
            balanced=summary.head.balanced,
        ),
        scores=ScoresRecord(
            test=ScoreRecord.of(summary.test_scores) if summary.test_scores else None,
            cross_validation=ScoreRecord.of(summary.cross_validation),
        ),
        versions=summary.versions,
    )
    return SavedModel(config=config, tensors=tensors)


def _abstain(fitted: Fitted, summary: RunSummary) -> AbstainRecord:
    asked = summary.abstain
    return AbstainRecord(
        confidence=fitted.thresholds.confidence,
        distance=fitted.thresholds.distance,
        max_error=asked.max_error if asked else None,
        coverage=asked.coverage if asked else None,
    )


def _novelty_record(novelty: Novelty | None) -> NoveltyRecord | None:
    if novelty is None:
        return None
    known, axes = novelty.known_MR.shape
    return NoveltyRecord(taps=novelty.taps, blocks=novelty.blocks, axes=axes, known=known, usual=novelty.usual)


def _architecture(fitted: Fitted) -> ArchitectureRecord:
    backbone = fitted.backbone
    return ArchitectureRecord(
        **asdict(backbone.architecture),
        head_path=backbone.head.path if backbone.head.found_by == BY_USER else None,
        answer=_answer(fitted) if backbone.architecture.own_code or isinstance(fitted.head, OwnHead) else None,
    )


def _answer(fitted: Fitted) -> tuple[float, ...] | None:
    """The first logits for one image of scattered values; None where they are no numbers."""
    pre = fitted.backbone.preprocess
    places = torch.arange(pre.height * pre.width * pre.channels).reshape(1, pre.height, pre.width, pre.channels)
    # Knuth's multiplicative hash: the same image whatever the version of a generator of random numbers.
    image = (places * 2654435761 % 2**32 >> 24).to(torch.uint8)
    with torch.inference_mode():
        logits = FromPixels(fitted.to_torch(), pre).eval()(image)[0, :MAX_ANSWER]
    return tuple(logits.tolist()) if bool(logits.isfinite().all()) else None


def _head_tensors(head: HeadWeights | OwnHead) -> dict[str, NDArray[Any]]:
    if isinstance(head, HeadWeights):
        return {_WEIGHT: head.weight_KD, _BIAS: head.bias_K}
    return {_HEAD + name: value.detach().cpu().numpy() for name, value in head.module.state_dict().items()}


def _features_record(backbone: Backbone, head: HeadWeights | OwnHead) -> FeaturesRecord:
    if isinstance(head, OwnHead):
        taps = (head.stage,) if head.stage else ()
        return FeaturesRecord(kind="own", taps=taps, width=offer_at(backbone, head.stage).channels, pooling=backbone.pooling)
    kind: Literal["stages", "last"] = "stages" if head.taps else "last"
    return FeaturesRecord(kind=kind, taps=head.taps, width=int(head.weight_KD.shape[1]), pooling=backbone.pooling)


def load_classifier(
    folder: str | Path,
    *,
    backbone: str | Own | nn.Module | None = None,
    head: MadeBy | str | None = None,
    trust: bool = False,
) -> Fitted:
    """`load` for a run that classifies. Raises UsageError for another one."""
    found = load(folder, backbone=backbone, head=head, trust=trust)
    if isinstance(found, FittedPixels):
        raise UsageError(
            expected="a run that classifies images",
            got=f"{folder}, which answers for every pixel ({found.kind})",
            fix="use it with regraft evaluate and regraft predict",
        )
    return found


def load(
    folder: str | Path,
    *,
    backbone: str | Own | nn.Module | None = None,
    head: MadeBy | str | None = None,
    trust: bool = False,
) -> Fitted | FittedPixels:
    """The fitted model of a run folder. Needs neither the network, nor the training images, nor anything but the folder.

    A run on code of your own is the exception: loading runs no code that the folder names, so `backbone` names it again, as
    `fit` takes it, and `head` a head of your own, as `Head` takes it. `trust` lets a remote hub repository run.

    Raises SavedModelRefused for a damaged, hostile or unknown file, and for a network other than that of the run.
    """
    return load_with_data(Path(folder), backbone=backbone, head=head, trust=trust)[0]


def load_with_data(
    folder: Path,
    *,
    backbone: str | Own | nn.Module | None = None,
    head: MadeBy | str | None = None,
    trust: bool = False,
) -> tuple[Fitted | FittedPixels, SavedModel]:
    """What `load` gives, and the plain data that it was made of, to save it again."""
    built: list[Backbone] = []
    heads: list[OwnHead | None] = []
    pixels: list[PixelHead] = []

    def expected(config: Config) -> dict[str, TensorSpec]:
        built[:] = [replace(_rebuild(config, folder, backbone, trust), pooling=config.features.pooling)]
        if config.pixels is not None:
            pixels[:] = [empty_head(built[0], config)]
            return _of_network(built[0]) | head_specs(pixels[0])
        heads[:] = [_own_head(built[0], config, head, folder)]
        return _specs(built[0], config, heads[0])

    try:
        saved = load_model(folder, expected=expected)
    except SavedModelRefused as error:
        if not built or backbone is None:
            raise
        fix = f"name the network that it was fitted with, in the code that it had then; or: {error.fix}"
        raise SavedModelRefused(expected=error.expected, got=error.got, fix=fix) from error
    rebuilt, tensors = built[0], saved.tensors
    kept = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
    state = {name: torch.from_numpy(np.array(value)) for name, value in kept.items()}
    put_state(rebuilt.module, state)
    rebuilt = replace(rebuilt, weights_digest=saved.config.weights_digest)
    if pixels:
        return fitted_of(saved, rebuilt, pixels[0], folder), saved
    fitted = Fitted(
        backbone=rebuilt,
        head=_head(heads[0], saved),
        classes=saved.config.classes,
        multi_label=saved.config.multi_label,
        mirrored=saved.config.mirrored,
        temperature=saved.config.temperature,
        novelty=_novelty(saved),
        thresholds=Thresholds(confidence=saved.config.abstain.confidence, distance=saved.config.abstain.distance),
        folder=folder,
        notes=saved.notes,
    )
    _check_answer(fitted, saved.config)
    return fitted, saved


def _check_answer(fitted: Fitted, config: Config) -> None:
    """Raise SavedModelRefused where own code has the run's weights by name and shape, and does something else with them."""
    before = config.architecture.answer
    if before is None:
        return
    now = _answer(fitted) or ()
    scale = max(1.0, *(abs(value) for value in before))
    if len(now) != len(before) or any(abs(a - b) > _SAME_ANSWER * scale for a, b in zip(now, before, strict=True)):
        raise SavedModelRefused(
            expected=f"the network that {fitted.folder} was fitted with, {fitted.backbone.name}",
            got="one whose weights have the same names and shapes, and which answers a test image differently",
            fix="name it in the code that it had then: another activation or order of layers makes another network",
        )


def _own_head(backbone: Backbone, config: Config, made_by: MadeBy | str | None, folder: Path) -> OwnHead | None:
    """The user's head with the weights it is made with, where the run has one; None for a linear head."""
    if config.features.kind != "own":
        if made_by is not None:
            raise UsageError(
                expected="a run with a head of your own", got=f"{folder}, whose head is linear", fix="leave the head out"
            )
        return None
    if made_by is None:
        raise SavedModelRefused(
            expected="the head of the run to be named again: loading runs no code that a folder names",
            got=f"{folder}, fitted with a head of your own",
            fix="in Python regraft.load(folder, head=...), as it was given to Head(module=...); on the command line --head",
        )
    stages = {stage.name for stage in backbone.stages if stage.layout != FLAT}
    taps = config.features.taps
    if len(taps) > 1 or not stages.issuperset(taps) or offer_at(backbone, "".join(taps)).channels != config.features.width:
        raise SavedModelRefused(
            expected=f"a head on pooled features or on a map of {backbone.name}",
            got=f"one on {config.features.width} channels of {taps[:5] or 'the last features'}",
            fix="the file was changed or made by other versions; fit again",
        )
    return fit_in(made_by, (offer_at(backbone, "".join(taps)),), len(config.classes))


def _head(own: OwnHead | None, saved: SavedModel) -> HeadWeights | OwnHead:
    tensors = saved.tensors
    if own is None:
        return HeadWeights(taps=saved.config.features.taps, weight_KD=_array(tensors[_WEIGHT]), bias_K=_array(tensors[_BIAS]))
    state = {name.removeprefix(_HEAD): torch.from_numpy(np.array(v)) for name, v in tensors.items() if name.startswith(_HEAD)}
    put_state(own.module, state)
    own.module.requires_grad_(False).eval()
    return own


def _novelty(saved: SavedModel) -> Novelty | None:
    record = saved.config.novelty
    if record is None:
        return None
    axes_RD, known_MR = (_array(saved.tensors[name]) for name in (_AXES, _KNOWN))
    return Novelty(taps=record.taps, blocks=record.blocks, axes_RD=axes_RD, known_MR=known_MR, usual=record.usual)


def _novelty_specs(record: NoveltyRecord | None, backbone: Backbone, features: FeaturesRecord) -> dict[str, TensorSpec]:
    """Raises SavedModelRefused where the network does not have the columns that the record says."""
    if record is None:
        return {}
    known = {stage.name for stage in backbone.stages if stage.layout != FLAT}
    blocks = Features(backbone, record.taps).columns.blocks if known.issuperset(record.taps) else ()
    own_map = features.kind == "own" and bool(features.taps)
    if blocks != record.blocks or own_map or (features.kind == "stages" and features.taps != record.taps):
        raise SavedModelRefused(
            expected=f"a measure of new images on features of {backbone.name}",
            got=f"one on {record.blocks[:5]} columns of {record.taps[:5]}",
            fix="the file was changed or made by other versions; fit again",
        )
    width = sum(record.blocks)
    return {_AXES: TensorSpec((record.axes, width)), _KNOWN: TensorSpec((record.known, record.axes))}


def _array(value: object) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def _rebuild(config: Config, folder: Path, named: str | Own | nn.Module | None, trust: bool) -> Backbone:
    saved = config.architecture
    architecture = Architecture(source=saved.source, name=saved.name)
    preprocess = Preprocess(**config.preprocess.model_dump())
    weights = f"saved in {folder}"
    if saved.own_code:
        if named is None:
            raise _unnamed(folder, architecture)
        return rebuild_backbone(architecture, preprocess, weights=weights, head_path=saved.head_path, named=named, trust=trust)
    try:
        backbone = rebuild_backbone(architecture, preprocess, weights=weights, head_path=saved.head_path)
    except RegraftError as error:
        raise SavedModelRefused(
            expected=f"{folder} to name a network that this version of regraft can build",
            got=f"{architecture.source}:{architecture.name}: {error.got}",
            fix="install the versions that its config.json lists under versions",
        ) from error
    if named is not None and named != backbone.name:
        raise UsageError(
            expected=f"{backbone.name}, the network of {folder}",
            got=repr(named)[:100] if isinstance(named, str) else f"a {type(named).__name__}",
            fix="leave the backbone out: the run says what it is",
        )
    return backbone


def _unnamed(folder: Path, architecture: Architecture) -> SavedModelRefused:
    """The refusal of a run on own code, with how to name that code again."""
    name = f"{architecture.source}:{architecture.name}"
    remote = architecture.source == "hub" and "/" in architecture.name
    again = {"python": "regraft.Own(module=...)", "hub": f'"{name}"' if remote else f'"hub:FOLDER:{name.rpartition(":")[2]}"'}
    word = again.get(architecture.source, f'"{name}"')
    trust, flag = (", trust=True", " --trust") if remote else ("", "")
    spec = "module:package.file:function" if architecture.source == "python" else word.strip('"')
    return SavedModelRefused(
        expected="the network of the run to be named again: loading runs no code that a folder names",
        got=f"{folder}, fitted on {name}",
        fix=f"in Python regraft.load(folder, backbone={word}{trust}); on the command line --backbone {spec}{flag}",
    )


def _specs(backbone: Backbone, config: Config, own: OwnHead | None) -> dict[str, TensorSpec]:
    """Names, shapes and types of every tensor that a model with this config has."""
    specs = _of_network(backbone)
    specs |= _novelty_specs(config.novelty, backbone, config.features)
    if own is not None:
        state = own.module.state_dict()
        return specs | {_HEAD + name: TensorSpec(tuple(value.shape), _dtype(value)) for name, value in state.items()}
    pooled = {stage.name for stage in backbone.stages if stage.layout != FLAT}
    unknown = [tap for tap in config.features.taps if tap not in pooled]
    width = Features(backbone, config.features.taps).columns.width if not unknown else -1
    if width != config.features.width:
        raise SavedModelRefused(
            expected=f"features of {backbone.name} as its stages give them",
            got=f"unknown stages {unknown[:5]}" if unknown else f"{config.features.width} features where they give {width}",
            fix="the file was changed or made by other versions; fit again",
        )
    classes = len(config.classes)
    return {**specs, _WEIGHT: TensorSpec((classes, width)), _BIAS: TensorSpec((classes,))}


def _of_network(backbone: Backbone) -> dict[str, TensorSpec]:
    return {_PREFIX + name: TensorSpec(tuple(value.shape), _dtype(value)) for name, value in kept_of(backbone).items()}


def _dtype(value: torch.Tensor) -> Literal["float32", "int64"]:
    return "float32" if value.is_floating_point() else "int64"


def doubts(folder: Path, *, data: str, split: str, seed: int, only_head: bool) -> tuple[str, ...]:
    """What to doubt of scores where a fit began with the network of the run in `folder`: notes for people.

    `data` is the fingerprint of the images, `split` the sentence that says how test images were chosen; `only_head`: nothing
    but a head is fitted this time.
    """
    before = read_object(folder / CONFIG_FILE)["training"]
    notes = []
    if (before["data_fingerprint"], before["split"], before["seed"]) != (data, split, seed):
        notes.append(
            f"{folder} was fitted to other images, or split otherwise: its network may have learned from some of the images "
            "that are held out here, and the scores would be too good; judge it on images that neither has seen"
        )
    if only_head and before["strategy"] != "head":
        notes.append(
            f"the network of {folder} has learned from the training images: cross-validation on them is too good, the test "
            "images tell"
        )
    return tuple(notes)


def fingerprint(names: tuple[str, ...], labels: tuple[tuple[str, ...], ...], digests: tuple[bytes, ...]) -> str:
    """SHA-256 that changes when an image, its name or its labels do, and not with the order of reading."""
    total = hashlib.sha256()
    for name, label, digest in sorted(zip(names, labels, digests, strict=True)):
        total.update(repr((name, label, digest)).encode("utf-8", "surrogatepass"))
    return total.hexdigest()
