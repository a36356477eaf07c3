"""Images mixed in pairs: mixup (Zhang et al., 2017) and CutMix (Yun et al., 2019)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regraft.train.chance import mixing_draws


@dataclass(frozen=True, slots=True)
class Mixed:
    """Inputs mixed with those of the images `partners` (positions in the batch), which have a part of 1 - `share` in them."""

    inputs: tuple[Tensor, ...]
    partners: Tensor | None
    share: float


def mixed(inputs: tuple[Tensor, ...], counted: tuple[int, ...], *, mixup: float, cutmix: float) -> Mixed:
    """A batch mixed as `mixup` and `cutmix` (alpha of the beta distribution of the share, 0: off) say; both: one by chance.

    `inputs` are pixels (n, H, W, C) uint8, or what crosses a boundary; CutMix needs places to cut at and leaves other inputs to
    mixup's way. The draws follow from the numbers `counted`.
    """
    count = len(inputs[0])
    if not (mixup or cutmix) or count < 2:
        return Mixed(inputs, None, 1.0)
    draws = mixing_draws(*counted)
    cuts = bool(cutmix) and (not mixup or draws.random() < 0.5)
    share = float(draws.beta(*(2 * (cutmix if cuts else mixup,))))
    partners = torch.from_numpy(draws.permutation(count))
    if cuts and all(value.dim() == 4 for value in inputs):
        corner = draws.random(2)
        parts = [_cut(value, partners, share, corner) for value in inputs]
        return Mixed(tuple(value for value, _ in parts), partners, parts[0][1])
    return Mixed(tuple(_blended(value, value[partners], share) for value in inputs), partners, share)


def _blended(value: Tensor, other: Tensor, share: float) -> Tensor:
    if value.dtype == torch.uint8:
        return (share * value.float() + (1 - share) * other.float()).round().to(torch.uint8)
    return share * value + (1 - share) * other


def _cut(
    value: Tensor, partners: Tensor, share: float, corner: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"
) -> tuple[Tensor, float]:
    """A box of the partner's in every image, and the share of its own that is left."""
    pixels = value.dtype == torch.uint8  # channels last
    first = 1 if pixels else 2
    height, width = value.shape[first : first + 2]
    high, wide = (round(side * float(np.sqrt(1 - share))) for side in (height, width))
    top, left = round(corner[0] * (height - high)), round(corner[1] * (width - wide))
    box = (slice(None),) * first + (slice(top, top + high), slice(left, left + wide))
    out = value.clone()
    out[box] = value[partners][box]
    return out, 1 - high * wide / (height * width)
