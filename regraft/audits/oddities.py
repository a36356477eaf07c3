"""Images that may be of little use: tiny, blank, blurred, of an extreme shape, or unlike all others."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.audits.spread import beyond
from regraft.findings import Odd, Outlier

# Judged by eye on the sets of docs/measurements.md#labels.
_TINY_SIDE, _TINY_SHARE = 32, 0.25
_BLANK = 2.0
_BLURRED_SHARE = 0.1
_LONGEST, _LONGER = 4.0, 3.0


def find_oddities(
    names: Sequence[str],
    labels: Sequence[str],
    *,
    width_N: NDArray[Any],
    height_N: NDArray[Any],
    contrast_N: NDArray[Any],
    sharpness_N: NDArray[Any],
) -> tuple[Odd, ...]:
    """What a person would set aside, in the order of the images; one may be odd in several ways.

    Sizes are in pixels, `contrast_N` is the standard deviation of grey, 0 to 255, and `sharpness_N` any measure of fine detail
    that does not depend on contrast, larger for sharper. Tiny: fewer than 32 x 32 pixels, and a quarter of the usual side or
    less. Blank: a contrast below 2. Extreme shape: four times as long as wide or more, and three times the usual proportion.
    Blurred: a tenth of the usual sharpness or less, and far below the rest (`spread.beyond`). All but blank ones are measured
    by the set, so that images which are all small or all soft are not odd.
    """
    blank_N = contrast_N < _BLANK
    found = {
        "tiny": _tiny(width_N, height_N),
        "blank": blank_N,
        "blurred": _blurred(sharpness_N, ~blank_N),
        "extreme shape": _extreme(width_N, height_N),
    }
    usual = float(np.median(sharpness_N[~blank_N])) if (~blank_N).any() else 0.0
    reasons = {
        "tiny": lambda row: f"{width_N[row]:.0f} x {height_N[row]:.0f} pixels",
        "blank": lambda row: f"one even tone: grey values deviate by {contrast_N[row]:.1f} of 255",
        "blurred": lambda row: f"blurred: {_share(float(sharpness_N[row]) / usual)} of the usual sharpness",
        "extreme shape": lambda row: f"{width_N[row]:.0f} x {height_N[row]:.0f} pixels: most of it is cut off or squeezed",
    }
    return tuple(
        Odd(name=names[row], label=labels[row], code=code, reason=reasons[code](row))
        for row in range(len(names))
        for code, odd_N in found.items()
        if odd_N[row]
    )


def outliers_of(distance_N: NDArray[np.float64], names: Sequence[str], labels: Sequence[str]) -> tuple[Outlier, ...]:
    """Images far from all others, the farthest first.

    `distance_N` is each image's distance from the images like it, out of fold, positive; the rule is that of `spread.beyond`:
    where the logarithms of distances are normal, 49 sets of 50 have no outlier.
    """
    distance_N = distance_N.astype(np.float64)
    rows = np.flatnonzero(beyond(distance_N, 1)).tolist()
    usual = float(np.median(distance_N)) if len(distance_N) else 1.0
    # More than half may be equal to something else at distance 0: then there is no usual distance.
    usual = usual if usual > 0 else 1.0
    order = sorted(rows, key=lambda row: (-distance_N[row], names[row]))
    return tuple(Outlier(name=names[row], label=labels[row], distance=float(distance_N[row] / usual)) for row in order)


def _tiny(width_N: NDArray[np.float64], height_N: NDArray[np.float64]) -> NDArray[np.bool_]:
    # By area: a pencil of 256 x 20 pixels is thin, not tiny.
    side_N = np.sqrt(np.asarray(width_N, np.float64) * height_N)
    usual = float(np.median(side_N)) if len(side_N) else 0.0
    return np.asarray((side_N < _TINY_SIDE) & (side_N <= _TINY_SHARE * usual))


def _blurred(sharpness_N: NDArray[np.float64], seen_N: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of images that show something, `seen_N`: those with less detail than the rest."""
    blurred_N = np.zeros(len(sharpness_N), np.bool_)
    values = sharpness_N[seen_N]
    if len(values):
        blurred_N[seen_N] = beyond(values, -1) & (values <= _BLURRED_SHARE * np.median(values))
    return blurred_N


def _extreme(width_N: NDArray[np.float64], height_N: NDArray[np.float64]) -> NDArray[np.bool_]:
    shape_N = np.log(np.maximum(width_N, 1) / np.maximum(height_N, 1))
    usual = float(np.median(shape_N)) if len(shape_N) else 0.0
    return np.asarray((np.abs(shape_N) >= np.log(_LONGEST)) & (np.abs(shape_N - usual) >= np.log(_LONGER)))


def _share(value: float) -> str:
    return f"{value:.1%}" if value >= 0.001 else "under 0.1 %"
