"""Evidence as a picture of its own, to be laid over the whole image: transparent where there is none."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.preprocess import Preprocess, crop_box, padded_box
from regraft.evidence.overlay import coloured

SIDE = 480
# Over what the network did not see of an image.
_UNSEEN = (0, 0, 0, 150)
_Box = tuple[int, int, int, int]


def heat_layer(heat_HW: NDArray[np.float32], size: tuple[int, int], preprocess: Preprocess, *, side: int = SIDE) -> bytes:
    """A PNG (RGBA) of the shape of an upright image of `size` (width, height), `side` pixels on its longer side.

    `heat_HW` is that of an Explanation: shares of the place of most evidence, in what the network saw of the image. The
    colours are those of `overlay`, as opaque as the evidence is strong. What the network did not see is dark.
    """
    scale = side / max(size)
    whole = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    seen_HW, (left, top, right, bottom) = _placed(heat_HW, size, whole, preprocess)
    heat = np.asarray(Image.fromarray(seen_HW).resize((right - left, bottom - top), Image.Resampling.BILINEAR))
    picture = Image.new("RGBA", whole, _UNSEEN)
    picture.paste(Image.fromarray(_inked(heat)), (left, top))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _inked(heat_HW: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.dstack([coloured(heat_HW), 255 * heat_HW]).round().astype(np.uint8)


def _placed(
    heat_HW: NDArray[np.float32], size: tuple[int, int], whole: tuple[int, int], preprocess: Preprocess
) -> tuple[NDArray[np.float32], _Box]:
    """The heat of the image without what was added around it, and where in the `whole` picture it lies."""
    if preprocess.fit == "crop":
        across, down = whole[0] / size[0], whole[1] / size[1]
        left, top, right, bottom = crop_box(size, preprocess)
        box = (round(left * across), round(top * down), round(right * across), round(bottom * down))
        return heat_HW, _not_empty(box, whole)
    left, top, width, height = padded_box(size, preprocess)
    return heat_HW[top : top + height, left : left + width], (0, 0, *whole)


def _not_empty(box: _Box, whole: tuple[int, int]) -> _Box:
    left, top = min(box[0], whole[0] - 1), min(box[1], whole[1] - 1)
    return left, top, max(box[2], left + 1), max(box[3], top + 1)
