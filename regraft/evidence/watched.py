"""A fitted convolutional network in two parts, with the maps between them where Grad-CAM looks."""

import copy
from contextlib import suppress
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from regraft.backbone.attach import FeaturesAndHead, HeadWeights
from regraft.backbone.boundary import cut
from regraft.backbone.features import flat, pooled, probe
from regraft.backbone.graph import FLAT, MAP, CannotCut, prefix_part, suffix_part
from regraft.backbone.model import Backbone, Boundary, Stage
from regraft.data.preprocess import Preprocess
from regraft.errors import UsageError
from regraft.fitted import Fitted
from regraft.train.own_head import OwnHead, channels_first

# Fewer places than this on a side would show halves of the image: small images through a network made for large ones.
COARSEST = 5


class Maps(nn.Module):
    """Hands its values on: the layer that is looked at."""

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        return maps


class Watched(nn.Module):
    """Normalised images (N, C, H, W) -> logits (N, K), by way of maps (N, c, h, w), all that the answer is made of.

    The first is the map that the head's own input comes from; where the head reads stages beside it, theirs follow. Each is
    taken for a value of its own, although each follows from those before: the head hears them directly, and what they say
    adds up.
    """

    def __init__(self, front: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.front, self.maps, self.back = front, Maps(), back
        self.requires_grad_(False).eval()

    def before(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps; nothing is kept for gradients of what comes before them."""
        with torch.no_grad():
            return cast(tuple[Tensor, ...], self.front(images))

    def after(self, *maps: Tensor) -> Tensor:
        """The logits from the maps."""
        return cast(Tensor, self.back(*self.maps(*maps)))

    def forward(self, images: Tensor) -> Tensor:
        return self.after(*self.before(images))


def watched(fitted: Fitted) -> Watched | None:
    """The network of a model, without its test-time views, sharing nothing with it; looked at is the last map that it hears.

    None for a network that cannot be recorded, and where what is heard last is no map but tokens or channels-last, as in
    transformers, or has fewer than 5 places on a side: Grad-CAM shows little there (docs/explain.md#methods).
    """
    head = fitted.head
    stages = [stage for stage in fitted.backbone.stages if stage.layout != FLAT]
    if isinstance(head, OwnHead) and head.stage:
        stages = [stage for stage in stages if stage.name == head.stage]
    for stage in reversed(stages):
        if stage.layout != MAP or min(stage.shape[1:]) < COARSEST:
            return None
        # RuntimeError: an operation that has no gradient.
        with suppress(CannotCut, UsageError, RuntimeError):
            network = _through(fitted, stage)
            if network is not None and _hears(network, fitted.backbone.preprocess):
                return network
    return None


def _through(fitted: Fitted, stage: Stage) -> Watched | None:
    """The network by way of the map of `stage`, and of those that the head reads beside it; None where one is no map."""
    taps = fitted.head.taps if isinstance(fitted.head, HeadWeights) else ()
    stages = [stage, *(one for one in fitted.backbone.stages if one.name in taps)]
    if any(one.layout != MAP for one in stages):
        return None
    network = replace(fitted, mirrored=False).to_torch()
    if not isinstance(network, FeaturesAndHead):
        boundary = Boundary(name=stage.name, nodes=(stage.node,), shapes=(stage.shape,))
        parts = cut(replace(fitted.backbone, module=network), boundary, to_train=False)
        return Watched(parts.prefix, parts.suffix)
    module, graph = copy.deepcopy(fitted.backbone.module), fitted.backbone.graph
    assert graph is not None, "a network that cannot be recorded has no stages"
    front = prefix_part(module, graph, [one.node for one in stages])
    if isinstance(fitted.head, OwnHead) and fitted.head.stage:
        return Watched(front, _OnMap(stage, network.head))
    return Watched(front, _OnFeatures(replace(fitted.backbone, module=module), stage, network.head))


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
        self.head, self._pooling = head, backbone.pooling
        self._heads = tuple(inputs.index(place.input_node) for place in backbone.main_heads)

    def forward(self, value: Tensor, *beside: Tensor) -> Tensor:
        found = self.part(value)
        last = [flat(found[index]) for index in self._heads]
        return cast(Tensor, self.head(torch.cat([*last, *(pooled(tap, self._pooling) for tap in beside)], dim=1)))


class _OnMap(nn.Module):
    """A head of the user's own on the map of a stage."""

    def __init__(self, stage: Stage, head: nn.Module) -> None:
        super().__init__()
        self._stage, self.head = stage, head

    def forward(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.head(channels_first(self._stage, value)))


def _hears(network: Watched, preprocess: Preprocess) -> bool:
    """Whether the answer to an image of noise depends on the first map."""
    with torch.enable_grad():
        maps = [value.clone().requires_grad_() for value in probe(network.front, preprocess)]
        # Copies: what follows may write into its input (a ReLU in place).
        logits = network.after(*(value.clone() for value in maps))
        return depends(logits, maps[0])


def depends(logits_NK: Tensor, value: Tensor) -> bool:
    """Whether the logits have a gradient in `value` that is not zero throughout. Raises RuntimeError where there is none."""
    # Weights of solved heads sum to nothing over the classes: a plain sum of the logits would depend on no map.
    total = (logits_NK * torch.linspace(1, 2, logits_NK.shape[1], device=logits_NK.device)).sum()
    (gradient,) = torch.autograd.grad(total, value, allow_unused=True)
    return gradient is not None and bool(gradient.abs().max() > 0)
