"""The evidence for a class at each place of an image, by Captum: Grad-CAM, integrated gradients, occlusion."""

import logging
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from regraft.evidence.watched import Watched

# Points on the way from no image to the image; 4 and 16 put the evidence at the same places: docs/explain.md#methods
_STEPS = 8
# Occlusion: a window of a quarter of the image in steps of an eighth, 49 views of each image.
_WINDOW, _STEP = 4, 8
_AT_ONCE = 8

# Captum imports Matplotlib, which tells of its own caches where nobody listens.
logging.getLogger("matplotlib").addHandler(logging.NullHandler())


def grad_cam(network: Watched, maps: tuple[Tensor, ...], targets_N: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W): Grad-CAM of the logits of `targets_N` at the network's `maps`, summed over them and enlarged to `size`.

    Selvaraju et al. 2017 (arXiv:1610.02391), without the ReLU: the logit's gradient, averaged over the places of a channel, is
    the weight of that channel; a place's evidence is the weighted sum of its channels. For a linear head on an averaged map
    that is what each place adds to the logit, exactly.
    """
    from captum.attr import LayerGradCam

    found = LayerGradCam(network.after, network.maps).attribute(maps, target=targets_N)
    return enlarged(summed(list(found) if isinstance(found, tuple) else [cast(Tensor, found)]), size)


def summed(maps: list[Tensor]) -> Tensor:
    """(N, 1, h, w): the evidence of maps (N, 1, h_i, w_i) added up, place by place, on the grid of the first.

    What the places of a finer grid say is added to the place that holds them: evidence is an amount, not a height.
    """
    grid = (maps[0].shape[2], maps[0].shape[3])
    return torch.stack([_on_grid(one, grid) for one in maps]).sum(dim=0)


def _on_grid(map_N1hw: Tensor, grid: tuple[int, int]) -> Tensor:
    amount = map_N1hw * (map_N1hw.shape[2] * map_N1hw.shape[3] / (grid[0] * grid[1]))
    if map_N1hw.shape[2] >= grid[0] and map_N1hw.shape[3] >= grid[1]:
        return functional.adaptive_avg_pool2d(amount, grid)
    return functional.interpolate(amount, grid, mode="bilinear", align_corners=False)


def integrated_gradients(network: nn.Module, images: Tensor, targets_N: Tensor, cells: int) -> Tensor:
    """(N, H, W): what the pixels around each place add to the logits of `targets_N`, beginning at an image of its mean colour.

    Sundararajan et al. 2017 (arXiv:1703.01365): the logit's gradient in each pixel, averaged over the way from that image to
    this one, times what changes. Single pixels are noise: a place's evidence is that of the pixels within two to three of the
    `cells` on a side, which for a transformer are its patches.
    """
    from captum.attr import IntegratedGradients

    found = IntegratedGradients(network).attribute(
        images, baselines=blank(images), target=targets_N, n_steps=_STEPS, internal_batch_size=max(_AT_ONCE, len(images))
    )
    fine = functional.adaptive_avg_pool2d(found.sum(dim=1, keepdim=True), 2 * cells)
    return enlarged(functional.avg_pool2d(fine, 5, stride=1, padding=2), (images.shape[2], images.shape[3]))


def occlusion(network: nn.Module, images: Tensor, targets_N: Tensor) -> Tensor:
    """(N, H, W): by how much the logits of `targets_N` fall where a window of the image is painted in its mean colour.

    Zeiler and Fergus 2014 (arXiv:1311.2901). It asks nothing of the network but answers, many of them.
    """
    from captum.attr import Occlusion

    _, channels, height, width = images.shape
    with torch.no_grad():
        found: Any = Occlusion(network).attribute(
            images,
            sliding_window_shapes=(channels, max(1, height // _WINDOW), max(1, width // _WINDOW)),
            strides=(channels, max(1, height // _STEP), max(1, width // _STEP)),
            baselines=blank(images),
            target=targets_N,
            perturbations_per_eval=max(1, _AT_ONCE // len(images)),
        )
    return cast(Tensor, found[:, 0])


def blank(images: Tensor) -> Tensor:
    """Each image in its mean colour throughout."""
    return images.mean(dim=(2, 3), keepdim=True).expand_as(images).contiguous()


def enlarged(map_N1hw: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W): a map at the size of the images."""
    return functional.interpolate(map_N1hw, size, mode="bilinear", align_corners=False)[:, 0]
