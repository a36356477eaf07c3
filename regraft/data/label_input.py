"""Labels of pixels in the geometry of a network's input, and values of the input back at the size of the image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.preprocess import Preprocess, crop_box, padded_box
from regraft.segments import IGNORE
from regraft.values import FloatArray


def labels_to_input(labels_HW: NDArray[np.uint8], preprocess: Preprocess, fill: int = IGNORE) -> NDArray[np.uint8]:
    """Labels of an image as they lie in its input, (preprocess.height, preprocess.width); what "pad" adds is `fill`.

    The geometry is that of `preprocess.to_input_size`; each pixel has the label of the nearest one.
    """
    image = Image.fromarray(labels_HW)
    if preprocess.fit == "crop":
        size = preprocess.width, preprocess.height
        return np.array(image.resize(size, Image.Resampling.NEAREST, box=crop_box(image.size, preprocess)))
    left, top, width, height = padded_box(image.size, preprocess)
    out = np.full((preprocess.height, preprocess.width), fill, np.uint8)
    out[top : top + height, left : left + width] = np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
    return out


def from_input(values_CHW: FloatArray, size: tuple[int, int], preprocess: Preprocess) -> NDArray[np.float32]:
    """Values at an input's pixels (C, preprocess.height, preprocess.width) -> (C, H, W) at an image's `size` (width, height).

    What padding added is cut off; the rest is resized bilinearly. Raises UsageError for the fit "crop", as `padded_box` does.
    """
    left, top, width, height = padded_box(size, preprocess)
    inner_CHW = np.asarray(values_CHW, np.float32)[:, top : top + height, left : left + width]
    bilinear = Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(values_HW).resize(size, bilinear)) for values_HW in inner_CHW])
