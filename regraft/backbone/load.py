"""From a name to a Backbone: built, weights loaded, traced, head and stages found."""

from dataclasses import replace

from torch import nn

from regraft.backbone.boundary import find_stages, trace
from regraft.backbone.head import find_head
from regraft.backbone.model import Architecture, Backbone
from regraft.backbone.sources import Source, build, open_source
from regraft.backbone.weights import digest
from regraft.data.preprocess import Preprocess


def load_backbone(spec: str, *, weights: str | None = None, size: int | None = None, whole_image: bool = False) -> Backbone:
    """Load a network by name; `size` overrides the input side in pixels.

    `whole_image` keeps the shorter side whole instead of the central crop on which the weights were evaluated: what stands at
    the edge of the user's images counts too (docs/measurements.md#crop).

    Raises BackboneNotFound (name, weights, an input size it refuses) and HeadNotFound.
    """
    source = open_source(spec, weights, standard_head=whole_image)
    if size is not None:
        source = replace(source, preprocess=replace(source.preprocess, height=size, width=size))
    if whole_image:
        source = replace(source, preprocess=replace(source.preprocess, crop_share=1.0))
    return describe(source)


def rebuild_backbone(architecture: Architecture, preprocess: Preprocess, *, weights: str) -> Backbone:
    """The network of a saved model, before its own weights are loaded; never downloads."""
    source = Source(
        module=build(architecture), architecture=architecture, preprocess=preprocess, categories=None, weights=weights
    )
    return describe(source)


def describe(source: Source) -> Backbone:
    """Freeze the network and find out where its head and stages are."""
    module: nn.Module = source.module.eval().requires_grad_(False)
    name = f"{source.architecture.source}:{source.architecture.name}"
    traced = trace(module, source.preprocess.height, source.preprocess.width, name)
    head = find_head(module, traced, name)
    return Backbone(
        module=module,
        graph=traced.graph,
        architecture=source.architecture,
        head=head,
        stages=find_stages(module, traced, head),
        preprocess=source.preprocess,
        weights=source.weights,
        weights_digest=digest(module),
        categories=source.categories,
    )
