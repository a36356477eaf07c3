"""Augmentation: images shown a little differently in every epoch.

What is drawn for an image follows from its own seed alone, so batches, their order and the number of workers change nothing.
"""

import difflib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms.v2 import functional as tv

from regraft.data.preprocess import check_channels
from regraft.errors import UsageError, first_line
from regraft.strategies import AUGMENTATIONS
from regraft.users_code import users_line

NAMES = AUGMENTATIONS

Seed = tuple[int, ...]
Transform = Callable[..., Any]
Matrix = NDArray[np.float64]  # (3, 3): a pixel of the result -> where in the image it is from, both from the centre

_MIRROR = np.diag([-1.0, 1.0, 1.0])
_BLENDS: Mapping[str, Transform] = MappingProxyType(
    {
        "brightness": tv.adjust_brightness,
        "contrast": tv.adjust_contrast,
        "saturation": tv.adjust_saturation,
        "sharpness": tv.adjust_sharpness,
    }
)
_PLAIN: Mapping[str, Transform] = MappingProxyType({"autocontrast": tv.autocontrast, "equalize": tv.equalize})
_GEOMETRY = ("shear_x", "shear_y", "shift_x", "shift_y", "turn")
_GREY = ("identity", *_GEOMETRY, "brightness", "contrast")
_COLOUR = (*_GREY, "saturation", "sharpness", "posterize", "solarize", *_PLAIN)
# Cubic interpolation overshoots the ends of 0 .. 1 by up to about this much at an edge; that is cut off, and more is refused.
_OVERSHOOT = 0.25
_AT_ONCE = 1 << 17  # pixels that are sampled together: what stays in a processor's cache


class Augmentation(Protocol):
    """Images (N, H, W, C) uint8 and a seed for each -> images of the same shape and type; the argument stays as it is.

    C is 1, 3 or 4. Seeds are tuples of numbers from 0 on, all of one length: (1, 2) draws what (1, 2, 0) does.
    """

    def __call__(self, pixels: Tensor, seeds: Sequence[Seed]) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operations:
    """So many operations per image, each at a strength from 0 to `top` of the greatest amounts: of shear, of a shift as a share
    of the side, degrees, distance of a blend from 1, bits taken away. Solarize goes to 1: all is inverted."""

    count: int
    top: float
    shear: float
    shift: float
    degrees: float
    blend: float
    bits: int


