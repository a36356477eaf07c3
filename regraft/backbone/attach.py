"""A new head on a network, as one torch module."""

import copy
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.backbone.features import Features
from regraft.backbone.head import replace_head
from regraft.backbone.model import Backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadWeights:
    """Logits from raw features: `weight_KD` (K, D), `bias_K` (K,). `taps`: the stages pooled beside the last features."""

    taps: tuple[str, ...]
    weight_KD: NDArray[np.float32]
    bias_K: NDArray[np.float32]

    def as_layer(self) -> nn.Linear:
        """The same as a torch layer."""
        layer = nn.Linear(self.weight_KD.shape[1], self.weight_KD.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.weight_KD))
            layer.bias.copy_(torch.from_numpy(self.bias_K))
        return layer.requires_grad_(False)


class FeaturesAndHead(nn.Module):
    """Features of one or several stages, then a linear head: normalised images (N, 3, H, W) -> logits (N, K)."""

    def __init__(self, features: Features, head: nn.Linear) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.features(images)))


def attach_head(backbone: Backbone, head: HeadWeights | None) -> nn.Module:
    """Normalised images (N, 3, H, W) -> logits (N, K), as one module in eval mode that shares nothing with `backbone`.

    None keeps the network's own head. A head on the last features alone goes where the old one was, so that the result is
    the library's plain network; otherwise the network is cut and wrapped.
    """
    if head is not None and not goes_in_place(backbone, head):
        return FeaturesAndHead(copy.deepcopy(Features(backbone, head.taps)), head.as_layer()).eval()
    module = copy.deepcopy(backbone.module)
    if head is not None:
        replace_head(module, backbone.head, head.as_layer())
    return module.eval()


def goes_in_place(backbone: Backbone, head: HeadWeights) -> bool:
    """Whether the network with this head is a plain network of its library."""
    return not head.taps and backbone.head.is_output and backbone.head.kind == "linear"
