"""The training loop, for whatever cannot be solved: a head of one's own, the last stages, a whole network.

The validation images choose the epoch, by their loss at the temperature that suits it best: a network that learns all training
images by heart gets ever surer of itself, and its plain loss grows while it still gets better at telling classes apart.

Between any two steps all of its state can be kept and taken up again; see `keeper`. Randomness is counted, so what follows is
the same, bit for bit, on the same processor with the same number of threads.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.errors import DataUnusable, Diverged
from regraft.progress import Progress, Silent
from regraft.ranks import here
from regraft.strategies import Training
from regraft.train.chance import order_of
from regraft.train.judge import judge
from regraft.train.keeper import Keeper, Kept, Nowhere, Stopping, stoppable, with_nan, without_nan
from regraft.train.lessons import Learner, Lessons
from regraft.train.objective import NOT_JUDGED, Judged
from regraft.train.schedule import factor
from regraft.train.spread import in_full, is_asked, laid_like, spread
from regraft.train.step import Averaged, Stepper, make_optimizer
from regraft.train.together import begin_alike
from regraft.values import Epoch

_NOWHERE = Nowhere()


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a training went: every epoch, and the one whose weights were kept (0: those it began with)."""

    start_loss: float
    start_accuracy: float
    start_tempered: float
    epochs: tuple[Epoch, ...]
    chosen: int


def train(
    learner: Learner,
    lessons: Lessons,
    how: Training,
    *,
    seed: int,
    again: Course | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    keeper: Keeper = _NOWHERE,
    progress: Progress = Silent(),
) -> Course:
    """Train `learner.module`, in place: give it a network of its own. It ends in eval mode with the weights of the best epoch.

    Without validation images it ends with those of the last epoch. `again`: as far as the epoch that was chosen in that course,
    at the rates that its epochs had. Goes on from what `keeper` recalls. Raises Diverged when a loss or a gradient is no number
    any more, OutOfSpace where a single image does not fit into memory or a checkpoint not on the disk, Interrupted (after a
    checkpoint) on a signal.

    Several ranks train together: each takes its share of every batch and of the validation images, and all end alike. They have
    to begin with the same lessons, and to recall the same.
    """
    before, ranks = keeper.recall(), here()
    if before is None:
        begin_alike(learner, ranks)
    if not is_asked(ranks):
        return _train(learner, lessons, how, seed, again, on_epoch, keeper, progress, before)
    inputs = [value.to(learner.device) for value in lessons.read(lessons.train[:2], None)]
    with spread(learner, inputs, ranks) as parted:
        return _train(parted, lessons, how, seed, again, on_epoch, keeper, progress, before)


def _train(
    learner: Learner,
    lessons: Lessons,
    how: Training,
    seed: int,
    again: Course | None,
    on_epoch: Callable[[Epoch], None],
    keeper: Keeper,
    progress: Progress,
    before: Kept | None,
) -> Course:
    run = _Run(learner, lessons, how, seed, progress, again)
    with progress.task("training", run.most * len(lessons.train), "image") as task, stoppable() as stopping:
        run.stepper.stopping = stopping
        if before is not None:
            run.restore(before)
        else:
            run.judge_start()
            _keep(run, keeper, stopping)
        task.advance(run.seen())
        for epoch in run.epochs:
            on_epoch(epoch)
        while not run.finished():
            for count in run.one_epoch():
                task.advance(count)
                if stopping.due():
                    _keep(run, keeper, stopping)
            on_epoch(run.end_epoch())
            stopping.ask_all()
            _keep(run, keeper, stopping)
    return run.end()


def _keep(run: "_Run", keeper: Keeper, stopping: Stopping) -> None:
    keeper.keep(run.kept())
    stopping.check()


