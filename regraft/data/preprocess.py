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
    """Resize and crop one RGB or L image to (height, width, 3) uint8."""
    raise NotImplementedError
