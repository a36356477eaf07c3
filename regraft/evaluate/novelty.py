"""How far an image lies from those that a model was fitted on, in the space of its features.

Within a class the features are taken as normal, with one covariance for all classes: full in the directions that hold most of
the spread within classes and the class means, the same in all others (probabilistic principal components, Tipping and Bishop,
1999). The distance to the nearest class mean is then Mahalanobis' (Lee et al., 2018, "A Simple Unified Framework for Detecting
Out-of-Distribution Samples"), and what lies in the other directions counts too (the residual of ViM, Wang et al., 2022).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.values import FloatArray

# Directions with a variance of their own, and images they are estimated from: more tell nothing new, and cost time.
MOST_AXES = 64
MOST_IMAGES = 4000
_BLOCK = 4096


class Rows(Protocol):
    """A matrix (N, D) whose rows are read when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Novelty:
    """`distances` of features: 1 is usual for images that were not fitted on.

    `center_D` is the mean; `axes_RD` are orthonormal, `variance_R` the variances along them within classes, `means_MR` the
    class means along them. `usual_2` is what the two parts of a squared distance usually are: along the axes, and in all other
    directions together.
    """

    center_D: NDArray[np.float32]
    axes_RD: NDArray[np.float32]
    variance_R: NDArray[np.float32]
    means_MR: NDArray[np.float32]
    usual_2: NDArray[np.float32]

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """What it is made of, by name."""
        arrays = (self.center_D, self.axes_RD, self.variance_R, self.means_MR, self.usual_2)
        return dict(zip(("center", "axes", "variance", "means", "usual"), arrays, strict=True))

    def distances(self, features_ND: Rows) -> NDArray[np.float64]:
        """(N,) distances of rows of features."""
        return np.asarray(np.sqrt((self.parts(features_ND) / self.usual_2).mean(axis=1)), np.float64)

    def parts(self, features_ND: Rows) -> NDArray[np.float64]:
        """(N, 2): squared distance to the nearest class along the axes, and squared length in all other directions."""
        blocks = [self._block(features_ND[i : i + _BLOCK]) for i in range(0, len(features_ND), _BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros((0, 2))

    def _block(self, features_ND: FloatArray) -> NDArray[np.float64]:
        centred_ND = features_ND - self.center_D
        along_NR = centred_ND @ self.axes_RD.T
        rest_N = np.maximum((centred_ND**2).sum(axis=1) - (along_NR**2).sum(axis=1), 0)
        scale_R = 1 / np.sqrt(self.variance_R)
        scaled_NR, means_MR = along_NR * scale_R, self.means_MR * scale_R
        squares_NM = (scaled_NR**2).sum(axis=1)[:, None] - 2 * scaled_NR @ means_MR.T + (means_MR**2).sum(axis=1)
        return np.stack([np.maximum(squares_NM.min(axis=1), 0), rest_N], axis=1).astype(np.float64)


def fit_novelty(features_ND: FloatArray, class_N: NDArray[np.int64]) -> Novelty:
    """The distance from N images with features (N, D) of the classes `class_N`; what is usual is not known yet (1)."""
    features_ND = np.asarray(features_ND, np.float64)
    numbers, class_N = np.unique(class_N, return_inverse=True)
    means_MD = np.stack([features_ND[class_N == k].mean(axis=0) for k in range(len(numbers))])
    center_D = features_ND.mean(axis=0)
    within_ND = features_ND - means_MD[class_N]
    axes_RD = _basis(within_ND, means_MD - center_D)
    along_NR = within_ND @ axes_RD.T
    turn_RR = np.linalg.eigh(along_NR.T @ along_NR)[1]
    axes_RD = turn_RR.T @ axes_RD
    free = max(1, len(features_ND) - len(numbers))
    total = float((within_ND**2).sum())
    held_R = ((within_ND @ axes_RD.T) ** 2).sum(axis=0)
    rest = max(total - float(held_R.sum()), 1e-12 * total, 1e-30) / free / max(1, features_ND.shape[1] - len(axes_RD))
    return Novelty(
        center_D=center_D.astype(np.float32),
        axes_RD=axes_RD.astype(np.float32),
        # A direction never counts for more than those that were not looked at: few images make a spread look small.
        variance_R=np.maximum(held_R / free, rest).astype(np.float32),
        means_MR=((means_MD - center_D) @ axes_RD.T).astype(np.float32),
        usual_2=np.ones(2, np.float32),
    )


def _basis(within_ND: NDArray[np.float64], between_MD: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R, D) orthonormal directions: of the class means, and of most of the spread within classes."""
    spread = _leading(within_ND, min(MOST_AXES, max(1, len(within_ND) // 4)))
    both = np.concatenate([_leading(between_MD, MOST_AXES), spread])
    axes_DR, size_RR = np.linalg.qr(both.T)
    return np.asarray(axes_DR.T[np.abs(np.diag(size_RR)) > 1e-6 * max(1e-30, np.abs(size_RR).max())])


def _leading(rows_ND: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """(r, D) right singular vectors times singular values, the largest first, none of those that are nought."""
    n, d = rows_ND.shape
    if n <= d:
        squares, left_NN = np.linalg.eigh(rows_ND @ rows_ND.T)
        vectors_RD = left_NN.T @ rows_ND
    else:
        squares, right_DD = np.linalg.eigh(rows_ND.T @ rows_ND)
        vectors_RD = right_DD.T * np.sqrt(np.maximum(squares, 0))[:, None]
    kept = [i for i in np.argsort(-squares)[:most] if squares[i] > 1e-10 * max(squares.max(), 1e-30)]
    return np.asarray(vectors_RD[kept])
