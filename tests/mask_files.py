"""Small images and masks on disk."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image


def save(path: Path, pixels: ArrayLike, dtype: type = np.uint8, **options: Any) -> Path:
    """Write an array as the file that its ending says; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype)).save(path, **options)
    return path


def save_palette(path: Path, indices: ArrayLike, colours: list[tuple[int, int, int]]) -> Path:
    """Write a palette image with these indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(indices, np.uint8), "P")
    image.putpalette([level for colour in colours for level in colour])
    image.save(path)
    return path


def save_image(path: Path, width: int = 6, height: int = 4, **options: Any) -> Path:
    """Write an image of one colour."""
    return save(path, np.full((height, width, 3), 90), **options)


def half(low: int, high: int, width: int = 6, height: int = 4) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers (H, W): `low` in the left half, `high` in the right."""
    return np.where(np.arange(width) < width // 2, low, high)[None].repeat(height, 0)
