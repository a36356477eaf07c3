"""Which images might show the same as which: the nearest few of each, by a description that hardly minds flips and crops.

All sums are of whole numbers small enough to be exact, in whatever order a processor adds them: every machine finds the same.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from regraft.audits.cells import cells_of
from regraft.data.look import GREY_SIDE

# Frequencies of the spectrum along each side, and waves of the cosine description: docs/measurements.md#copies
FREQUENCIES, WAVES = 6, 8
# Descriptions are unit vectors in steps of 1 / UNIT: products of two are below 2**24, where float32 still counts exactly.
UNIT = 2048
_FINE = 1024
# Entries of one block of the table of all pairs: 16 MB.
_BLOCK = 2**22
_CHUNKS = 64
_THUMBNAILS = 4096
# Cells searched for each image, and how many times the wanted number of others is looked at, as some are of other brightness:
# docs/scale.md#near-duplicates
PROBES, _LOOKED_AT = 16, 3
# As it is, flipped, turned, and both: upside down is turned by a half and flipped, which a spectrum does not tell apart.
VARIANTS = 4
Value = TypeVar("Value", bound=NDArray[Any])

Int = NDArray[np.float32]
"""Whole numbers kept as float32, for fast products."""


def by_blocks(function: Callable[[NDArray[np.uint8]], Value]) -> Callable[[NDArray[np.uint8]], Value]:
    """The same of many thumbnails, some thousand at a time: their values in double precision take eight times the room."""

    @wraps(function)
    def whole(grey_NHW: NDArray[np.uint8]) -> Value:
        if len(grey_NHW) <= _THUMBNAILS:
            return function(grey_NHW)
        blocks = [function(grey_NHW[start : start + _THUMBNAILS]) for start in range(0, len(grey_NHW), _THUMBNAILS)]
        return cast(Value, np.concatenate(blocks))

    return whole


@by_blocks
def spectra_of(grey_NHW: NDArray[np.uint8]) -> Int:
    """Magnitudes of the spectrum of each thumbnail under a Hann window, (N, 2, F, F): waves that fall and waves that rise.

    Shifting a picture leaves magnitudes as they are, and a crop of a few per cent is little more than a shift; a flip swaps
    the two kinds, a quarter turn swaps the sides.
    """
    window_H = np.hanning(GREY_SIDE + 2)[1:-1]
    angles_FH = 2 * np.pi * np.outer(np.arange(FREQUENCIES), np.arange(GREY_SIDE)) / GREY_SIDE
    cosine, sine = (np.rint(_FINE * window_H * wave(angles_FH)) for wave in (np.cos, np.sin))
    centred_NHW = _centred(grey_NHW)
    cc, ss = cosine @ centred_NHW @ cosine.T, sine @ centred_NHW @ sine.T
    cs, sc = cosine @ centred_NHW @ sine.T, sine @ centred_NHW @ cosine.T
    falling, rising = np.sqrt((cc - ss) ** 2 + (cs + sc) ** 2), np.sqrt((cc + ss) ** 2 + (cs - sc) ** 2)
    return _unit(np.stack([falling, rising], axis=1) * np.sqrt(_radius(FREQUENCIES)))


@by_blocks
def cosines_of(grey_NHW: NDArray[np.uint8]) -> Int:
    """The low part of the cosine transform of each thumbnail, (N, K, K), weighted by frequency."""
    angles_KH = np.pi * np.outer(np.arange(WAVES), np.arange(GREY_SIDE) + 0.5) / GREY_SIDE
    cosine = np.rint(_FINE * np.cos(angles_KH))
    return _unit(cosine @ _centred(grey_NHW) @ cosine.T * _radius(WAVES))


def nearest_pairs(
    spectra_N2FF: Int, brightness_N: NDArray[np.floating[Any]], *, nearest: int, least: float, apart: float
) -> NDArray[np.intp]:
    """Pairs (P, 2) of images, the first before the second, of which one is among the `nearest` of the other, flipped or turned.

    Their descriptions have a product of `least` or more (1 for equal ones). Compared are images whose brightness is at most
    `apart`, and a few more: that alone saves half of the work. As many as tie for the last place are all there.
    """
    count = len(spectra_N2FF)
    order = np.argsort(brightness_N, kind="stable")
    spectra_N2FF, brightness_N = spectra_N2FF[order], brightness_N[order]
    variants = list(_variants(spectra_N2FF))
    rows = max(1, _BLOCK // max(1, count))
    found = [np.zeros((0, 2), np.intp)]
    for start in range(0, count, rows):
        here = slice(start, min(start + rows, count))
        low = int(np.searchsorted(brightness_N, brightness_N[here.start] - apart, "left"))
        high = int(np.searchsorted(brightness_N, brightness_N[here.stop - 1] + apart, "right"))
        found.append(_nearest_of(variants, here, slice(low, high), nearest, least * UNIT**2))
    pairs = order[np.concatenate(found)]
    return np.unique(np.sort(pairs, axis=1), axis=0)


def nearest_in_cells(
    spectra_N2FF: Int,
    brightness_N: NDArray[np.floating[Any]],
    *,
    nearest: int,
    least: float,
    apart: float,
    probes: int = PROBES,
    told: Callable[[int], None] = lambda _: None,
) -> NDArray[np.intp]:
    """What `nearest_pairs` gives, but that pairs may be missing: for each image `probes` cells of an index are searched.

    Time grows with N to the power of 3/2. The same images in the same order give the same pairs. `told` hears of
    queries that are done, VARIANTS N in all.
    """
    brightness_N = np.asarray(brightness_N, np.float32)
    cells = cells_of(spectra_N2FF.reshape(len(spectra_N2FF), 2 * FREQUENCIES**2), probes=probes, product=True, whole=True)
    found = np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.float32)
    for queries_NR in _variants(spectra_N2FF):
        parts = [found]
        for rows_B, near_BK, value_BK in cells.nearest(queries_NR, _LOOKED_AT * nearest):
            like = np.abs(brightness_N[near_BK] - brightness_N[rows_B, np.newaxis]) <= apart
            fit = (value_BK >= least * UNIT**2) & (near_BK >= 0) & (near_BK != rows_B[:, np.newaxis]) & like
            one, column = np.nonzero(fit)
            parts.append((rows_B[one], near_BK[one, column], value_BK[one, column]))
            told(len(rows_B))
        one, other, value = (np.concatenate(column) for column in zip(*parts, strict=True))
        found = _best(one, other, value, nearest)
    return np.unique(np.sort(np.stack(found[:2], axis=1), axis=1), axis=0)


def ways_of(cosines_NKK: Int, pairs_P2: NDArray[np.intp]) -> NDArray[np.float64]:
    """How alike the images of each pair are for each of the eight ways to flip and turn the second, (P, 8), 1 for equal ones.

    Way w: transposed for w >= 4, then mirrored from left to right for odd w, and upside down for w & 2.
    """
    sign_K = (-1.0) ** np.arange(WAVES)
    across, down = np.tile(sign_K, (WAVES, 1)), np.tile(sign_K[:, np.newaxis], WAVES)
    signs = np.stack([np.ones((WAVES, WAVES)), across, down, across * down]).reshape(4, -1).astype(np.float32)
    one, other = cosines_NKK[pairs_P2[:, 0]], cosines_NKK[pairs_P2[:, 1]]
    flat = [(one * second).reshape(len(pairs_P2), WAVES**2) @ signs.T for second in (other, other.transpose(0, 2, 1))]
    return np.concatenate(flat, axis=1) / np.float64(UNIT**2)


def _variants(spectra_N2FF: Int) -> Iterator[Int]:
    """The descriptions (N, R) as they are, flipped, turned, and both, one after the other."""
    turned = spectra_N2FF.transpose(0, 1, 3, 2)
    for variant in (spectra_N2FF, spectra_N2FF[:, ::-1], turned, turned[:, ::-1]):
        yield np.ascontiguousarray(variant.reshape(len(spectra_N2FF), 2 * FREQUENCIES**2))


def _best(
    one_P: NDArray[np.intp], other_P: NDArray[np.intp], value_P: NDArray[np.float32], nearest: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Of each first image the `nearest` others with the largest values, as many as tie for the last place; sorted."""
    order = np.lexsort((-value_P, other_P, one_P))
    one_P, other_P, value_P = one_P[order], other_P[order], value_P[order]
    # Found in several ways: the best of them comes first.
    first = np.ones(len(one_P), np.bool_)
    first[1:] = (np.diff(one_P) != 0) | (np.diff(other_P) != 0)
    order = np.flatnonzero(first)
    order = order[np.lexsort((other_P[order], -value_P[order], one_P[order]))]
    one_P, other_P, value_P = one_P[order], other_P[order], value_P[order]
    start_P = np.searchsorted(one_P, one_P)
    last_P = np.minimum(start_P + nearest, np.searchsorted(one_P, one_P, side="right")) - 1
    keep = value_P >= value_P[last_P]
    return one_P[keep], other_P[keep], value_P[keep]


