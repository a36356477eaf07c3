"""How good answers for pixels are: overlap, edges, and how sure that is. What each score means: `segments.PixelScores`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataUnusable
from regraft.evaluate.compare import units
from regraft.evaluate.interval import wilson
from regraft.evaluate.resample import ends_of_figures
from regraft.segments import LEVELS, Kind, PixelClassScore, PixelCounts, PixelScores
from regraft.values import Interval

# As in the papers on salient objects (Achanta et al. 2009): precision weighs more.
BETA_SQUARED = 0.3
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScore:
    """Scores of one image. `iou`: the object's; semantic: the mean over the classes of its mask or its answer.

    `wrong` is the share of its pixels that is called another class.
    """

    name: str
    iou: float
    boundary_f: float
    wrong: float


def score_pixels(counts: PixelCounts, *, threshold: float | None = None, draws: int = 2000, seed: int = 0) -> PixelScores:
    """Scores with intervals by `ends_of_figures` over images, or over groups where they have them.

    Images all of whose pixels are ignored are left out. Edges: the F-measure of each image and class that has an edge in mask
    or answer; of a class the mean over images, of all the mean over classes. Saliency: the mean over images of the object's,
    1 where neither has an edge. Pixel accuracy is over all pixels. `threshold`: from which probability the counts call a
    pixel the object; without it 1/2. Raises DataUnusable where no pixel counts.
    """
    known_N = counts.true_NK.sum(axis=1) > 0
    if not known_N.any():
        raise DataUnusable(
            expected="images with known pixels to score",
            got=f"{len(known_N)} images, of which every pixel is to be ignored" if len(known_N) else "no image",
            fix="give images with masks; `regraft audit` lists masks that say nothing",
        )
    table = _table(counts, known_N)
    unit_N = units(len(known_N), counts.groups)[known_N]
    sums_UX = np.zeros((len(set(unit_N.tolist())), table.shape[1]))
    np.add.at(sums_UX, np.unique(unit_N, return_inverse=True)[1], table)
    ends = ends_of_figures(lambda sums: _figures(sums, counts.kind), sums_UX, draws=draws, seed=seed)
    values = _figures(sums_UX.sum(axis=0), counts.kind)
    intervals = [
        _interval(value, *pair, draws=len(sums_UX), n=int(known_N.sum())) for value, pair in zip(values, ends.T, strict=True)
    ]
    return _scores(counts, known_N, intervals, threshold)


def image_scores(counts: PixelCounts) -> tuple[ImageScore, ...]:
    """Of each image, in their order; NaN where no pixel counts."""
    ious_N, edges_N, wrong_N = image_ious(counts), _image_edges(counts), wrong_shares(counts)
    return tuple(
        ImageScore(name=name, iou=float(iou), boundary_f=float(edge), wrong=float(wrong))
        for name, iou, edge, wrong in zip(counts.names, ious_N, edges_N, wrong_N, strict=True)
    )


def image_ious(counts: PixelCounts) -> Floats:
    """(N,) the IoU of each image, as in `ImageScore`; NaN where no pixel counts."""
    union_NK = counts.true_NK + counts.predicted_NK - counts.both_NK
    if counts.kind == "saliency":
        return _shares(counts.both_NK[:, 1], union_NK[:, 1], 1.0, counts.true_NK.sum(axis=1) > 0)
    return _mean(_shares(counts.both_NK, union_NK, np.nan))


def wrong_shares(counts: PixelCounts) -> Floats:
    """(N,) the share of each image's pixels that is called another class; NaN where none counts."""
    pixels_N = counts.true_NK.sum(axis=1)
    return _shares(pixels_N - counts.both_NK.sum(axis=1), pixels_N, np.nan)


def disagreements(counts: PixelCounts) -> NDArray[np.int64]:
    """The images by how far their answers are from their masks, the farthest first; those without a known pixel are left out.

    By IoU, which tells a mask of another thing from one with coarse outlines at any size; of equal ones by the share of pixels.
    """
    ious_N, wrong_N = image_ious(counts), wrong_shares(counts)
    order = np.lexsort((np.arange(len(ious_N)), -wrong_N, ious_N))
    return order[~np.isnan(ious_N[order])].astype(np.int64)


