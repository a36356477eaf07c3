"""From a network with its weights to a Backbone: probed once, its heads and stages found."""

import torch
from torch import Tensor, nn

from regraft.backbone.graph import MAP_LAST, Traced, Untraceable, trace
from regraft.backbone.head import find_head_untraced, find_heads
from regraft.backbone.model import Backbone, Stage
from regraft.backbone.sources import Source
from regraft.backbone.stages import find_stages
from regraft.backbone.weights import digest, forget
from regraft.data.preprocess import Preprocess
from regraft.errors import BackboneNotFound


def describe(source: Source, *, head_path: str | None = None) -> Backbone:
    """Freeze the network and find out by one dry run where its heads and stages are.

    `head_path` names the head where the user knows better. Raises BackboneNotFound (an input size that it refuses, an output
    that is not logits), HeadNotFound and UsageError.
    """
    module: nn.Module = source.module.eval().requires_grad_(False)
    name = f"{source.architecture.source}:{source.architecture.name}"
    pre = source.preprocess
    image = torch.zeros(1, pre.channels, pre.height, pre.width)
    notes = source.notes
    traced = _traced(module, image, name)
    if isinstance(traced, Untraceable):
        heads = find_head_untraced(module, image, name, head_path)
        notes = (*notes, f"{name} cannot be traced, so it can be cut before its head alone, or not at all: {traced}")
    else:
        heads = find_heads(module, traced, image, name, head_path)
    stages = find_stages(module, traced, heads) if isinstance(traced, Traced) else ()
    forget(module)
    _check_layouts(stages, pre, name)
    return Backbone(
        module=module,
        graph=traced.graph if isinstance(traced, Traced) else None,
        architecture=source.architecture,
        heads=heads,
        stages=stages,
        preprocess=source.preprocess,
        weights=source.weights,
        weights_digest=digest(module),
        categories=source.categories,
        notes=notes,
    )


def _check_layouts(stages: tuple[Stage, ...], pre: Preprocess, name: str) -> None:
    """Raise BackboneNotFound where a map's channels cannot be told from its rows: as many of one as of the other, H not W."""
    doubtful = [stage for stage in stages if stage.layout == MAP_LAST and pre.height != pre.width]
    if doubtful:
        raise BackboneNotFound(
            expected=f"maps of {name} whose channels can be told from their rows",
            got=f"{doubtful[0].shape} of {doubtful[0].name} for images of {pre.height}x{pre.width} pixels",
            fix="give a square input_shape, or another height",
        )


def _traced(module: nn.Module, image: Tensor, name: str) -> Traced | Untraceable:
    try:
        return trace(module, image, name)
    except Untraceable as why:
        return why
