"""How many epochs fit into the time that there is, projected from a few timed steps."""

import time
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft.progress import Progress, Silent
from regraft.ranks import ALONE, here
from regraft.strategies import Training
from regraft.train.judge import answers
from regraft.train.lessons import Learner, Lessons
from regraft.train.loop import put, snapshot
from regraft.train.step import Stepper, make_optimizer

_STEPS = 2
How = TypeVar("How", bound=Training)


class Decided(Protocol):
    """Where decisions are kept that a training which goes on must not make anew."""

    plan: dict[str, Any]


def epochs_that_fit(
    how: How,
    learner: Learner,
    lessons: Lessons,
    decided: Decided,
    seed: int,
    progress: Progress = Silent(),
    *,
    passes: float = 1.0,
) -> How:
    """`how` with as many epochs as its `minutes` hold, at least one and at most its own.

    All of them are run `passes` times: more than once where what was chosen is done again on all images.
    """
    if how.minutes is None:
        return how
    if "epochs" not in decided.plan:
        measured = epoch_seconds(how, learner, lessons, seed)
        seconds = passes * here().shared(lambda: measured)
        fitting = max(1, min(how.epochs, int(60 * how.minutes / seconds)))
        decided.plan["epochs"] = fitting
        progress.note(
            f"an epoch takes about {seconds:.1f} s (projected from {_STEPS} steps): {fitting} of {how.epochs} epochs "
            f"{'fit' if 60 * how.minutes >= seconds else 'are run, though not one fits'} into {how.minutes:g} minutes"
        )
    return replace(how, epochs=decided.plan["epochs"])


def epoch_seconds(how: Training, learner: Learner, lessons: Lessons, seed: int) -> float:
    """Seconds of an epoch, validation included; the weights are afterwards as they were.

    Several ranks take the steps together, and each finds other figures.
    """
    before = snapshot(learner.state)
    stepper = Stepper(learner, lessons, how, make_optimizer(learner, how), seed, Silent())
    rows = lessons.train[: how.batch_size]
    learner.set_modes(True)
    step = min(_timed(lambda: stepper.step(rows, 1, 0, 0.0)) for _ in range(_STEPS + 1))
    stepper.optimizer.zero_grad(set_to_none=True)
    put(learner.state, before)
    judged = lessons.validation[: how.batch_size]
    look = min(_timed(lambda: answers(learner, lessons, judged, how.batch_size)) for _ in range(_STEPS))
    return step * len(lessons.train) / len(rows) + look * len(lessons.validation) / len(judged)


def try_step(how: Training, learner: Learner, lessons: Lessons, rows: NDArray[np.int64], seed: int) -> None:
    """The gradients of some images, thrown away: all of a step but what it changes. Each rank by itself, if it has to."""
    learner.set_modes(True)
    before = snapshot(learner.state) if learner.moves_statistics else {}
    stepper = Stepper(learner, lessons, how, make_optimizer(learner, how), seed, Silent(), ALONE)
    stepper.gradients(rows, 1, 0)
    stepper.optimizer.zero_grad(set_to_none=True)
    put(learner.state, before)  # a pass in train mode alone moves running statistics
    learner.set_modes(False)


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