def telling_images(counts: PixelCounts, count: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The best (best first), median and worst (worst first) images by IoU, `count` of each or as many as there are thirds.

    Of images that score alike those with more of an object, or more classes, come first among the best: they show more.
    """
    ious_N, shown_N = image_ious(counts), _to_show(counts)
    order = np.lexsort((np.arange(len(ious_N)), shown_N, ious_N))
    order = order[~np.isnan(ious_N[order])]
    each = min(count, max(1, len(order) // 3))
    best, rest = order[::-1][:each], order[: max(len(order) - each, 0)]
    worst, rest = rest[:each], rest[each:]
    start = max(0, min(len(order) // 2 - each // 2 - len(worst), len(rest) - each))
    return _tuple(best), _tuple(rest[start : start + each]), _tuple(worst)


def _tuple(numbers: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)


def _to_show(counts: PixelCounts) -> Floats:
    if counts.kind == "saliency":
        return _shares(counts.true_NK[:, 1], counts.true_NK.sum(axis=1), 0.0)
    return np.asarray((counts.true_NK > 0).sum(axis=1), dtype=np.float64)


def _shares(part: NDArray[Any], whole: NDArray[Any], empty: float, where: Any = True) -> Floats:
    """part / whole, `empty` where that is 0 / 0, NaN where not `where`."""
    shares = np.full(np.broadcast_shapes(part.shape, whole.shape), empty)
    np.divide(part, whole, out=shares, where=whole > 0)
    return np.where(where, shares, np.nan)


def _mean(values: Floats) -> Floats:
    """Over the last axis, of what is no NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    return _shares(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1), np.nan)


def _edge_f(counts: PixelCounts) -> Floats:
    """(N, K) F-measure of edges: 0 where only mask or answer has an edge of the class, NaN where neither has."""
    recall = _shares(counts.true_edge_found_NK, counts.true_edge_NK, 0.0)
    precision = _shares(counts.predicted_edge_right_NK, counts.predicted_edge_NK, 0.0)
    either = counts.true_edge_NK + counts.predicted_edge_NK > 0
    return _shares(2 * precision * recall, precision + recall, 0.0, either)


def _image_edges(counts: PixelCounts) -> Floats:
    edges_NK = _edge_f(counts)
    if counts.kind == "semantic":
        return _mean(edges_NK)
    known_N = counts.true_NK.sum(axis=1) > 0
    return np.where(known_N, np.nan_to_num(edges_NK[:, 1], nan=1.0), np.nan)


def _table(counts: PixelCounts, known_N: NDArray[np.bool_]) -> Floats:
    """(M, X): what each of the M images with known pixels adds to the sums that `_figures` is of."""
    edges_NK = _edge_f(counts)
    parts = [counts.true_NK, counts.predicted_NK, counts.both_NK, np.nan_to_num(edges_NK), ~np.isnan(edges_NK)]
    if counts.kind == "saliency":
        dice_N, f_N = _object_scores(counts)
        means = [np.ones(len(known_N)), image_ious(counts), dice_N, _image_edges(counts), f_N, _mean_errors(counts)]
        parts.append(np.stack(means, axis=1))
    return np.hstack([part[known_N].astype(np.float64) for part in parts])


def _object_scores(counts: PixelCounts) -> tuple[Floats, Floats]:
    """(N,) Dice and F-measure of the object; 1 where there is none and none is found."""
    true_N, predicted_N, both_N = (array[:, 1] for array in (counts.true_NK, counts.predicted_NK, counts.both_NK))
    dice_N = _shares(2 * both_N, true_N + predicted_N, 1.0)
    # (1 + b) P R / (b P + R), with P and R put in.
    return dice_N, _shares((1 + BETA_SQUARED) * both_N, BETA_SQUARED * true_N + predicted_N, 1.0)


def _mean_errors(counts: PixelCounts) -> Floats:
    """(N,) mean |probability - truth| of an image's pixels, from levels: exact to 1/510. Zeros without levels."""
    if counts.levels_N2L is None:
        return np.zeros(len(counts.names))
    level_L = np.arange(LEVELS) / (LEVELS - 1)
    errors_N = counts.levels_N2L[:, 0] @ level_L + counts.levels_N2L[:, 1] @ (1 - level_L)
    return _shares(errors_N, counts.levels_N2L.sum(axis=(1, 2)), 0.0)


