"""Which images are altered copies of one another: the same picture, laid on each other, all over.

Judged on 32 x 32 thumbnails, so that what a copy lost by re-encoding or resizing hardly counts; a picture that shares its
outline with another one does not lie on it everywhere.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.audits.align import Difference, Floats, align, difference, halve, inverse, move, smooth, turn
from regraft.audits.candidates import (
    PROBES,
    VARIANTS,
    by_blocks,
    cosines_of,
    nearest_in_cells,
    nearest_pairs,
    spectra_of,
    ways_of,
)
from regraft.audits.cells import Search
from regraft.data.look import Looks
from regraft.progress import Progress, Silent

# Where these come from, and what they cost in copies missed: docs/measurements.md#copies
NEAREST, LEAST_SPECTRUM, LEAST_COSINES = 5, 0.955, 0.75
MOST_MEAN = 20.0
# Ways to turn an image that are as good as the best but for this are all tried: many things are nearly symmetric.
_AS_GOOD = 0.02
# Images whose thumbnail varies less than this, in levels, are blank: whatever is blank looks alike.
BLANK = 4.0
# A point that has moved by this share of the side tells of a crop; from CROPPED_FULLY on, `Level.moved` alone counts.
CROPPED, CROPPED_FULLY = 0.012, 0.03
# Pairs compared at a time: what a block needs stays in the processor's cache.
_BLOCK = 256
_THUMBNAILS = 4096
# Pairs whose comparison takes so long that it is worth a progress bar.
_MANY = 100_000


@dataclass(frozen=True, slots=True)
class Limit:
    """What may differ between a copy and its original, in the terms of `align.Difference`; `colour` in those of `whole`."""

    whole: float
    worst: float
    detail: float
    colour: float


@dataclass(frozen=True, slots=True)
class Level:
    """Images whose shortest side is `side` pixels or more. Both of a pair are blurred `blur` times before they are compared.

    Pairs that differ by more than `coarse` at half the size are looked at no further. A copy that lies on its original as it is
    may differ by `still`, one that was cropped by `moved`: drawings of a series lie on one another exactly and differ in one
    place, and a crop costs detail everywhere.
    """

    side: int
    coarse: float
    blur: int
    still: Limit
    moved: Limit


LEVELS = (
    Level(64, 0.5, 0, Limit(0.14, 0.28, 0.98, 0.17), Limit(0.30, 0.65, 0.89, 0.50)),
    Level(24, 0.35, 1, Limit(0.10, 0.22, 0.97, 0.17), Limit(0.065, 0.15, 0.945, 0.30)),
    Level(0, 0.35, 4, Limit(0.10, 0.25, 0.955, 0.20), Limit(0.06, 0.13, 0.975, 0.30)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Pairs that were laid on each other, the second image turned by its way. A pair is there for each way that was tried.

    `shifts_P4` are those of `align.align`, from one of the two to the other.
    """

    pairs_P2: NDArray[np.intp]
    ways_P: NDArray[np.intp]
    shifts_P4: Floats
    grey: Difference
    colour_P: Floats
    levels_P: NDArray[np.intp]

    @property
    def moved_P(self) -> Floats:
        """How far the point that moves most does, as a share of the side."""
        moved: Floats = (np.abs(self.shifts_P4[:, 0::2]) + np.abs(self.shifts_P4[:, 1::2])).max(axis=1)
        return moved

    @property
    def copies_P(self) -> NDArray[np.bool_]:
        """Which of them differ by no more than their limits."""
        share_P = np.minimum(self.moved_P / CROPPED_FULLY, 1)

        def limit_P(of: Callable[[Limit], float]) -> NDArray[np.float64]:
            still, moved = (np.array([of(limit) for limit in limits])[self.levels_P] for limits in _LIMITS)
            between: NDArray[np.float64] = still + (moved - still) * share_P
            return between

        grey = (self.grey.whole <= limit_P(lambda limit: limit.whole)) & (self.grey.worst <= limit_P(lambda limit: limit.worst))
        detail, colour = limit_P(lambda limit: limit.detail), limit_P(lambda limit: limit.colour)
        copies: NDArray[np.bool_] = grey & (self.grey.detail >= detail) & (self.colour_P <= colour)
        return copies


