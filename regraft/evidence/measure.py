"""The evidence of a class at each place of an image, by Captum."""

import logging
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from regraft.evidence.watched import Watched

# Occlusion: a window of a quarter of the image in steps of an eighth, 49 views of each image. 196 smaller ones take four times
# as long, and a window of a seventh hides too little of an object to change an answer.
_WINDOW, _STEP = 4, 8
_VIEWS_AT_ONCE = 8

# Captum imports Matplotlib, which tells of its own caches where nobody listens.
logging.getLogger("matplotlib").addHandler(logging.NullHandler())


def grad_cam(network: Watched, values: tuple[Tensor, ...], targets_N: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W): Grad-CAM of the logits of `targets_N` at the network's maps, from their `values`, summed over the maps.

    Selvaraju et al. 2017 (arXiv:1610.02391), without the ReLU: the logit's gradient, averaged over the places of a channel, is
    the weight of that channel; a place's evidence is the weighted sum of its channels. For a linear head on averaged maps that
    is what each place adds to the logit, exactly.
    """
    from captum.attr import LayerGradCam

    found = LayerGradCam(network.after, network.maps).attribute(values, target=targets_N)
    maps = found if isinstance(found, tuple) else (found,)
    return _enlarged(summed([cast(Tensor, one) for one in maps]), size)


def summed(maps: list[Tensor]) -> Tensor:
    """(N, 1, h, w): the evidence of maps (N, 1, h_i, w_i) added up, place by place, on the grid of the first.

    What the places of a finer grid say is added to the place that holds them: evidence is an amount, not a height.
    """
    grid = maps[0].shape[2:]
    return torch.stack([_on_grid(one, grid) for one in maps]).sum(dim=0)


def _on_grid(map_N1hw: Tensor, grid: torch.Size) -> Tensor:
    amount = map_N1hw * (map_N1hw.shape[2] * map_N1hw.shape[3] / (grid[0] * grid[1]))
    if map_N1hw.shape[2] >= grid[0] and map_N1hw.shape[3] >= grid[1]:
        return functional.adaptive_avg_pool2d(amount, list(grid))
    return functional.interpolate(amount, list(grid), mode="bilinear", align_corners=False)


def occlusion(network: nn.Module, images: Tensor, targets_N: Tensor) -> Tensor:
    """(N, H, W): by how much the logits of `targets_N` fall where a window of the image is painted in its mean colour.

    Zeiler and Fergus 2014 (arXiv:1311.2901). It asks nothing of the network but answers, many of them.
    """
    from captum.attr import Occlusion

    _, channels, height, width = images.shape
    window = (channels, max(1, height // _WINDOW), max(1, width // _WINDOW))
    step = (channels, max(1, height // _STEP), max(1, width // _STEP))
    with torch.no_grad():
        found: Any = Occlusion(network).attribute(
            images,
            sliding_window_shapes=window,
            strides=step,
            baselines=images.mean(dim=(2, 3), keepdim=True).expand_as(images),
            target=targets_N,
            perturbations_per_eval=_VIEWS_AT_ONCE,
        )
    return cast(Tensor, found[:, 0])


def _enlarged(map_N1hw: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(map_N1hw, size, mode="bilinear", align_corners=False)[:, 0]
