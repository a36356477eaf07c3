"""The learning rate over the steps of a training: a factor on every group's own rate.

Each schedule is a pure function of the position and of what validation said before, so that a training that goes on from its
middle needs to remember nothing.
"""

import math
from collections.abc import Sequence

# Share of the steps in which the rate rises: the first gradients of AdamW are scaled by moments that are hardly known.
WARM_UP = 0.05
# As torch.optim.lr_scheduler.OneCycleLR has them (Smith and Topin, 2018).
_RISING, _FROM, _TO = 0.3, 1 / 25, 1 / 25e4
_DROP = 0.1
# Epochs in a row without a better validation loss after which "plateau" drops.
_FLAT = 2


def factor(schedule: str, step: int, *, batches: int, epochs: int, losses: Sequence[float] = ()) -> float:
    """The factor on the rate at `step` (from 0), with `batches` steps in each of `epochs` epochs.

    `losses` are the validation losses so far, that of the start first; "plateau" alone looks at them.
    """
    name, _, every = schedule.partition(":")
    if name == "constant":
        return 1.0
    if name == "step":
        return _DROP ** (step // batches // (int(every) if every else max(1, math.ceil(epochs / 3))))
    if name == "plateau":
        return _DROP ** drops(losses)
    if name == "onecycle":
        return one_cycle(step, batches * epochs)
    return cosine(step, batches * epochs)


def cosine(step: int, steps: int) -> float:
    """Up in a straight line, then down to 0 as half a cosine."""
    rising = max(1, round(WARM_UP * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising + 1) / (steps - rising + 1)))


def one_cycle(step: int, steps: int) -> float:
    """Up and down again as half cosines, far below where it began."""
    top = _RISING * steps - 1
    if step <= top:
        return _between(_FROM, 1.0, step / top)
    return _between(1.0, _TO, (step - top) / max(1.0, steps - 1 - top))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def drops(losses: Sequence[float]) -> int:
    """How often the loss has stayed for _FLAT epochs without being better than ever before."""
    best, flat, count = math.inf, 0, 0
    for loss in losses:
        if loss < best:
            best, flat = loss, 0
        else:
            flat += 1
        if flat == _FLAT:
            count, flat = count + 1, 0
    return count