def _nearest_of(variants: list[Int], rows: slice, columns: slice, nearest: int, least: float) -> NDArray[np.intp]:
    others = variants[0][columns].T
    alike = variants[0][rows] @ others
    for variant in variants[1:]:
        np.maximum(alike, variant[rows] @ others, out=alike)
    count = alike.shape[1]
    here = np.arange(len(alike))
    alike[here, rows.start - columns.start + here] = -1
    bound = np.full(len(alike), least, np.float32)
    wide = count // _CHUNKS
    if wide > 1 and nearest < _CHUNKS:
        # The k-th largest of the chunks' largest is at most the k-th largest of all: a cheap first sieve.
        largest = alike[:, : wide * _CHUNKS].reshape(-1, _CHUNKS, wide).max(axis=2)
        bound = np.maximum(bound, np.partition(largest, -nearest, axis=1)[:, -nearest])
    one, other = np.nonzero(alike >= bound[:, np.newaxis])
    value = alike[one, other]
    order = np.lexsort((-value, one))
    one, other, value = one[order], other[order], value[order]
    first = np.searchsorted(one, here)
    last = np.minimum(first + nearest, np.searchsorted(one, here, side="right")) - 1
    keep = value >= value[last[one]]
    return np.stack([one[keep] + rows.start, other[keep] + columns.start], axis=1)


def _centred(grey_NHW: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Levels less their mean, times the number of pixels: whole numbers."""
    levels = grey_NHW.astype(np.float64)
    centred: NDArray[np.float64] = levels * GREY_SIDE**2 - levels.sum(axis=(1, 2), keepdims=True)
    return centred


def _radius(side: int) -> NDArray[np.float64]:
    """The frequency of each entry, 0 for those beyond the circle."""
    radius = np.sqrt(np.add.outer(np.arange(side) ** 2, np.arange(side) ** 2))
    return np.where(radius < side - 0.5, radius, 0.0)


def _unit(values: NDArray[np.float64]) -> Int:
    """Each entry of the first axis as a vector of length UNIT in whole numbers; zeros stay."""
    axes = tuple(range(1, values.ndim))
    largest = np.abs(values).max(axis=axes, keepdims=True)
    whole = np.rint(values / np.where(largest > 0, largest, 1) * (UNIT // 2))
    length = np.sqrt((whole**2).sum(axis=axes, keepdims=True))
    return np.rint(whole / np.where(length > 0, length, 1) * UNIT).astype(np.float32)
