"""What augmentation makes of the user's own images, for a person to look at: a digit that is mirrored is no digit any more."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray

from regraft.data.augment import Augmentation, augmentation, describe
from regraft.data.contact import contact_sheet
from regraft.data.decode import load_pixels
from regraft.data.preprocess import Preprocess
from regraft.errors import ImageRejected, UsageError
from regraft.strategies import Augment, Auto, Head, Strategy
from regraft.train.chance import augment_seeds
from regraft.values import Augmented, Sample

IMAGES, VERSIONS = 6, 5


def augmented_images(strategy: Strategy, train: Sequence[Sample], preprocess: Preprocess, seed: int) -> Augmented | None:
    """A contact sheet of training images of as many classes as there is room for; None where nothing is augmented.

    Each row is an image as the network gets it, and how the first epochs on pixels show it. None as well where the images
    cannot be read any more, or a transform of the user's fails on them: a report is no reason to lose a fit.
    """
    how = augment_of(strategy)
    if how == "none":
        return None
    changes, rows, names = augmentation(how), [], []
    for row in spread(train, IMAGES):
        try:
            rows.append(_versions(load_pixels(train[row].path, preprocess), changes, row, seed))
        except ImageRejected:
            continue
        except UsageError:
            return None
        names.append(train[row].name)
    return Augmented(words=describe(how), sheet=contact_sheet(rows), names=tuple(names), versions=VERSIONS) if rows else None


def augment_of(strategy: Strategy) -> Augment:
    """How the images of a strategy are augmented; "none" where nothing is trained on them."""
    if isinstance(strategy, Head):
        return "none"
    return strategy.training.augment if isinstance(strategy, Auto) else strategy.augment


def spread(samples: Sequence[Sample], most: int) -> list[int]:
    """Positions of at most `most` samples: of classes evenly apart, the first of each, then the second, and so on."""
    of_class: dict[tuple[str, ...], list[int]] = {}
    for position, sample in enumerate(samples):
        of_class.setdefault(sample.labels, []).append(position)
    groups = [of_class[labels] for labels in sorted(of_class)]
    chosen = [groups[i] for i in np.linspace(0, len(groups) - 1, min(most, len(groups))).round().astype(int)]
    in_turn = [position for some in zip_longest(*chosen) for position in some if position is not None]
    return sorted(in_turn[:most])


def _versions(pixels_HWC: NDArray[np.uint8], changes: Augmentation, row: int, seed: int) -> list[NDArray[np.uint8]]:
    images = torch.from_numpy(pixels_HWC).repeat(VERSIONS, 1, 1, 1)
    seeds = [one for epoch in range(1, VERSIONS + 1) for one in augment_seeds(np.array([row]), seed, epoch)]
    return [pixels_HWC, *changes(images, seeds).numpy()]
