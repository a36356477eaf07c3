"""Pillow's resizing as a few operations that every format has: raw pixels of any size in, those that a network expects out.

Letters in names give shapes: N images, C channels, H W pixels of the image, h w of the network's input.
"""

import math
from typing import Final, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from regraft.data.preprocess import Interpolation, Preprocess

# Pillow rounds weights to 22 bits. Eleven of them at a time, the sums over an image's row are whole numbers that float32 holds.
_HALF_BITS: Final = 2.0**11
_SUPPORT: Final[dict[Interpolation, float]] = {"nearest": 0.0, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}
_WIDEST: Final = 4  # beyond every support
# Numbers in steps of these have so few bits that float32 adds and multiplies them without rounding.
_PARTS: Final = 2.0**12
_STEPS: Final = 32
# Luminance in 1/65536, as Pillow converts RGB to L.
_LUMINANCE: Final = (19595.0, 38470.0, 7471.0)
_WHOLE: Final = 65536.0
_LARGEST: Final = 2**30
_DOUBLE = torch.float64  # some runtimes compute it as float32


class Resample(nn.Module):
    """Raw pixels (N, H, W, C) uint8 -> pixels (N, C, h, w) float32, whole numbers from 0 to 255.

    The same as `data.preprocess.to_input_size`, bit for bit where the runtime has float64; one that computes it as float32 may
    be one level off in a few pixels. C is 3 for networks of 1 or 3 channels, 4 for those of 4.
    """

    canvas: Tensor
    luminance: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess, self._down_first = preprocess, _goes_down_first()
        self.register_buffer("canvas", _background(preprocess), persistent=False)
        self.register_buffer("luminance", torch.tensor(_LUMINANCE).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[1], images.shape[2]
        across, down = _spans(*size, self.preprocess)
        if self.preprocess.interpolation == "nearest":
            pixels = self._floats(images)
            pixels = pixels.index_select(3, _nearest(across, size[1])).index_select(2, _nearest(down, size[0]))
        else:
            pixels = self._filtered(images, across, down)
        if self.preprocess.fit != "pad":
            return pixels
        inside = down.inside().view(1, 1, -1, 1) & across.inside().view(1, 1, 1, -1)
        return torch.where(inside, pixels, self.canvas)

    def _floats(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        if self.preprocess.channels != 1:
            return pixels
        return torch.floor(((pixels * self.luminance).sum(dim=1, keepdim=True) + _WHOLE / 2) / _WHOLE)

    def _filtered(self, images: Tensor, across: "_Span", down: "_Span") -> Tensor:
        """Both sides resized, whole levels in between."""
        kind, (rows, columns) = self.preprocess.interpolation, images.shape[1:3]
        if not self._down_first:
            pixels = _across(self._floats(images), _weights(across, columns, kind))
            return _across(pixels.transpose(2, 3), _weights(down, rows, kind)).transpose(2, 3)
        # Tall images are laid on their side, so that the first pass reduces their height. No branch, which some runtimes
        # answer wrongly: a number that is 0 or 1 and decides the order of the pixels.
        tall = _is_tall(rows, columns, self.preprocess)
        first, second = columns + tall * (rows - columns), rows + tall * (columns - rows)
        down_step, across_step = columns + tall * (1 - columns), 1 + tall * (columns - 1)
        places = torch.arange(second).unsqueeze(1) * down_step + torch.arange(first).unsqueeze(0) * across_step
        turned = images.flatten(1, 2).index_select(1, places.flatten()).unflatten(1, (second, first))  # type: ignore[no-untyped-call]
        share = torch.scalar_tensor(tall, dtype=_DOUBLE)
        pixels = _across(self._floats(turned), _weights(across.mixed(down, share), first, kind))
        pixels = _across(pixels.transpose(2, 3), _weights(down.mixed(across, share), second, kind))
        height, width = self.preprocess.height, self.preprocess.width
        upright = pixels[:, :, :width, :height].transpose(2, 3)
        return torch.where(share > 0, pixels[:, :, :height, :width], upright)


def _is_tall(rows: int, columns: int, preprocess: Preprocess) -> int:
    """1 where Pillow reduces the height first: where that loses more than twice as many pixels as the width; else 0."""
    height: int | torch.SymInt = preprocess.height
    width: int | torch.SymInt = preprocess.width
    if preprocess.fit == "pad":
        height, width = (
            torch.sym_min(height, (2 * rows * width + columns) // (2 * columns)),
            torch.sym_min(width, (2 * columns * height + rows) // (2 * rows)),
        )
    lost, more = rows - height, rows - height - 2 * (columns - width)
    return cast(int, torch.sym_min(1, torch.sym_max(0, lost)) * torch.sym_min(1, torch.sym_max(0, more)))


class _Place:
    """A place along one side, in pixels: a whole number and a part below 1, so that a runtime's float32 has digits left for it.

    Together they are a number of float32, as which Pillow takes the corners of what it resizes, and their distance.
    """

    def __init__(self, whole: Tensor, part: Tensor) -> None:
        value = (whole.to(_DOUBLE) + part).to(torch.float32)
        self.whole, self.part = whole, (value - whole.to(torch.float32)).to(_DOUBLE)


def _share(times: Tensor, side: Tensor, of: Tensor) -> _Place:
    """times x side / of, for whole numbers."""
    # Beyond that, a runtime with whole numbers of 32 bits would wrap around: images 5,000 times as long as wide.
    known = side < torch.full_like(times, _LARGEST) // torch.clamp(times, min=1)
    exact = times * torch.where(known, side, 0)
    rough = times.to(_DOUBLE) * side.to(_DOUBLE) / of
    whole = torch.where(known, exact // of, torch.floor(rough).to(torch.int64))
    part = torch.where(known, (exact - exact // of * of).to(_DOUBLE) / of, rough - torch.floor(rough))
    return _Place(whole, part)


class _Span:
    """Along one side: the part of the image from `begin` to `end` becomes `length` pixels of `slots`, from `offset` on.

    Whole numbers as far as they go: in float32, a place a thousand pixels from the edge is known to a ten thousandth of a pixel
    only, and a hundredth of all levels would then be rounded otherwise.
    """

    def __init__(self, begin: _Place, end: _Place, length: Tensor, offset: Tensor, slots: int) -> None:
        size = _Place(end.whole - begin.whole, end.part - begin.part)
        self.begin, self.begin_part, self.size, self.size_part = begin.whole, begin.part, size.whole, size.part
        self.length, self.offset, self.slots = length, offset, slots

    def mixed(self, other: "_Span", share: Tensor) -> "_Span":
        """This one where `share` is 0, `other` where it is 1, with as many slots as the larger has."""
        found = object.__new__(_Span)
        for name in ("begin", "begin_part", "size", "size_part", "length", "offset"):
            setattr(found, name, torch.where(share > 0, getattr(other, name), getattr(self, name)))
        found.slots = max(self.slots, other.slots)
        return found

    def scale(self) -> Tensor:
        """Pixels of the image for each that comes out."""
        return (self.size.to(_DOUBLE) + self.size_part) / self.length

    def places(self) -> Tensor:
        """(slots,) the number of each slot among the pixels that the part becomes; outside of it below 0 or too large."""
        return torch.arange(self.slots) - self.offset

    def inside(self) -> Tensor:
        """(slots,) whether the part reaches there."""
        places = self.places()
        return (places >= 0) & (places < self.length)

    def middles(self) -> tuple[Tensor, Tensor]:
        """(slots,) where in the image the middle of each slot lies, in units of 1 / (2 `length`) pixels.

        Whole numbers, and what is left, 0 to 1.
        """
        # Nothing is made of the slots outside.
        half_steps = 2 * torch.clamp(self.places(), min=0) + 1
        begin, size = (torch.floor(part * _PARTS) / _PARTS for part in (self.begin_part, self.size_part))
        parts = 2 * self.length * begin + half_steps * size  # exact in float32
        left = 2 * self.length * (self.begin_part - begin) + half_steps * (self.size_part - size)
        whole = torch.floor(parts + left)
        more = (parts - whole) + left
        return 2 * self.length * self.begin + half_steps * self.size + whole.to(torch.int64), more


def _spans(rows: int, columns: int, preprocess: Preprocess) -> tuple[_Span, _Span]:
    """What becomes of the sides of an image, across and down."""
    # Numbers as tensors: what the size decides is then part of the graph, without branches.
    width, height = (torch.scalar_tensor(side, dtype=torch.int64) for side in (columns, rows))
    sides, slots = (width, height), (preprocess.width, preprocess.height)
    if preprocess.fit == "crop":
        return _cropped(sides, slots, preprocess.crop_share)
    nothing = torch.zeros_like(width)
    if preprocess.fit == "squash":
        found = [_whole(side, torch.full_like(side, slot), nothing, slot) for side, slot in zip(sides, slots, strict=True)]
        return found[0], found[1]
    floats = [side.to(_DOUBLE) for side in sides]
    scale = torch.minimum(slots[0] / floats[0], slots[1] / floats[1])
    lengths = [torch.clamp(torch.round(side * scale), min=1.0).to(torch.int64) for side in floats]
    found = [
        _whole(side, length, torch.clamp(slot - length, min=0) // 2, slot)
        for side, length, slot in zip(sides, lengths, slots, strict=True)
    ]
    return found[0], found[1]


def _whole(side: Tensor, length: Tensor, offset: Tensor, slots: int) -> _Span:
    """All of a side."""
    nothing = torch.zeros_like(side, dtype=_DOUBLE)
    return _Span(_Place(torch.zeros_like(side), nothing), _Place(side, nothing), length, offset, slots)


def _cropped(sides: tuple[Tensor, Tensor], slots: tuple[int, int], share: float) -> tuple[_Span, _Span]:
    """`data.preprocess.crop_box` without its branches: the side that would be too short is the one that grows."""
    (width, height), whole = sides, [round(slot / share) for slot in slots]
    grown = whole[1] * width // height, whole[0] * height // width
    found = []
    for side, slot, least, more in zip(sides, slots, whole, grown, strict=True):
        full = torch.clamp(more, min=least)
        # Half of what is left over, rounded to even.
        over = full - slot
        half = over // 2
        start = half + over % 2 * (half % 2)
        end = torch.minimum(start + slot, full)
        found.append(_Span(_share(start, side, full), _share(end, side, full), torch.full_like(side, slot), start * 0, slot))
    return found[0], found[1]


def _nearest(span: _Span, size: int) -> Tensor:
    """(slots,) which pixel of `size` each slot shows."""
    # Summed up step by step as Pillow does it: where a place falls between two pixels, rounding decides.
    scale, begin = span.scale(), span.begin.to(_DOUBLE) + span.begin_part
    steps = torch.cat([(begin + scale * 0.5).view(1), scale.expand(span.slots - 1)])
    places = torch.clamp(span.places(), 0, span.slots - 1)
    found = torch.floor(torch.cumsum(steps, dim=0)).to(torch.int64)
    return torch.clamp(found, 0, size - 1).index_select(0, places)


def _weights(span: _Span, size: int, kind: Interpolation) -> Tensor:
    """(2 slots, size): what each of `size` pixels adds to each slot, upper and lower eleven bits of Pillow's whole numbers.

    Pillow's own: a filter that is as wide as the image is reduced, cut off at the image's border, and adds up to 1. It computes
    in double precision and rounds to 22 bits; to come out alike from float32, values are sums of a few bits and a small rest.
    """
    coarse, rest = _kernel(*_distances(span, size), kind)
    total_coarse, total_rest = coarse.sum(dim=1, keepdim=True), rest.sum(dim=1, keepdim=True)
    total = total_coarse + total_rest
    total = torch.where(total == 0, torch.ones_like(total), total)
    sign = torch.sign(coarse + rest)
    coarse, rest = sign * coarse, sign * rest
    near = torch.floor((coarse + rest) * (_HALF_BITS**2 / total) + 0.5)
    # What the division left, added up from the largest parts down: each but the last is exact.
    upper = torch.floor(near / _HALF_BITS)
    left = (coarse * _HALF_BITS - upper * total_coarse) * _HALF_BITS - (near - upper * _HALF_BITS) * total_coarse
    left = left + (rest * _HALF_BITS**2 - near * total_rest)
    bits = sign * (near + torch.floor(left / total + 0.5))
    upper = torch.floor(bits / _HALF_BITS)
    return torch.cat([upper, bits - upper * _HALF_BITS]).to(torch.float32)


def _distances(span: _Span, size: int) -> tuple[Tensor, Tensor]:
    """(slots, size) how far each pixel is from the middle of each slot, in units of the filter: whole `_STEPS`, and a rest."""
    middle, part = span.middles()
    away = span.length * (2 * torch.arange(size).unsqueeze(0) + 1) - middle.unsqueeze(1)
    left = torch.where(away > 0, -part.unsqueeze(1), part.unsqueeze(1))
    away = torch.abs(away)
    # A filter of one pixel of the image at least: a wider one where it is reduced, by a number that may be no whole one.
    reduced = span.scale() > 1
    unit = 2 * torch.where(reduced, span.size, span.length)
    lost = torch.where(reduced, span.size_part / (span.size.to(_DOUBLE) + span.size_part), 0.0)
    distance = (away.to(_DOUBLE) + left) / unit
    steps = torch.floor(distance * (1.0 - lost) * _STEPS).to(torch.int64)
    steps = torch.clamp(steps, 0, _STEPS * _WIDEST)
    rest = ((_STEPS * away - steps * unit).to(_DOUBLE) + _STEPS * left) / (_STEPS * unit) - distance * lost
    return steps, rest


def _kernel(steps: Tensor, rest: Tensor, kind: Interpolation) -> tuple[Tensor, Tensor]:
    """A filter of Pillow at distances of 0 or more, in units of the filter: a number of few bits, and a small rest."""
    x = steps.to(_DOUBLE) / _STEPS
    nothing = torch.zeros_like(rest)
    inner, outer = steps < _STEPS, steps < 2 * _STEPS
    if kind == "bilinear":
        value, more = torch.where(inner, 1.0 - x, nothing), torch.where(inner, -rest, nothing)
    elif kind == "bicubic":
        near = (1.5 * x - 2.5) * x * x + 1.0
        near_more = ((1.5 * rest + (4.5 * x - 2.5)) * rest + (4.5 * x - 5.0) * x) * rest
        far = ((2.5 - 0.5 * x) * x - 4.0) * x + 2.0
        far_more = ((2.5 - 1.5 * x - 0.5 * rest) * rest + (5.0 - 1.5 * x) * x - 4.0) * rest
        value = torch.where(inner, near, torch.where(outer, far, nothing))
        more = torch.where(inner, near_more, torch.where(outer, far_more, nothing))
    else:
        x = x + rest
        value, more = torch.where(x < _SUPPORT[kind], _sinc(x) * _sinc(x / 3.0), nothing), nothing
    coarse = torch.floor(value * _PARTS + 0.5) / _PARTS
    return coarse, (value - coarse) + more


def _sinc(x: Tensor) -> Tensor:
    angle = x * math.pi
    return torch.where(x == 0, torch.ones_like(x), torch.sin(angle) / torch.where(x == 0, torch.ones_like(x), angle))


def _goes_down_first() -> bool:
    """Whether this Pillow reduces the height of tall images before the width, as versions from 13 on do."""
    column = np.zeros((64, 16), np.uint8)
    column[::3, ::2] = 255
    image = Image.fromarray(column)
    at_once, across = image.resize((8, 8)), image.resize((8, 64)).resize((8, 8))
    return at_once.tobytes() != across.tobytes()


def _across(pixels: Tensor, weights: Tensor) -> Tensor:
    """The last side resized."""
    return _levels(*(pixels @ weights.T).chunk(2, dim=3))


def _levels(upper: Tensor, lower: Tensor) -> Tensor:
    """Sums of pixels times weights in whole levels, rounded half up and held to 0..255."""
    both = upper + torch.floor(lower / _HALF_BITS)
    return torch.clamp(torch.floor((both + _HALF_BITS / 2) / _HALF_BITS), 0.0, 255.0)


def _background(preprocess: Preprocess) -> Tensor:
    """(1, C, 1, 1): the pixel that fills what the image does not; transparent where there is alpha."""
    colour = torch.tensor(preprocess.background, dtype=torch.float32)
    if preprocess.channels == 1:
        colour = torch.floor((colour @ torch.tensor(_LUMINANCE) + _WHOLE / 2) / _WHOLE).view(1)
    elif preprocess.channels == 4:
        colour = torch.cat([colour, torch.zeros(1)])
    return colour.view(1, -1, 1, 1)
