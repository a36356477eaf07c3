"""The frozen part of a network as one module: raw pixels in, one row of features out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from regraft.backbone.boundary import UpToHead
from regraft.backbone.graph import FLAT, layout_of, position_dims, prefix_part, quarter_means
from regraft.backbone.model import Backbone
from regraft.data.preprocess import Preprocess
from regraft.values import Pooling

# The pooled maps of the last few stages join the head's own input, while they stay below so many columns:
# docs/measurements.md#stages
LATER_STAGES = 5
MAX_POOLED = 4096
# Quarters are pooled too while rows stay below so many columns, and all of them below so many numbers (256 MB):
# docs/measurements.md#quarters
MAX_WITH_QUARTERS = 8192
MAX_NUMBERS = 64 * 10**6


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a row of features come from where. `last` stands first: columns 0 to `last_width`.

    `blocks` counts those of the last features, then of each tap.
    """

    taps: tuple[str, ...]
    last_width: int
    width: int
    blocks: tuple[int, ...]

    def width_of(self, features: str) -> int:
        """How many leading columns "last" or "stages" takes."""
        return self.last_width if features == "last" else self.width


class Normalise(nn.Module):
    """uint8 (N, H, W, C) -> float (N, C, H, W), as the weights expect."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift


def flat(value: Tensor) -> Tensor:
    """The head's own input as (N, D): a map is averaged over its positions."""
    return value.flatten(1) if layout_of(value.shape) == FLAT else mean_of(value)


def mean_of(value: Tensor) -> Tensor:
    """(N, C): the mean over the positions of a map or of tokens."""
    return value.mean(dim=position_dims(value.shape))


def pooled(value: Tensor, pooling: Pooling) -> Tensor:
    """(N, 2 C): mean and maximum over the positions of a map or of tokens; (N, 6 C) with the means of a map's quarters."""
    parts = quarter_means(value) if pooling == "quarters" else ()
    most = value.amax(dim=position_dims(value.shape))
    return torch.cat([mean_of(value), most, *parts], dim=1)


class Features(nn.Module):
    """Normalised images (N, C, H, W) -> features (N, D): what the heads read, then each tap, pooled as `backbone` says.

    One pass computes everything; `columns` says what stands where. Everything is frozen and in eval mode.
    """

    def __init__(self, backbone: Backbone, taps: Sequence[str]) -> None:
        super().__init__()
        stages = [stage for stage in backbone.stages if stage.name in set(taps)]
        inputs = list(dict.fromkeys(place.input_node for place in backbone.main_heads))
        self._heads = tuple(inputs.index(place.input_node) for place in backbone.main_heads)
        self._inputs, self._pooling = len(inputs), backbone.pooling
        self.prefix = _prefix(backbone, [*inputs, *(stage.node for stage in stages)])
        values = probe(self.prefix, backbone.preprocess)
        last_width = self._last(values).shape[1]
        blocks = (last_width, *(int(pooled(value, self._pooling).shape[1]) for value in values[self._inputs :]))
        self.columns = Columns(tuple(taps), last_width, sum(blocks), blocks)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        values = self.prefix(images)
        return torch.cat([self._last(values), *(pooled(value, self._pooling) for value in values[self._inputs :])], dim=1)

    def _last(self, values: tuple[Tensor, ...]) -> Tensor:
        """What the heads read, side by side: two heads that are averaged may read two tokens."""
        return torch.cat([flat(values[index]) for index in self._heads], dim=1)


def _prefix(backbone: Backbone, nodes: Sequence[str]) -> nn.Module:
    if backbone.graph is None:
        return UpToHead(backbone.module, backbone.head.path)
    return prefix_part(backbone.module, backbone.graph, nodes)


def probe(prefix: nn.Module, preprocess: Preprocess) -> tuple[Tensor, ...]:
    """What a prefix gives for one image of noise."""
    with torch.inference_mode():
        image = torch.randn(
            1, preprocess.channels, preprocess.height, preprocess.width, generator=torch.Generator().manual_seed(0)
        )
        return cast(tuple[Tensor, ...], prefix(image))


def later_stages(backbone: Backbone) -> tuple[str, ...]:
    """Names of the stages whose pooled maps join the features: the last few that tell something new.

    Left out: a stage whose mean is the head's own input (the last map of most convolutional networks), and one that the
    next only passes on. In the order of the network; none for a network that cannot be traced.
    """
    stages = [stage for stage in backbone.stages if stage.layout != FLAT]
    prefix = _prefix(backbone, [backbone.head.input_node, *(stage.node for stage in stages)])
    first, *values = probe(prefix, backbone.preprocess)
    chosen: list[str] = []
    seen, width = flat(first), 0
    for stage, value in reversed(list(zip(stages, values, strict=True))):
        columns = pooled(value, "whole").shape[1]
        if _equal(mean_of(value), seen):
            if chosen:
                chosen[0] = stage.name  # the next only passes it on: it goes by the name of the stage that made it
        elif width + columns > MAX_POOLED or len(chosen) == LATER_STAGES:
            break
        else:
            chosen.insert(0, stage.name)
            width += columns
        seen = mean_of(value)
    return tuple(chosen)


def pooling_for(backbone: Backbone, images: int) -> Backbone:
    """The backbone with the pooling that so many images can have: with the quarters of its maps where they are few enough."""
    fine = replace(backbone, pooling="quarters")
    width = Features(fine, later_stages(fine)).columns.width
    return fine if width <= MAX_WITH_QUARTERS and images * width <= MAX_NUMBERS else replace(backbone, pooling="whole")


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-4, atol=1e-5))


class FromPixels(nn.Module):
    """Raw pixels (N, H, W, C) uint8 -> what `inner` makes of the normalised images."""

    def __init__(self, inner: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.normalise, self.inner = Normalise(preprocess), inner

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.inner(self.normalise(images)))
