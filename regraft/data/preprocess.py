"""What a network expects of an image: one value for fit, predict, evaluate, export and serve."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.errors import UsageError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Fit = Literal["crop", "squash", "pad"]

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_GREY, _RGB, _RGBA = 1, 3, 4
# Opacity in -1 .. 1, as wide as the colours are once they are normalised.
_ALPHA_MEAN, _ALPHA_STD = 0.5, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """From any image to the (channels, height, width) float input of a network.

    `fit` "crop": the shorter side is resized so that the central crop of `height` x `width` is `crop_share` of it, as most
    ImageNet weights were evaluated; "squash": both sides are resized; "pad": the longer side fits, the rest is `background`.
    `mean` and `std` apply to pixels divided by 255, one entry per channel: 1 is grey (Pillow's luminance), 3 is RGB, 4 is RGB
    and the image's alpha. Transparent pixels show `background`; with 4 channels nothing is composited.

    The shorter side is rounded to whole pixels: a crop of 224 from 232 is `crop_share=224 / 232`.
    Raises UsageError for another number of channels.
    """

    height: int
    width: int
    fit: Fit = "crop"
    crop_share: float = 0.875
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        check_channels(len(self.mean))
        if len(self.mean) != len(self.std):
            raise UsageError(
                expected="as many deviations as means, one for each channel",
                got=f"{len(self.std)} and {len(self.mean)}",
                fix="give both for every channel",
            )

    @property
    def channels(self) -> int:
        """How many numbers a pixel has."""
        return len(self.mean)

    def smallest_useful_side(self) -> int:
        """Pixels of the shorter side below which decoding at a reduced scale would lose detail."""
        share = self.crop_share if self.fit == "crop" else 1.0
        return round(max(self.height, self.width) / share)


def check_channels(channels: int) -> None:
    """Raise UsageError unless images can have so many channels."""
    if channels not in (_GREY, _RGB, _RGBA):
        raise UsageError(
            expected="images of 1 channel (grey), 3 (RGB) or 4 (RGB and alpha)",
            got=f"{channels} channels",
            fix="image files are read as these; for tensors of your own use regraft.backbone.stem.adapt_stem",
        )


def with_channels(preprocess: Preprocess, channels: int) -> Preprocess:
    """The same preprocessing for images of another number of channels. Raises UsageError where images cannot have so many.

    Grey is normalised to the mean of what its three channels would be as RGB, which for equal statistics is each of them.
    Alpha has mean 0.5 and deviation 0.5.
    """
    check_channels(channels)
    mean, std = preprocess.mean[:_RGB], preprocess.std[:_RGB]
    if channels == len(preprocess.mean):
        return preprocess
    if channels == _GREY:
        # (x - m) / s averaged over the channels is again of this form.
        scale = sum(1 / s for s in std) / len(std)
        shift = sum(m / s for m, s in zip(mean, std, strict=True)) / len(std)
        return replace(preprocess, mean=(shift / scale,), std=(1 / scale,))
    if len(mean) == _GREY:
        mean, std = mean * _RGB, std * _RGB
    more = channels - _RGB
    return replace(preprocess, mean=(*mean, *(_ALPHA_MEAN,) * more), std=(*std, *(_ALPHA_STD,) * more))


def to_input_size(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Resize and crop one image, of any size from 1 x 1, to (height, width, channels) uint8, writable.

    Its mode is RGB or L, for 4 channels also RGBA or LA. Alpha is a channel like the others, not premultiplied: the colours
    are those of the image without it. Where there is none the image is opaque; what "pad" adds is transparent.
    """
    canvas = Image.new("RGB", (preprocess.width, preprocess.height), preprocess.background)
    if preprocess.channels == _GREY:
        return np.array(_resized(_as(image, "L"), preprocess, _as(canvas, "L")))[:, :, np.newaxis]
    # Grey is resized as one channel, at a third of the cost, and repeated last.
    colours = _as(_resized(_as(image, image.mode.removesuffix("A")), preprocess, canvas), "RGB")
    if preprocess.channels == _RGB:
        return np.array(colours)
    alpha = image.getchannel("A") if image.mode.endswith("A") else Image.new("L", image.size, 255)
    alpha = _resized(alpha, preprocess, Image.new("L", canvas.size, 0))
    return np.dstack([np.asarray(colours), np.asarray(alpha)])


def _as(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _resized(image: Image.Image, preprocess: Preprocess, canvas: Image.Image) -> Image.Image:
    """At the input size; `canvas` has this size, and is painted on where the image does not fill it."""
    if preprocess.fit == "pad":
        return _pad(image, canvas, preprocess)
    box = crop_box(image.size, preprocess) if preprocess.fit == "crop" else None
    return image.resize(canvas.size, RESAMPLING[preprocess.interpolation], box=box)


def crop_box(size: tuple[int, int], preprocess: Preprocess) -> tuple[float, float, float, float]:
    """The part of an image of `size` (width, height) that the central crop shows: (left, top, right, bottom) in its pixels.

    Resizing this box alone gives what resizing the whole image and then cropping gives, up to rounding, and computes nothing
    that is thrown away; a 1 x 5000 image would otherwise grow to 256 x 1,280,000. Rounding is that of torchvision's Resize and
    CenterCrop: the longer side rounds down, offsets round to even.
    """
    (width, height), (out_width, out_height) = size, (preprocess.width, preprocess.height)
    full_width, full_height = round(out_width / preprocess.crop_share), round(out_height / preprocess.crop_share)
    if full_width * height >= full_height * width:
        full_height = full_width * height // width
    else:
        full_width = full_height * width // height
    left, top = round((full_width - out_width) / 2), round((full_height - out_height) / 2)
    x, y = width / full_width, height / full_height
    return left * x, top * y, min((left + out_width) * x, width), min((top + out_height) * y, height)


def padded_box(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int, int, int]:
    """Where in the input all of an image of `size` (width, height) lies: (left, top, width, height); "squash" fills the input.

    Raises UsageError for "crop", which does not show the whole image.
    """
    if preprocess.fit == "crop":
        raise UsageError(
            expected='an input that shows the whole image, fit "pad" or "squash"',
            got='fit "crop"',
            fix="replace `fit` where every pixel of an image has an answer",
        )
    if preprocess.fit == "squash":
        return 0, 0, preprocess.width, preprocess.height
    scale = min(preprocess.width / size[0], preprocess.height / size[1])
    width, height = (max(1, round(side * scale)) for side in size)
    return (preprocess.width - width) // 2, (preprocess.height - height) // 2, width, height


def _pad(image: Image.Image, canvas: Image.Image, preprocess: Preprocess) -> Image.Image:
    left, top, width, height = padded_box(image.size, preprocess)
    canvas.paste(image.resize((width, height), RESAMPLING[preprocess.interpolation]), (left, top))
    return canvas
