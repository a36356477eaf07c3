"""How far an image lies from those that a model was fitted on, in the space of its features.

One less the cosine with the nearest known image (nearest neighbours as in Sun et al., 2022, "Out-of-Distribution Detection
with Deep Nearest Neighbors"), where the head's own input and the pooled maps of each stage count alike, as earlier stages see
at once what is drawn and what is photographed. All of it within the few directions that known images fill: what others have
beside them makes no product, and so no likeness (docs/measurements.md#none-of-these).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Directions kept, and known images: more of either were not better.
MOST_AXES, MOST_IMAGES = 64, 4000
_BLOCK = 2048
_SPARE, _ROUNDS = 16, 4


class Rows(Protocol):
    """A matrix (N, D) whose rows are read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Novelty:
    """`distances` of features: 1 is usual for images that are like those fitted on and were not among them.

    It is measured on the head's own input and on the pooled maps of the stages `taps`, whose columns `blocks` counts.
    `axes_RD` are orthonormal directions, `known_MR` the known images along them, `usual` the distance that is called 1.
    """

    taps: tuple[str, ...]
    blocks: tuple[int, ...]
    axes_RD: NDArray[np.float32]
    known_MR: NDArray[np.float32]
    usual: float = 1.0

    def distances(self, features_ND: Rows) -> NDArray[np.float64]:
        """(N,) distances of rows of features."""
        blocks = [self._block(features_ND[i : i + _BLOCK]) for i in range(0, len(features_ND), _BLOCK)]
        return np.concatenate(blocks).astype(np.float64) / self.usual if blocks else np.zeros(0)

    def _block(self, features_ND: NDArray[Any]) -> NDArray[np.float32]:
        along_NR = levelled(features_ND, self.blocks) @ self.axes_RD.T
        return np.asarray(1 - (along_NR @ self.known_MR.T).max(axis=1), np.float32)


def levelled(features_ND: NDArray[Any], blocks: Sequence[int]) -> NDArray[np.float32]:
    """Rows of length 1 in which every block of columns has the same length."""
    parts = np.split(np.asarray(features_ND, np.float32), np.cumsum(blocks)[:-1], axis=1)
    lengths = [np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in parts]
    shares = [part / length for part, length in zip(parts, lengths, strict=True)]
    return np.asarray(np.concatenate(shares, axis=1) / np.sqrt(len(blocks)), np.float32)


def fit_novelty(features_ND: NDArray[Any], taps: Sequence[str], blocks: Sequence[int]) -> Novelty:
    """The distance from N images with features (N, D); what is usual is not known yet."""
    level_ND = levelled(features_ND, blocks)
    axes_RD = _leading(level_ND, min(MOST_AXES, len(level_ND)))
    return Novelty(taps=tuple(taps), blocks=tuple(blocks), axes_RD=axes_RD, known_MR=level_ND @ axes_RD.T)


def _leading(rows_ND: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """(R, D) leading right singular vectors, by subspace iteration (Halko et al., 2011): all of them would take seconds."""
    width = min(count + _SPARE, *rows_ND.shape)
    basis_DW = np.random.default_rng(0).standard_normal((rows_ND.shape[1], width)).astype(np.float32)
    for _ in range(_ROUNDS):
        basis_DW = np.linalg.qr(rows_ND.T @ (rows_ND @ basis_DW))[0]
    turn_WW = np.linalg.svd(rows_ND @ basis_DW, full_matrices=False)[2]
    return np.ascontiguousarray((basis_DW @ turn_WW.T)[:, :count].T, np.float32)
