"""Images mixed in pairs: mixup (Zhang et al., 2017) and CutMix (Yun et al., 2019)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.train.chance import mixing_draws


@dataclass(frozen=True, slots=True)
class Pairing:
    """How the images of a whole batch are to be mixed: positions of their partners, who get 1 - `share` of each.

    `corner`: where a box is cut out, as shares of the room there is for it; None: the images are blended.
    """

    partners: NDArray[np.int64]
    share: float
    corner: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class Mixed:
    """Inputs mixed with those of the images `partners` (positions in the batch), which have a part of 1 - `share` in them."""

    inputs: tuple[Tensor, ...]
    partners: Tensor | None
    share: float


def paired(count: int, counted: tuple[int, ...], *, mixup: float, cutmix: float) -> Pairing | None:
    """Who is mixed with whom in a batch of `count`; None where nothing is mixed.

    `mixup` and `cutmix` are alpha of the beta distribution of the share, 0: off; both: one by chance. The draws follow from the
    numbers `counted`.
    """
    if not (mixup or cutmix) or count < 2:
        return None
    draws = mixing_draws(*counted)
    cuts = bool(cutmix) and (not mixup or draws.random() < 0.5)
    share = float(draws.beta(*(2 * (cutmix if cuts else mixup,))))
    partners = draws.permutation(count)
    return Pairing(partners, share, draws.random(2) if cuts else None)


def joined(values: tuple[Tensor, ...], others: tuple[Tensor, ...], pairing: Pairing) -> tuple[tuple[Tensor, ...], float]:
    """Inputs mixed with those of their partners, and the share of their own that is left.

    Inputs are pixels (n, H, W, C) uint8, or what crosses a boundary; CutMix needs places to cut at and leaves other inputs to
    mixup's way.
    """
    share, corner = pairing.share, pairing.corner
    if corner is not None and all(value.dim() == 4 for value in values):
        parts = [_cut(value, other, share, corner) for value, other in zip(values, others, strict=True)]
        return tuple(value for value, _ in parts), parts[0][1]
    return tuple(_blended(value, other, share) for value, other in zip(values, others, strict=True)), share


def mixed(inputs: tuple[Tensor, ...], counted: tuple[int, ...], *, mixup: float, cutmix: float) -> Mixed:
    """A whole batch mixed as `paired` says."""
    pairing = paired(len(inputs[0]), counted, mixup=mixup, cutmix=cutmix)
    if pairing is None:
        return Mixed(inputs, None, 1.0)
    partners = torch.from_numpy(pairing.partners)
    values, share = joined(inputs, tuple(value[partners] for value in inputs), pairing)
    return Mixed(values, partners, share)


def _blended(value: Tensor, other: Tensor, share: float) -> Tensor:
    if value.dtype == torch.uint8:
        return (share * value.float() + (1 - share) * other.float()).round().to(torch.uint8)
    return share * value + (1 - share) * other


def _cut(value: Tensor, other: Tensor, share: float, corner: NDArray[np.float64]) -> tuple[Tensor, float]:
    """A box of the partner's in every image, and the share of its own that is left."""
    pixels = value.dtype == torch.uint8  # channels last
    first = 1 if pixels else 2
    height, width = value.shape[first : first + 2]
    high, wide = (round(side * float(np.sqrt(1 - share))) for side in (height, width))
    top, left = round(corner[0] * (height - high)), round(corner[1] * (width - wide))
    box = (slice(None),) * first + (slice(top, top + high), slice(left, left + wide))
    out = value.clone()
    out[box] = other[box]
    return out, 1 - high * wide / (height * width)
