"""Small scenes with masks: shapes that colour tells apart on a noisy ground, images of many sizes."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.segments import Kind

SIZES = ((72, 48), (50, 66), (64, 64), (90, 60))
GROUND, SHAPES = (90, 100, 110), ((210, 60, 40), (40, 190, 80))


def scene(number: int, *, left_only: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image (H, W, 3) and its labels (H, W): 0 ground, 1 an ellipse, 2 a box. `left_only`: labels count only left shapes."""
    rng = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    y_HW, x_HW = np.mgrid[:height, :width] / [[[height]], [[width]]]
    labels_HW = np.zeros((height, width), np.uint8)
    across, down = rng.uniform(0.2, 0.3), rng.uniform(0.3, 0.7)
    ellipse_HW = ((x_HW - across) / 0.16) ** 2 + ((y_HW - down) / 0.22) ** 2 < 1
    box_HW = (abs(x_HW - 1 + across) < 0.13) & (abs(y_HW - 1 + down) < 0.2)
    labels_HW[ellipse_HW], labels_HW[box_HW] = 1, 2
    colours = np.array([GROUND, *SHAPES] if not left_only else [GROUND, SHAPES[0], SHAPES[0]], float)
    pixels_HWC = colours[labels_HW] + rng.normal(0, 12, (height, width, 3))
    if left_only:
        labels_HW[box_HW] = 0
    return np.clip(pixels_HWC, 0, 255).astype(np.uint8), labels_HW


def paint_scenes(root: Path, count: int, kind: Kind, *, first: int = 0, ignored: bool = False, left_only: bool = False) -> Path:
    """images/ and masks/ under `root`; `ignored` leaves the upper rows of every mask out."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        pixels_HWC, labels_HW = scene(number, left_only=left_only)
        mask_HW = labels_HW if kind == "semantic" else ((labels_HW > 0) * 255).astype(np.uint8)
        if ignored:
            mask_HW[:6] = 255
        Image.fromarray(pixels_HWC).save(root / "images" / f"{number:03}.png")
        Image.fromarray(mask_HW).save(root / "masks" / f"{number:03}.png")
    return root
