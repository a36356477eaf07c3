"""Small pictures of the user's images, for pages."""

import io

from PIL import Image

from regraft.data.decode import decode_image
from regraft.errors import ImageRejected
from regraft.values import ImagePath


def thumbnail(path: ImagePath, *, side: int = 192) -> bytes | None:
    """The image as a JPEG of at most `side` pixels each way; None where it cannot be read any more."""
    try:
        image = decode_image(path, smallest_side=side).pixels
    except ImageRejected:
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82, optimize=True)
    return out.getvalue()
