"""A fitted network in two parts, with the maps between them where evidence is measured."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from regraft.backbone.attach import FeaturesAndHead, HeadWeights
from regraft.backbone.boundary import cut
from regraft.backbone.features import flat, pooled, probe
from regraft.backbone.graph import CannotCut, prefix_part, suffix_part
from regraft.backbone.model import Backbone, Boundary, Stage
from regraft.data.preprocess import Preprocess
from regraft.errors import UsageError
from regraft.evidence.places import Grid, from_map, grid_of, to_map
from regraft.fitted import Fitted
from regraft.train.own_head import OwnHead, channels_first

# A last map with fewer places on a side would show halves of the image: small images through a network for large ones.
COARSEST = 4


class Maps(nn.Module):
    """Hands its values on: the layer at which evidence is measured."""

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        return maps


class Watched(nn.Module):
    """Normalised images (N, C, H, W) -> logits (N, K), by way of `maps`, all that the answer is made of.

    The first is the map that the head's own input comes from; where the head reads stages beside it, theirs follow. Each is
    taken for a value of its own, although each follows from those before: the head hears them directly, and what they say
    adds up.
    """

    def __init__(self, front: nn.Module, grids: Sequence[Grid], back: nn.Module) -> None:
        super().__init__()
        self.front, self.maps, self.back = front, Maps(), back
        self._grids = tuple(grids)
        self.requires_grad_(False).eval()

    def before(self, images: Tensor) -> tuple[Tensor, ...]:
        """The values at the maps, with which nothing is recorded for gradients."""
        with torch.no_grad():
            return cast(tuple[Tensor, ...], self.front(images))

    def after(self, *values: Tensor) -> Tensor:
        """The logits from those values."""
        parts = [to_map(value, grid) for value, grid in zip(values, self._grids, strict=True)]
        maps = self.maps(*(part for part, _ in parts))
        back = zip(maps, parts, self._grids, strict=True)
        return cast(Tensor, self.back(*(from_map(found, others, grid) for found, (_, others), grid in back)))

    def forward(self, images: Tensor) -> Tensor:
        return self.after(*self.before(images))


def watched(fitted: Fitted) -> Watched | None:
    """The network of a model, without its test-time views, sharing nothing with it.

    Watched is the last stage whose places the answer depends on (the class token of a transformer hears the others in its last
    block for the last time, so there it is the block before). None for a network that cannot be recorded or has no such place.
    """
    backbone, head = fitted.backbone, fitted.head
    if backbone.graph is None:
        return None
    for stage in _candidates(backbone, head):
        try:
            network = _through(fitted, stage)
        except (CannotCut, UsageError):
            continue
        if network is not None and _hears(network, backbone.preprocess):
            return network
    return None


def _candidates(backbone: Backbone, head: HeadWeights | OwnHead | None) -> Iterator[Stage]:
    """The stages with a grid, the last first; those with too few places after all others."""
    if isinstance(head, OwnHead) and head.stage:
        yield from (stage for stage in backbone.stages if stage.name == head.stage)
        return
    grids = [(stage, grid) for stage in reversed(backbone.stages) if (grid := grid_of(stage, backbone.preprocess))]
    yield from (stage for stage, grid in grids if min(grid.rows, grid.columns) >= COARSEST)
    yield from (stage for stage, grid in reversed(grids) if min(grid.rows, grid.columns) < COARSEST)


def _through(fitted: Fitted, stage: Stage) -> Watched | None:
    """The network by way of the map of `stage`, and of those that the head reads beside it; None where one is no map."""
    taps = fitted.head.taps if isinstance(fitted.head, HeadWeights) else ()
    stages = [stage, *(one for one in fitted.backbone.stages if one.name in taps)]
    grids = [grid for one in stages if (grid := grid_of(one, fitted.backbone.preprocess))]
    if len(grids) < len(stages):
        return None
    network = replace(fitted, mirrored=False).to_torch()
    if not isinstance(network, FeaturesAndHead):
        boundary = Boundary(name=stage.name, nodes=(stage.node,), shapes=(stage.shape,))
        parts = cut(replace(fitted.backbone, module=network), boundary, to_train=False)
        return Watched(parts.prefix, grids, parts.suffix)
    # A part of the network's copy: what it needs up to the stages and the head's input is in there.
    module, graph = cast(nn.Module, network.features.prefix), fitted.backbone.graph
    assert graph is not None, "a network that cannot be recorded has no stages"
    front = prefix_part(module, graph, [one.node for one in stages])
    if isinstance(fitted.head, OwnHead) and fitted.head.stage:
        return Watched(front, grids, _OnMap(stage, network.head))
    return Watched(front, grids, _OnFeatures(replace(fitted.backbone, module=module), stage, network.head))


class _OnFeatures(nn.Module):
    """From the map of a stage to the head's own input, and a head on that, with the pooled maps of others as in `Features`."""

    def __init__(self, backbone: Backbone, stage: Stage, head: nn.Module) -> None:
        super().__init__()
        assert backbone.graph is not None, "a network that cannot be recorded has no stages"
        pre = backbone.preprocess
        inputs = list(dict.fromkeys(place.input_node for place in backbone.main_heads))
        up_to_head = prefix_part(backbone.module, backbone.graph, inputs).graph
        image = torch.zeros(1, pre.channels, pre.height, pre.width)
        self.part = suffix_part(backbone.module, up_to_head, [stage.node], image)
        self.head = head
        self._heads = tuple(inputs.index(place.input_node) for place in backbone.main_heads)

    def forward(self, value: Tensor, *beside: Tensor) -> Tensor:
        found = self.part(value)
        last = [flat(found[index]) for index in self._heads]
        return cast(Tensor, self.head(torch.cat([*last, *(pooled(tap) for tap in beside)], dim=1)))


class _OnMap(nn.Module):
    """A head of the user's own on the map of a stage."""

    def __init__(self, stage: Stage, head: nn.Module) -> None:
        super().__init__()
        self._stage, self.head = stage, head

    def forward(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.head(channels_first(self._stage, value)))


def _hears(network: Watched, preprocess: Preprocess) -> bool:
    """Whether the answer to an image of noise depends on the places of the first map."""
    values = probe(network.front, preprocess)
    kept: list[Tensor] = []

    def keep(_: nn.Module, given: object, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(maps[0])
        # What follows may write into its input (a ReLU in place).
        return tuple(one.clone() for one in maps)

    with torch.enable_grad(), network.maps.register_forward_hook(keep):
        logits = network.after(*(value.clone().requires_grad_() for value in values))
    # Weights of solved heads sum to nothing over the classes: a plain sum of the logits would depend on no map.
    total = (logits * torch.linspace(1, 2, logits.shape[1])).sum()
    (gradient,) = torch.autograd.grad(total, kept[:1])
    return bool(gradient.abs().max() > 0)
