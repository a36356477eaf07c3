"""A part of the images that stands for all of them: by class, with groups whole, and nested."""

from collections import Counter
from collections.abc import Sequence

from regraft.data.balance import Unit, make_units
from regraft.values import Sample

# What every class has in a part, however small: one image to learn from and one to be judged by.
FEWEST_OF_A_CLASS = 2


def nested_subset(samples: Sequence[Sample], images: int, seed: int) -> tuple[Sample, ...]:
    """About `images` of the samples, each class in its proportion, in the order of their names.

    A smaller part is inside of every larger one of the same seed. The number is exceeded by the rest of a group, and where
    two images (or groups) of every class need it.
    """
    units = make_units(samples, seed)
    images_of = Counter(label for sample in samples for label in sample.labels)
    stands_for = [_rarest(unit, images_of) for unit in units]
    sizes, seen, before = Counter[str](), Counter[str](), Counter[str]()
    for unit, label in zip(units, stands_for, strict=True):
        sizes[label] += len(unit.members)
    placed: list[tuple[bool, float, bytes, Unit]] = []
    for unit, label in zip(units, stands_for, strict=True):
        share = (seen[label] + len(unit.members) / 2) / sizes[label]
        placed.append((before[label] >= FEWEST_OF_A_CLASS, share, unit.order, unit))
        seen[label] += len(unit.members)
        before[label] += 1
    taken: list[int] = []
    for spare, _, _, unit in sorted(placed, key=lambda item: item[:3]):
        if spare and len(taken) >= images:
            break
        taken += unit.members
    return tuple(sorted((samples[index] for index in taken), key=lambda sample: sample.name))


def _rarest(unit: Unit, sizes: Counter[str]) -> str:
    """The class that a unit stands for: of several the rarest; "" where it has none."""
    return min(unit.labels, key=lambda name: (sizes[name], name), default="")
