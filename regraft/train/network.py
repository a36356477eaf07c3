"""A network of its own to train, cut at a boundary, and what becomes of it: a backbone and a linear head."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.backbone.attach import FeaturesAndHead, HeadWeights, attach_head, fresh_heads, goes_in_place
from regraft.backbone.boundary import cut
from regraft.backbone.features import Features, flat, pooled
from regraft.backbone.graph import prefix_part, suffix_part
from regraft.backbone.head import replace_layer
from regraft.backbone.model import Backbone, Boundary
from regraft.backbone.weights import digest
from regraft.train.convex import LinearHead
from regraft.values import Pooling


class StandardisedLinear(nn.Module):
    """Features (N, D) -> logits (N, K), linear in features of mean 0 and deviation 1.

    Pooled features differ in scale by orders of magnitude: one learning rate suits all weights only once that is taken out.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean_D: NDArray[np.float64], scale_D: NDArray[np.float64], classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(len(mean_D), classes)
        self.register_buffer("mean", torch.from_numpy(mean_D).float())
        self.register_buffer("scale", torch.from_numpy(scale_D).float())

    def forward(self, features_ND: Tensor) -> Tensor:
        return cast(Tensor, self.linear((features_ND - self.mean) / self.scale))

    def plain(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights (K, D) and biases (K,) for features as they come."""
        with torch.no_grad():
            weight_KD = self.linear.weight.double() / self.scale
            bias_K = self.linear.bias.double() - weight_KD @ self.mean.double()
        return _array(weight_KD), _array(bias_K)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What a training begins with: the stages `taps` pooled beside the last features, and a head solved on all of that.

    `solved` None: a new random head on features of this mean (D,) and deviation.
    """

    taps: tuple[str, ...]
    solved: LinearHead | None
    mean_D: NDArray[np.float64]
    scale_D: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A network that shares no layer with another, with its new layers `heads`.

    They are in the places of the old ones; or, `beside`, one linear layer reads the last features and those of the stages
    `taps`, in place of all that comes after.
    """

    backbone: Backbone
    heads: tuple[nn.Module, ...]
    beside: bool
    taps: tuple[str, ...] = ()

    def suffix(self, boundary: Boundary) -> nn.Module:
        """The part from a boundary to the logits (N, K)."""
        if not self.beside:
            return cut(self.backbone, boundary).suffix
        return _up_to_layer(self.backbone, boundary, self.taps, self.heads[0])

    def before(self, boundary: Boundary) -> tuple[str, ...]:
        """Those of `taps` that end before a boundary: their pooled maps have to be given to the suffix, last of its values."""
        after = set(taps_after(self.backbone, boundary, self.taps))
        return tuple(tap for tap in self.taps if tap not in after)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Every parameter once: the network's under its own name, those of a head beside it under "head"."""
        return [*self.backbone.module.named_parameters(), *self._head().named_parameters()]

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name: the tensors themselves."""
        both = (self.backbone.module, self._head())
        named = (item for one in both for item in (*one.named_parameters(), *one.named_buffers()))
        return {name: value for name, value in named if value.is_floating_point() or value.dtype == torch.int64}

    def _head(self) -> nn.Module:
        # A name that no layer of a network has: it is no identifier.
        return nn.ModuleDict({"new head": self.heads[0]}) if self.beside else nn.Module()


def taps_after(backbone: Backbone, boundary: Boundary, taps: Sequence[str]) -> tuple[str, ...]:
    """Those of the stages that a suffix from `boundary` on computes."""
    names = [stage.name for stage in backbone.stages]
    first = 1 + names.index(boundary.name) if boundary.nodes else 0
    return tuple(tap for tap in taps if names.index(tap) >= first)


def copy_to_train(backbone: Backbone, start: Beginning | None, classes: int, width: int) -> Copy:
    """The network with heads for `classes` classes, those of `start`; None: new random ones in the places of the old.

    Heads that are of the right size already stay as they are without a `start`. Auxiliary heads are new if others are. `width`
    is that of the last features.
    """
    empty = HeadWeights(taps=(), weight_KD=np.zeros((classes, width), np.float32), bias_K=np.zeros(classes, np.float32))
    if (start is not None and start.taps) or not goes_in_place(backbone, empty):
        own = replace(backbone, module=copy.deepcopy(backbone.module))
        taps = () if start is None else start.taps
        return Copy(backbone=own, heads=(_layer(start, classes, width),), beside=True, taps=taps)
    if (start is None or start.solved is None) and all(place.out_features == classes for place in backbone.heads):
        own = replace(backbone, module=copy.deepcopy(backbone.module))
    else:
        own = replace(backbone, module=fresh_heads(backbone, classes))
    if start is not None and start.solved is not None:
        weight_KD, bias_K = start.solved.unstandardised()
        plain = HeadWeights(taps=(), weight_KD=weight_KD.astype(np.float32), bias_K=bias_K.astype(np.float32))
        own = replace(own, module=attach_head(own, plain))
    return Copy(backbone=own, heads=tuple(own.module.get_submodule(place.path) for place in own.heads), beside=False)


def _layer(start: Beginning | None, classes: int, width: int) -> StandardisedLinear:
    if start is None:
        return StandardisedLinear(np.zeros(width), np.ones(width), classes)
    layer = StandardisedLinear(start.mean_D, start.scale_D, classes)
    if start.solved is not None:
        with torch.no_grad():
            layer.linear.weight.copy_(torch.from_numpy(start.solved.weight_KD))
            layer.linear.bias.copy_(torch.from_numpy(start.solved.bias_K))
    return layer


def taken_apart(network: Copy, original: Backbone, name: str) -> tuple[Backbone, HeadWeights]:
    """What was trained, as a backbone (with the heads of `original`, which nothing uses) and its linear head."""
    module = network.backbone.module.cpu().requires_grad_(False).eval()
    for value in (*module.parameters(), *module.buffers()):
        value.data = value.data.contiguous()
    head = _head_beside(network) if network.beside else _head_in_place(network, original)
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


def _head_beside(network: Copy) -> HeadWeights:
    weight_KD, bias_K = cast(StandardisedLinear, network.heads[0].cpu()).plain()
    return HeadWeights(taps=network.taps, weight_KD=weight_KD, bias_K=bias_K)


def _head_in_place(network: Copy, original: Backbone) -> HeadWeights:
    # What the network averages; the features of two heads stand side by side.
    shares = [place.share for place in original.main_heads]
    layers = [layer.cpu() for layer in network.heads[: len(shares)]]
    weights = [cast(Tensor, layer.weight).flatten(1) * share for layer, share in zip(layers, shares, strict=True)]
    biases = [cast(Tensor, layer.bias) * share for layer, share in zip(layers, shares, strict=True) if layer.bias is not None]
    bias_K = torch.stack(biases).sum(dim=0) if biases else torch.zeros(len(weights[0]))
    return HeadWeights(taps=(), weight_KD=_array(torch.cat(weights, dim=1)), bias_K=_array(bias_K))


def _array(value: Tensor) -> NDArray[np.float32]:
    return np.array(value.detach().cpu().numpy(), np.float32)


def _up_to_layer(backbone: Backbone, boundary: Boundary, taps: Sequence[str], layer: nn.Module) -> nn.Module:
    """From the boundary to what the head reads, averaged over positions, and the pooled stages; and a layer on that."""
    if not boundary.nodes:
        return FeaturesAndHead(Features(backbone, taps), layer)
    assert backbone.graph is not None, "a network that cannot be traced has no other boundaries"
    pre = backbone.preprocess
    inputs = list(dict.fromkeys(place.input_node for place in backbone.main_heads))
    after = taps_after(backbone, boundary, taps)
    stages = [stage.node for stage in backbone.stages if stage.name in after]
    up_to_head = prefix_part(backbone.module, backbone.graph, [*inputs, *stages]).graph
    image = torch.zeros(1, pre.channels, pre.height, pre.width)
    part = suffix_part(backbone.module, up_to_head, boundary.nodes, image)
    heads = tuple(inputs.index(place.input_node) for place in backbone.main_heads)
    return _Pooled(part, heads, len(inputs), layer, backbone.pooling, given=len(after) < len(taps))


class _Pooled(nn.Module):
    """The values that a part gives, averaged over positions and side by side as `Features` has them, and a layer on that.

    `given`: the last value is what earlier stages gave, pooled already.
    """

    def __init__(
        self, part: nn.Module, heads: tuple[int, ...], inputs: int, layer: nn.Module, pooling: Pooling, *, given: bool
    ) -> None:
        super().__init__()
        self.part, self.layer = part, layer
        self._heads, self._inputs, self._pooling, self._given = heads, inputs, pooling, given

    def forward(self, *values: Tensor) -> Tensor:
        earlier = values[-1:] if self._given else ()
        found = self.part(*values[: len(values) - len(earlier)])
        last = [flat(found[index]) for index in self._heads]
        stages = [pooled(value, self._pooling) for value in found[self._inputs :]]
        features_ND = torch.cat([*last, *earlier, *stages], dim=1)
        return cast(Tensor, self.layer(features_ND))
