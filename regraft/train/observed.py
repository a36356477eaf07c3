"""The split as the network saw it: samples that could be read, with their features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.cache.extract import Extracted
from regraft.cache.store import FeatureRows
from regraft.errors import TooFewImages
from regraft.values import Rejected, Sample, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The readable images of a split in its order, and where their features are: train (N, D), test (M, D)."""

    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    folds_N: NDArray[np.int64]
    train_features: FeatureRows
    test_features: FeatureRows
    digests: tuple[bytes, ...]
    rejected: tuple[Rejected, ...]


def observe(split: Split, extracted: Extracted) -> Observed:
    """Match features of `[*split.train, *split.test]` to the split.

    Raises TooFewImages where a class lost its training images to unreadable files.
    """
    kept_M, count = extracted.kept_M, len(split.train)
    in_train_M = kept_M < count
    train = tuple(split.train[i] for i in kept_M[in_train_M])
    _check_every_class(split.classes, train)
    return Observed(
        train=train,
        test=tuple(split.test[i - count] for i in kept_M[~in_train_M]),
        folds_N=_without_gaps(split.folds_N[kept_M[in_train_M]]),
        train_features=extracted.features.take(np.flatnonzero(in_train_M)),
        test_features=extracted.features.take(np.flatnonzero(~in_train_M)),
        digests=extracted.digests,
        rejected=extracted.rejected,
    )


def _without_gaps(folds_N: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(folds_N, return_inverse=True)[1].astype(np.int64)


def _check_every_class(classes: Sequence[str], train: Sequence[Sample]) -> None:
    present = {label for sample in train for label in sample.labels}
    lost = [name for name in classes if name not in present]
    if lost:
        raise TooFewImages(
            expected="readable training images in each class",
            got=f"none left in {', '.join(lost[:10])}",
            fix="replace the unreadable files, or remove the class",
        )
