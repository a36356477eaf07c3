"""Pictures with something in them, made up: no two seeds give the same."""

import io

import numpy as np
from PIL import Image, ImageDraw


def drawn(seed: int, size: tuple[int, int] = (160, 120), shapes: int = 14) -> Image.Image:
    """Coloured shapes on a coloured ground."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(int(level) for level in rng.integers(90, 256, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(shapes):
        colour = tuple(int(level) for level in rng.integers(0, 256, 3))
        points = rng.uniform(0.05, 0.95, (3, 2)) * size
        if rng.random() < 0.5:
            pen.polygon([(float(x), float(y)) for x, y in points], fill=colour)
        else:
            (left, top), (right, bottom) = np.sort(points[:2], axis=0)
            pen.ellipse((float(left), float(top), float(right), float(bottom)), fill=colour)
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    """The bytes of a file of it."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
