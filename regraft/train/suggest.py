"""Which images to label next: such as the model is unsure of, and that tell it different things.

What a label would teach is the gradient that it would bring to the weights of the head: the outer product of r = p -
onehot(answer), with the model's own answer in the label's place, and the features x. Images are chosen by k-means++ among these
(BADGE: Ash et al. 2020, "Deep batch active learning by diverse, uncertain gradient lower bounds"), each weighed with a power of
its doubt: without it, k-means++ spends labels on images that are merely far from the others (docs/measurements.md#suggest).
Nothing of the size K x D is made, as the inner product of two gradients is (r_i . r_j)(x_i . x_j).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.probability import probabilities
from regraft.values import FloatArray, Rejected

SHARPNESS = 4  # power of the doubt: docs/measurements.md#suggest
KEPT = 4_000  # most doubtful images to choose from: 2,800 features of each are 45 MB
# Near copies: the squared distance of their features is below this share of the usual one between two images.
ALIKE = 0.1
_CHANCE = 7  # what the draw is for, as in chance.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The most doubtful P of all `images` that could be read: their places in the order of reading, features and logits."""

    places_P: NDArray[np.int64]
    features_PD: NDArray[np.float32]
    logits_PK: NDArray[np.float32]
    images: int
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Rows to label, the first first; `alike` others were passed over as near copies of these."""

    chosen: tuple[int, ...]
    alike: int


def doubts(probabilities_NK: FloatArray, multi_label: bool) -> NDArray[np.float64]:
    """(N,) 1 minus the lead of the best answer over the second: 0 where it is certain, 1 where the two are equal.

    Several labels: 1 for an image with a label of probability 1/2, 0 where every label is certain.
    """
    if multi_label:
        return np.asarray((1.0 - np.abs(2.0 * probabilities_NK - 1.0)).max(axis=1), dtype=np.float64)
    best_N2 = np.asarray(np.partition(probabilities_NK, -2, axis=1)[:, -2:], np.float64)
    return np.asarray(1.0 - (best_N2[:, 1] - best_N2[:, 0]), dtype=np.float64)


def gather(rows: Iterable[NDArray[np.float32] | Rejected], classes: int, multi_label: bool, *, most: int = KEPT) -> Candidates:
    """The `most` most doubtful of images that come as rows of features and then `classes` logits. No more than twice as many
    are held at any time."""
    kept: list[tuple[int, NDArray[np.float32]]] = []
    rejected: list[Rejected] = []
    images = 0
    for place, row in enumerate(rows):
        if isinstance(row, Rejected):
            rejected.append(row)
            continue
        kept.append((place, np.array(row, dtype=np.float32)))
        images += 1
        if len(kept) >= 2 * most:
            kept = _most_doubtful(kept, classes, multi_label, most)
    kept = _most_doubtful(kept, classes, multi_label, most)
    width = len(kept[0][1]) if kept else classes
    table = np.array([row for _, row in kept], dtype=np.float32).reshape(len(kept), width)
    return Candidates(
        places_P=np.array([place for place, _ in kept], dtype=np.int64),
        features_PD=table[:, :-classes],
        logits_PK=table[:, -classes:],
        images=images,
        rejected=tuple(rejected),
    )


def _most_doubtful(
    kept: list[tuple[int, NDArray[np.float32]]], classes: int, multi_label: bool, most: int
) -> list[tuple[int, NDArray[np.float32]]]:
    if len(kept) <= most:
        return kept
    logits_NK = np.stack([row[-classes:] for _, row in kept])
    order = np.argsort(-doubts(probabilities(logits_NK, multi_label), multi_label), kind="stable")[:most]
    return [kept[index] for index in np.sort(order)]


def choose_next(
    features_ND: FloatArray, probabilities_NK: FloatArray, count: int, *, multi_label: bool = False, seed: int = 0
) -> Order:
    """At most `count` of N images to label next.

    `features_ND` are what the head reads, `probabilities_NK` what it says. The first is the image with the longest gradient;
    each further one is drawn with a probability that grows with its doubt and the square of its distance from all chosen ones.
    Near copies of a chosen one are out from then on: fewer than `count` come back only where there is nothing else. The same
    `seed` gives the same images.
    """
    x_ND, r_NK = standardised(features_ND), residuals(probabilities_NK, multi_label)
    doubt_N = doubts(probabilities_NK, multi_label) ** SHARPNESS
    sizes_N = (x_ND**2).sum(axis=1)
    # Columns have mean 0: so far apart are two images squared, on the average.
    usual = 2.0 * float(sizes_N.mean())
    square_N = (r_NK**2).sum(axis=1) * sizes_N
    free_N, nearest_N = np.ones(len(x_ND), dtype=bool), square_N.astype(np.float64)
    chance = np.random.default_rng((seed, _CHANCE))
    chosen: list[int] = []
    while len(chosen) < count and free_N.any():
        row = _draw(np.where(free_N, doubt_N * nearest_N, 0.0), free_N, chance if chosen else None)
        products_N = x_ND @ x_ND[row]
        between_N = np.maximum(square_N + square_N[row] - 2.0 * (r_NK @ r_NK[row]) * products_N, 0.0)
        nearest_N = np.minimum(nearest_N, between_N) if chosen else between_N
        free_N &= sizes_N + sizes_N[row] - 2.0 * products_N >= ALIKE * usual
        free_N[row] = False
        chosen.append(row)
    return Order(chosen=tuple(chosen), alike=len(x_ND) - len(chosen) - int(free_N.sum()))


def standardised(features_ND: FloatArray) -> NDArray[np.float32]:
    """Each column with mean 0 and deviation 1 over these images; 0 where it does not vary."""
    means_D, scales_D = features_ND.mean(axis=0, dtype=np.float64), features_ND.std(axis=0, dtype=np.float64)
    flat_D = scales_D <= 1e-6 * np.abs(means_D)
    factors_D = np.where(flat_D, 0.0, 1.0 / np.where(flat_D, 1.0, scales_D))
    return np.asarray((features_ND - means_D) * factors_D, dtype=np.float32)


def residuals(probabilities_NK: FloatArray, multi_label: bool) -> NDArray[np.float32]:
    """(N, K) probabilities minus what they would be if the answers were right."""
    residual_NK = np.array(probabilities_NK, dtype=np.float32)
    if multi_label:
        return residual_NK - (residual_NK > 0.5)
    residual_NK[np.arange(len(residual_NK)), residual_NK.argmax(axis=1)] -= 1.0
    return residual_NK


def _draw(weight_N: NDArray[np.float64], free_N: NDArray[np.bool_], chance: np.random.Generator | None) -> int:
    """A free row by lot, in proportion to the weights; the heaviest one without `chance` or where none weighs anything."""
    sums_N = np.cumsum(weight_N)
    if chance is None or not sums_N[-1] > 0:
        return int(np.where(free_N, weight_N, -1.0).argmax())
    return int(np.searchsorted(sums_N, chance.random() * sums_N[-1], side="right"))
