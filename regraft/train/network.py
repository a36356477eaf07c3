"""A network of its own to train, cut at a boundary, and what becomes of it: a backbone and a linear head."""

import copy
import hashlib
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from regraft.backbone.attach import FeaturesAndHead, HeadWeights, attach_head, fresh_heads, goes_in_place
from regraft.backbone.boundary import cut
from regraft.backbone.features import Features, flat
from regraft.backbone.graph import prefix_part, suffix_part
from regraft.backbone.head import replace_layer
from regraft.backbone.model import Backbone, Boundary
from regraft.backbone.weights import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """`suffix` maps what crosses the boundary to logits, and shares the layers of `backbone`, which shares none with another.

    `heads` are its new layers, in the places of the old ones, or where a network computes on after its head, one linear layer
    in place of all that (`beside`).
    """

    backbone: Backbone
    suffix: nn.Module
    heads: tuple[nn.Module, ...]
    beside: bool


def copy_to_train(backbone: Backbone, boundary: Boundary, start: HeadWeights | None, classes: int, width: int) -> Copy:
    """The network with heads for `classes` classes: those of `start` (on its `width` last features), else new random ones.

    Heads that are of the right size already stay as they are without a `start`. Auxiliary heads are new if others are.
    """
    empty = HeadWeights(taps=(), weight_KD=np.zeros((classes, width), np.float32), bias_K=np.zeros(classes, np.float32))
    if not goes_in_place(backbone, empty):
        own = replace(backbone, module=copy.deepcopy(backbone.module))
        layer = nn.Linear(width, classes) if start is None else start.as_layer()
        return Copy(backbone=own, suffix=_up_to_layer(own, boundary, layer), heads=(layer,), beside=True)
    if start is None and all(place.out_features == classes for place in backbone.heads):
        own = replace(backbone, module=copy.deepcopy(backbone.module))
    else:
        own = replace(backbone, module=fresh_heads(backbone, classes))
    if start is not None:
        own = replace(own, module=attach_head(own, start))
    heads = tuple(own.module.get_submodule(place.path) for place in own.heads)
    return Copy(backbone=own, suffix=cut(own, boundary).suffix, heads=heads, beside=False)


def taken_apart(network: Copy, original: Backbone, name: str) -> tuple[Backbone, HeadWeights]:
    """What was trained, as a backbone (with the heads of `original`, which nothing uses) and its linear head."""
    # What the network averages; the features of two heads stand side by side.
    shares = [1.0] if network.beside else [place.share for place in original.main_heads]
    layers = [layer.cpu() for layer in network.heads[: len(shares)]]
    weights = [cast(Tensor, layer.weight).flatten(1) * share for layer, share in zip(layers, shares, strict=True)]
    biases = [cast(Tensor, layer.bias) * share for layer, share in zip(layers, shares, strict=True) if layer.bias is not None]
    bias_K = torch.stack(biases).sum(dim=0) if biases else torch.zeros(len(weights[0]))
    head = HeadWeights(taps=(), weight_KD=_array(torch.cat(weights, dim=1)), bias_K=_array(bias_K))
    module = network.backbone.module.cpu().requires_grad_(False).eval()
    for place in original.heads:
        replace_layer(module, place.path, copy.deepcopy(original.module.get_submodule(place.path)))
    backbone = replace(
        network.backbone,
        module=module,
        # Its own: what is computed with these weights must not be taken for what the old ones gave, nor other code did.
        weights_digest=hashlib.sha256(f"{original.weights_digest} {digest(module)}".encode()).hexdigest(),
        weights=f"{original.weights}, then {name}",
        categories=None,
    )
    return backbone, head


def _array(value: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.array(value.detach().cpu().numpy(), np.float32)


def _up_to_layer(backbone: Backbone, boundary: Boundary, layer: nn.Linear) -> nn.Module:
    """From the boundary to what the head reads, averaged over positions, and a linear layer on that."""
    if not boundary.nodes:
        return FeaturesAndHead(Features(backbone, ()), layer)
    assert backbone.graph is not None, "a network that cannot be traced has no other boundaries"
    pre = backbone.preprocess
    inputs = list(dict.fromkeys(place.input_node for place in backbone.main_heads))
    up_to_head = prefix_part(backbone.module, backbone.graph, inputs).graph
    image = torch.zeros(1, pre.channels, pre.height, pre.width)
    return _Pooled(suffix_part(backbone.module, up_to_head, boundary.nodes, image), layer)


class _Pooled(nn.Module):
    """The values that a part gives, averaged over positions and side by side, and a layer on that."""

    def __init__(self, part: nn.Module, layer: nn.Linear) -> None:
        super().__init__()
        self.part, self.layer = part, layer

    def forward(self, *values: Tensor) -> Tensor:
        features_ND = torch.cat([flat(value) for value in self.part(*values)], dim=1)
        return cast(Tensor, self.layer(features_ND))
