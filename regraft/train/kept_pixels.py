"""What is kept of the answers for all pixels of an image: a row of numbers that judging, scoring and calibration take.

A map of probabilities would be millions of numbers; the counts that scores are made of, and a few pixels, are hundreds.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.segments import IGNORE, LEVELS, Counts, Kind, PixelCounts
from regraft.train.chance import pixel_draws
from regraft.values import FloatArray

# Pixels of each image that a temperature is fitted to.
SAMPLED = 128


@dataclass(frozen=True, slots=True)
class Layout:
    """Where what stands in a row: the loss, counts of K classes, levels of probability, logits and labels of some pixels."""

    kind: Kind
    classes: int

    @property
    def channels(self) -> int:
        """Logits of a pixel."""
        return 1 if self.kind == "saliency" else self.classes

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each part takes."""
        levels = 2 * LEVELS if self.kind == "saliency" else 0
        return (1, *(self.classes,) * 3, levels, SAMPLED * self.channels, SAMPLED)

    def parts(self, rows_NM: FloatArray) -> list[FloatArray]:
        """The parts of rows."""
        return np.split(np.asarray(rows_NM), np.cumsum(self.sizes)[:-1], axis=1)


def keep(layout: Layout, logits_NCHW: Tensor, labels_NHW: Tensor, losses_N: Tensor) -> NDArray[np.float32]:
    """(n, M) rows for n images. Numbers are whole up to 2^24, so that they are exact in float32."""
    logits = logits_NCHW.float()
    predicted = called(logits)
    rows = [torch.cat([losses_N.float().cpu()[:, None], _counted(labels_NHW, predicted, layout.classes)], dim=1)]
    if layout.kind == "saliency":
        rows.append(_levels(logits[:, 0], labels_NHW))
    rows.append(_some(logits, labels_NHW))
    return np.asarray(torch.cat(rows, dim=1).numpy(), np.float32)


def called(logits_NCHW: Tensor) -> Tensor:
    """(N, H, W) the class that each pixel is called; of one channel the object from a probability of one half."""
    return (logits_NCHW[:, 0] >= 0).long() if logits_NCHW.shape[1] == 1 else logits_NCHW.argmax(dim=1)


def shared(layout: Layout, logits_NCHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """(N,) what `overlaps` would say of these answers, and nothing else of them."""
    predicted = called(logits_NCHW)
    if layout.kind == "semantic":
        counts = _counted(labels_NHW, predicted, layout.classes).double().numpy()
        true, called_so, both = np.split(counts, 3, axis=1)
        return torch.from_numpy(_shares(layout, true, called_so, both))
    counts_NHW = labels_NHW != IGNORE
    true_NHW, found_NHW = (labels_NHW == 1) & counts_NHW, (predicted == 1) & counts_NHW
    both_N, either_N = (value.flatten(1).sum(dim=1).double() for value in (true_NHW & found_NHW, true_NHW | found_NHW))
    return torch.where(either_N > 0, both_N / either_N.clamp(min=1), torch.ones_like(both_N))


def _counted(labels_NHW: Tensor, predicted_NHW: Tensor, classes: int) -> Tensor:
    """(N, 3 K) pixels of each class, called so, and both."""
    found = []
    for labels, predicted in zip(labels_NHW.flatten(1).long(), predicted_NHW.flatten(1), strict=True):
        counts = labels != IGNORE
        pairs = torch.bincount(labels[counts] * classes + predicted[counts], minlength=classes**2).reshape(classes, classes)
        found.append(torch.cat([pairs.sum(dim=1), pairs.sum(dim=0), pairs.diagonal()]))
    return torch.stack(found).float().cpu()


def _levels(logits_NHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """(N, 2 L) how many background pixels, then object pixels, were given each probability."""
    level = (logits_NHW.sigmoid() * (LEVELS - 1)).round().long()
    found = []
    for one, labels in zip(level.flatten(1), labels_NHW.flatten(1).long(), strict=True):
        counts = labels != IGNORE
        found.append(torch.bincount(labels[counts] * LEVELS + one[counts], minlength=2 * LEVELS))
    return torch.stack(found).float().cpu()


def _some(logits_NCHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """(N, S C + S) logits and labels of the same places in every image; places that do not count are labelled IGNORE."""
    count, channels, height, width = logits_NCHW.shape
    places = torch.from_numpy(pixel_draws().integers(0, height * width, SAMPLED)).to(logits_NCHW.device)
    logits = logits_NCHW.flatten(2)[:, :, places].transpose(1, 2).reshape(count, SAMPLED * channels)
    labels = labels_NHW.flatten(1)[:, places]
    return torch.cat([logits.cpu(), labels.float().cpu()], dim=1)


def losses_in(rows_NM: FloatArray) -> FloatArray:
    """(N,) the losses."""
    return rows_NM[:, 0]


def counts_in(
    layout: Layout, rows_NM: FloatArray, names: tuple[str, ...], classes: tuple[str, ...], groups: tuple[str, ...] | None = None
) -> PixelCounts:
    """The counts, which lack those of edges."""
    _, true, predicted, both, levels, _, _ = layout.parts(rows_NM)
    none = np.zeros((len(rows_NM), layout.classes), np.int64)
    return PixelCounts(
        names=names,
        classes=classes,
        kind=layout.kind,
        true_NK=_whole(true),
        predicted_NK=_whole(predicted),
        both_NK=_whole(both),
        true_edge_NK=none,
        true_edge_found_NK=none,
        predicted_edge_NK=none,
        predicted_edge_right_NK=none,
        levels_N2L=_whole(levels).reshape(-1, 2, LEVELS) if layout.kind == "saliency" else None,
        groups=groups,
    )


def pixels_in(layout: Layout, rows_NM: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits (P, C) and labels (P,) of the sampled pixels that count."""
    *_, logits, labels = layout.parts(rows_NM)
    labels_P = _whole(labels).reshape(-1)
    counts = labels_P != IGNORE
    return np.asarray(logits, np.float64).reshape(-1, layout.channels)[counts], labels_P[counts]


def overlaps(layout: Layout, rows_NM: FloatArray) -> NDArray[np.float64]:
    """(N,) the intersection over union of each image: the object's, or the mean over the classes that are there or called.

    Where nothing is there and nothing called it is 1.
    """
    _, true, predicted, both, *_ = layout.parts(np.asarray(rows_NM, np.float64))
    return _shares(layout, true, predicted, both)


def _shares(layout: Layout, true: FloatArray, predicted: FloatArray, both: FloatArray) -> NDArray[np.float64]:
    union = true + predicted - both
    there = union > 0
    if layout.kind == "saliency":
        there[:, 0] = False
    shares = np.divide(both, union, out=np.zeros_like(both), where=there)
    many = there.sum(axis=1)
    return np.asarray(np.where(many > 0, shares.sum(axis=1) / np.maximum(many, 1), 1.0), np.float64)


def _whole(values: FloatArray) -> Counts:
    return np.rint(values).astype(np.int64)
