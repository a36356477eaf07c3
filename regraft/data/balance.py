"""Dividing groups of images so that every class is spread as it should be.

A unit is what may not be divided: all images of one group, or one image without a group. Units are gone through in the order
of a hash, those of the rarest classes first, and each goes where it brings the classes closest to their targets.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.values import Sample

# What a class keeps for training where it can: one image to learn from and one to choose by.
KEPT_FOR_TRAINING = 2
# From this size on a class gives an image to the test set.
FEWEST_TO_TEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Images that stay together: their indices, how many carry each class, and the hash that orders them."""

    members: tuple[int, ...]
    labels: Counter[str]
    order: bytes


def make_units(samples: Sequence[Sample], seed: int) -> list[Unit]:
    """The units of `samples`, those with the rarest classes first, otherwise in the order of their hashes."""
    members = defaultdict[tuple[bool, str], list[int]](list)
    for index, sample in enumerate(samples):
        members[sample.group is not None, sample.name if sample.group is None else sample.group].append(index)
    sizes = Counter(label for sample in samples for label in sample.labels)
    units = [
        Unit(members=tuple(indices), labels=_labels(samples, indices), order=_hash(seed, key) + bytes([grouped]))
        for (grouped, key), indices in members.items()
    ]
    rarest = [min((sizes[label] for label in unit.labels), default=len(samples)) for unit in units]
    return [unit for _, unit in sorted(zip(rarest, units, strict=True), key=lambda pair: (pair[0], pair[1].order))]


def hold_out(units: Sequence[Unit], share: float) -> list[Unit]:
    """Units for the test set: about `share` of the images of each class, one at least of a class of three or more.

    Every class keeps two images (or the only one it has); where groups leave no way to do so, it has none in the test set.
    """
    sizes = _totals(units)
    target = {label: _test_images(size, share) for label, size in sizes.items()}
    bare = _test_images(sum(len(unit.members) for unit in units if not unit.labels), share)
    taken: list[Unit] = []
    have = Counter[str]()
    for unit in units:
        if len(units) - len(taken) <= KEPT_FOR_TRAINING:
            break
        wanted = _helps(unit, have, target, sizes) if unit.labels else bare > 0
        if wanted and _spares(unit, have, sizes):
            taken.append(unit)
            have.update(unit.labels)
            bare -= 0 if unit.labels else len(unit.members)
    return taken + _for_classes_without(units, taken, have, sizes)


def deal_folds(units: Sequence[Unit], images: int, folds: int) -> NDArray[np.int64]:
    """The fold (0 to `folds` - 1) of each of `images` images: each unit goes where its classes are rarest."""
    sizes = _totals(units)
    have = [Counter[str]() for _ in range(folds)]
    load = [0] * folds
    out = np.zeros(images, dtype=np.int64)
    for unit in units:
        crowd = [sum(count * held[label] / sizes[label] ** 2 for label, count in unit.labels.items()) for held in have]
        fold = min(range(folds), key=lambda f: (crowd[f], load[f], f))
        have[fold].update(unit.labels)
        load[fold] += len(unit.members)
        out[list(unit.members)] = fold
    return out


def _labels(samples: Sequence[Sample], indices: Sequence[int]) -> Counter[str]:
    # Sorted: sums over these must not depend on the order of the images, down to the last bit.
    return Counter(sorted(label for index in indices for label in samples[index].labels))


def _hash(seed: int, key: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _totals(units: Sequence[Unit]) -> Counter[str]:
    totals = Counter[str]()
    for unit in units:
        totals.update(unit.labels)
    return totals


def _test_images(size: int, share: float) -> int:
    if size < FEWEST_TO_TEST:
        return 0
    return min(max(1, int(share * size + 0.5)), size - KEPT_FOR_TRAINING)


def _helps(unit: Unit, have: Counter[str], target: dict[str, int], sizes: Counter[str]) -> bool:
    """Whether taking `unit` brings the test set nearer to its targets, for its rarest class and for all its classes together.

    The rarest decides, as in iterative stratification (Sechidis et al. 2011): common classes find images elsewhere.
    """
    rarest = min(unit.labels, key=lambda label: (sizes[label], label))
    gains = {label: _gain(target[label] - have[label], count) / max(1, target[label]) for label, count in unit.labels.items()}
    return gains[rarest] > 0 and sum(gains.values()) > 0


def _gain(short: int, count: int) -> int:
    """By how much the squared distance to a target falls when `short` are missing and `count` come."""
    return short**2 - (short - count) ** 2


def _spares(unit: Unit, have: Counter[str], sizes: Counter[str]) -> bool:
    return all(sizes[label] - have[label] - count >= KEPT_FOR_TRAINING for label, count in unit.labels.items())


def _for_classes_without(units: Sequence[Unit], taken: Sequence[Unit], have: Counter[str], sizes: Counter[str]) -> list[Unit]:
    """The smallest unit of each class that would otherwise have no test image, because its groups are large."""
    gone, extra, have = {unit.members for unit in taken}, list[Unit](), have.copy()
    for label in sorted(sizes, key=lambda name: (sizes[name], name)):
        left = len(units) - len(gone)
        if have[label] or sizes[label] < FEWEST_TO_TEST or left <= KEPT_FOR_TRAINING:
            continue
        fit = [u for u in units if label in u.labels and u.members not in gone and _spares(u, have, sizes)]
        if fit:
            unit = min(fit, key=lambda u: (len(u.members), u.order))
            gone.add(unit.members)
            extra.append(unit)
            have.update(unit.labels)
    return extra
