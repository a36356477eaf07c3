"""What learns, and from what: the two sides that the training loop brings together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.train.groups import Group
from regraft.train.objective import ByClass, Objective
from regraft.train.precision import FP32, StepPrecision

# The batch of images `rows` as the inputs of the module, in an epoch; None shows them as they are.
Read = Callable[[NDArray[np.int64], int | None], tuple[Tensor, ...]]
# What the augmentation of each of the images `rows` is drawn from in an epoch; None: it is shown as it is.
Drawn = Callable[[NDArray[np.int64], int], "list[tuple[int, ...] | None]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What is learned from: how images are read, (N,) class indices or (N, K) booleans, and weights (N,) or (N, K).

    `train` and `validation` are positions among the N; the weights have mean 1 over the former. `names` are the images', for
    messages. `objective` says what is wanted of the outputs. `drawn`, for what has to move with the images, says how they
    were augmented. `prepare` is called before an epoch, on every rank, where there is something to be had ready together.
    """

    read: Read
    targets: NDArray[np.int64] | NDArray[np.bool_]
    weights: NDArray[np.float64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    names: tuple[str, ...] = ()
    objective: Objective = field(default_factory=ByClass)
    drawn: Drawn | None = None
    prepare: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """What learns: a module from inputs to logits (N, K), or in train mode to a tuple of these and auxiliary ones.

    `set_modes(training)` puts every part into its mode; `groups` hold all that trains, on `device`. `state` are the parameters
    and buffers that a training may change or a checkpoint has to hold, by name: the tensors themselves, not copies.
    `moves_statistics`: whether running statistics of norms follow the images. `spread`: each of several ranks has a part of
    each parameter, and all have to run as many passes (see `spread`).
    """

    module: nn.Module
    set_modes: Callable[[bool], None]
    groups: tuple[Group, ...]
    state: Mapping[str, Tensor]
    device: str = "cpu"
    precision: StepPrecision = field(default=FP32)
    moves_statistics: bool = False
    spread: bool = False
