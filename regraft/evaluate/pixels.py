"""What scores of pixels are made of: counts, image by image. Pixels to be ignored are in none of them.

Edges are counted as in the boundary F-measure (Csurka et al. 2013, "What is a good evaluation measure for semantic
segmentation?"; Perazzi et al. 2016 for objects): a pixel is on the edge of its class where a 4-neighbour inside the image, not
to be ignored itself, is of another class. It is near an edge of that class in the other map if that is no farther than the
tolerance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.segments import IGNORE, LEVELS, Counts, Kind, PixelCounts

# Of the image's diagonal, as Csurka et al. chose it.
TOLERANCE = 0.0075
_MOST_BITS = 64
Labels = NDArray[np.uint8] | NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCounts:
    """The part of one image in `PixelCounts`: (K,) each, and where there are probabilities the (2, L) levels."""

    true_K: Counts
    predicted_K: Counts
    both_K: Counts
    true_edge_K: Counts
    true_edge_found_K: Counts
    predicted_edge_K: Counts
    predicted_edge_right_K: Counts
    levels_2L: Counts | None = None


def count_pixels(
    labels_HW: Labels,
    predicted_HW: Labels,
    classes: int,
    *,
    tolerance: int | None = None,
    probability_HW: NDArray[np.floating[Any]] | None = None,
) -> ImageCounts:
    """Counts of one image from the class of every pixel, IGNORE among them, and the predicted classes.

    `tolerance` is in pixels; without it `near_enough` of the image. `probability_HW` is that of the object, where there is
    one. Raises ValueError where shapes differ, a label is no class, or a probability is not in 0..1.
    """
    labels_HW, predicted_HW = _checked(np.asarray(labels_HW), np.asarray(predicted_HW), classes)
    counts_HW = labels_HW != IGNORE
    truth_P, answer_P = labels_HW[counts_HW], predicted_HW[counts_HW]
    radius = near_enough(*labels_HW.shape) if tolerance is None else tolerance
    edges = _count_edges(labels_HW, predicted_HW, classes, radius)
    return ImageCounts(
        true_K=_of_class(truth_P, classes),
        predicted_K=_of_class(answer_P, classes),
        both_K=_of_class(truth_P[truth_P == answer_P], classes),
        true_edge_K=edges[0],
        true_edge_found_K=edges[1],
        predicted_edge_K=edges[2],
        predicted_edge_right_K=edges[3],
        levels_2L=None if probability_HW is None else _levels(truth_P, np.asarray(probability_HW)[counts_HW]),
    )


def near_enough(height: int, width: int) -> int:
    """The tolerance for edges of an image of this size, in pixels: 0.75 % of its diagonal, at least 1."""
    return max(1, round(TOLERANCE * math.hypot(height, width)))


def gather_counts(
    rows: Sequence[ImageCounts],
    names: Sequence[str],
    classes: Sequence[str],
    kind: Kind,
    groups: Sequence[str] | None = None,
) -> PixelCounts:
    """The counts of several images, in their order. Saliency has levels where every image has.

    Raises ValueError where there are not as many names (or groups) as rows.
    """
    if len(rows) != len(names) or (groups is not None and len(groups) != len(names)):
        raise ValueError(f"expected a name and a group for each of {len(rows)} images")
    shapes = {field.name: (0, len(classes)) for field in fields(ImageCounts) if field.name != "levels_2L"}
    stacked = {f"{name[:-1]}NK": _stack([getattr(row, name) for row in rows], shape) for name, shape in shapes.items()}
    levels = [row.levels_2L for row in rows if row.levels_2L is not None]
    whole = kind == "saliency" and len(levels) == len(rows)
    return PixelCounts(
        names=tuple(names),
        classes=tuple(classes),
        kind=kind,
        levels_N2L=_stack(levels, (0, 2, LEVELS)) if whole else None,
        groups=None if groups is None else tuple(groups),
        **stacked,
    )


def _stack(rows: Sequence[Counts], shape: tuple[int, ...]) -> Counts:
    return np.stack(rows) if rows else np.zeros(shape, np.int64)


def _checked(labels_HW: NDArray[Any], predicted_HW: NDArray[Any], classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both as uint8, and IGNORE in the predicted ones too where no answer counts."""
    if not 2 <= classes <= IGNORE:
        raise ValueError(f"expected 2 to {IGNORE} classes, got {classes}")
    if labels_HW.ndim != 2 or labels_HW.shape != predicted_HW.shape:
        raise ValueError(f"expected two maps of one shape (H, W), got {labels_HW.shape} and {predicted_HW.shape}")
    predicted_HW = np.where(labels_HW == IGNORE, IGNORE, predicted_HW)
    known_HW = labels_HW != IGNORE
    for what, values_HW in (("labels", labels_HW), ("answers", predicted_HW)):
        if known_HW.any() and not 0 <= values_HW[known_HW].min() <= values_HW[known_HW].max() < classes:
            raise ValueError(f"expected {what} from 0 to {classes - 1}, got {np.unique(values_HW[known_HW])}")
    return labels_HW.astype(np.uint8), predicted_HW.astype(np.uint8)


