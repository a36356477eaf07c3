"""A new head on a network, as one torch module."""

import copy
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.backbone.features import Features
from regraft.backbone.head import replace_layer
from regraft.backbone.model import Backbone, HeadLocation
from regraft.evaluate.novelty import Novelty


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadWeights:
    """Logits from raw features: `weight_KD` (K, D), `bias_K` (K,). `taps`: the stages pooled beside the last features."""

    taps: tuple[str, ...]
    weight_KD: NDArray[np.float32]
    bias_K: NDArray[np.float32]

    def at(self, temperature: float) -> "HeadWeights":
        """The head whose logits are these, divided by `temperature`."""
        weight_KD, bias_K = (np.asarray(value / temperature, np.float32) for value in (self.weight_KD, self.bias_K))
        return replace(self, weight_KD=weight_KD, bias_K=bias_K)

    def as_layer(self) -> nn.Linear:
        """The same as a torch layer."""
        layer = nn.Linear(self.weight_KD.shape[1], self.weight_KD.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.weight_KD))
            layer.bias.copy_(torch.from_numpy(self.bias_K))
        return layer.requires_grad_(False)


class FeaturesAndHead(nn.Module):
    """Features of one or several stages, then a head: normalised images (N, C, H, W) -> logits (N, K)."""

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.features(images)))


class Distances(nn.Module):
    """`evaluate.novelty.Novelty` as a layer: features (N, D) -> distances (N, 1)."""

    axes: Tensor
    known: Tensor

    def __init__(self, novelty: Novelty) -> None:
        super().__init__()
        self._blocks, self._usual = novelty.blocks, novelty.usual
        self.register_buffer("axes", torch.from_numpy(novelty.axes_RD.copy()))
        self.register_buffer("known", torch.from_numpy(novelty.known_MR.copy()))

    def forward(self, features: Tensor) -> Tensor:
        parts = [part / part.norm(dim=1, keepdim=True).clamp_min(1e-12) for part in self._parts(features)]
        along = torch.cat(parts, dim=1) @ self.axes.T / len(parts) ** 0.5
        distance: Tensor = (1 - (along @ self.known.T).amax(dim=1, keepdim=True)) / self._usual
        return distance

    def _parts(self, features: Tensor) -> tuple[Tensor, ...]:
        return torch.split(features, list(self._blocks), dim=1)


class WithDistance(nn.Module):
    """Normalised images (N, C, H, W) -> logits and, as one more column, the distance from known images: (N, K + 1).

    The head reads the first `width` of the `features`, the distance is measured on all of them.
    """

    def __init__(self, features: nn.Module, head: nn.Module, distances: Distances, width: int) -> None:
        super().__init__()
        self.features, self.head, self.distances, self.width = features, head, distances, width

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        return torch.cat([self.head(features[:, : self.width]), self.distances(features)], dim=1)


class Tempered(nn.Module):
    """A module whose answers are divided by a temperature."""

    def __init__(self, module: nn.Module, temperature: float) -> None:
        super().__init__()
        self.module, self.temperature = module, temperature

    def forward(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.module(value)) / self.temperature


class BothSides(nn.Module):
    """The mean of what a network says of an image and of its mirror image: (N, C, H, W) -> logits (N, K)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, (self.network(images) + self.network(images.flip(3))) / 2)


def attach_head(backbone: Backbone, head: HeadWeights | None) -> nn.Module:
    """Normalised images (N, C, H, W) -> logits (N, K), as one module in eval mode that shares nothing with `backbone`.

    None keeps the network's own head. A head on the last features alone goes where the old one was, so that the result is
    the library's plain network; otherwise the network is cut and wrapped.
    """
    if head is not None and not goes_in_place(backbone, head):
        return FeaturesAndHead(copy.deepcopy(Features(backbone, head.taps)), head.as_layer()).eval()
    module = copy.deepcopy(backbone.module)
    if head is not None:
        start = 0
        for place in backbone.main_heads:
            # The weights stand side by side as the features do; the network averages what two heads say.
            weight_KD = head.weight_KD[:, start : start + place.in_features] / place.share
            replace_layer(module, place.path, _as_found(module, place, weight_KD, head.bias_K))
            start += place.in_features
    return module.eval()


def goes_in_place(backbone: Backbone, head: HeadWeights) -> bool:
    """Whether the network with this head is a plain network of its library."""
    widths = sum(place.in_features for place in backbone.main_heads)
    return not head.taps and backbone.head.is_output and head.weight_KD.shape[1] == widths


def _as_found(module: nn.Module, place: HeadLocation, weight_KD: NDArray[np.float32], bias_K: NDArray[np.float32]) -> nn.Module:
    layer = new_layer(module.get_submodule(place.path), len(bias_K), bias=True)
    with torch.no_grad():
        weight, bias = cast(Tensor, layer.weight), cast(Tensor, layer.bias)
        weight.copy_(torch.from_numpy(weight_KD).reshape(weight.shape))
        bias.copy_(torch.from_numpy(bias_K))
    return layer.requires_grad_(False)


def new_layer(old: nn.Module, classes: int, *, bias: bool | None = None) -> nn.Module:
    """A layer of the same kind and width as a head's, for `classes` classes; `bias` None: as the old one has it.

    Freshly initialised as torch does, which is that of every library's own heads for a new number of classes.
    """
    has_bias = getattr(old, "bias", None) is not None if bias is None else bias
    if isinstance(old, nn.Linear):
        return nn.Linear(old.in_features, classes, bias=has_bias)
    assert isinstance(old, nn.Conv2d), "heads are linear layers or 1x1 convolutions"
    return nn.Conv2d(old.in_channels, classes, old.kernel_size, old.stride, old.padding, bias=has_bias)  # type: ignore[arg-type]


def fresh_heads(backbone: Backbone, classes: int) -> nn.Module:
    """A deep copy of the network with every head, auxiliary ones too, made new for `classes` classes.

    Random, from torch's seed. Everything requires gradients as it did before; `freeze.apply_plan` says what trains.
    """
    module = copy.deepcopy(backbone.module)
    for place in backbone.heads:
        replace_layer(module, place.path, new_layer(module.get_submodule(place.path), classes))
    return module
