"""The learning rate over the steps of a training."""

import math

# Share of the steps in which the rate rises: the first gradients of AdamW are scaled by moments that are hardly known.
WARM_UP = 0.05


def cosine(step: int, steps: int) -> float:
    """The factor on the rate at `step` (from 0) of `steps`: up in a straight line, then down to 0 as half a cosine."""
    rising = max(1, round(WARM_UP * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising + 1) / (steps - rising + 1)))
