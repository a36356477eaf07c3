"""Between the weights that a training began with and those it reached (WiSE-FT, Wortsman et al. 2022)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from regraft.train.judge import judge
from regraft.train.lessons import Learner, Lessons
from regraft.train.loop import put, snapshot

# Shares of what was learned that are tried, beside none and all of it, which have been judged already.
SHARES = (0.3, 0.5, 0.7, 0.85)


def interpolate(learner: Learner, lessons: Lessons, first: Mapping[str, Tensor], batch: int, *, best: float) -> float:
    """Leave in `learner` the weights between `first` and its own that validation likes best; gives the share of its own.

    `best` is the tempered validation loss of its own weights, which stay unless something is better.
    """
    reached = snapshot(learner.state)
    kept, share = reached, 1.0
    for some in SHARES:
        between = {name: _between(first[name].to(value.device), value, some) for name, value in reached.items()}
        put(learner.state, between)
        judged = judge(learner, lessons, batch)
        if judged.tempered < best:
            kept, share, best = between, some, judged.tempered
    put(learner.state, kept)
    learner.set_modes(True)  # what was computed from other weights is dropped
    learner.set_modes(False)
    return share


def go_back(learner: Learner, first: Mapping[str, Tensor], share: float) -> None:
    """Leave in `learner` the weights at `share` of the way from `first` to its own."""
    if share < 1:
        put(learner.state, {n: _between(first[n].to(value.device), value, share) for n, value in learner.state.items()})
    learner.set_modes(True)
    learner.set_modes(False)


def _between(first: Tensor, reached: Tensor, share: float) -> Tensor:
    return torch.lerp(first, reached, share) if reached.is_floating_point() else reached
