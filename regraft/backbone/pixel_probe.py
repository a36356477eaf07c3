"""The convex probe's form: logits for every pixel that are linear in the standardised maps of several levels."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from regraft.backbone.pyramid import Level, as_map

Size = tuple[int, int]


class Standardise(nn.Module):
    """The values of the levels, as the network gives them, as maps (N, C, h, w) of mean 0 and deviation 1 per channel.

    Maps of pretrained stages differ in scale by orders of magnitude. `mean_D` and `scale_D` have the channels of all levels,
    fine to coarse; without them values are taken as they are. Tokens are those of an image of `height` x `width`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        levels: Sequence[Level],
        height: int,
        width: int,
        mean_D: NDArray[np.floating[Any]] | None = None,
        scale_D: NDArray[np.floating[Any]] | None = None,
    ) -> None:
        super().__init__()
        channels = sum(level.channels for level in levels)
        self.levels, self.image = tuple(levels), (height, width)
        mean_D, scale_D = np.zeros(channels) if mean_D is None else mean_D, np.ones(channels) if scale_D is None else scale_D
        if not len(mean_D) == len(scale_D) == channels:
            raise ValueError(f"{channels} channels need as many means and scales, not {len(mean_D)} and {len(scale_D)}")
        self.register_buffer("mean", torch.from_numpy(np.asarray(mean_D)).float())
        self.register_buffer("scale", torch.from_numpy(np.asarray(scale_D)).float())

    def forward(self, values: Sequence[Tensor]) -> list[Tensor]:
        widths = [level.channels for level in self.levels]
        factor = self.scale.reciprocal()
        maps = [
            # One pass over the map: a factor and a shift for each channel.
            torch.addcmul(shift.view(-1, 1, 1), as_map(value, level, *self.image).to(factor.dtype), one.view(-1, 1, 1))
            for value, level, one, shift in zip(
                values, self.levels, torch.split(factor, widths), torch.split(-self.mean * factor, widths), strict=True
            )
        ]
        return maps


class PerPixelLinear(nn.Module):
    """Standardised maps -> logits (N, C, h, w) on the finest grid: one linear layer on all levels, each brought to that grid.

    Each level is multiplied by its weights before it is enlarged: the two commute, and this way round a level costs what its
    own cells do.
    """

    def __init__(self, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(width, outputs, 1, bias=False) for width in widths)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, maps: Sequence[Tensor], size: Size) -> Tensor:
        grid = grid_at(maps[0])
        logits = [resized(part(each), grid) for part, each in zip(self.parts, maps, strict=True)]
        return torch.stack(logits).sum(dim=0) + self.bias.view(-1, 1, 1)

    def begin_at_zero(self) -> None:
        for value in self.parameters():
            nn.init.zeros_(value)


class PixelProbe(nn.Module):
    """A linear classifier of pixels: values of the levels -> logits (N, C, *size), `size` being that of construction if None.

    logits = resize(sum_l up(W_l z_l) + b), with z_l the standardised map of level l, up() bilinear to the finest level's grid
    and resize() bilinear to the image's size, neither aligning corners. Made by `of`.
    """

    def __init__(self, standardise: Standardise, linear: PerPixelLinear, size: Size) -> None:
        super().__init__()
        self.standardise, self.linear, self.size = standardise, linear, size

    @classmethod
    def of(
        cls,
        levels: Sequence[Level],
        weight_CD: NDArray[np.floating[Any]],
        bias_C: NDArray[np.floating[Any]],
        mean_D: NDArray[np.floating[Any]],
        scale_D: NDArray[np.floating[Any]],
        size: Size,
    ) -> "PixelProbe":
        """A solved probe: D are the channels of the levels, fine to coarse; `weight_CD` is for standardised channels."""
        widths = [level.channels for level in levels]
        linear = PerPixelLinear(widths, len(bias_C))
        with torch.no_grad():
            weights = torch.split(torch.from_numpy(np.asarray(weight_CD)).float(), widths, dim=1)
            for part, weight in zip(linear.parts, weights, strict=True):
                cast(nn.Conv2d, part).weight.copy_(weight[:, :, None, None])
            linear.bias.copy_(torch.from_numpy(np.asarray(bias_C)))
        return cls(Standardise(levels, *size, mean_D, scale_D), linear, size)

    def forward(self, values: Sequence[Tensor], size: Size | None = None) -> Tensor:
        return self.of_maps(self.standardise(values), size)

    def of_maps(self, maps: Sequence[Tensor], size: Size | None = None) -> Tensor:
        """The same for maps that are standardised already."""
        size = size or self.size
        return resized(self.linear(maps, size), size)


def grid_at(value: Tensor) -> Size:
    """Rows and columns of a map (N, C, h, w)."""
    return value.shape[2], value.shape[3]


def resized(value: Tensor, size: Size) -> Tensor:
    """A map (N, C, h, w) at another size, bilinearly; itself where it has that size."""
    return value if grid_at(value) == size else interpolate(value, size=size, mode="bilinear", align_corners=False)