# TrivialAugment, Mueller and Hutter 2021 (arXiv 2103.10158), the wide space; its 32 pixels are a seventh of 224, and no more
# of smaller images here.
_TRIVIAL = _Operations(count=1, top=1.0, shear=0.99, shift=1 / 7, degrees=135, blend=0.99, bits=6)
# RandAugment, Cubuk et al. 2019 (arXiv 1909.13719), with its 9 of 30 as the mean and not the only strength, which
# TrivialAugment found to be better.
_RANDOM = _Operations(count=2, top=0.6, shear=0.3, shift=150 / 331, degrees=30, blend=0.9, bits=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What was drawn for one image. `painted` are operations on its colours, with strengths from -1 to 1, in their order."""

    mirrored: bool
    matrix: Matrix
    brightness: float
    contrast: float
    painted: tuple[tuple[str, float], ...]
    hole: tuple[int, int, NDArray[np.uint8]] | None

    @property
    def is_sampled(self) -> bool:
        """Whether pixels move otherwise than by mirroring, or are toned: the rest stays exact."""
        return self.brightness != 1 or self.contrast != 1 or self.is_moved

    @property
    def is_moved(self) -> bool:
        """Whether pixels move otherwise than by mirroring."""
        return not np.array_equal(self.matrix, np.eye(3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An augmentation of ours, for labels too (`augment_labels`).

    Crops show `least_area` to all of the area, up to `widest` times wider or higher than the image; `tone` is the most that
    brightness and contrast change by; `erased` the chance of a hole.
    """

    words: str
    least_area: float = 1.0
    widest: float = 1.0
    degrees: float = 0.0
    tone: float = 0.0
    operations: _Operations | None = None
    erased: float = 0.0

    def __call__(self, pixels: Tensor, seeds: Sequence[Seed]) -> Tensor:
        _check(pixels, seeds)
        height, width, channels = pixels.shape[1:]
        drawn = [self.draw(seed, height, width, channels) for seed in seeds]
        changed = _sampled(pixels, drawn)
        if self.operations is not None:
            for image, one in zip(changed, drawn, strict=True):
                _paint(image[..., :3], one, self.operations)
        return changed

    def draw(self, seed: Seed, height: int, width: int, channels: int) -> Drawn:
        """What this seed stands for; colours are drawn by the number of `channels`."""
        rng = np.random.default_rng(seed)
        mirrored = bool(rng.random() < 0.5)
        matrix = _cropping(rng, self.least_area, self.widest, height, width)
        if self.degrees:
            matrix = matrix @ _turning(rng.uniform(-self.degrees, self.degrees))
        brightness, contrast = rng.uniform(1 - self.tone, 1 + self.tone, 2) if self.tone else (1.0, 1.0)
        painted = []
        for name, strength in _choose(rng, self.operations, channels) if self.operations else ():
            if name in _GEOMETRY:
                matrix = matrix @ _moving(name, strength, cast(_Operations, self.operations), height, width)
            else:
                painted.append((name, strength))
        hole = _hole(rng, height, width, min(channels, 3)) if self.erased and rng.random() < self.erased else None
        return Drawn(
            mirrored=mirrored, matrix=matrix, brightness=brightness, contrast=contrast, painted=tuple(painted), hole=hole
        )


def _check(pixels: Tensor, seeds: Sequence[Seed]) -> None:
    if pixels.dtype != torch.uint8 or pixels.dim() != 4 or 0 in pixels.shape[1:] or len(seeds) != len(pixels):
        raise UsageError(
            expected="images (N, H, W, C) of uint8, and N seeds",
            got=f"{tuple(pixels.shape)} of {str(pixels.dtype).removeprefix('torch.')}, and {len(seeds)} seeds",
            fix="give whole images, channels last, and a tuple of numbers for each",
        )
    check_channels(pixels.shape[3])


def _cropping(rng: Generator, least_area: float, widest: float, height: int, width: int) -> Matrix:
    """Where a crop is from. One too wide or too high is cut to the image, which leaves it 1 / `widest` of the area or more."""
    if least_area == 1:
        return np.eye(3)
    area, ratio = rng.uniform(least_area, 1), np.exp(rng.uniform(-np.log(widest), np.log(widest)))
    across, down = min(1, np.sqrt(area * ratio)), min(1, np.sqrt(area / ratio))
    right, low = rng.uniform(-0.5, 0.5, 2) * (1 - across, 1 - down) * (width, height)
    return np.array([[across, 0, right], [0, down, low], [0, 0, 1]])


def _turning(degrees: float) -> Matrix:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _choose(rng: Generator, operations: _Operations, channels: int) -> list[tuple[str, float]]:
    """Operations with signed strengths. Grey images have no colour to change, and keep their order of dark and light."""
    names = _GREY if channels == 1 else _COLOUR
    drawn = [(names[rng.integers(len(names))], rng.uniform(0, operations.top), rng.random()) for _ in range(operations.count)]
    return [(name, strength if side < 0.5 else -strength) for name, strength, side in drawn]


def _moving(name: str, strength: float, most: _Operations, height: int, width: int) -> Matrix:
    if name == "turn":
        return _turning(strength * most.degrees)
    matrix = np.eye(3)
    if name.startswith("shear"):
        matrix[(0, 1) if name == "shear_x" else (1, 0)] = strength * most.shear
    elif name == "shift_x":
        matrix[0, 2] = strength * most.shift * width
    else:
        matrix[1, 2] = strength * most.shift * height
    return matrix


def _hole(rng: Generator, height: int, width: int, channels: int) -> tuple[int, int, NDArray[np.uint8]]:
    """Top, left and noise (h, w, C). Random erasing, Zhong et al. 2017 (arXiv 1708.04896); area and ratio as in torchvision."""
    area, ratio = rng.uniform(0.02, 0.33), np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
    high = max(1, round(height * min(1, np.sqrt(area / ratio))))
    wide = max(1, round(width * min(1, np.sqrt(area * ratio))))
    top, left = (int(rng.integers(room + 1)) for room in (height - high, width - wide))
    return top, left, rng.integers(0, 256, (high, wide, channels), np.uint8)


def _sampled(pixels: Tensor, drawn: Sequence[Drawn]) -> Tensor:
    """Images (N, H, W, C), a new tensor: those that are only mirrored exactly so, the others moved and toned in one go."""
    changed = pixels.clone(memory_format=torch.contiguous_format)
    rows = [i for i, one in enumerate(drawn) if one.is_sampled]
    for i in {i for i, one in enumerate(drawn) if one.mirrored} - set(rows):
        changed[i] = pixels[i].flip(1)
    some = max(1, _AT_ONCE // (pixels.shape[1] * pixels.shape[2]))
    for start in range(0, len(rows), some):
        part = rows[start : start + some]
        # Image by image: indexing with a list takes as long as the sampling.
        moved = _moved(torch.stack([pixels[i] for i in part]), [drawn[i] for i in part])
        for i, image in zip(part, moved, strict=True):
            changed[i] = image.permute(1, 2, 0)
    return changed


def _moved(pixels: Tensor, drawn: Sequence[Drawn]) -> Tensor:
    """Images (n, H, W, C) uint8 -> (n, C, H, W), whole numbers as floats."""
    values = pixels.to(torch.float32).permute(0, 3, 1, 2)
    grid = source_grid(drawn, pixels.shape[1], pixels.shape[2], pixels.device)
    values = grid_sample(values, grid, "bilinear", "reflection", align_corners=False)
    _tone(values[:, :3], pixels, drawn)
    return values.round_().clamp_(0, 255)


def source_grid(drawn: Sequence[Drawn], height: int, width: int, device: torch.device) -> Tensor:
    """Where pixels are from, (n, H, W, 2) in -1 .. 1. Not `affine_grid`, whose matrix product may round by the batch's size."""
    scale = np.array([[2 / width], [2 / height]])
    matrices = np.stack([((_MIRROR if one.mirrored else np.eye(3)) @ one.matrix)[:2] * scale for one in drawn])
    entries = torch.from_numpy(matrices.astype(np.float32)).to(device)[..., None, None]  # (n, 2, 3, 1, 1)
    x = torch.arange(width, device=device) + 0.5 - width / 2
    y = torch.arange(height, device=device)[:, None] + 0.5 - height / 2
    grid = torch.empty((len(drawn), height, width, 2), device=device)
    for axis in (0, 1):
        across, down, shift = entries[:, axis].unbind(1)
        torch.add(across * x + shift, down * y, out=grid[..., axis])
    return grid


def _tone(values: Tensor, originals: Tensor, drawn: Sequence[Drawn]) -> None:
    """Scale colours (n, C, H, W), and their distance from the mean, which is that of the whole image (H, W, C).

    A sum of integers is the same in any order.
    """
    colours = originals[..., :3]
    means = colours.sum((1, 2, 3), dtype=torch.int64).to(torch.float32) / colours[0].numel()
    shares = np.array([(one.brightness * one.contrast, one.brightness * (1 - one.contrast)) for one in drawn], np.float32)
    gains, lifts = torch.from_numpy(shares).to(values.device).unbind(1)
    lifts = lifts * means
    values.mul_(gains[:, None, None, None]).add_(lifts[:, None, None, None])


def _paint(colours: Tensor, drawn: Drawn, most: _Operations) -> None:
    """Change the colours (H, W, C) of one image, a view of it."""
    if drawn.painted:
        image = colours.permute(2, 0, 1).contiguous()
        for name, strength in drawn.painted:
            image = _repainted(image, name, strength, most)
        colours.copy_(image.permute(1, 2, 0))
    if drawn.hole is not None:
        top, left, noise = drawn.hole
        colours[top : top + noise.shape[0], left : left + noise.shape[1]] = torch.from_numpy(noise).to(colours.device)


def _repainted(image: Tensor, name: str, strength: float, most: _Operations) -> Tensor:
    """One operation on the colours (C, H, W)."""
    if name in _BLENDS:
        return cast(Tensor, _BLENDS[name](image, 1 + strength * most.blend))
    if name == "posterize":
        return cast(Tensor, tv.posterize(image, 8 - round(abs(strength) * most.bits)))
    if name == "solarize":
        return cast(Tensor, tv.solarize(image, 255 * (1 - abs(strength))))
    return cast(Tensor, _PLAIN[name](image)) if name in _PLAIN else image


_LIGHT = "mirrored, crops of 70 to 100 % of the area, brightness and contrast up to 15 % off"
_STRONG = "mirrored, crops of 35 to 100 % of the area, two of RandAugment's operations, in a quarter a part erased"
_OURS: Mapping[str, Named | None] = MappingProxyType(
    {
        "none": None,
        "flip": Named(words="mirrored"),
        "light": Named(words=_LIGHT, least_area=0.7, widest=10 / 9, tone=0.15),
        "rotate": Named(words=f"{_LIGHT}, turned by up to 20 degrees", least_area=0.7, widest=10 / 9, tone=0.15, degrees=20),
        "trivial": Named(words="mirrored, and one of TrivialAugment's operations at any strength", operations=_TRIVIAL),
        "strong": Named(words=_STRONG, least_area=0.35, widest=4 / 3, operations=_RANDOM, erased=0.25),
    }
)


@dataclass(frozen=True, slots=True)
class _Own:
    """A transform of the user's own, shown one image at a time."""

    transform: Transform

    def __call__(self, pixels: Tensor, seeds: Sequence[Seed]) -> Tensor:
        _check(pixels, seeds)
        changed = torch.empty_like(pixels, memory_format=torch.contiguous_format)
        with chance_put_back(), torch.no_grad():
            for i, seed in enumerate(seeds):
                seed_all(seed)
                changed[i] = self._transformed(pixels[i].permute(2, 0, 1)).permute(1, 2, 0)
        return changed

    def _transformed(self, image: Tensor) -> Tensor:
        """(C, H, W) uint8 -> the same."""
        try:
            # A copy: it may write into what it is given.
            value = self.transform(image.clone(memory_format=torch.contiguous_format))
        except Exception as error:  # of the user's own code: anything
            told, line = f"{type(error).__name__}: {first_line(error)}", users_line(error)
            # A library's transform fails for what it is given; a line of the user's own is for them to mend.
            raise (_broken(self.transform, image, told, line) if line else _unfit(self.transform, image, told)) from error
        if not isinstance(value, Tensor):
            raise _unfit(self.transform, image, f"a {type(value).__name__}")
        value = value.as_subclass(Tensor)
        if value.shape != image.shape or not (value.dtype == torch.uint8 or value.is_floating_point()):
            raise _unfit(self.transform, image, f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}")
        if value.dtype == torch.uint8:
            return value
        low, high = value.min().item(), value.max().item()
        # Written so that what is no number is refused too.
        if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
            raise _unfit(self.transform, image, f"values from {low:.3g} to {high:.3g}")
        return value.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def _broken(transform: Transform, image: Tensor, told: str, line: tuple[str, int]) -> UsageError:
    return UsageError(
        expected=f"the transform {name_of(transform)} to take a tensor {tuple(image.shape)} of uint8",
        got=f"{told} (line {line[1]} of {line[0]})",
        fix="mend it there; --debug shows the whole way to it",
    )


def _unfit(transform: Transform, image: Tensor, got: str) -> UsageError:
    return UsageError(
        expected=f"the transform {name_of(transform)} to give a tensor {tuple(image.shape)} as it gets, of uint8 or of 0 to 1",
        got=got,
        fix="keep the size, and leave normalising and turning into a tensor to regraft, which does both",
    )


def name_of(transform: Transform) -> str:
    """What a transform is called where it is shown."""
    return str(getattr(transform, "__name__", type(transform).__name__))


@contextmanager
def chance_put_back() -> Iterator[None]:
    """What is drawn inside leaves the generators of Python, numpy and torch as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - a transform may draw from it
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


def seed_all(seed: Seed) -> None:
    """Seed the generators of Python, numpy and torch that a transform may draw from."""
    first, second, third = (int(word) for word in np.random.default_rng(seed).integers(2**32, size=3))
    random.seed(first)
    np.random.seed(second)  # noqa: NPY002
    torch.manual_seed(third)


def _as_is(pixels: Tensor, seeds: Sequence[Seed]) -> Tensor:
    """The very tensor that was given."""
    _check(pixels, seeds)
    return pixels


def augmentation(how: str | Transform) -> Augmentation:
    """The augmentation of that name, or a transform of your own.

    A transform takes a tensor (C, H, W) of uint8, as those of `torchvision.transforms.v2` do, and gives (C, H, W) of uint8 or
    of floats from 0 to 1. What it draws from torch, Python's `random` or numpy's global generator follows from an image's seed;
    afterwards those are as they were. "none" gives back the very tensor that it was given, all others a new one.

    Raises UsageError for another name, and when called where a transform fails or gives something else.
    """
    if isinstance(how, str):
        return named(how) or _as_is
    return _Own(checked(how))


def checked(how: Transform) -> Transform:
    """The transform. Raises UsageError where it is none."""
    if not callable(how):
        raise UsageError(
            expected=f"an augmentation: {', '.join(NAMES)}, or a transform of your own",
            got=repr(how)[:100],
            fix="give a function of a tensor (C, H, W) of uint8, such as one of torchvision.transforms.v2",
        )
    return how


def describe(how: str | Transform) -> str:
    """An augmentation in words. Raises UsageError for a name that is none."""
    if not isinstance(how, str):
        return f"{name_of(how)}: a transform of your own"
    ours = named(how)
    return f"{how}: {ours.words if ours else 'images as they are'}"


def named(name: str) -> Named | None:
    """The augmentation of ours with that name, None for "none". Raises UsageError for another name."""
    if name not in _OURS:
        near = difflib.get_close_matches(name, NAMES, 3, 0.4)
        raise UsageError(
            expected=f"an augmentation: {', '.join(NAMES)}",
            got=repr(name[:100]),
            fix=f"did you mean {' or '.join(near)}?" if near else "choose one of them, or give a transform of your own",
        )
    return _OURS[name]