_LIMITS = ([level.still for level in LEVELS], [level.moved for level in LEVELS])


def compare_nearest(
    looks: Looks,
    among: NDArray[np.intp] | None = None,
    search: Search = "all pairs",
    *,
    probes: int = PROBES,
    progress: Progress = Silent(),
) -> Compared:
    """The pairs of N images that might show the same, compared; `copies_P` says which do.

    Looked at are the images at `among`, in that order, by default all: of images that are equal, one should be given. Blank
    images are in no pair. `search` is how candidates are found; "equal" finds none.
    """
    among = np.arange(len(looks)) if among is None else among
    grey = looks["grey"]
    varied = among[_deviations(grey)[among] >= BLANK]
    pairs_P2 = varied[_candidates(looks, varied, search, probes, progress)]
    means_P23 = looks["mean"][pairs_P2]
    pairs_P2 = pairs_P2[np.abs(means_P23[:, 0] - means_P23[:, 1]).max(axis=1) <= MOST_MEAN]
    paired, at_P2 = np.unique(pairs_P2, return_inverse=True)
    ways_P8 = ways_of(_by_rows(cosines_of, grey, paired), at_P2.reshape(pairs_P2.shape))
    best_P1 = ways_P8.max(axis=1, keepdims=True)
    at, ways_P = np.nonzero((ways_P8 >= best_P1 - _AS_GOOD) & (best_P1 >= LEAST_COSINES))
    pairs_P2 = pairs_P2[at]
    # At least one block, be it empty: its arrays have the right types.
    starts = range(0, max(1, len(pairs_P2)), _BLOCK)
    watched = progress if len(pairs_P2) > _MANY else Silent()
    with ThreadPoolExecutor(os.cpu_count()) as pool, watched.task("comparing pictures", len(pairs_P2), "pair") as task:
        blocks = []
        for block in pool.map(lambda at: compare(looks, pairs_P2[at : at + _BLOCK], ways_P[at : at + _BLOCK]), starts):
            blocks.append(block)
            task.advance(min(_BLOCK, len(pairs_P2) - len(blocks) * _BLOCK + _BLOCK))
    return _joined(blocks)


def _candidates(looks: Looks, rows: NDArray[np.intp], search: Search, probes: int, progress: Progress) -> NDArray[np.intp]:
    """Pairs (P, 2) of positions in `rows`."""
    if search == "equal" or not len(rows):
        return np.zeros((0, 2), np.intp)
    spectra_N2FF, brightness_N = _by_rows(spectra_of, looks["grey"], rows), looks["mean"][rows].mean(axis=1)
    if search == "all pairs":
        return nearest_pairs(spectra_N2FF, brightness_N, nearest=NEAREST, least=LEAST_SPECTRUM, apart=MOST_MEAN)
    with progress.task("looking for copies", VARIANTS * len(rows), "look") as task:
        return nearest_in_cells(
            spectra_N2FF,
            brightness_N,
            nearest=NEAREST,
            least=LEAST_SPECTRUM,
            apart=MOST_MEAN,
            probes=probes,
            told=task.advance,
        )


def _by_rows(describe: Callable[[NDArray[np.uint8]], Floats], grey_NHW: NDArray[np.uint8], rows: NDArray[np.intp]) -> Floats:
    """Descriptions of some thumbnails, taken from among the others some thousand at a time."""
    starts = range(0, max(1, len(rows)), _THUMBNAILS)
    return np.concatenate([describe(grey_NHW[rows[start : start + _THUMBNAILS]]) for start in starts])


