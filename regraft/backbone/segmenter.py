"""A network and a decoder as one module: normalised images of any size -> logits for every pixel."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor, fx, nn

from regraft.backbone.features import Normalise
from regraft.backbone.freeze import Plan
from regraft.backbone.graph import TOKENS, prefix_part
from regraft.backbone.model import Backbone
from regraft.backbone.pixel_probe import Size, resized
from regraft.backbone.pyramid import Level, as_map, grid_of
from regraft.data.preprocess import Preprocess, to_input_size

ENCODER, DECODER = "encoder", "decoder"


class Segmenter(nn.Module):
    """Normalised images (N, C, H, W) of any size -> logits (N, outputs, H, W).

    Images of the window's size (`backbone.preprocess`) go through as they are. Others: a network that takes any size gets them
    with background added below and on the right, up to whole cells of its coarsest level; one that takes its own size alone
    (transformers with positions) gets them resized so that the longer side fits the window, centred on background, as images
    are in training. The logits are cut and resized back.

    `encoder` maps images to the values of `levels`, and its parameters and buffers have the names they have in the network;
    layers of the network after the last level are left out. Nothing is shared with what was given.
    """

    outside: Tensor

    def __init__(self, backbone: Backbone, levels: Sequence[Level], decoder: nn.Module) -> None:
        super().__init__()
        assert backbone.graph is not None
        pre = backbone.preprocess
        self.window, self.levels = (pre.height, pre.width), tuple(levels)
        self.any_size = takes_any_size(backbone, levels)
        self.encoder = prefix_part(copy.deepcopy(backbone.module), backbone.graph, [level.node for level in levels])
        self.decoder = copy.deepcopy(decoder)
        self.register_buffer("outside", background_of(pre), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        size = (images.shape[2], images.shape[3])
        if size == self.window:
            return self._logits(images)
        return self._padded(images, size) if self.any_size else self._in_window(images, size)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.encoder(images), (images.shape[2], images.shape[3]))
        return logits

    def _padded(self, images: Tensor, size: Size) -> Tensor:
        height, width = _whole_cells(size, self.levels[-1].stride)
        logits = self._logits(self._on_background(images, (height, width), (0, 0)))
        return logits[:, :, : size[0], : size[1]]

    def _in_window(self, images: Tensor, size: Size) -> Tensor:
        scale = min(side / own for side, own in zip(self.window, size, strict=True))
        rows, columns = (max(1, round(own * scale)) for own in size)
        top, left = (self.window[0] - rows) // 2, (self.window[1] - columns) // 2
        logits = self._logits(self._on_background(resized(images, (rows, columns)), self.window, (top, left)))
        return resized(logits[:, :, top : top + rows, left : left + columns], size)

    def _on_background(self, images: Tensor, size: Size, corner: Size) -> Tensor:
        """Images with background around them; their first pixel stands at `corner`."""
        canvas = self.outside.to(images.dtype).expand(len(images), -1, *size).clone()
        top, left = corner
        canvas[:, :, top : top + images.shape[2], left : left + images.shape[3]] = images
        return canvas


def takes_any_size(backbone: Backbone, levels: Sequence[Level]) -> bool:
    """Whether the recorded forward pass holds for images of other sizes: it is tried on one that is not square.

    It does where it gives what the network gives, and the maps have the grids that their strides say. A record may hold
    sizes as constants; and a transformer may have one position for each token.
    """
    assert backbone.graph is not None
    if any(level.layout == TOKENS for level in levels):
        return False
    coarsest = levels[-1].stride
    size = _whole_cells((1, 2 * coarsest + 1), coarsest)
    image = torch.randn(1, backbone.preprocess.channels, *size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            expected = backbone.module(image)
            same = torch.equal(fx.Interpreter(backbone.module, graph=backbone.graph).run(image), expected)
            values = prefix_part(backbone.module, backbone.graph, [level.node for level in levels])(image)
    except Exception:  # whatever a network says of a size that it does not take
        return False
    grids = [tuple(as_map(value, level, *size).shape[2:]) for value, level in zip(values, levels, strict=True)]
    return same and grids == [grid_of(*size, level.stride) for level in levels]


def plan_for(segmenter: Segmenter, plan: Plan) -> Plan:
    """A plan for the network's parameters as one for the segmenter's: those of its encoder, and all of the decoder's train."""
    trains = set(plan.trainable)
    inside = [name for name, _ in segmenter.encoder.named_parameters()]
    decoder = [f"{DECODER}.{name}" for name, _ in segmenter.decoder.named_parameters()]
    return replace(
        plan,
        trainable=(*(f"{ENCODER}.{name}" for name in inside if name in trains), *decoder),
        frozen=tuple(f"{ENCODER}.{name}" for name in inside if name not in trains),
    )


def background_of(preprocess: Preprocess) -> Tensor:
    """(C, 1, 1): the normalised pixel that training sees outside of an image."""
    # Of a flat image in a square, the first row is outside; the one function that makes pixels says what stands there.
    pixels = to_input_size(Image.new("RGB", (3, 1)), replace(preprocess, height=3, width=3, fit="pad"))
    return Normalise(preprocess)(torch.from_numpy(pixels[None, :1, :1]))[0]  # type: ignore[no-any-return]


def _whole_cells(size: Size, stride: int) -> Size:
    """The next size of whole cells, two of them or more: normalisation over the places of a map needs more than one."""
    height, width = (max(2 * stride, -(-side // stride) * stride) for side in size)
    return height, width
