"""Augmentation of labels: pixels move as those of their image do for the same seed; changes of colours leave them alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision import tv_tensors

from regraft.data.augment import Drawn, Named, Seed, Transform, chance_put_back, checked, name_of, named, seed_all, source_grid
from regraft.errors import UsageError, first_line

_AT_ONCE: Final = 1 << 19  # pixels that are sampled together


class LabelAugmentation(Protocol):
    """Labels (N, H, W) uint8 and a seed for each -> labels of the same shape and type; the argument stays as it is.

    `channels` are those of the images, by which their colours are drawn.
    """

    def __call__(self, labels: Tensor, seeds: Sequence[Seed], channels: int) -> Tensor: ...


def augment_labels(how: str | Transform) -> LabelAugmentation:
    """What `augment.augmentation(how)` does to images, done to their labels.

    Each pixel takes the label of the nearest one; beyond the border is the reflection, as in images. Parts that are erased from
    an image keep their labels.

    A transform of your own is shown a pair, `tv_tensors.Image` of zeros and `tv_tensors.Mask` (1, H, W), as those of
    `torchvision.transforms.v2` take: what moves both must draw the same for the same seed, whatever the picture. What it fills
    in at borders is the transform's choice (0 in torchvision; `fill={tv_tensors.Mask: 255, "others": 0}` leaves them out).

    Raises UsageError for another name, and when called where a transform takes no mask or gives something else.
    """
    if isinstance(how, str):
        ours = named(how)
        return _as_is if ours is None else _OfNamed(ours)
    return _OfOwn(checked(how))


def _check(labels: Tensor, seeds: Sequence[Seed]) -> None:
    if labels.dtype != torch.uint8 or labels.dim() != 3 or 0 in labels.shape[1:] or len(seeds) != len(labels):
        raise UsageError(
            expected="labels (N, H, W) of uint8, and N seeds",
            got=f"{tuple(labels.shape)} of {str(labels.dtype).removeprefix('torch.')}, and {len(seeds)} seeds",
            fix="give the labels of whole images, and a tuple of numbers for each",
        )


def _as_is(labels: Tensor, seeds: Sequence[Seed], channels: int) -> Tensor:
    """The very tensor that was given."""
    _check(labels, seeds)
    return labels


@dataclass(frozen=True, slots=True)
class _OfNamed:
    named: Named

    def __call__(self, labels: Tensor, seeds: Sequence[Seed], channels: int) -> Tensor:
        _check(labels, seeds)
        height, width = labels.shape[1:]
        drawn = [self.named.draw(seed, height, width, channels) for seed in seeds]
        changed = labels.clone(memory_format=torch.contiguous_format)
        for i, one in enumerate(drawn):
            if one.mirrored and not one.is_moved:
                changed[i] = labels[i].flip(1)
        rows = [i for i, one in enumerate(drawn) if one.is_moved]
        some = max(1, _AT_ONCE // (height * width))
        for start in range(0, len(rows), some):
            part = rows[start : start + some]
            changed[part] = _moved(labels[part], [drawn[i] for i in part])
        return changed


def _moved(labels: Tensor, drawn: Sequence[Drawn]) -> Tensor:
    """Labels (n, H, W) from where the images' pixels are from."""
    grid = source_grid(drawn, labels.shape[1], labels.shape[2], labels.device)
    values = grid_sample(labels[:, None].to(torch.float32), grid, "nearest", "reflection", align_corners=False)
    return values[:, 0].to(torch.uint8)


@dataclass(frozen=True, slots=True)
class _OfOwn:
    """A transform of the user's own, shown one image at a time, of which only the geometry counts."""

    transform: Transform

    def __call__(self, labels: Tensor, seeds: Sequence[Seed], channels: int) -> Tensor:
        _check(labels, seeds)
        changed = torch.empty_like(labels, memory_format=torch.contiguous_format)
        with chance_put_back(), torch.no_grad():
            for i, seed in enumerate(seeds):
                seed_all(seed)
                changed[i] = self._transformed(labels[i], channels)
        return changed

    def _transformed(self, labels: Tensor, channels: int) -> Tensor:
        """(H, W) uint8 -> the same."""
        image = tv_tensors.Image(labels.new_zeros((channels, *labels.shape)))
        mask = tv_tensors.Mask(labels[None].clone(memory_format=torch.contiguous_format))
        try:
            pair = self.transform(image, mask)
        except Exception as error:  # of the user's own code: anything
            raise self._unfit(labels, f"{type(error).__name__}: {first_line(error)}") from error
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[1], Tensor):
            raise self._unfit(labels, f"a {type(pair).__name__}")
        value = pair[1].as_subclass(Tensor)
        if value.shape != (1, *labels.shape) or value.dtype != torch.uint8:
            raise self._unfit(labels, f"a mask {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}")
        return value[0]

    def _unfit(self, labels: Tensor, got: str) -> UsageError:
        return UsageError(
            expected=f"the transform {name_of(self.transform)} to move image and mask alike: called with both, to give both, "
            f"with a mask (1, {labels.shape[0]}, {labels.shape[1]}) of uint8",
            got=got,
            fix="use transforms of torchvision.transforms.v2, a function that takes and gives (image, mask), or an "
            "augmentation by name",
        )
