"""Between the weights that a training began with and those it reached (WiSE-FT, Wortsman et al. 2022)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from regraft.train.judge import judge
from regraft.train.lessons import Learner, Lessons
from regraft.train.loop import put, settle, snapshot

# Shares of what was learned that are tried, beside none and all of it, which have been judged already.
SHARES = (0.3, 0.5, 0.7, 0.85)


def interpolate(learner: Learner, lessons: Lessons, first: Mapping[str, Tensor], batch: int, *, best: float) -> float:
    """Leave in `learner` the weights between `first` and its own that validation likes best; gives the share of its own.

    `best` is the tempered validation loss of its own weights, which stay unless something is better.
    """
    reached = snapshot(learner.state)
    kept, share = reached, 1.0
    for some in SHARES:
        between = _all_between(first, reached, some)
        put(learner.state, between)
        judged = judge(learner, lessons, batch)
        if judged.tempered < best:
            kept, share, best = between, some, judged.tempered
    settle(learner, kept)
    return share


def go_back(learner: Learner, first: Mapping[str, Tensor], share: float) -> None:
    """Leave in `learner` the weights at `share` of the way from `first` to its own."""
    settle(learner, _all_between(first, learner.state, share))


def _all_between(first: Mapping[str, Tensor], reached: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    return {name: _between(first[name].to(value.device), value.detach(), share) for name, value in reached.items()}


def _between(first: Tensor, reached: Tensor, share: float) -> Tensor:
    return torch.lerp(first, reached, share) if reached.is_floating_point() else reached