@by_blocks
def _deviations(grey_NHW: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(grey_NHW.std(axis=(1, 2)), np.float64)


def compare(looks: Looks, pairs_P2: NDArray[np.intp], ways_P: NDArray[np.intp]) -> Compared:
    """Pairs laid on each other at half the size, and those of them that are then near at full size."""
    one, other = looks[pairs_P2[:, 0]], looks[pairs_P2[:, 1]]
    first, second = one["grey"].astype(np.float32), turn(other["grey"], ways_P).astype(np.float32)
    small, small_second = halve(first), halve(second)
    shifts_P4 = align(small, small_second, steps=2)
    levels_P = _levels_of(one, other)
    near = difference(small, move(small_second, shifts_P4)).whole <= np.array([level.coarse for level in LEVELS])[levels_P]
    one, other, first, second = one[near], other[near], first[near], second[near]
    shifts_P4, levels_P = shifts_P4[near], levels_P[near]
    colours = one["colour"], turn(other["colour"], ways_P[near])
    # What shows less is laid on what shows more, so that it is made smaller, not larger, and loses no detail.
    swap = shifts_P4[:, 1] + shifts_P4[:, 3] < 0
    first, second = _swapped(first, second, swap)
    shifts_P4 = align(first, second, start_P4=np.where(swap[:, np.newaxis], inverse(shifts_P4), shifts_P4), steps=2)
    moved = move(second, shifts_P4)
    for index, level in enumerate(LEVELS):
        mine = levels_P == index
        first[mine], moved[mine] = smooth(first[mine], level.blur), smooth(moved[mine], level.blur)
    return Compared(
        pairs_P2=pairs_P2[near],
        ways_P=ways_P[near],
        shifts_P4=shifts_P4,
        grey=difference(first, moved),
        colour_P=_colour_difference(*_swapped(*colours, swap), shifts_P4),
        levels_P=levels_P,
    )


def _swapped(one: NDArray[Any], other: NDArray[Any], swap_P: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    mask = swap_P.reshape(-1, *(1,) * (one.ndim - 1))
    return np.where(mask, other, one), np.where(mask, one, other)


def _levels_of(one: Looks, other: Looks) -> NDArray[np.intp]:
    """The level of each pair, by the shortest of its four sides."""
    sides = np.minimum(np.minimum(one["width"], one["height"]), np.minimum(other["width"], other["height"]))
    levels: NDArray[np.intp] = np.argmax(sides[:, np.newaxis] >= np.array([level.side for level in LEVELS]), axis=1)
    return levels


def _colour_difference(one_PHWC: NDArray[np.uint8], other_PHWC: NDArray[np.uint8], shifts_P4: Floats) -> Floats:
    """Root mean square of the difference in colour, away from the edges, in standard deviations of the first image, (P,)."""
    first = one_PHWC.astype(np.float32)
    second = np.stack([move(other_PHWC[..., c].astype(np.float32), shifts_P4) for c in range(3)], axis=-1)
    squares = (first - second)[:, 1:-1, 1:-1] ** 2
    out: Floats = np.sqrt(squares.mean(axis=(1, 2, 3))) / np.maximum(first.std(axis=(1, 2, 3)), 1)
    return out


def _joined(blocks: list[Compared]) -> Compared:
    """Blocks put together."""
    grey = [block.grey for block in blocks]
    return Compared(
        pairs_P2=np.concatenate([block.pairs_P2 for block in blocks]),
        ways_P=np.concatenate([block.ways_P for block in blocks]),
        shifts_P4=np.concatenate([block.shifts_P4 for block in blocks]),
        grey=Difference(
            whole=np.concatenate([part.whole for part in grey]),
            worst=np.concatenate([part.worst for part in grey]),
            likeness=np.concatenate([part.likeness for part in grey]),
            detail=np.concatenate([part.detail for part in grey]),
        ),
        colour_P=np.concatenate([block.colour_P for block in blocks]),
        levels_P=np.concatenate([block.levels_P for block in blocks]),
    )
