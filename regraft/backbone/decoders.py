"""Decoders: from the maps of several levels to logits for every pixel.

Multiply-adds for an image of 288 x 288 pixels on the levels of EfficientNet-Lite0, whose own are 0.63 G: linear 0.6 M,
small 16 M, deeplabv3+ 0.15 G, fpn 0.52 G, unet 0.63 G. At the widths of its library the U-Net has 3.0 G.
"""

import copy
from collections.abc import Sequence
from typing import Any, Final, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn

from regraft.backbone.pixel_probe import PerPixelLinear, PixelProbe, Size, Standardise, grid_at, resized
from regraft.backbone.pyramid import Level, grid_of
from regraft.errors import UsageError
from regraft.recipe import DecoderKind

DECODERS: Final = get_args(DecoderKind)

# Levels wider than this are narrowed by a 1x1 convolution first: a 3x3 convolution on the 1280 channels of
# EfficientNet-Lite0's last level would cost as much as the whole rest of a decoder.
_WIDEST = 128
# Of the blocks of a U-Net, the last at stride 2. smp's further block at full resolution sees no skip, and costs as much again.
_UNET = (128, 96, 64, 32, 16)
_FPN, _FPN_SEGMENTATION = 96, 64
_DEEPLAB = 96
_SMALL = 64
# Wu & He (2018): groups of 16 channels do about as well as 32 groups; widths are multiples of it.
_GROUP = 16
# FPNDecoder normalises in 32 groups, whatever its width.
_FPN_GROUPS = 32
# DeepLabv3+ has rates 6, 12, 18 for the 33 x 33 cells that 513 pixels are at stride 16.
_RATES, _RATES_FOR = (6, 12, 18), 33


