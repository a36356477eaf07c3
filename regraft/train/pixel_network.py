"""A network of its own to train where every pixel has an answer, cut at a boundary, and what becomes of it."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from regraft.backbone.graph import prefix_part, suffix_part
from regraft.backbone.head import replace_layer
from regraft.backbone.model import HEAD, Backbone, Boundary
from regraft.backbone.pyramid import Level, pyramid_boundary
from regraft.backbone.weights import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelHead:
    """What makes logits (N, C, H, W) of the maps of some stages: a probe, or a probe with a decoder of the kind `decoder`."""

    levels: tuple[Level, ...]
    decoder: str
    channels: int
    module: nn.Module


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelNetwork:
    """A network that shares no layer with another; `head` reads the maps of `levels` in place of all that comes after."""

    backbone: Backbone
    levels: tuple[Level, ...]
    head: nn.Module

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """What is new."""
        return (self.head,)

    def suffix(self, boundary: Boundary) -> nn.Module:
        """The part from a boundary, as `crossing` makes it, to the logits (N, C, H, W)."""
        own = self.backbone
        assert own.graph is not None, "a network without a graph has no levels"
        if not boundary.nodes:
            return _AllLevels(prefix_part(own.module, own.graph, [level.node for level in self.levels]), self.head)
        later = [level for level in self.levels if level.node not in boundary.nodes]
        part = None
        if later:
            up_to = prefix_part(own.module, own.graph, [level.node for level in later]).graph
            image = torch.zeros(1, own.preprocess.channels, own.preprocess.height, own.preprocess.width)
            part = suffix_part(own.module, up_to, boundary.nodes[:1], image)
        given = [boundary.nodes.index(level.node) for level in self.levels if level.node in boundary.nodes]
        return _LaterLevels(part, given, self.head)

    def before(self, boundary: Boundary) -> tuple[str, ...]:
        """None: maps of earlier stages cross the boundary as they are."""
        return ()

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Every parameter once: the network's under its own name, the head's under "new head"."""
        return [*self.backbone.module.named_parameters(), *self._head().named_parameters()]

    def tensors(self) -> Mapping[str, Tensor]:
        """Every parameter and buffer by name: the tensors themselves."""
        both = (self.backbone.module, self._head())
        named = (item for one in both for item in (*one.named_parameters(), *one.named_buffers()))
        return {name: value for name, value in named if value.is_floating_point() or value.dtype == torch.int64}

    def _head(self) -> nn.Module:
        # A name that no layer of a network has: it is no identifier.
        return nn.ModuleDict({"new head": self.head})


def crossing(backbone: Backbone, levels: tuple[Level, ...], place: Boundary) -> Boundary:
    """What has to cross at a place: its value, and the maps of the levels that end before it; at the head these alone."""
    if not place.nodes:
        return place
    if place.name == HEAD:
        return pyramid_boundary(backbone, levels)
    names = [stage.name for stage in backbone.stages]
    before = names[: names.index(place.name)]
    earlier = [level for level in levels if level.stage in before and level.node not in place.nodes]
    shapes = {stage.name: stage.shape for stage in backbone.stages}
    return Boundary(
        name=f"{place.name} with earlier maps",
        nodes=(*place.nodes, *(level.node for level in earlier)),
        shapes=(*place.shapes, *(shapes[level.stage] for level in earlier)),
    )


def pixel_network(backbone: Backbone, levels: tuple[Level, ...], head: nn.Module) -> PixelNetwork:
    """A copy of the network with a head to train."""
    return PixelNetwork(backbone=replace(backbone, module=copy.deepcopy(backbone.module)), levels=levels, head=head)


def taken_apart(
    network: PixelNetwork, original: Backbone, decoder: str, channels: int, name: str
) -> tuple[Backbone, PixelHead]:
    """What was trained, as a backbone and its head. A network of which nothing was trained is the original."""
    head = network.head.cpu().requires_grad_(False).eval()
    found = PixelHead(levels=network.levels, decoder=decoder, channels=channels, module=head)
    if name == "head":
        return original, found
    module = network.backbone.module.cpu().requires_grad_(False).eval()
    for value in (*module.parameters(), *module.buffers()):
        value.data = value.data.contiguous()
    for place in original.heads:
        replace_layer(module, place.path, copy.deepcopy(original.module.get_submodule(place.path)))
    backbone = replace(
        network.backbone,
        module=module,
        weights_digest=hashlib.sha256(f"{original.weights_digest} {digest(module)}".encode()).hexdigest(),
        weights=f"{original.weights}, then {name}",
        categories=None,
    )
    return backbone, found


def on_values(head: nn.Module, levels: tuple[Level, ...]) -> nn.Module:
    """A head as a module of the values of its levels, each an argument."""
    return _LaterLevels(None, list(range(len(levels))), head)


class _AllLevels(nn.Module):
    """Images -> logits."""

    def __init__(self, prefix: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.prefix, self.head = prefix, head

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.prefix(images), (images.shape[2], images.shape[3])))


class _LaterLevels(nn.Module):
    """What crossed a boundary -> logits: `part` computes the later levels of the first value, `given` are places of others."""

    def __init__(self, part: nn.Module | None, given: list[int], head: nn.Module) -> None:
        super().__init__()
        self.part, self.head = part, head
        self._given = given

    def forward(self, *values: Tensor) -> Tensor:
        later = self.part(values[0]) if self.part is not None else ()
        return cast(Tensor, self.head([*(values[i] for i in self._given), *later]))
