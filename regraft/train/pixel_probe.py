"""The solved baseline where every pixel has an answer: multinomial logistic regression on what the stages gave at a pixel.

A convex problem on some pixels of every image; its solution, linear in the maps, is a sum of 1x1 convolutions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.backbone.pixel_probe import PixelProbe
from regraft.backbone.pyramid import Level, as_map
from regraft.cache.labels import Labels
from regraft.progress import Progress, Silent
from regraft.segments import IGNORE
from regraft.train.chance import pixel_draws
from regraft.train.convex import make_loss, solve_design
from regraft.train.design import make_design
from regraft.train.path import balanced_weights

# Pixels that the probe is solved on, of all images together and of each: docs/measurements.md#images-with-masks
MOST_PIXELS, LEAST_OF_EACH, MOST_OF_EACH = 24_000, 16, 256
_AT_ONCE = 8
_TOLERANCE = 1e-5

Maps = Callable[[NDArray[np.int64]], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledPixels:
    """Features (P, D) of pixels, the stages side by side from fine to coarse, their classes (P,) and images (P,)."""

    features_PD: NDArray[np.float32]
    targets_P: NDArray[np.int64]
    images_P: NDArray[np.int64]

    def of(self, images: NDArray[np.int64]) -> "SampledPixels":
        """Those of some images."""
        rows = np.isin(self.images_P, images)
        return SampledPixels(features_PD=self.features_PD[rows], targets_P=self.targets_P[rows], images_P=self.images_P[rows])


def sample_pixels(
    maps: Maps, levels: tuple[Level, ...], labels: Labels, images: int, seed: int, progress: Progress = Silent()
) -> SampledPixels:
    """Some pixels of each of the first `images` images, at random among those that count. `maps` gives what the stages gave."""
    each = int(np.clip(MOST_PIXELS // max(images, 1), LEAST_OF_EACH, MOST_OF_EACH))
    features: list[NDArray[np.float32]] = []
    targets: list[NDArray[np.int64]] = []
    owners: list[NDArray[np.int64]] = []
    with progress.task("pixels", images, "image") as task:
        for start in range(0, images, _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, images))
            grids = side_by_side(maps(rows), levels, labels.height, labels.width)
            for row, grid, truth in zip(rows, grids, labels[rows], strict=True):
                places = np.flatnonzero(truth != IGNORE)
                places = np.sort(pixel_draws(seed, int(row)).permutation(places)[:each])
                features.append(values_at(grid, places, labels.height, labels.width))
                targets.append(truth.reshape(-1)[places].astype(np.int64))
                owners.append(np.full(len(places), row, np.int64))
            task.advance(len(rows))
    return SampledPixels(
        features_PD=np.concatenate(features), targets_P=np.concatenate(targets), images_P=np.concatenate(owners)
    )


def side_by_side(values: tuple[Tensor, ...], levels: tuple[Level, ...], height: int, width: int) -> Tensor:
    """(N, D, h, w) the maps of all levels on the grid of the finest."""
    maps = [as_map(value, level, height, width) for value, level in zip(values, levels, strict=True)]
    finest = maps[0].shape[2:]
    return torch.cat([nn.functional.interpolate(one, finest, mode="bilinear", align_corners=False) for one in maps], dim=1)


def values_at(grid_DHW: Tensor, places: NDArray[np.int64], height: int, width: int) -> NDArray[np.float32]:
    """(P, D) a grid at pixels of the window, as enlarging it bilinearly would give them."""
    x, y = (places % width + 0.5) / width * 2 - 1, (places // width + 0.5) / height * 2 - 1
    at = torch.from_numpy(np.stack([x, y], axis=1).astype(np.float32))[None, None]
    found = nn.functional.grid_sample(grid_DHW[None], at, mode="bilinear", padding_mode="border", align_corners=False)
    return np.ascontiguousarray(found[0, :, 0].T.numpy(), np.float32)


def solve_probe(
    pixels: SampledPixels,
    levels: tuple[Level, ...],
    *,
    classes: int,
    channels: int,
    l2: float,
    balanced: bool,
    size: tuple[int, int],
) -> PixelProbe:
    """The probe at its optimum: objective and scale as in `convex`, the mean over pixels. Raises NotConverged."""
    design = make_design(pixels.features_PD)
    weights_LN = balanced_weights(pixels.targets_P, classes) if balanced else np.ones((1, len(pixels.targets_P)))
    loss = make_loss(pixels.targets_P, weights_LN[None], classes, design)
    head = solve_design(design, loss, None, classes=classes, l2=l2, tolerance=_TOLERANCE)
    weight_CD, bias_C = head.weight_KD, head.bias_K
    if channels == 1:
        # Two classes, one logit: by how much the object is likelier than the background.
        weight_CD, bias_C = weight_CD[1:] - weight_CD[:1], bias_C[1:] - bias_C[:1]
    standard = head.standardiser
    return PixelProbe.of(levels, weight_CD, bias_C, standard.mean_D, standard.scale_D, size)
