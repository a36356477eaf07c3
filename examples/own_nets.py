"""Layers and networks of one's own, as the tutorials write them: linear and ReLU, with batch normalisation, and models.

Used by custom_layers.py, and from the command line:

    regraft inspect module:examples.own_nets:small_network --size 64
    regraft fit examples/clipart --backbone module:examples.own_nets:small_network --size 64 --strategy scratch
    regraft fit examples/clipart --head module:examples.own_nets:two_layers
"""

from itertools import pairwise

import torch
from torch import Tensor, nn


class LinearReLU(nn.Module):
    """A linear map, then ReLU: (N, in_features) -> (N, out_features)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.linear(features))


class LinearNormReLU(LinearReLU):
    """The same with batch normalisation in between."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.norm = nn.BatchNorm1d(out_features)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(features)))


class SmallNetwork(nn.Module):
    """Three convolutions with batch normalisation, then the layers above: images (N, 3, H, W) -> logits (N, classes)."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(widths)
            )
        )
        self.hidden = LinearNormReLU(64, 64)
        self.logits = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.hidden(self.stages(images).mean(dim=(2, 3))))  # type: ignore[no-any-return]


def small_network() -> nn.Module:
    """For `--backbone module:examples.own_nets:small_network`; a last layer for the classes of the data replaces its own."""
    return SmallNetwork()


def two_layers(in_features: int, classes: int) -> nn.Module:
    """For `--head module:examples.own_nets:two_layers`: a head that takes pooled features."""
    return nn.Sequential(LinearNormReLU(in_features, 64), nn.Linear(64, classes))
