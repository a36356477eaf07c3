"""What heads of several sizes of training set say together: the points of a learning curve, its law, and what lies beyond."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.compare import covariance_of_means
from regraft.evaluate.power_law import FEWEST_POINTS, draw_errors, fit_power_law
from regraft.values import CurvePoint, Interval, LearningCurve, Projection

# n times the variance of a head's true error over the draws of its n training images, as a multiple of e (1 - e): heads of few
# images are too noisy to estimate it from. docs/measurements.md#learning-curve
LUCK = 0.07
TIMES = (1.5, 2.0)
MORE = 500
_DRAWN = 33  # places of the band in the figure
_ENDS = (2.5, 50.0, 97.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """H heads that learned from `images` images each, on the average.

    For each of the J images that judge: whether a head is wrong about it (0 or 1), and its loss in nats; NaN where the head had
    learned from the image. Each image is judged by one head at least.
    """

    images: float
    wrong_HJ: NDArray[np.float64]
    nll_HJ: NDArray[np.float64]


def describe_curve(
    levels: Sequence[Level], unit_J: NDArray[np.int64], *, images: int, multi_label: bool, seed: int
) -> LearningCurve:
    """The curve through levels that the same J images judge; `unit_J` says which of those are one draw.

    Two things make the points uncertain. The images that judge are few: but all points have the same ones, so that differences
    along the curve are known better than its height. And the images that a head learned from may be lucky ones.
    """
    levels = sorted(levels, key=lambda level: level.images)
    sizes_S = np.array([level.images for level in levels])
    wrong_JS, nll_JS = (
        np.stack([np.nanmean(values, axis=0) for values in kind], axis=1)
        for kind in ([level.wrong_HJ for level in levels], [level.nll_HJ for level in levels])
    )
    luck = LUCK * float(wrong_JS[:, -1].mean() * (1.0 - wrong_JS[:, -1].mean()))
    heads_S = np.array([len(level.wrong_HJ) for level in levels])
    # The last term keeps a curve without a mistake from being a certainty.
    own_S = luck / (sizes_S * heads_S) + (0.5 / len(unit_J)) ** 2
    covariance_SS = covariance_of_means(wrong_JS, unit_J) + np.diag(own_S)
    errors_S, nll_errors_S = (np.sqrt(np.diag(c)) for c in (covariance_SS, covariance_of_means(nll_JS, unit_J)))
    points = tuple(
        CurvePoint(
            images=round(level.images),
            accuracy=1.0 - float(wrong_JS[:, s].mean()),
            accuracy_error=float(errors_S[s]),
            nll=float(nll_JS[:, s].mean()),
            nll_error=float(nll_errors_S[s]),
            heads=len(level.wrong_HJ),
        )
        for s, level in enumerate(levels)
    )
    curve = LearningCurve(points=points, images=images, judged=len(unit_J), multi_label=multi_label)
    if len(np.unique(sizes_S)) < FEWEST_POINTS:
        return curve
    return _projected(curve, sizes_S, wrong_JS.mean(axis=0), covariance_SS, luck, seed)


def _projected(
    curve: LearningCurve,
    sizes_S: NDArray[np.float64],
    errors_S: NDArray[np.float64],
    covariance_SS: NDArray[np.float64],
    luck: float,
    seed: int,
) -> LearningCurve:
    """The curve with its law, and with what it says of more images and of those in between.

    Bands are those of one head, which may have luck with its images as well; the gain is of one head over another.
    """
    sizes = sizes_S.tolist()
    wanted = sorted({*(round(times * curve.images) for times in TIMES), curve.images + MORE})
    drawn = np.unique(np.geomspace(sizes[0], max(TIMES) * curve.images, _DRAWN).round()).astype(int).tolist()
    places = [curve.images, *wanted, *drawn]
    errors_BM = draw_errors(sizes, errors_S, covariance_SS, places, seed=seed)
    lucky_BM = np.random.default_rng((seed, 0x10CC)).standard_normal(errors_BM.shape) * np.sqrt(luck / np.array(places))
    right_BM = 1.0 - np.clip(errors_BM + lucky_BM, 0.0, 1.0)
    everything = [
        Projection(
            images=count,
            accuracy=_band(right_BM[:, m], curve.judged),
            gain=_band(right_BM[:, m] - right_BM[:, 0], curve.judged),
        )
        for m, count in enumerate([*wanted, *drawn], start=1)
    ]
    return replace(
        curve,
        law=fit_power_law(sizes, errors_S, covariance_SS),
        projections=tuple(everything[: len(wanted)]),
        band=tuple(everything[len(wanted) :]),
    )


def _band(values_B: NDArray[np.float64], judged: int) -> Interval:
    low, middle, high = np.percentile(values_B, _ENDS)
    return Interval(value=float(middle), low=float(low), high=float(high), n=judged)
