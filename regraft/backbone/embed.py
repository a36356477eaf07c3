"""A network that gives what its head reads together with what its head says, in one pass."""

import torch
from torch import Tensor, nn

from regraft.backbone.attach import BothSides, FeaturesAndHead
from regraft.backbone.graph import FLAT, layout_of, position_dims


class Embedded(nn.Module):
    """Normalised images (N, C, H, W) -> (N, D + K): D features, a map averaged over its positions, then K logits."""

    def __init__(self, network: FeaturesAndHead) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        value = self.network.features(images)
        features = value if layout_of(value.shape) == FLAT else value.mean(dim=position_dims(value.shape))
        return torch.cat([features.flatten(1), self.network.head(value)], dim=1)


def embedded(network: FeaturesAndHead, *, mirrored: bool) -> nn.Module:
    """`network` as a module that gives its features too; `mirrored`: the mean of both sides of an image."""
    module = Embedded(network)
    return (BothSides(module) if mirrored else module).eval()
