"""Parts of the training images that stand for all: each class in its proportion, groups whole, small inside of large."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.train.convex import Targets

_PARTS = 6  # what the draw is for, as in chance.py


def deal(targets: Targets, unit_N: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A number for each image, (N,): those with the same remainder after division by m are a part of about N / m images.

    So every m gives m parts with no image in common, and those of 2 m lie inside of those of m. Images of one unit (`unit_N`,
    numbered from 0) get the same number. The units of a class, several labels: those whose rarest label it is, are numbered one
    after the other, larger ones first, else in an order that follows from `seed`: so they are spread evenly.
    """
    count = int(unit_N.max()) + 1
    class_N = targets if targets.ndim == 1 else rarest(np.asarray(targets, dtype=np.bool_))
    class_U = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(class_U, unit_N, class_N.astype(np.int64))
    chance_U = np.random.default_rng((seed, _PARTS)).permutation(count)
    order = np.lexsort((chance_U, -np.bincount(unit_N), class_U))
    number_U = np.empty(count, dtype=np.int64)
    number_U[order] = np.arange(count)
    return number_U[unit_N]


def units_of(groups: Sequence[str | None]) -> NDArray[np.int64]:
    """(N,) which images stay together, numbered from 0: those of one group; None is a group of its own for each image."""
    numbers: dict[tuple[bool, object], int] = {}
    keys = ((group is None, index if group is None else group) for index, group in enumerate(groups))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def rarest(truth_NK: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) the label of each image that the fewest have; K for an image without any."""
    images_NK = np.where(truth_NK, truth_NK.sum(axis=0), len(truth_NK) + 1)
    return np.asarray(np.where(truth_NK.any(axis=1), images_NK.argmin(axis=1), truth_NK.shape[1]), np.int64)
