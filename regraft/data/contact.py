"""A contact sheet: images, and beside each what augmentation made of it."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.preprocess import check_channels
from regraft.errors import UsageError

SIDE = 96  # pixels of a picture's longer side, at most
GAP = 4


def contact_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]]) -> bytes:
    """A PNG of rows of images (H, W, C), each row an original and then its augmented versions.

    All cells are as large as the largest picture, which is at most 96 pixels on its longer side; smaller images are enlarged by
    a whole number without smoothing. RGBA is shown over white. Raises UsageError where there is no image, or one that is not
    uint8 of 1, 3 or 4 channels.
    """
    pictures = [[_picture(pixels) for pixels in row] for row in rows]
    if not any(pictures):
        raise UsageError(expected="images for a contact sheet", got="none", fix="give at least one row of one image")
    width = max(picture.width for row in pictures for picture in row)
    height = max(picture.height for row in pictures for picture in row)
    columns = max(map(len, pictures))
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, len(pictures) * (height + GAP) - GAP), "white")
    for down, row in enumerate(pictures):
        for across, picture in enumerate(row):
            middle = (width - picture.width) // 2, (height - picture.height) // 2
            sheet.paste(picture, (across * (width + GAP) + middle[0], down * (height + GAP) + middle[1]))
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=True)
    return out.getvalue()


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """RGB, in the size it is shown."""
    _check(pixels)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    if image.mode == "RGBA":
        # Before it is resized: the colours of transparent pixels are not to bleed into the others.
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _sized(image.convert("RGB"))


def _sized(image: Image.Image) -> Image.Image:
    longer = max(image.size)
    if longer > SIDE:
        width, height = (max(1, round(side * SIDE / longer)) for side in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
    times = SIDE // longer
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _check(pixels: NDArray[np.uint8]) -> None:
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise UsageError(
            expected="images (H, W, C) of uint8", got=f"{pixels.shape} of {pixels.dtype}", fix="give pixels, channels last"
        )
    check_channels(pixels.shape[2])