def _of_class(labels_P: NDArray[np.uint8], classes: int) -> Counts:
    return np.bincount(labels_P, minlength=classes).astype(np.int64)


def _levels(truth_P: NDArray[np.uint8], probability_P: NDArray[np.floating[Any]]) -> Counts:
    """(2, L): half a level rounds up, so that a level of 128 or more is a probability of 1/2 or more."""
    if not ((probability_P >= 0) & (probability_P <= 1)).all():
        raise ValueError("expected probabilities in 0..1")
    level_P = (probability_P.astype(np.float32) * (LEVELS - 1) + 0.5).astype(np.int64)
    both = np.bincount((truth_P > 0) * LEVELS + level_P, minlength=2 * LEVELS)
    return both.reshape(2, LEVELS).astype(np.int64)


def _count_edges(
    labels_HW: NDArray[np.uint8], predicted_HW: NDArray[np.uint8], classes: int, radius: int
) -> tuple[Counts, Counts, Counts, Counts]:
    """(K,) true edge pixels and how many of them are found, predicted ones and how many of them are right."""
    found, right = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    true_at, predicted_at = (np.flatnonzero(_edges(map_HW)) for map_HW in (labels_HW, predicted_HW))
    true_E, predicted_E = labels_HW.ravel()[true_at], predicted_HW.ravel()[predicted_at]
    # A bit for each class, so that one dilation serves all of them.
    for first in range(0, classes, _MOST_BITS):
        bits_K = _bits(classes, first)
        near_true, near_predicted = (
            _dilated(_marked(labels_HW.shape, at, bits_K[of_E]), radius).ravel()
            for at, of_E in ((true_at, true_E), (predicted_at, predicted_E))
        )
        found += _of_class(true_E[(near_predicted[true_at] & bits_K[true_E]) != 0], classes)
        right += _of_class(predicted_E[(near_true[predicted_at] & bits_K[predicted_E]) != 0], classes)
    return _of_class(true_E, classes), found, _of_class(predicted_E, classes), right


def _edges(map_HW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    known_HW, edge_HW = map_HW != IGNORE, np.zeros(map_HW.shape, np.bool_)
    for one, other in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
        differ = (map_HW[one] != map_HW[other]) & known_HW[one] & known_HW[other]
        edge_HW[one] |= differ
        edge_HW[other] |= differ
    return edge_HW


def _bits(classes: int, first: int) -> NDArray[Any]:
    """(K,) a bit for each class from `first` on, as many as there is room for, and 0 for the others."""
    kind = next(kind for kind in (np.uint8, np.uint16, np.uint32, np.uint64) if min(classes, _MOST_BITS) <= 8 * kind().itemsize)
    bits_K = np.zeros(classes, kind)
    here = np.arange(first, min(classes, first + _MOST_BITS))
    bits_K[here] = np.left_shift(kind(1), (here - first).astype(kind))
    return bits_K


def _marked(shape: tuple[int, ...], at: NDArray[np.intp], values: NDArray[Any]) -> NDArray[Any]:
    marked = np.zeros(shape, values.dtype)
    marked.ravel()[at] = values
    return marked


def _dilated(bits_HW: NDArray[Any], radius: int) -> NDArray[Any]:
    """The bits of all pixels within `radius`: a disc is a run of pixels in each of its rows, shorter towards its ends."""
    height, out_HW, wide_HW, half = len(bits_HW), np.zeros_like(bits_HW), bits_HW.copy(), 0
    for rows in range(radius, -1, -1):
        while half < math.isqrt(radius * radius - rows * rows):
            half += 1
            wide_HW[:, half:] |= bits_HW[:, :-half]
            wide_HW[:, :-half] |= bits_HW[:, half:]
        left = max(height - rows, 0)
        out_HW[rows:] |= wide_HW[:left]
        out_HW[:left] |= wide_HW[rows:]
    return out_HW
