"""What a network expects of an image: one value for fit, predict, evaluate, export and serve."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Fit = Literal["crop", "squash", "pad"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """From any image to the (3, height, width) float input of a network.

    `fit` "crop": the shorter side is resized so that the central crop of `height` x `width` is `crop_share` of it, as most
    ImageNet weights were evaluated; "squash": both sides are resized; "pad": the longer side fits, the rest is `background`.
    `mean` and `std` apply to pixels divided by 255. Transparent pixels show `background`.

    The shorter side is rounded to whole pixels: a crop of 224 from 232 is `crop_share=224 / 232`.
    """

    height: int
    width: int
    fit: Fit = "crop"
    crop_share: float = 0.875
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    background: tuple[int, int, int] = (255, 255, 255)

    def smallest_useful_side(self) -> int:
        """Pixels of the shorter side below which decoding at a reduced scale would lose detail."""
        share = self.crop_share if self.fit == "crop" else 1.0
        return round(max(self.height, self.width) / share)


def to_input_size(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Resize and crop one RGB or L image, of any size from 1 x 1, to (height, width, 3) uint8, writable."""
    resample = _RESAMPLING[preprocess.interpolation]
    size = (preprocess.width, preprocess.height)
    if preprocess.fit == "pad":
        image = _pad(image, size, resample, preprocess.background)
    else:
        box = crop_box(image.size, preprocess) if preprocess.fit == "crop" else None
        image = image.resize(size, resample, box=box)
    # Grey is resized as one channel, at a third of the cost, and repeated last.
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


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


def _pad(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling, background: tuple[int, int, int]
) -> Image.Image:
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGB", size, background)
    canvas.paste(image.resize(inner, resample), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return canvas
