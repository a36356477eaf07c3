"""A heat map on its image, as a small picture."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.values import Explanation

# Every sixteenth of Matplotlib's inferno: as much lighter to the eye as the evidence is more, told apart without red or green.
_INFERNO = (
    (0, 0, 4), (11, 7, 36), (33, 12, 74), (61, 9, 101), (87, 16, 110), (113, 25, 110), (138, 34, 106), (163, 44, 97),
    (188, 55, 84), (210, 70, 68), (228, 90, 49), (241, 115, 29), (249, 142, 9), (252, 172, 17), (249, 203, 53), (242, 234, 105),
    (252, 255, 164),
)  # fmt: skip
# The image stays to be seen under the strongest colour, and its own light does not pass for evidence elsewhere.
_STRONGEST, _IMAGE_LIGHT = 0.75, 0.7
SIDE, _SMALLEST = 224, 112
_MOST_BYTES = 10_000
_QUALITIES = (85, 75, 65, 50, 35, 20)


def overlay(explanation: Explanation, *, side: int = SIDE) -> bytes:
    """A JPEG of the image in grey with the evidence in colour, at most `side` pixels on its longer side.

    No colour is no evidence, then purple, red and yellow for more of it. Smaller images are enlarged by a whole number. The
    quality is the best at which a picture of 224 pixels takes no more than 10 kB, and larger ones in proportion.
    """
    most = max(_MOST_BYTES, _MOST_BYTES * side * side // SIDE**2)
    picture = _sized(Image.fromarray(blended(explanation)), side)
    for quality in _QUALITIES:
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=quality, optimize=True)
        if out.tell() <= most:
            break
    return out.getvalue()


def blended(explanation: Explanation) -> NDArray[np.uint8]:
    """(H, W, 3): the image in grey, and over it the evidence, more opaque the more there is."""
    grey_HW1 = _grey(explanation.pixels_HWC)[..., np.newaxis] * _IMAGE_LIGHT
    heat_HW = explanation.heat_HW
    opacity_HW1 = (_STRONGEST * heat_HW)[..., np.newaxis]
    return np.asarray((1 - opacity_HW1) * grey_HW1 + opacity_HW1 * coloured(heat_HW) + 0.5, np.uint8)


def coloured(heat_HW: NDArray[np.float32]) -> NDArray[np.float64]:
    """(H, W, 3) in 0 to 255: inferno, to within seven of 255."""
    at = np.linspace(0, 1, len(_INFERNO))
    return np.stack([np.interp(heat_HW, at, [colour[c] for colour in _INFERNO]) for c in range(3)], axis=2)


def _grey(pixels_HWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Luminance; transparent pixels are white."""
    pixels = pixels_HWC.astype(np.float64)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:] / 255
        pixels = pixels[..., :3] * alpha + 255 * (1 - alpha)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels @ np.array([0.299, 0.587, 0.114])


def _sized(image: Image.Image, side: int) -> Image.Image:
    longer = max(image.size)
    if longer > side:
        width, height = (max(1, round(one * side / longer)) for one in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
    times = side // longer if longer < _SMALLEST else 1
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
