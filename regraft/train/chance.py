"""Randomness that is counted, not carried: every draw follows from the run's seed and from what it is for.

So the order of work does not matter, a run repeats itself, and one that goes on from its middle equals one that never stopped.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

# What a draw is for: two uses of one (seed, epoch) must not be alike.
_ORDER, _VIEW, _TORCH, _MIX, _AUGMENT = 1, 2, 3, 4, 5
_PIXELS = 7  # 6 is that of cached views


def order_of(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """0 to count-1 in the order of an epoch."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(count)


def view_of(rows: NDArray[np.int64], views: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Which of its views each image shows in an epoch: all in turn, each image beginning with another."""
    spread = (rows * 0x9E3779B1 + seed * 0x85EBCA6B + _VIEW) % (1 << 32)  # Knuth's multiplicative hash
    return ((spread >> 7) + epoch) % views


def mixing_draws(*counted: int) -> np.random.Generator:
    """The draws that mix the images of a step: counted is (seed, epoch, step)."""
    return np.random.default_rng((_MIX, *counted))


def augment_seeds(rows: NDArray[np.int64], seed: int, epoch: int) -> list[tuple[int, ...]]:
    """What the draws of each image's augmentation follow from, in an epoch or a view."""
    return [(seed, _AUGMENT, epoch, int(row)) for row in rows]


def pixel_draws(*counted: int) -> np.random.Generator:
    """The draws of pixels that stand for all of an image."""
    return np.random.default_rng((_PIXELS, *counted))


@contextmanager
def seeded(seed: int, *counted: int) -> Iterator[None]:
    """Inside, torch's own draws (initial weights, dropout) follow from the numbers; outside they are as if nothing had been."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence((seed, _TORCH, *counted)).generate_state(1, np.uint64)[0]))
        yield