def _figures(sums: Floats, kind: Kind) -> Floats:
    """(..., F) of (..., X): iou, dice, pixel accuracy, boundary F, pooled IoU, F-measure, MAE, then the IoU of each class."""
    means = sums[..., -6:] if kind == "saliency" else sums[..., :0]
    true, predicted, both, edges, edged = np.split(sums[..., : sums.shape[-1] - means.shape[-1]], 5, axis=-1)
    union = true + predicted - both
    iou_K = _shares(both, union, np.nan)
    accuracy = _shares(both.sum(axis=-1), true.sum(axis=-1), np.nan)
    if kind == "saliency":
        iou, dice, boundary, f, error = np.moveaxis(_shares(means[..., 1:], means[..., :1], np.nan), -1, 0)
        whole = [iou, dice, accuracy, boundary, iou_K[..., 1], f, error]
    else:
        dice, boundary = _mean(_shares(2 * both, true + predicted, np.nan)), _mean(_shares(edges, edged, np.nan))
        nothing = np.full_like(accuracy, np.nan)
        pooled = _shares(both.sum(axis=-1), union.sum(axis=-1), np.nan)
        whole = [_mean(iou_K), dice, accuracy, boundary, pooled, nothing, nothing]
    return np.concatenate([np.stack(whole, axis=-1), iou_K], axis=-1)


def _interval(value: float, low: float, high: float, *, draws: int, n: int) -> Interval:
    """A share, with ends in 0..1. Where all draws are alike, as of a share of which all were right, or none."""
    low, high = (float(np.clip(end, 0.0, 1.0)) for end in (low, high))
    if draws > 1 and value == 1.0:
        low = min(low, wilson(draws, draws).low)
    if draws > 1 and value == 0.0:
        high = max(high, wilson(0, draws).high)
    return Interval(value=float(value), low=float(low), high=float(high), n=n)


def _scores(counts: PixelCounts, known_N: NDArray[np.bool_], intervals: list[Interval], threshold: float | None) -> PixelScores:
    iou, dice, accuracy, boundary, pooled, f, error = intervals[:7]
    salient = counts.kind == "saliency"
    return PixelScores(
        n=int(known_N.sum()),
        kind=counts.kind,
        iou=iou,
        dice=dice,
        pixel_accuracy=accuracy,
        boundary_f=boundary,
        pooled_iou=pooled,
        baseline=_baseline(counts, known_N),
        per_class=_per_class(counts, intervals[7:]),
        classes=counts.classes,
        mae=error if salient and counts.levels_N2L is not None else None,
        f_measure=f if salient else None,
        threshold=(0.5 if threshold is None else threshold) if salient else None,
    )


def _per_class(counts: PixelCounts, ious: list[Interval]) -> tuple[PixelClassScore, ...]:
    true_K, predicted_K, both_K = (sums.sum(axis=0) for sums in (counts.true_NK, counts.predicted_NK, counts.both_NK))
    edges_K = _mean(_edge_f(counts).T)
    dice_K, precision_K, recall_K = (
        _shares(part, whole, np.nan)
        for part, whole in ((2 * both_K, true_K + predicted_K), (both_K, predicted_K), (both_K, true_K))
    )
    return tuple(
        PixelClassScore(
            name=name,
            iou=ious[k],
            dice=float(dice_K[k]),
            precision=float(precision_K[k]),
            recall=float(recall_K[k]),
            boundary_f=float(edges_K[k]),
            pixels=int(true_K[k]),
            images=int(np.count_nonzero(counts.true_NK[:, k])),
        )
        for k, name in enumerate(counts.classes)
    )


def _baseline(counts: PixelCounts, known_N: NDArray[np.bool_]) -> float:
    """The IoU of the one class that is best to answer everywhere."""
    true_NK = counts.true_NK[known_N]
    if counts.kind == "saliency":
        objects_N = true_NK[:, 1] / true_NK.sum(axis=1)
        return float(max(objects_N.mean(), (objects_N == 0).mean()))
    true_K = true_NK.sum(axis=0)
    return float(true_K.max() / true_K.sum() / np.count_nonzero(true_K))
