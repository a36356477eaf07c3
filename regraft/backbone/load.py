"""From a name to a Backbone: built, weights loaded, traced, head and stages found."""

import hashlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from regraft.backbone.describe import describe
from regraft.backbone.features import Features, later_stages
from regraft.backbone.model import Architecture, Backbone
from regraft.backbone.sources import Source, build, open_source
from regraft.backbone.stem import adapt_stem
from regraft.backbone.weights import load_file
from regraft.data.preprocess import Preprocess, with_channels
from regraft.errors import RegraftError
from regraft.recipe import Own

# What the libraries' networks are made for.
_CHANNELS = 3


def load_backbone(
    spec: str | Own | nn.Module,
    *,
    weights: str | Path | None = None,
    size: int | None = None,
    whole_image: bool = False,
    trust: bool = False,
    head_path: str | None = None,
    channels: int | None = None,
) -> Backbone:
    """Load a network by name, or take one of the user's own; `size` overrides the input side in pixels.

    `weights`: None for the published ones, a name (torchvision's enumeration, timm's tag), a local file, or "none". `trust`
    lets the code of a remote hub repository run. `head_path` names the layer that makes the logits. `channels`: images of 1
    (grey), 3 or 4 (RGB and alpha), for which the layers that take the image are changed if need be.

    `whole_image` is for a network that gets a new head: it keeps the shorter side whole instead of the central crop on which
    the weights were evaluated, because what stands at the edge of the user's images counts too (docs/measurements.md#crop);
    and a file of weights may be for another head.

    Raises BackboneNotFound (name, weights, an input size it refuses), HeadNotFound and UsageError.
    """
    source = open_source(spec, weights, standard_head=whole_image, trust=trust, size=size)
    if size is not None:
        source = replace(source, preprocess=replace(source.preprocess, height=size, width=size))
    if whole_image:
        source = replace(source, preprocess=replace(source.preprocess, crop_share=1.0))
    if source.file is not None:
        source = _with_file(source, source.file, head_path, heads_replaced=whole_image)
    if channels is not None:
        source = _with_channels(source, channels)
    backbone = describe(source, head_path=head_path)
    return _told_by_answers(backbone) if backbone.architecture.own_code else backbone


def _for_channels(module: nn.Module, before: int, preprocess: Preprocess) -> nn.Module:
    """The network, which takes images of `before` channels, for images as `preprocess` makes them."""
    if preprocess.channels == before:
        return module
    return adapt_stem(module, preprocess.channels, size=(preprocess.height, preprocess.width), present=before)


def _with_channels(source: Source, channels: int) -> Source:
    before, preprocess = source.preprocess.channels, with_channels(source.preprocess, channels)
    if channels == before:
        return source
    note = f"{source.architecture.name} was made for images of {before} channels and is changed for {channels}"
    if channels > before >= 3:
        note += "; what is new has no effect until its first layer is trained"
    module = _for_channels(source.module, before, preprocess)
    return replace(source, module=module, preprocess=preprocess, notes=(*source.notes, note))


def _with_file(source: Source, file: Path, head_path: str | None, *, heads_replaced: bool) -> Source:
    def heads() -> tuple[str, ...]:
        with suppress(RegraftError):
            return tuple(head.path for head in describe(source, head_path=head_path).heads)
        return ()

    name = f"{source.architecture.source}:{source.architecture.name}"
    notes = load_file(source.module, file, name, heads=heads, heads_replaced=heads_replaced)
    return replace(source, weights=file.name, file=None, notes=(*source.notes, *notes))


def _told_by_answers(backbone: Backbone) -> Backbone:
    """The same with a digest that also changes with what the network answers to one image of noise.

    For own code names and weights are not all: the same weights in other code are another network, and the cache must not
    take one for the other.
    """
    features = Features(backbone, later_stages(backbone))
    pre = backbone.preprocess
    noise = torch.randn(1, pre.channels, pre.height, pre.width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        first, second = features(noise), features(noise)
    notes = backbone.notes
    if not torch.equal(first, second):
        line = "answers the same image differently each time: is there a dropout that ignores eval()?"
        notes = (*notes, f"{backbone.name} {line}")
    total = hashlib.sha256(bytes.fromhex(backbone.weights_digest) + first.numpy().tobytes())
    return replace(backbone, weights_digest=total.hexdigest(), notes=notes)


def rebuild_backbone(
    architecture: Architecture,
    preprocess: Preprocess,
    *,
    weights: str,
    head_path: str | None = None,
    named: str | Own | nn.Module | None = None,
    trust: bool = False,
) -> Backbone:
    """The network of a saved model, before its own weights are loaded; never downloads weights.

    `named` is what the user gives for an architecture of own code, which is never built by its name.
    """
    # What is named again expects of images what the run says that it does.
    if named is None:
        module, channels = build(architecture, preprocess.height), _CHANNELS
    else:
        opened = open_source(named, "none", trust=trust)
        module, channels = opened.module, opened.preprocess.channels
    module = _for_channels(module, channels, preprocess)
    source = Source(module=module, architecture=architecture, preprocess=preprocess, categories=None, weights=weights)
    return describe(source, head_path=head_path)
