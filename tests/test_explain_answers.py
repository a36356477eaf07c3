"""Explanations: the evidence lies where it is known to lie, adds up where it must, and comes for every network."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from regraft.backbone.attach import HeadWeights
from regraft.backbone.features import Features, later_stages
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.cli.main import main
from regraft.errors import OutputExists, UnknownClass, UsageError
from regraft.evaluate import Mistake
from regraft.evidence.explain import explain, heat_of
from regraft.evidence.files import check_folder, picture_name, write_picture
from regraft.evidence.measure import grad_cam, summed
from regraft.evidence.mistaken import mistake_overlays, wrong_answer
from regraft.evidence.overlay import coloured, overlay
from regraft.evidence.watched import Watched, watched
from regraft.fitted import Fitted, pretrained
from regraft.recipe import Own
from regraft.train.own_head import OwnHead
from regraft.values import Explanation, Prediction

SIDE, SQUARE = 64, 24
COLOURS = {"red": (200, 40, 40), "blue": (40, 40, 200)}
PHOTOS = Path(str(files("foolbox") / "data"))


# A problem whose evidence has a known place: a red and a blue square are labels of their own, a green one says nothing. That they
# may both be there, or neither, keeps a network from telling one by the absence of the other.


def squares(
    count: int, seed: int, *, shown: float = 0.5, side: int = SIDE
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Noise with squares: images (N, H, W, 3), what is on them (N, 2), and of one label each, there with the chance `shown`,
    its number (N,) and the top and left of its square (N, 2)."""
    chance, square = np.random.default_rng(seed), side * SQUARE // SIDE
    images = chance.normal(120, 30, (count, side, side, 3))
    there, asked = chance.random((count, 2)) < 0.5, chance.integers(0, 2, count)
    there[np.arange(count), asked] = chance.random(count) < shown
    corners = chance.integers(0, side - square + 1, (count, 3, 2))
    colours = np.array([*COLOURS.values(), (40, 160, 40)])
    for image, on, number, corner in zip(images, there, asked, corners, strict=True):
        # The one that is asked for lies on top.
        for one in (2, 1 - number, number):
            if one == 2 or on[one]:
                top, left = corner[one]
                image[top : top + square, left : left + square] = colours[one]
    return np.clip(images, 0, 255).astype(np.uint8), there, asked, corners[np.arange(count), asked]


def in_square(heat_HW: NDArray[np.float32], corner: NDArray[np.int64]) -> bool:
    """Whether the place of most evidence lies in the square that decides."""
    y, x = np.unravel_index(int(np.argmax(heat_HW)), heat_HW.shape)
    (top, left), square = corner, heat_HW.shape[0] * SQUARE // SIDE
    return bool(top <= y < top + square and left <= x < left + square)


def saved(images: NDArray[np.uint8], folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def learn(network: nn.Module, *, steps: int, rate: float) -> nn.Module:
    """Trained on the squares until it has them right."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate)
    network.train()
    for step in range(steps):
        images, there, _, _ = squares(32, step)
        loss = nn.functional.binary_cross_entropy_with_logits(network(normalised(images)), torch.from_numpy(there).float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def normalised(images: NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def fitted_to(network: nn.Module, classes: Sequence[str] = tuple(COLOURS), side: int = SIDE) -> Fitted:
    own = Own(module=network, input_shape=(3, side, side), mean=(0.5,) * 3, std=(0.25,) * 3)
    backbone = load_backbone(own)
    # The whole image: nothing is cropped away.
    backbone = replace(backbone, preprocess=replace(backbone.preprocess, fit="squash"))
    return Fitted(backbone=backbone, head=None, classes=tuple(classes), multi_label=True)


def vit(**options: object) -> nn.Module:
    return VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=2, **options
    )


def swin() -> nn.Module:
    return SwinTransformer(
        img_size=SIDE, patch_size=4, embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=4, num_classes=2
    )


def resnet() -> nn.Module:
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=2)


class Vgg(nn.Module):
    """Convolutions, and hidden layers that read every place by itself."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 32)
        blocks = [
            [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            for a, b in zip(widths, widths[1:], strict=False)
        ]
        self.features = nn.Sequential(*(layer for block in blocks for layer in block))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(32 * 64, 32), nn.ReLU(inplace=True), nn.Linear(32, 2))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class Branching(nn.Module):
    """A network that cannot be recorded: its forward pass looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 5, 4), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()
        )
        self.fc = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        value = self.features(images)
        return self.fc(value if value.sum() > 1e9 else value * 1.0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    "vit": (vit, 80, 2e-3),
    "vit, average": (lambda: vit(global_pool="avg", class_token=False), 60, 2e-3),
    "vit, registers": (lambda: vit(reg_tokens=4), 80, 2e-3),
    "swin": (swin, 80, 2e-3),
    "resnet": (resnet, 20, 2e-3),
    "vgg": (Vgg, 40, 2e-3),
    "not recorded": (Branching, 80, 5e-3),
}
