"""Colours for classes that stay apart for every eye: the same for the same index, however many classes there are.

The first are those of Okabe and Ito (Color Universal Design, 2008) on black. Each further one is the colour that is farthest
from all before it, in OKLab (Ottosson 2020), as people see it who have all three cones and who lack that for red or for green
(Machado, Oliveira and Fernandes 2009).
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from regraft.segments import LEVELS

Colour = tuple[int, int, int]
Palette = tuple[Colour, ...]

_FIRST: Final[Palette] = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
# Where no answer counts: white, which is no colour of a class.
UNCOUNTED: Final[Colour] = (255, 255, 255)
_STEPS = tuple(range(0, 256, 28))
_DARKEST = 0.35  # lightness in OKLab, where black is 0 and white 1
_NO_RED = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
_NO_GREEN = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
_TO_LMS = ((0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566),
           (0.0883024619, 0.2817188376, 0.6299787005))  # fmt: skip
_TO_LAB = ((0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099),
           (0.0259040371, 0.7827717662, -0.8086757660))  # fmt: skip


def palette_of(classes: int) -> Palette:
    """A colour for each of at most 255 classes; those of fewer classes are the first of those of more."""
    return _colours(classes)


@lru_cache(maxsize=8)
def _colours(classes: int) -> Palette:
    chosen = list(_FIRST[:classes])
    if classes <= len(chosen):
        return tuple(chosen)
    grid_M3 = np.array(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij"), np.uint8).reshape(3, -1).T
    # Darker ones are lost on a photo.
    grid_M3 = grid_M3[seen(grid_M3)[0, :, 0] >= _DARKEST]
    seen_VM3 = seen(grid_M3)
    near_M = np.min([_distance(seen_VM3, seen(np.array([colour], np.uint8))) for colour in (*chosen, UNCOUNTED)], axis=0)
    while len(chosen) < classes:
        best = int(near_M.argmax())
        red, green, blue = (int(value) for value in grid_M3[best])
        chosen.append((red, green, blue))
        near_M = np.minimum(near_M, _distance(seen_VM3, seen_VM3[:, best : best + 1]))
    return tuple(chosen)


def seen(colours_M3: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(3, M, 3) OKLab of sRGB colours as they are seen with all cones, without that for red and without that for green."""
    shares_M3 = colours_M3 / 255
    linear_M3 = np.where(shares_M3 <= 0.04045, shares_M3 / 12.92, ((shares_M3 + 0.055) / 1.055) ** 2.4)
    eyes = (np.eye(3), np.array(_NO_RED), np.array(_NO_GREEN))
    return np.stack([np.cbrt(np.clip(linear_M3 @ eye.T, 0, 1) @ np.array(_TO_LMS).T) @ np.array(_TO_LAB).T for eye in eyes])


def _distance(seen_VM3: NDArray[np.float64], one_V13: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M,) how far each colour is from one, for the eye that tells them apart worst."""
    apart_M: NDArray[np.float64] = np.linalg.norm(seen_VM3 - one_V13, axis=2).min(axis=0)
    return apart_M


def flat(palette: Palette) -> list[int]:
    """The 256 colours of a palette file, one number after the other; entries without a class are `UNCOUNTED`."""
    colours = [*palette, *[UNCOUNTED] * (LEVELS - len(palette))]
    return [value for colour in colours for value in colour]
