"""Randomness that is counted, not carried: every draw follows from the run's seed and from what it is for.

So the order of work does not matter, a run repeats itself, and one that goes on from its middle equals one that never stopped.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

# What a draw is for: two uses of one (seed, epoch) must not be alike.
_ORDER, _FLIP, _TORCH = 1, 2, 3
_STEPS = 1 << 32


def order_of(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """0 to count-1 in the order of an epoch."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(count)


def flipped(images: int, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Which of so many images an epoch shows mirrored, about half."""
    return np.random.default_rng((seed, _FLIP, epoch)).random(images) < 0.5


@contextmanager
def seeded(seed: int, *counted: int) -> Iterator[None]:
    """Inside, torch's own draws (initial weights, dropout) follow from the numbers; outside they are as if nothing had been."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence((seed, _TORCH, *counted)).generate_state(1, np.uint64)[0]))
        yield
