"""The matrix of a convex problem: held in memory, or read a block at a time on every pass over it."""

from regraft.ranks import ALONE, Ranks
from regraft.train.held import Held, Steering, hold, spans
from regraft.train.standardise import check_shape, standardise
from regraft.train.streamed import Streamed, stream
from regraft.values import FloatArray

Design = Held | Streamed
# Values of a matrix that memory holds: 1 GB in float32. A larger one is read again for each pass (docs/scale.md).
HELD_VALUES = 1 << 28


def make_design(features_ND: FloatArray, steering: Steering | None = None, ranks: Ranks = ALONE) -> Design:
    """Standardise `features_ND` (over all its rows, labels unseen) and choose coordinates.

    Up to HELD_VALUES values it takes one float32 copy of the features, or for N <= D about N x D float64 for a moment; of
    more, only blocks are in memory at a time. Several `ranks` have to call it together; each works on its part of the rows.
    With `steering` the second moments need not be computed, where they would be.
    Raises DataUnusable for values that are not finite.
    """
    check_shape(features_ND)
    if ranks.alone and (spans(features_ND) or features_ND.size <= HELD_VALUES):
        return hold(features_ND, standardise(features_ND), steering)
    return stream(features_ND, standardise(features_ND, ranks), steering, ranks, HELD_VALUES)


def by_first(features_ND: FloatArray, ranks: Ranks) -> bool:
    """Whether rank 0 solves for all: a problem of fewer images than features is small, and its coordinates need all rows."""
    return not ranks.alone and spans(features_ND)
