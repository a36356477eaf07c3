"""Which images to label next: such as the model is unsure of, and that tell it different things.

Of the images that it is least sure of, by the lead of the best answer over the second, those are chosen whose labels would
teach different things. What a label would teach is the gradient that it would bring to the weights of the head: the outer
product of r = p - onehot(answer), with the model's own answer in the label's place, and the features x. Chosen is by k-means++
among these (BADGE: Ash et al. 2020, "Deep batch active learning by diverse, uncertain gradient lower bounds"). That the
doubtful ones are picked out first makes it as good as doubt alone where that is the best rule (docs/measurements.md#suggest).
Nothing of the size K x D is made, as the inner product of two gradients is (r_i . r_j)(x_i . x_j).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.probability import probabilities
from regraft.values import FloatArray, Rejected

# How many of the most doubtful images are chosen from, for each that is wanted, and how many are kept to find so many that
# are not alike: 4,000 rows of 2,800 features are 45 MB.
DOUBTFUL, KEPT = 5, 4_000
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
    """Rows to label, the first first; `alike` rows were passed over as near copies of doubtful ones."""

    chosen: tuple[int, ...]
    alike: int


def doubts(probabilities_NK: FloatArray, multi_label: bool) -> NDArray[np.float64]:
    """(N,) 1 minus the lead of the best answer over the second: 0 where it is certain, 1 where the two are equal.

    Several labels: 1 for an image with a label of probability 1/2, 0 where every label is certain.
    """
    if multi_label:
        return np.asarray((1.0 - np.abs(2.0 * probabilities_NK - 1.0)).max(axis=1), dtype=np.float64)
    best_N2 = np.partition(probabilities_NK, -2, axis=1)[:, -2:]
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
    each further one is drawn with a probability that grows with the square of its distance from all chosen ones. Fewer than
    `count` come back only where the others are near copies of doubtful ones. The same `seed` gives the same images.
    """
    standard_ND = standardised(features_ND)
    order_N = np.argsort(-doubts(probabilities_NK, multi_label), kind="stable")
    distinct, alike = _distinct(standard_ND, order_N, DOUBTFUL * count)
    x_PD, r_PK = standard_ND[distinct], residuals(probabilities_NK, multi_label)[distinct]
    square_P = (r_PK**2).sum(axis=1) * (x_PD**2).sum(axis=1)
    chance = np.random.default_rng((seed, _CHANCE))
    chosen, weight_P = [], square_P
    nearest_P = np.full(len(distinct), np.inf)
    for _ in range(min(count, len(distinct))):
        row = _draw(weight_P, chosen, chance)
        chosen.append(row)
        between_P = square_P + square_P[row] - 2.0 * (r_PK @ r_PK[row]) * (x_PD @ x_PD[row])
        nearest_P = np.minimum(nearest_P, np.maximum(between_P, 0.0))
        nearest_P[row] = 0.0
        weight_P = nearest_P
    return Order(chosen=tuple(int(distinct[row]) for row in chosen), alike=alike)


def _distinct(standard_ND: NDArray[np.float32], order_N: NDArray[np.int64], most: int) -> tuple[NDArray[np.int64], int]:
    """The first `most` rows of an order that are no near copies of an earlier one, and how many were passed over on the way."""
    squares_N = (standard_ND**2).sum(axis=1)
    limit = ALIKE * 2.0 * float(squares_N.mean()) if len(squares_N) else 0.0  # columns have mean 0: twice it is usual
    taken: list[int] = []
    free_N = np.ones(len(order_N), dtype=bool)
    alike = 0
    for row in order_N:
        if len(taken) == most:
            break
        if not free_N[row]:
            alike += 1
            continue
        taken.append(int(row))
        free_N &= squares_N + squares_N[row] - 2.0 * (standard_ND @ standard_ND[row]) >= limit
    return np.array(taken, dtype=np.int64), alike


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


def _draw(weight_P: NDArray[np.float32], chosen: list[int], chance: np.random.Generator) -> int:
    """The heaviest row to begin with, then one by lot in proportion to the weights; the first left where all weigh nothing."""
    if not chosen:
        return int(weight_P.argmax())
    sums_P = np.cumsum(weight_P, dtype=np.float64)
    if sums_P[-1] > 0:
        return int(np.searchsorted(sums_P, chance.random() * sums_P[-1], side="right"))
    return next(row for row in range(len(weight_P)) if row not in set(chosen))
