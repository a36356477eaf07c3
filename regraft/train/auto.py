"""`auto`: the solved head, then whatever could be better in the time that there is; the costlier only where it is better.

All are judged on the same validation images, which none of them learned from: the solved head's answers to them are those of a
head that left them out. Compared by likelihood at the temperature that suits each best, image by image: that tells two models
apart with far fewer images than counting what is right does.
"""

import math
import time
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.backbone.freeze import plan_training
from regraft.cache.engines import has_fast_bf16, pick_device
from regraft.cache.views import shapes_of
from regraft.evaluate.compare import mean_and_error
from regraft.evaluate.temperature import tempered_losses
from regraft.ranks import here
from regraft.strategies import Auto, Full, Partial, Trained, Training
from regraft.train.budget import epoch_seconds
from regraft.train.faster import rewritten
from regraft.train.fit_network import crossing, fit_network, refits
from regraft.train.keeper import Kept
from regraft.train.learning import learner_of
from regraft.train.lessons import Lessons
from regraft.train.precision import StepPrecision
from regraft.train.setting import Model, Setting, group_of, lessons_of, solved_model
from regraft.train.tuning import SAMPLE
from regraft.values import Compared, FloatArray

# Fewer epochs than these are not enough to get anywhere from the solved head: docs/measurements.md#training
FEWEST_EPOCHS = 3
MOST_EPOCHS = 30
# What is left of the time for what is not projected: building caches, judging, saving.
_SHARE = 0.85
# The cheaper strategy may take this much of it.
_FIRST = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a strategy is projected to take: seconds before its first epoch, and in each."""

    setup: float
    each: float

    def epochs_in(self, seconds: float) -> int:
        """How many epochs fit."""
        return min(MOST_EPOCHS, int(max(0.0, seconds - self.setup) / self.each))

    def seconds_of(self, epochs: int) -> float:
        """How long so many take."""
        return self.setup + epochs * self.each


def fit_auto(setting: Setting, auto: Auto) -> Model:
    """The best model that `auto.minutes` of training reach, or the solved head where nothing is clearly better.

    Raises what `fit_network` does.
    """
    began, budget = time.perf_counter(), 60 * auto.minutes
    keeper = setting.keepers("auto")
    kept = keeper.recall()
    decided: list[dict[str, Any]] = list(kept.facts["decided"]) if kept else []
    lessons = lessons_of(setting, auto.balance)
    before = losses_of(setting, lessons, setting.solved.out_of_fold_NK[lessons.validation])
    compared = [_of_head(setting, lessons, before)]
    best, model = before, solved_model(setting)
    stages = max((stage.number for stage in setting.backbone.stages if stage.number is not None), default=0)
    for number, strategy in enumerate(strategies_of(stages, auto)):
        name = strategy.name
        if len(decided) <= number:
            candidate = project(setting, strategy)
            left = budget - (time.perf_counter() - began)
            share = _SHARE * (1 if number else _FIRST)
            found = {"strategy": name, "epochs": candidate.epochs_in(share * left), "each": candidate.each}
            found["needs"] = (budget - left + candidate.seconds_of(FEWEST_EPOCHS) / share) / 60
            decided.append(_of_rank_0(found))  # every rank has measured other seconds
            keeper.keep(Kept(tensors={}, facts={"decided": decided}))
        epochs = int(decided[number]["epochs"])
        if epochs < FEWEST_EPOCHS:
            needs = math.ceil(10 * decided[number]["needs"]) / 10
            words = f"{decided[number]['each']:.1f} s for each epoch: {FEWEST_EPOCHS} of them need about --minutes {needs:g}"
            setting.progress.note(f"auto leaves {name} out: {words}")
            compared.append(_left_out(name, words))
            continue
        setting.progress.note(f"auto tries {name}: {epochs} epochs of about {decided[number]['each']:.1f} s")
        start = time.perf_counter()
        tried = fit_network(setting, replace(strategy, epochs=epochs))
        outcome, losses = _compare(setting, lessons, tried, before, name, time.perf_counter() - start)
        compared.append(outcome)
        gain, error = mean_and_error(best - losses, _groups(setting, lessons))
        if gain > error:
            best, model = losses, tried
        setting.progress.note(_verdict(outcome))
    return _settled(setting, model, compared)


def _of_rank_0(decision: dict[str, Any]) -> dict[str, Any]:
    return here().shared(lambda: decision)


def _settled(setting: Setting, model: Model, compared: list[Compared]) -> Model:
    name = model.strategy
    marked = tuple(replace(one, kept=one.strategy == name) for one in compared)
    setting.progress.note(f"auto keeps {name}")
    return replace(model, compared=marked)


def _verdict(outcome: Compared) -> str:
    return (
        f"{outcome.strategy}: {100 * outcome.accuracy:.1f} % of the validation images right; "
        f"{outcome.gain:+.3f} nats (standard error {outcome.gain_se:.3f}) against the solved head"
    )


def strategies_of(stages: int, auto: Auto) -> list[Trained]:
    """What could be better on a network of so many stages, the cheapest first: the last stages, then the whole network."""
    chosen_here = ("epochs", "minutes", "balance")
    options = {field.name: getattr(auto.training, field.name) for field in fields(Training) if field.name not in chosen_here}
    options["balance"] = auto.balance
    depths = [depth for depth in (2,) if depth < stages]
    return [*(Partial(stages=depth, **options) for depth in depths), Full(**options)]


def project(setting: Setting, strategy: Trained) -> Candidate:
    """What a strategy takes, from a few steps on made-up values of the right shapes."""
    phase = crossing(setting, strategy)[-1]
    lessons = lessons_of(setting, strategy.balance)
    network = setting.task.network(setting, lessons, strategy)
    plan = plan_training(setting.backbone, phase.trains, freeze=strategy.freeze)
    learner = learner_of(network, phase.boundary, plan, strategy, pick_device(setting.device))
    pre = setting.backbone.preprocess
    shapes = shapes_of(setting.backbone, phase.boundary, network.before(phase.boundary))

    def read(rows: NDArray[np.int64], epoch: int | None) -> tuple[Tensor, ...]:
        if phase.boundary.nodes:
            return tuple(torch.zeros(len(rows), *shape) for shape in shapes)
        return (torch.zeros(len(rows), pre.height, pre.width, pre.channels, dtype=torch.uint8),)

    shown: Lessons = replace(lessons, read=read)
    small = tuple(value.to(learner.device) for value in read(lessons.train[:SAMPLE], None))
    with rewritten(learner.module, small) as convs:
        for conv in convs.values():
            conv.exact = 1 < conv.conv.groups < conv.conv.in_channels
        half = StepPrecision(half=strategy.precision != "fp32" and has_fast_bf16())
        each = epoch_seconds(strategy, replace(learner, precision=half), shown, setting.seed)
    rate = max((timing.images_per_s for timing in setting.extracted.engines if timing.chosen), default=0.0)
    # Through the frozen part: what is judged once, what is trained on once for each view.
    views = strategy.views if isinstance(strategy, Partial) and strategy.augment != "none" else 1
    passes = len(setting.images) + (views - 1) * len(lessons.train) if phase.boundary.nodes else 0
    # What is chosen is done again on all images.
    times = 1 + (len(setting.targets) / len(lessons.train) if refits(strategy, lessons) else 0)
    return Candidate(setup=passes / rate if rate else 0.0, each=times * each)


def losses_of(setting: Setting, lessons: Lessons, logits_VK: FloatArray) -> NDArray[np.float64]:
    """The loss of each validation image in nats, at the one temperature that suits all of them best."""
    rows = lessons.validation
    return tempered_losses(logits_VK, lessons.targets[rows], lessons.weights[rows])


def _groups(setting: Setting, lessons: Lessons) -> list[str]:
    return [group_of(setting.observed.train[i]) for i in lessons.validation]


def _compare(
    setting: Setting, lessons: Lessons, model: Model, before: NDArray[np.float64], name: str, seconds: float
) -> tuple[Compared, NDArray[np.float64]]:
    losses = losses_of(setting, lessons, model.judged_NK)
    gain, error = mean_and_error(before - losses, _groups(setting, lessons))
    assert model.history is not None
    outcome = Compared(
        strategy=name,
        accuracy=model.history.accuracy.value,
        nll=float(losses.mean()),
        gain=gain,
        gain_se=error,
        seconds=seconds,
        kept=False,
    )
    return outcome, losses


def _of_head(setting: Setting, lessons: Lessons, losses: NDArray[np.float64]) -> Compared:
    hits = setting.task.rightness(setting, lessons.validation, setting.solved.out_of_fold_NK[lessons.validation])
    return Compared(
        strategy="head", accuracy=float(hits.mean()), nll=float(losses.mean()), gain=0.0, gain_se=0.0, seconds=0.0, kept=False
    )


def _left_out(name: str, why: str) -> Compared:
    nan = float("nan")
    return Compared(strategy=name, accuracy=nan, nll=nan, gain=nan, gain_se=nan, seconds=0.0, kept=False, note=why)