class Pyramid(nn.Module):
    """Maps -> maps at the strides that a decoder wants: `plan` has for each the level to make it from and the stride.

    None as a level gives a map without channels. Grids double exactly from one stride to the next, as decoders expect; maps
    of other grids are resized, after they are narrowed. `widths` are the channels of what comes out.
    """

    def __init__(self, widths: Sequence[int], plan: Sequence[tuple[int | None, int]]) -> None:
        super().__init__()
        self.plan = tuple(plan)
        self.narrow = nn.ModuleList(nn.Identity() if index is None else _narrow(widths[index]) for index, _ in plan)
        self.widths = [0 if index is None else min(widths[index], _WIDEST) for index, _ in plan]

    def forward(self, maps: Sequence[Tensor], size: Size) -> list[Tensor]:
        deepest = max(stride for _, stride in self.plan)
        cells = grid_of(*size, deepest)
        features = []
        for (index, stride), narrow in zip(self.plan, self.narrow, strict=True):
            grid = (cells[0] * (deepest // stride), cells[1] * (deepest // stride))
            features.append(maps[0].new_zeros(len(maps[0]), 0, *grid) if index is None else resized(narrow(maps[index]), grid))
        return features


class FromPyramid(nn.Module):
    """A decoder of segmentation-models-pytorch on maps of ours, and the layer that makes logits of what it gives."""

    def __init__(self, pyramid: Pyramid, decoder: nn.Module, last: nn.Conv2d) -> None:
        super().__init__()
        self.pyramid, self.decoder, self.last = pyramid, decoder, last
        initialize_decoder(self.decoder)
        initialize_head(self.last)

    def forward(self, maps: Sequence[Tensor], size: Size) -> Tensor:
        return cast(Tensor, self.last(self.decoder(self.pyramid(maps, size))))

    def begin_at_zero(self) -> None:
        _silence(self.last)


class Small(nn.Module):
    """On the coarsest level: 3x3 convolution, ReLU, twice the size, 3x3 convolution (the decoder of a tutorial)."""

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(width, hidden, 3, padding=1), nn.Conv2d(hidden, outputs, 3, padding=1)

    def forward(self, maps: Sequence[Tensor], size: Size) -> Tensor:
        hidden = self.first(maps[-1]).relu()
        rows, columns = grid_at(hidden)
        return cast(Tensor, self.last(resized(hidden, (2 * rows, 2 * columns))))

    def begin_at_zero(self) -> None:
        _silence(self.last)


Body = PerPixelLinear | FromPyramid | Small


class Decoder(nn.Module):
    """Values of the levels -> logits (N, outputs, *size), `size` being that of construction if None."""

    def __init__(self, standardise: nn.Module, body: Body, size: Size) -> None:
        super().__init__()
        self.standardise, self.body, self.size = standardise, body, size

    def forward(self, values: Sequence[Tensor], size: Size | None = None) -> Tensor:
        size = size or self.size
        return resized(self.body(self.standardise(values), size), size)


class Refined(nn.Module):
    """A probe and a decoder whose logits are added to the probe's: values of the levels -> logits (N, outputs, *size).

    The layer of the decoder that makes the logits is zero at first, so that this is exactly the probe; that layer learns from
    the first step on, those before it from the second. Nothing is shared with what was given.
    """

    def __init__(self, probe: PixelProbe, decoder: Decoder) -> None:
        super().__init__()
        self.probe = copy.deepcopy(probe)
        # On the maps that the probe has standardised already.
        self.decoder = Decoder(nn.Identity(), copy.deepcopy(decoder.body), decoder.size)
        self.decoder.body.begin_at_zero()

    def forward(self, values: Sequence[Tensor], size: Size | None = None) -> Tensor:
        maps = self.probe.standardise(values)
        return cast(Tensor, self.probe.of_maps(maps, size) + self.decoder(maps, size))


def make_decoder(
    kind: str,
    levels: Sequence[Level],
    outputs: int,
    *,
    height: int,
    width: int,
    channels_scale: float = 1.0,
    mean_D: NDArray[np.floating[Any]] | None = None,
    scale_D: NDArray[np.floating[Any]] | None = None,
) -> Decoder:
    """A new decoder for images of `height` x `width`, with random weights; `channels_scale` is a factor for its widths.

    Its values are what the network gives at the ends of `levels`; `mean_D` and `scale_D` as in `Standardise`. Raises UsageError
    for a kind that is not in DECODERS.

    U-Net: Ronneberger et al. (2015). FPN: Kirillov et al. (2019). DeepLabv3+: Chen et al. (2018); its dilated last stage,
    which a fixed network does not have, is stood in for by the coarsest level enlarged to stride 16, beside the level of that
    stride. Where a network keeps one stride, its levels are taken as 4, 8, 16 and 32 and resized to that, as in SETR-like
    decoders of plain transformers (BEiT; from the last level alone: ViTDet, Li et al., 2022).
    """
    widths = [level.channels for level in levels]
    if kind == "linear":
        body: Body = PerPixelLinear(widths, outputs)
    elif kind == "small":
        body = Small(widths[-1], _scaled(_SMALL, channels_scale), outputs)
    elif kind == "unet":
        body = _unet(levels, outputs, channels_scale)
    elif kind == "fpn":
        body = _fpn(levels, outputs, channels_scale)
    elif kind == "deeplabv3+":
        body = _deeplab(levels, outputs, channels_scale, (height, width))
    else:
        raise UsageError(
            expected=f"a decoder: {', '.join(DECODERS)}", got=repr(kind), fix="choose one of them, for example --decoder unet"
        )
    return Decoder(Standardise(levels, height, width, mean_D, scale_D), body, (height, width))


class _Unet(nn.Module):
    def __init__(self, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        # The first width is that of the image, which smp leaves out.
        self.inner = _with_group_norms(UnetDecoder([0, *widths], blocks, n_blocks=len(blocks)))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return cast(Tensor, self.inner([features[0], *features]))


class _DeepLab(nn.Module):
    def __init__(self, widths: Sequence[int], channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        fine, middle, deep = widths
        self.inner = _with_group_norms(
            DeepLabV3PlusDecoder(
                # smp looks at the third, of stride 4, and at the last.
                encoder_channels=[0, 0, fine, middle + deep],
                encoder_depth=4,
                out_channels=channels,
                atrous_rates=rates,
                output_stride=16,
                aspp_separable=True,
                aspp_dropout=0.5,
            )
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        fine, middle, deep = features
        return cast(Tensor, self.inner([fine, fine, fine, torch.cat([middle, deep], dim=1)]))


def _unet(levels: Sequence[Level], outputs: int, scale: float) -> FromPyramid:
    strides = [2**power for power in range(1, max(2, *(s.bit_length() - 1 for s in _nominal(levels))) + 1)]
    plan = [(_source(levels, stride, skippable=stride != strides[-1]), stride) for stride in strides]
    pyramid = Pyramid([level.channels for level in levels], plan)
    wanted = len(strides) - 1
    blocks = [_scaled(width, scale) for width in (*(_UNET[:1] * wanted), *_UNET)[-wanted:]]
    return FromPyramid(pyramid, _Unet(pyramid.widths, blocks), nn.Conv2d(blocks[-1], outputs, 3, padding=1))


def _fpn(levels: Sequence[Level], outputs: int, scale: float) -> FromPyramid:
    pyramid = Pyramid([level.channels for level in levels], [(_source(levels, stride), stride) for stride in (4, 8, 16, 32)])
    channels = _scaled(_FPN_SEGMENTATION, scale, _FPN_GROUPS)
    decoder = FPNDecoder(pyramid.widths, encoder_depth=3, pyramid_channels=_scaled(_FPN, scale), segmentation_channels=channels)
    return FromPyramid(pyramid, decoder, nn.Conv2d(channels, outputs, 1))


def _deeplab(levels: Sequence[Level], outputs: int, scale: float, size: Size) -> FromPyramid:
    plan = [(_source(levels, 4), 4), (_source(levels, 16), 16), (_source(levels, 32), 16)]
    pyramid = Pyramid([level.channels for level in levels], plan)
    channels = _scaled(_DEEPLAB, scale)
    cells = max(grid_of(*size, 16))
    rates = [max(1, round(rate * cells / _RATES_FOR)) for rate in _RATES]
    return FromPyramid(pyramid, _DeepLab(pyramid.widths, channels, rates), nn.Conv2d(channels, outputs, 1))


def _nominal(levels: Sequence[Level]) -> list[int]:
    """The power of two that each level's stride is taken for."""
    if len(levels) > 1 and len({level.stride for level in levels}) == 1:
        return [4, 8, 16, 32][-len(levels) :]
    return [2 ** round(float(np.log2(level.stride))) for level in levels]


def _source(levels: Sequence[Level], stride: int, *, skippable: bool = False) -> int | None:
    """The level to make a map of this stride from: the one that has it, else None if `skippable`, else the nearest."""
    strides = _nominal(levels)
    if stride in strides or not skippable:
        return min(range(len(levels)), key=lambda index: (abs(np.log2(strides[index] / stride)), -index))
    return None


def _scaled(width: int, scale: float, multiple: int = _GROUP) -> int:
    return max(1, round(width * scale / multiple)) * multiple


def _narrow(width: int) -> nn.Module:
    return nn.Conv2d(width, _WIDEST, 1, bias=False) if width > _WIDEST else nn.Identity()


def _with_group_norms(module: nn.Module) -> nn.Module:
    """The module with each BatchNorm replaced by a GroupNorm.

    Batches are as small as one image, of which a BatchNorm at a pooled position has a single number; and running statistics of
    few images, which drift while the decoder learns, would make it answer otherwise than it was trained.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(child.num_features // _GROUP, child.num_features))
        else:
            _with_group_norms(child)
    return module


def _silence(layer: nn.Conv2d) -> None:
    for value in layer.parameters():
        nn.init.zeros_(value)
