"""The nearest few among very many rows: rows sorted into cells by k-means, of which a few are searched (an inverted file).

By faiss (Douze et al., "The Faiss library", 2024; extra `scale`), imported when the first index is made. What is found is
among the nearest; that nothing is missed is not promised, so whoever asks compares what is found exactly.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from math import isqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
# Every pair is compared; only the nearest found in cells are; only equal files and pixels are looked for.
Search = Literal["all pairs", "cells", "equal"]
# What all pairs cost grows with the square: under a minute of one core for the first, minutes on two cores for the second
# (docs/scale.md#near-duplicates).
CELLS_BEYOND, ALL_PAIRS_UP_TO = 50_000, 200_000
# To be raised with every change of what is found in cells.
VERSION = 1
INSTALL = "pip install 'regraft[scale]'"

# Cells for N rows: PER_ROOT sqrt(N). What is searched and what is compared with cells then grow alike.
_PER_ROOT, _FEWEST_IN_CELL, _TRAINED_ON, _ROUNDS, _SEED = 4, 39, 64, 10, 1234
_BLOCK = 2**15


def search_for(count: int) -> Search:
    """How near duplicates among so many images are looked for on this machine."""
    if count <= CELLS_BEYOND:
        return "all pairs"
    if find_spec("faiss") is not None:
        return "cells"
    return "all pairs" if count <= ALL_PAIRS_UP_TO else "equal"


def search_note(count: int) -> str | None:
    """What a person should know of that search; None where it is the usual one or as good."""
    search = search_for(count)
    if count <= CELLS_BEYOND or search == "cells":
        return None
    if search == "all pairs":
        return f"altered copies among {count:,} images: every pair is compared, which takes minutes; {INSTALL} makes it faster"
    return f"altered copies are not looked for among {count:,} images without an index, only equal ones: {INSTALL}"


@dataclass(frozen=True, slots=True)
class Cells:
    """N rows in cells, of which `index.nprobe` are searched for each query."""

    index: Any

    def nearest(self, queries_QR: Floats, count: int) -> Iterator[tuple[Rows, Rows, Floats]]:
        """For blocks of queries: their positions (B,), the `count` nearest rows (B, count), products or squared distances.

        A row is -1 where the cells held fewer. Every query is in one block; what is found does not depend on the others.
        """
        cells_QP = np.concatenate([self._cells(queries_QR[at]) for at in _blocks(len(queries_QR))])
        # Queries of one cell search the same cells: what these hold stays in the processor's cache.
        order = np.argsort(cells_QP[:, 0], kind="stable")
        for at in _blocks(len(order)):
            rows = order[at]
            # Distances from the middles of the cells (None) are for indexes that store no more than what is left of rows.
            values, found = self.index.search_preassigned(queries_QR[rows], count, cells_QP[rows].astype(np.int64), None)
            yield rows, found, values

    def _cells(self, queries_QR: Floats) -> NDArray[np.int32]:
        """(Q, P) those to be searched, the nearest first."""
        cells_QP: NDArray[np.int32] = self.index.quantizer.search(queries_QR, self.index.nprobe)[1].astype(np.int32)
        return cells_QP


def cells_of(rows_NR: Floats, *, probes: int, product: bool = False, whole: bool = False) -> Cells:
    """An index of N rows. It follows from the rows and their order alone: k-means starts from a fixed seed.

    `product`: near is a large product, not a small distance; for rows of one length these are the same. `whole`: the rows hold
    whole numbers so small that float32 counts exactly, and so do the middles of the cells: then other processors and other
    numbers of threads find the same.
    """
    faiss = _faiss()
    count, width = rows_NR.shape
    number = max(1, min(_PER_ROOT * isqrt(count), count // _FEWEST_IN_CELL))
    metric = faiss.METRIC_INNER_PRODUCT if product else faiss.METRIC_L2
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, number, metric)
    index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid = _SEED, _ROUNDS, _TRAINED_ON
    index.cp.spherical, index.cp.int_centroids = False, whole
    index.train(rows_NR)
    for at in _blocks(count):
        index.add(rows_NR[at])
    index.nprobe = min(probes, number)
    return Cells(index)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, count)) for start in range(0, max(1, count), _BLOCK))


def _faiss() -> Any:
    if sys.platform == "darwin":
        # Its libomp beside torch's: aborts at once, and crashes with several threads (facebookresearch/faiss#2463,
        # faiss-wheels/faiss-wheels#73). On Linux each has a libgomp of its own, which is no trouble.
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")
    import faiss

    if sys.platform == "darwin":
        faiss.omp_set_num_threads(1)
    return faiss
