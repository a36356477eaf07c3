"""How large images are on disk, before anything is decoded."""

from collections.abc import Sequence
from statistics import median

from regraft.data.decode import read_header
from regraft.data.preprocess import Preprocess
from regraft.data.problem import Problem
from regraft.values import Sample

# So many times their own side images are enlarged: for a head on features, and where a network is trained.
FOR_HEAD, FOR_TRAINING = 4, 3
SMALLEST, STRIDE = 64, 32
# Images that are looked at, spread over all.
_LOOKED_AT = 32


def usual_side(samples: Sequence[Sample]) -> int | None:
    """The median of the shorter sides of some of the images, in pixels; None where none can be read."""
    step = max(1, len(samples) // _LOOKED_AT)
    sides = [side for side in (_side(sample) for sample in samples[::step]) if side is not None]
    return round(median(sides)) if sides else None


def smaller_size(side: int | None, preprocess: Preprocess, enlarged: int) -> int | None:
    """A side in pixels for a network to work at with images of about `side` pixels; None where its own is right.

    `enlarged` times the images' own side, in whole steps of what most networks halve their maps by:
    docs/measurements.md#small-images
    """
    if side is None:
        return None
    size = max(SMALLEST, -(-enlarged * side // STRIDE) * STRIDE)
    return size if size < min(preprocess.height, preprocess.width) else None


def _side(sample: Sample) -> int | None:
    try:
        header = read_header(sample.path)
    except (Problem, OSError):
        return None
    return min(header.width, header.height)
