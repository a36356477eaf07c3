"""Between a model that answers for every pixel and its files."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from regraft.artifact.checks import TensorSpec
from regraft.artifact.load import SavedModel
from regraft.artifact.save import save_model
from regraft.artifact.schema import (
    AbstainRecord,
    ArchitectureRecord,
    Config,
    FeaturesRecord,
    PixelScoreRecord,
    PixelsRecord,
    PreprocessRecord,
    ScoresRecord,
    TrainingRecord,
)
from regraft.backbone.decoders import Refined, make_decoder
from regraft.backbone.head import BY_USER
from regraft.backbone.model import Backbone
from regraft.backbone.pixel_probe import PixelProbe
from regraft.backbone.pyramid import Level, pyramid_of
from regraft.backbone.weights import put_state
from regraft.errors import SavedModelRefused
from regraft.fitted_pixels import FittedPixels
from regraft.segments import BACKGROUND, OBJECT, Kind, MaskMap, PixelSummary
from regraft.train.by_pixel import PROBE_ALONE
from regraft.train.pixel_network import PixelHead

BACKBONE, HEAD = "backbone.", "head."
_ALWAYS = AbstainRecord(confidence=None, distance=None, max_error=None, coverage=None)


def save_pixels(fitted: FittedPixels, summary: PixelSummary, folder: Path, *, fingerprint: str, seed: int) -> None:
    """Write a model's files. Raises what `save_model` does."""
    save_model(to_saved_pixels(fitted, summary, fingerprint=fingerprint, seed=seed), folder)


def to_saved_pixels(fitted: FittedPixels, summary: PixelSummary, *, fingerprint: str, seed: int) -> SavedModel:
    """The model as plain data: the network without its old head, and the head for pixels."""
    backbone, head = fitted.backbone, fitted.head
    tensors = {BACKBONE + name: value.numpy() for name, value in kept_of(backbone).items()}
    state = head.module.state_dict()
    tensors |= {HEAD + name: _plain(value).detach().cpu().contiguous().numpy() for name, value in state.items()}
    scores = summary.test_scores
    config = Config(
        task=fitted.kind,
        multi_label=False,
        mirrored=False,
        temperature=fitted.temperature,
        abstain=_ALWAYS,
        novelty=None,
        classes=fitted.classes,
        architecture=ArchitectureRecord(
            **asdict(backbone.architecture),
            head_path=backbone.head.path if backbone.head.found_by == BY_USER else None,
            answer=None,
        ),
        weights_digest=backbone.weights_digest,
        features=FeaturesRecord(
            kind="maps",
            taps=tuple(level.stage for level in head.levels),
            width=sum(level.channels for level in head.levels),
            pooling=backbone.pooling,
        ),
        preprocess=PreprocessRecord(**asdict(backbone.preprocess)),
        training=TrainingRecord(
            samples=summary.train,
            test_samples=summary.test,
            data_fingerprint=fingerprint,
            split=summary.split,
            seed=seed,
            strategy=summary.strategy,
            l2=None if summary.history else summary.choice.l2,
            gradient_norm=None if summary.history else summary.choice.gradient_norm,
            folds=None if summary.history else summary.choice.folds,
            balanced=summary.choice.balanced,
        ),
        scores=ScoresRecord(test=None, cross_validation=None),
        versions=summary.versions,
        pixels=PixelsRecord(
            decoder=head.decoder,  # type: ignore[arg-type]  # checked by the record
            threshold=fitted.threshold,
            usual_side=fitted.usual_side,
            values=fitted.mask_map.values,
            colours=fitted.mask_map.colours,
            test=PixelScoreRecord.of(scores) if scores else None,
            judged=PixelScoreRecord.of(summary.judged),
        ),
    )
    return SavedModel(config=config, tensors=tensors)


def kept_of(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Parameters and buffers of the network except its old heads', which nothing uses any more; float32 or int64."""
    old_heads = tuple(f"{head.path}." for head in backbone.main_heads)
    state = backbone.module.state_dict()
    return {name: _plain(value.detach().cpu()) for name, value in state.items() if not name.startswith(old_heads)}


def _plain(value: torch.Tensor) -> torch.Tensor:
    return value.to(torch.float32 if value.is_floating_point() else torch.int64)


def empty_head(backbone: Backbone, config: Config) -> PixelHead:
    """The head of a saved model as it is before its weights are put in. Raises SavedModelRefused."""
    record = config.pixels
    assert record is not None, "asked for a model of pixels"
    known = {level.stage: level for level in pyramid_of(backbone)}
    wanted = config.features.taps
    if not wanted or not known.keys() >= set(wanted):
        raise SavedModelRefused(
            expected=f"maps of {backbone.name}: {', '.join(known)}",
            got=f"{wanted[:5]}",
            fix="the file was changed or made by other versions; fit again",
        )
    levels = tuple(known[stage] for stage in wanted)
    channels = 1 if config.task == "saliency" else len(config.classes)
    pre = backbone.preprocess
    module = head_module(record.decoder, levels, channels, pre.height, pre.width)
    return PixelHead(levels=levels, decoder=record.decoder, channels=channels, module=module.eval().requires_grad_(False))


def head_module(decoder: str, levels: tuple[Level, ...], channels: int, height: int, width: int) -> nn.Module:
    """A head that has learned nothing."""
    total = sum(level.channels for level in levels)
    weight_CD, bias_C, mean_D = np.zeros((channels, total)), np.zeros(channels), np.zeros(total)
    probe = PixelProbe.of(levels, weight_CD, bias_C, mean_D, np.ones(total), (height, width))
    if decoder == PROBE_ALONE:
        return probe
    return Refined(probe, make_decoder(decoder, levels, channels, height=height, width=width))


def head_specs(head: PixelHead) -> dict[str, TensorSpec]:
    """Names, shapes and types of the head's tensors."""
    state = head.module.state_dict()
    return {
        HEAD + name: TensorSpec(tuple(value.shape), "float32" if value.is_floating_point() else "int64")
        for name, value in state.items()
    }


def fitted_of(saved: SavedModel, backbone: Backbone, head: PixelHead, folder: Path) -> FittedPixels:
    """The model of a saved one whose network has its weights already."""
    record, config = saved.config.pixels, saved.config
    assert record is not None and config.task != "classification", "asked for a model of pixels"  # noqa: PT018
    tensors = saved.tensors
    state = {name.removeprefix(HEAD): torch.from_numpy(np.array(v)) for name, v in tensors.items() if name.startswith(HEAD)}
    put_state(head.module, state)
    return FittedPixels(
        backbone=backbone,
        head=head,
        mask_map=MaskMap(kind=_kind(config), classes=config.classes, values=record.values, colours=record.colours),
        usual_side=record.usual_side,
        temperature=config.temperature,
        threshold=record.threshold,
        folder=folder,
        notes=saved.notes,
    )


def _kind(config: Config) -> Kind:
    if config.task == "classification" or (config.task == "saliency" and config.classes != (BACKGROUND, OBJECT)):
        raise SavedModelRefused(
            expected="saliency of background and object", got=str(config.classes[:5]), fix="fit again: the file was changed"
        )
    return config.task
