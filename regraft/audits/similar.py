"""Images that are almost the same to a network: rows of features that point almost the same way.

Bursts of one camera, frames of one video, drawings of one series: no copies of one another, and yet not worth a score of their
own. Rows are compressed to a few directions drawn at random, which keep every distance up to a known error (Johnson and
Lindenstrauss, 1984); the nearest few there are compared in full. So whatever is reported is exact, and only what is missed is a
matter of the index.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.audits.cells import ALL_PAIRS_UP_TO, CELLS_BEYOND, INSTALL, Floats, Rows, Search, cells_of, search_for
from regraft.clock import Clock
from regraft.errors import DataUnusable, UsageError
from regraft.findings import Copies, Similar
from regraft.progress import Progress, Silent
from regraft.values import Sample

# Directions, cells searched, and rows compared for each: docs/scale.md#near-duplicates
DIRECTIONS, PROBES, NEAREST = 64, 16, 8
# Of the features of a head: 9 pairs among 20,000 images of Fashion-MNIST, 27 among 1,300 drawings (docs/scale.md).
LEAST = 0.95
# To be raised with every change of what is found.
VERSION = 1
# How many standard deviations a compressed squared distance may be too long.
_TOO_LONG = 5
# Bytes of rows in float32 that are worked with at a time.
_BLOCK_BYTES = 32 << 20
# Entries of one block of the table of all pairs.
_TABLE = 2**22
# What float32 may lose of a squared distance between rows of length 1.
_ROUNDING = 1e-4
_BFLOAT16 = np.dtype(np.uint16)


Told = Callable[[int], None]


class Features(Protocol):
    """A matrix (N, D) of which some rows are read when they are asked for: an array, a memory map, `cache.store.FeatureRows`.

    uint16 stands for the bits of bfloat16, as in the cache.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """Pairs (P, 2) of rows, the first before the second, in order; the cosine of each, (P,); how they were looked for."""

    pairs_P2: Rows
    cosine_P: Floats
    search: Search

    def groups(self) -> tuple[Rows, ...]:
        """Rows that pairs tie together, directly or through one another; each in order, and so are the groups."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        rows, at_P2 = np.unique(self.pairs_P2, return_inverse=True)
        one_P, other_P = at_P2.reshape(-1, 2).T
        table = coo_matrix((np.ones(len(one_P), np.bool_), (one_P, other_P)), shape=(len(rows), len(rows)))
        _, number_M = connected_components(table, directed=False)
        order = np.argsort(number_M, kind="stable")
        parts = np.split(rows[order], np.flatnonzero(np.diff(number_M[order])) + 1) if len(rows) else []
        return tuple(sorted(parts, key=lambda part: int(part[0])))


def near_duplicates(
    features_ND: Features,
    *,
    least: float = LEAST,
    from_mean: bool = True,
    nearest: int = NEAREST,
    probes: int = PROBES,
    search: Search | None = None,
    clock: Clock | None = None,
    progress: Progress = Silent(),
) -> Near:
    """Pairs among N rows of features whose cosine is at least `least`, of which one is among the `nearest` few of the other.

    Cosines are measured from the mean of the rows (`from_mean`): features are all positive in many networks, and then alike
    from the origin. Above 50,000 rows an index is searched (faiss), `probes` of its cells for each row: pairs may be missed,
    none is wrong. Memory for N rows, beside a fixed part: under a kilobyte each, whatever D. The same rows give the same pairs
    on the same machine. `clock` is told the seconds of each phase. Raises UsageError for more than 200,000 rows where faiss is
    missing, DataUnusable for rows that are not finite.
    """
    count, clock = features_ND.shape[0], clock or Clock()
    search = search or search_for(count)
    if search == "equal":
        raise UsageError(
            expected=f"an index to search {count:,} rows with (without one: {ALL_PAIRS_UP_TO:,} rows at most)",
            got="faiss is not installed",
            fix=INSTALL,
        )
    if not 0 < least <= 1:
        raise UsageError(expected="a least cosine above 0, at most 1", got=f"{least}", fix="0.95 is usual")
    if count < 2:
        return Near(pairs_P2=np.zeros((0, 2), np.int64), cosine_P=np.zeros(0, np.float32), search=search)
    watched = progress.task("almost the same", 3 * count, "row") if count > CELLS_BEYOND else Silent().task("", 0, "")
    with watched as task:
        return _searched(features_ND, least, from_mean, nearest, probes, search, clock, task.advance)


def _searched(
    features_ND: Features,
    least: float,
    from_mean: bool,
    nearest: int,
    probes: int,
    search: Search,
    clock: Clock,
    told: Told,
) -> Near:
    with clock("mean"):
        mean_D = _mean(features_ND, told) if from_mean else np.zeros(features_ND.shape[1], np.float32)
    with clock("compress"):
        points_NR = _compressed(features_ND, mean_D, told)
    with clock("candidates"):
        # The squared distance of rows of length 1 is 2 - 2 cosine; compressed it is that times chi squared over R.
        farthest = 2 * (1 - least) * (1 + _TOO_LONG * (2 / points_NR.shape[1]) ** 0.5) + _ROUNDING
        find = partial(_in_cells, probes=probes) if search == "cells" else _all
        candidates = find(points_NR, farthest, nearest, told)
        del points_NR
    with clock("compare"):
        cosine_P = _cosines(features_ND, mean_D, candidates)
    kept_P = cosine_P >= least
    return Near(pairs_P2=candidates[kept_P], cosine_P=cosine_P[kept_P], search=search)


def similar_images(
    near: Near, samples: Sequence[Sample], parts: Sequence[str], copies: Sequence[Copies]
) -> tuple[Similar, ...]:
    """What `near` pairs of rows say of their images: groups that are neither known as copies nor in one group of the user's.

    `samples` and `parts` are in the order of the rows. Those across parts come first, then the largest.
    """
    names = [sample.name for sample in samples]
    copied = {name: number for number, group in enumerate(copies) for name in group.names}
    number_N = np.array([copied.get(name, -1 - row) for row, name in enumerate(names)], np.int64)
    one_P, other_P = near.pairs_P2.T
    grouped = [samples[one].group is not None and samples[one].group == samples[other].group for one, other in near.pairs_P2]
    new_P = (number_N[one_P] != number_N[other_P]) & ~np.array(grouped, np.bool_)
    new = replace(near, pairs_P2=near.pairs_P2[new_P], cosine_P=near.cosine_P[new_P])
    groups = new.groups()
    group_of = {int(row): number for number, rows in enumerate(groups) for row in rows}
    least = np.ones(len(groups))
    np.minimum.at(least, [group_of[int(row)] for row in new.pairs_P2[:, 0]], new.cosine_P)
    found = [
        Similar(
            names=tuple(names[row] for row in rows),
            labels=tuple(", ".join(samples[row].labels) for row in rows),
            parts=tuple(parts[row] for row in rows),
            cosine=round(float(cosine), 4),
        )
        for rows, cosine in zip(groups, least, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: (not one.across_parts, -len(one.names), one.names)))


def _in_cells(points_NR: Floats, farthest: float, nearest: int, told: Told, *, probes: int) -> Rows:
    """Pairs (P, 2) of points within a squared distance, of which one is among the nearest of the other, found in cells."""
    found = [np.zeros((0, 2), np.int64)]
    # The nearest of all is the point itself.
    for rows_B, near_BK, distance_BK in cells_of(points_NR, probes=probes).nearest(points_NR, nearest + 1):
        one, column = np.nonzero((distance_BK <= farthest) & (near_BK >= 0))
        found.append(np.stack([rows_B[one], near_BK[one, column]], axis=1))
        told(len(rows_B))
    return _distinct(np.concatenate(found))


def _all(points_NR: Floats, farthest: float, nearest: int, told: Told) -> Rows:
    """What `_in_cells` finds, from the table of all pairs, a block of rows at a time."""
    # |x - y|^2 as one product: (-2 x, |x|^2, 1) with (y, 1, |y|^2).
    square_N1 = np.einsum("nr,nr->n", points_NR, points_NR)[:, np.newaxis]
    ones_N1 = np.ones_like(square_N1)
    left, right = np.hstack([-2 * points_NR, square_N1, ones_N1]), np.hstack([points_NR, ones_N1, square_N1])
    found = [np.zeros((0, 2), np.int64)]
    step = max(1, _TABLE // len(points_NR))
    for start in range(0, len(points_NR), step):
        table_BN = left[start : start + step] @ right.T
        one, other = np.nonzero(table_BN <= farthest)
        if len(one) > (nearest + 1) * len(table_BN):
            one, other = _nearest_of(one, other, table_BN[one, other], nearest + 1)
        found.append(np.stack([one + start, other], axis=1))
        told(len(table_BN))
    return _distinct(np.concatenate(found))


def _nearest_of(one: Rows, other: Rows, distance: Floats, count: int) -> tuple[Rows, Rows]:
    order = np.lexsort((distance, one))
    one, other = one[order], other[order]
    rank = np.arange(len(one)) - np.searchsorted(one, one)
    return one[rank < count], other[rank < count]


def _distinct(pairs_P2: Rows) -> Rows:
    """Each pair once, the first before the second, in order; none of a row with itself."""
    pairs_P2 = np.sort(pairs_P2[pairs_P2[:, 0] != pairs_P2[:, 1]], axis=1)
    order = np.lexsort((pairs_P2[:, 1], pairs_P2[:, 0]))
    pairs_P2 = pairs_P2[order]
    new = np.ones(len(pairs_P2), np.bool_)
    new[1:] = (np.diff(pairs_P2, axis=0) != 0).any(axis=1)
    return pairs_P2[new].astype(np.int64)


def _cosines(features_ND: Features, mean_D: Floats, pairs_P2: Rows) -> Floats:
    """(P,) of the rows in full, read in the order in which they are stored."""
    found = [np.zeros(0, np.float32)]
    for at in _blocks(len(pairs_P2), features_ND.shape[1]):
        sides = []
        for rows in pairs_P2[at].T:
            distinct, place = np.unique(rows, return_inverse=True)
            sides.append(_units(features_ND[distinct], mean_D)[place])
        found.append(np.einsum("pd,pd->p", *sides).astype(np.float32))
    return np.concatenate(found)


def _mean(features_ND: Features, told: Told) -> Floats:
    count, width = features_ND.shape
    total_D = np.zeros(width)
    for at in _blocks(count, width):
        block = floats(features_ND[at])
        total_D += np.ones(len(block), np.float32) @ block
        told(len(block))
    return (total_D / count).astype(np.float32)


def _compressed(features_ND: Features, mean_D: Floats, told: Told) -> Floats:
    """(N, R) rows of length 1 along directions that are orthonormal and follow from D alone, at their usual distances."""
    count, width = features_ND.shape
    drawn_DR = np.random.default_rng(0).standard_normal((width, min(DIRECTIONS, width)))
    axes_DR = (np.linalg.qr(drawn_DR)[0] * (width / drawn_DR.shape[1]) ** 0.5).astype(np.float32)
    points_NR = np.empty((count, axes_DR.shape[1]), np.float32)
    for at in _blocks(count, width):
        points_NR[at] = _units(features_ND[at], mean_D) @ axes_DR
        told(at.stop - at.start)
        if not np.isfinite(points_NR[at]).all():
            raise DataUnusable(
                expected="features that are finite numbers",
                got=f"a row among {at.start:,} to {at.stop:,} that is not",
                fix="compute the features again (`regraft cache clear`)",
            )
    return points_NR


def _units(block_BD: NDArray[Any], mean_D: Floats) -> Floats:
    """Rows from the mean, of length 1; those on it stay 0, and are near nothing."""
    rows_BD = floats(block_BD) - mean_D
    length_B = np.sqrt(np.einsum("bd,bd->b", rows_BD, rows_BD))
    rows_BD /= np.maximum(length_B, np.finfo(np.float32).tiny)[:, np.newaxis]
    return rows_BD


def floats(block_BD: NDArray[Any]) -> Floats:
    """Rows as float32; uint16 are the bits of bfloat16, the upper half of those of float32."""
    if block_BD.dtype == _BFLOAT16:
        return (block_BD.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(block_BD, np.float32)


def _blocks(count: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK_BYTES // (4 * max(1, width)))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