def split_batches(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Batches of `size` and a shorter last one; a single image left over joins the batch before it.

    Batch normalisation cannot tell the spread of one image.
    """
    starts = list(range(0, len(rows), size))
    if len(starts) > 1 and len(rows) - starts[-1] == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        yield rows[start:stop]


def batches_of(count: int, size: int) -> int:
    """How many batches `split_batches` makes of so many images."""
    return sum(1 for _ in split_batches(np.arange(count, dtype=np.int64), size))


class _Run:
    """A training under way. What is not in `kept` follows from the recipe."""

    def __init__(
        self, learner: Learner, lessons: Lessons, how: Training, seed: int, progress: Progress, again: Course | None
    ) -> None:
        self.most, self.again = how.epochs if again is None else again.chosen, again
        self.learner, self.lessons, self.how, self.seed = learner, lessons, how, seed
        self.optimizer = make_optimizer(learner, how)
        self.stepper = Stepper(learner, lessons, how, self.optimizer, seed, progress)
        self.averaged = Averaged(learner, how.ema) if how.ema else None
        self.batches = batches_of(len(lessons.train), how.batch_size)
        self.start = NOT_JUDGED
        self.epochs: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self.chosen = 0
        self.index = 0  # of the next step in the epoch under way
        self.loss, self.hits, self.images, self.seconds = 0.0, 0.0, 0, 0.0

    def judge_start(self) -> None:
        self.start = judge(self.learner, self.lessons, self.how.batch_size)
        self.best = snapshot(self.learner.state)

    def seen(self) -> int:
        return len(self.epochs) * len(self.lessons.train) + self.images

    def finished(self) -> bool:
        patience = self.how.patience
        tired = patience is not None and len(self.epochs) - self.chosen >= patience
        return len(self.epochs) >= self.most or (tired and len(self.lessons.validation) > 0)

    def one_epoch(self) -> Iterator[int]:
        """The steps that are left of an epoch; after each, how many images it took."""
        number = len(self.epochs) + 1
        self.learner.set_modes(True)
        if self.lessons.prepare is not None:
            self.lessons.prepare(number)
        order = self.lessons.train[order_of(len(self.lessons.train), self.seed, number)]
        for index, rows in enumerate(split_batches(order, self.how.batch_size)):
            if index < self.index:
                continue
            began = time.perf_counter()
            taken = self.stepper.step(rows, number, index, self._factor(number, index))
            if self.averaged:
                self.averaged.follow()
            self.index += 1
            self.loss += taken.loss * len(rows)
            self.hits += taken.right
            self.images += len(rows)
            self.seconds += time.perf_counter() - began
            yield len(rows)

    def _factor(self, number: int, index: int) -> float:
        start, epochs = (self.again.start_tempered, self.again.epochs) if self.again else (self.start.tempered, self.epochs)
        losses = [start, *(epoch.tempered_loss for epoch in epochs[: number - 1])]
        if all(math.isnan(loss) for loss in losses):
            losses = []  # nobody has judged it
        step = (number - 1) * self.batches + index
        return factor(self.how.schedule, step, batches=self.batches, epochs=self.how.epochs, losses=losses)

    def end_epoch(self) -> Epoch:
        """Judge, and remember the weights if they are the best so far."""
        began = time.perf_counter()
        if self.averaged:
            self.averaged.swap()
        judged = judge(self.learner, self.lessons, self.how.batch_size)
        best = min([self.start.tempered, *(epoch.tempered_loss for epoch in self.epochs)], key=_none_last)
        if judged.tempered < _none_last(best) or not len(self.lessons.validation):
            self.best, self.chosen = snapshot(self.learner.state), len(self.epochs) + 1
        if self.averaged:
            self.averaged.swap()
        # Not asked of the optimiser: it has taken no step yet where a training goes on between its last step and here.
        rates = [group.lr * self._factor(len(self.epochs) + 1, self.index - 1) for group in self.learner.groups]
        self.epochs.append(
            Epoch(
                number=len(self.epochs) + 1,
                loss=self.loss / self.images,
                accuracy=self.hits / self.images,
                validation_loss=judged.loss,
                validation_accuracy=judged.accuracy,
                tempered_loss=judged.tempered,
                rate=max(rates),
                lowest_rate=min(rates),
                seconds=self.seconds + time.perf_counter() - began,
            )
        )
        self.index = 0
        self.loss, self.hits, self.images, self.seconds = 0.0, 0.0, 0, 0.0
        return self.epochs[-1]

    def end(self) -> Course:
        settle(self.learner, self.best)
        return Course(
            start_loss=self.start.loss,
            start_accuracy=self.start.accuracy,
            start_tempered=self.start.tempered,
            epochs=tuple(self.epochs),
            chosen=self.chosen,
        )

    def kept(self) -> Kept:
        """All of the state. Raises Diverged where a weight is no number: such a state is not worth keeping."""
        tensors = {f"live.{name}": value.detach() for name, value in self.learner.state.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        if self.averaged:
            tensors |= {f"mean.{name}": value for name, value in self.averaged.mean.items()}
        for name, value in self._trained().items():
            moments = self.optimizer.state.get(value, {})
            tensors |= {f"optimizer.{key}.{name}": moment for key, moment in moments.items() if isinstance(moment, Tensor)}
        tensors = {name: in_full(value) for name, value in tensors.items()}
        _check_finite(tensors)
        return Kept(
            tensors=tensors,
            facts={
                "start": without_nan(asdict(self.start)),
                "epochs": [without_nan(asdict(epoch)) for epoch in self.epochs],
                "chosen": self.chosen,
                "index": self.index,
                "sums": [self.loss, self.hits, self.images, self.seconds],
                "averaged_steps": self.averaged.steps if self.averaged else 0,
                "images_at_a_time": self.stepper.most,
                "trains": sorted(self._trained()),
            },
        )

    def restore(self, kept: Kept) -> None:
        facts, tensors = kept.facts, kept.tensors
        _check_alike(_named(tensors, "live."), self.learner.state)
        self.start = Judged(**with_nan(facts["start"]))
        self.epochs = [Epoch(**with_nan(fields)) for fields in facts["epochs"]]
        self.chosen, self.index = facts["chosen"], facts["index"]
        self.loss, self.hits, self.images, self.seconds = facts["sums"]
        self.stepper.most = facts["images_at_a_time"]
        put(self.learner.state, _named(tensors, "live."))
        best = {name: value.to(self.learner.device) for name, value in _named(tensors, "best.").items()}
        self.best = {name: laid_like(value, self.learner.state[name]) for name, value in best.items()}
        if self.averaged:
            self.averaged.steps = facts["averaged_steps"]
            put(self.averaged.mean, _named(tensors, "mean."))
        trained = self._trained()
        for name, moment in _named(tensors, "optimizer.").items():
            key, _, parameter = name.partition(".")
            # AdamW counts its steps on the processor, unless one kernel does all of a step.
            counted = key == "step" and not self.optimizer.defaults.get("fused")
            where = torch.device("cpu") if counted else trained[parameter].device
            if self.learner.spread and moment.dim():
                self.optimizer.state[trained[parameter]][key] = laid_like(moment, trained[parameter])
                continue
            self.optimizer.state[trained[parameter]][key] = _like(moment, trained[parameter]).to(where)

    def _trained(self) -> dict[str, Tensor]:
        return {name: value for group in self.learner.groups for name, value in group.parameters.items()}


def _like(moment: Tensor, value: Tensor) -> Tensor:
    """In the memory layout of its parameter, as the optimiser makes it; the count of steps, which has another shape, as it is.

    The fused kernel goes through both in the order of memory, so that in other layouts moments meet the wrong weights.
    """
    if moment.shape != value.shape:
        return moment.clone()
    return torch.empty_like(value, dtype=moment.dtype, device="cpu").copy_(moment)


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _none_last(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise Diverged(
                expected="weights that are numbers",
                got=f"none in {name}",
                fix="start anew with a smaller rate: --lr 1e-5 --overwrite",
            )


def _check_alike(kept: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise DataUnusable where what was kept is of another network: the solved head reads other features of other images."""
    if {name: value.shape for name, value in kept.items()} != {name: value.shape for name, value in state.items()}:
        raise DataUnusable(
            expected="images with which the training that is gone on with would have begun alike",
            got="others: the head that is solved on them reads other features",
            fix="bring back those of before, or start anew with --overwrite",
        )


def snapshot(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors, by name."""
    return {name: value.detach().clone() for name, value in state.items()}


def settle(learner: Learner, values: Mapping[str, Tensor]) -> None:
    """Leave a learner with these weights, in eval mode."""
    put(learner.state, values)
    learner.set_modes(True)  # what was computed from other weights is dropped
    learner.set_modes(False)


@torch.no_grad()
def put(state: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into tensors of the same names; those that `values` lacks stay."""
    for name, value in values.items():
        state[name].copy_(laid_like(value, state[name]))
