"""The levels that are read off a network: which stages, which strides, which tokens are places."""

from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from regraft.backbone.boundary import prefix_of
from regraft.backbone.load import load_backbone
from regraft.backbone.pyramid import Level, as_map, pyramid_boundary, pyramid_of
from regraft.errors import UsageError


class Plain(nn.Module):
    """A patch embedding and blocks on tokens with `extra` more in front, for images that need not be square."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.extra = nn.Parameter(torch.full((1, extra, 8), 7.0))
        self.blocks = nn.Sequential(*(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(6)))
        self.head = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.extra.expand(images.shape[0], -1, -1), tokens], dim=1)
        return self.head(self.blocks(tokens).mean(1))


class Flat(nn.Module):
    """A network that sees no places."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(3 * 32 * 32, 16), nn.ReLU()), nn.Linear(16, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images.flatten(1)))


class LikeVgg(nn.Module):
    """Blocks of a convolution and pooling, then pooling to 3 x 3 places whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 4, 5, 6, 7]
        blocks = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for a, b in pairwise(widths)]
        self.features = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()), *blocks)
        self.avgpool, self.head = nn.AdaptiveAvgPool2d(3), nn.Linear(7 * 9, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.avgpool(self.features(images)).flatten(1))


class Branching(Flat):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images if images.sum() > 0 else -images)


def test_the_last_stage_at_each_resolution_before_it_widens_for_a_classifier() -> None:
    levels = pyramid_of(load_backbone("efficientnet_lite0", weights="none", size=64))
    assert [(level.stage, level.stride, level.channels) for level in levels] == [
        ("blocks.0", 2, 16),
        ("blocks.1", 4, 24),
        ("blocks.2", 8, 40),
        ("blocks.4", 16, 112),
        ("blocks.6", 32, 320),
    ]


@pytest.mark.parametrize("side", [48, 72, 260])
def test_strides_do_not_depend_on_the_size_of_the_images(side: int) -> None:
    levels = pyramid_of(load_backbone("timm:resnet10t", weights="none", size=side))
    assert [level.stride for level in levels] == [2, 4, 8, 16, 32]


def test_pooling_to_a_fixed_grid_is_no_level_and_full_resolution_is_none() -> None:
    levels = pyramid_of(load_backbone(LikeVgg(), size=64))
    assert [(level.stride, level.channels) for level in levels] == [(2, 4), (4, 5), (8, 6), (16, 7)]


def test_a_plain_transformer_gives_the_end_of_each_quarter() -> None:
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=12, embed_dim=24, num_classes=5)
    levels = pyramid_of(load_backbone(network, size=32))
    assert [level.stage for level in levels] == ["blocks.2", "blocks.5", "blocks.8", "norm"]
    assert {(level.stride, level.layout, level.extra_tokens) for level in levels} == {(16, "tokens", 1)}


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_tokens_of_images_that_are_not_square_come_back_in_their_places(extra: int) -> None:
    level = pyramid_of(load_backbone(Plain(extra), size=40))[0]
    assert (level.stride, level.extra_tokens) == (8, extra)
    places = torch.arange(3 * 5 * 2.0).view(2, 3, 5)
    tokens = torch.cat([torch.zeros(1, extra, 2), places.flatten(1).T[None]], dim=1)
    assert torch.equal(as_map(tokens, level, 24, 40)[0], places)
    with pytest.raises(ValueError, match="tokens of"):
        as_map(tokens, level, 40, 40)


def test_channels_that_stand_last_come_first() -> None:
    level = Level(stage="a", node="a", channels=4, stride=8, layout="map-channels-last")
    value = torch.randn(2, 3, 5, 4)
    assert torch.equal(as_map(value, level, 24, 40)[1, 2], value[1, :, :, 2])


def test_the_boundary_has_the_values_of_all_levels() -> None:
    backbone = load_backbone("timm:convnext_atto", weights="none", size=64)
    boundary = pyramid_boundary(backbone, pyramid_of(backbone))
    with torch.no_grad():
        values = prefix_of(backbone, boundary)(torch.zeros(1, 3, 64, 64))
    assert boundary.name == "pyramid"
    assert tuple(tuple(value.shape[1:]) for value in values) == boundary.shapes


def test_a_network_that_cannot_be_recorded_or_has_no_maps_is_refused_with_a_cure() -> None:
    with pytest.raises(UsageError, match="cannot be recorded"):
        pyramid_of(load_backbone(Branching(), size=32))
    with pytest.raises(UsageError, match="stages without places"):
        pyramid_of(load_backbone(Flat(), size=32))
