"""Training the last stages or the whole network: one path for every strategy that trains.

A strategy is a row of phases, most of them of one. In each, the part of the network before its boundary stays as it is: it ran
once per image and view, and what crossed the boundary is read from the cache. With the boundary at the pixels that part is
empty, and the cache holds decoded images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regraft.backbone.boundary import boundary_for
from regraft.backbone.freeze import plan_training
from regraft.backbone.model import HEAD, PIXELS, Backbone, Boundary
from regraft.cache.engines import pick_device
from regraft.cache.extract import Activations, extract_boundary
from regraft.cache.views import forget_own, views_of, views_that_fit
from regraft.ranks import here
from regraft.strategies import Decoding, Full, Gradual, Norm, Partial, Scratch, Trained
from regraft.train.budget import epochs_that_fit, try_step
from regraft.train.chance import augment_seeds
from regraft.train.contract import Network
from regraft.train.faster import rewritten
from regraft.train.interpolate import go_back, interpolate
from regraft.train.judge import answers
from regraft.train.keeper import Keeper
from regraft.train.learning import (
    check_train_mode,
    drawn_for_views,
    learner_of,
    preparing_views,
    reading_pixels,
    reading_views,
)
from regraft.train.lessons import Learner, Lessons
from regraft.train.loop import Course, snapshot, train
from regraft.train.phase_keeper import Choice, PhaseKeeper, recalled_choice
from regraft.train.precision import StepPrecision
from regraft.train.setting import Model, Setting, history_of, lessons_of, noting, telling
from regraft.train.tuning import SAMPLE, images_to_measure, tune
from regraft.values import Epoch

# Where fewer of the training images than these were held out, learning from them too is not worth the time again.
WORTH_REFITTING = 0.1


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a training: where the network is cut, and what of the rest trains, in the words of `freeze`."""

    boundary: Boundary
    trains: str


def phases_of(backbone: Backbone, strategy: Trained) -> tuple[Phase, ...]:
    """The phases of a strategy, the shallowest first. Raises UsageError for stages that the network does not have."""
    pixels = boundary_for(backbone, PIXELS)
    if isinstance(strategy, Decoding):
        return (Phase(boundary_for(backbone, HEAD), strategy.name),)
    if isinstance(strategy, Partial):
        return (Phase(boundary_for(backbone, strategy.name), strategy.name),)
    if not isinstance(strategy, Gradual):
        return (Phase(pixels, strategy.name),)
    stages = max((stage.number for stage in backbone.stages if stage.number is not None), default=0)
    phases = [Phase(boundary_for(backbone, f"partial:{n}"), f"partial:{n}") for n in range(1, stages + 1)]
    # The deepest stage begins at the pixels as a rule; then it and the whole network are one phase.
    phases = [phase for phase in phases if phase.boundary.nodes] + [Phase(pixels, "full")]
    return tuple(phases[: strategy.phases])


def crossing(setting: Setting, strategy: Trained) -> tuple[Phase, ...]:
    """The phases with all that has to cross for the task at hand."""
    backbone = setting.backbone
    phases = phases_of(backbone, strategy)
    return tuple(replace(phase, boundary=setting.task.boundary(backbone, phase.boundary)) for phase in phases)


def fit_network(setting: Setting, strategy: Trained) -> Model:
    """Train what the strategy says, from the solved head (`scratch`: from the weights as they are).

    A fold of the training images chooses the epoch and how far to go; then, with `refit`, all of it is done again on all of
    them. Raises Diverged, Interrupted, OutOfSpace; UsageError where the network has no such stage or does not take its
    images in train mode.
    """
    pixels = extract_boundary(
        setting.images,
        setting.observed.digests,
        setting.backbone,
        boundary_for(setting.backbone, PIXELS),
        cache=setting.cache,
        device=setting.device,
        progress=setting.progress,
    )
    job = _Job(setting, strategy, crossing(setting, strategy), pixels, setting.keepers(strategy.name))
    lessons = replace(lessons_of(setting, strategy.balance), objective=setting.task.objective(setting, strategy))
    chosen, trained = recalled_choice(job.keeper, len(job.phases)), None
    if chosen is None:
        trained = _train(job, lessons)
        chosen = Choice(
            courses=trained.courses,
            planned=trained.planned,
            share=trained.share,
            judged_NK=answers(trained.learner, trained.lessons, lessons.validation, strategy.batch_size),
        )
    else:
        told: list[Epoch] = []
        for number, (course, planned) in enumerate(zip(chosen.courses, chosen.planned, strict=True)):
            _tell(setting, strategy.name, course, planned, number, told)
    again = refits(strategy, lessons)
    if again:
        setting.progress.note(_again(chosen, len(setting.targets)))
        trained = _train(job, whole(lessons), chosen)
    assert trained is not None, "a choice is recalled only where something follows it"
    words = _words(setting.backbone, strategy)
    history = history_of(setting, words, chosen.courses, lessons, chosen.judged_NK, chosen.share, refitted=again)
    test_MK = answers(trained.learner, trained.lessons, setting.test_rows, strategy.batch_size)
    backbone, head = setting.task.taken_apart(trained.network, setting, strategy.name)
    if not isinstance(strategy.augment, str):
        forget_own(setting.cache)
    return Model(
        strategy=strategy.name,
        backbone=backbone,
        head=head,
        choice=setting.solved.choice,
        judged=lessons.validation,
        judged_NK=chosen.judged_NK,
        test_MK=test_MK,
        history=history,
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """What all phases share."""

    setting: Setting
    strategy: Trained
    phases: tuple[Phase, ...]
    pixels: Activations
    keeper: Keeper


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """A network after all phases, and how it got there: courses, epochs planned in each, share of what was learned."""

    network: Network
    learner: Learner
    lessons: Lessons
    courses: list[Course]
    planned: list[int]
    share: float


def _train(job: _Job, lessons: Lessons, chosen: Choice | None = None) -> _Trained:
    """All phases on these images. `chosen`: do again what was chosen there, without validation."""
    setting, strategy = job.setting, job.strategy
    network = setting.task.network(setting, lessons, strategy)
    first = snapshot(network.tensors())
    courses, planned, told = list[Course](), list[int](), list[Epoch]()
    for number, phase in enumerate(job.phases):
        place = number + (len(job.phases) if chosen else 0)
        keeper = PhaseKeeper(job.keeper, place, courses, chosen, planned=planned)
        again = None if chosen is None else (chosen.planned[number], chosen.courses[number])
        end = first if number == len(job.phases) - 1 else None
        share = None if chosen is None else chosen.share
        done = _one_phase(job, phase, network, lessons, keeper, end, told, again, share)
        courses.append(done.course)
        planned.append(done.epochs)
    return _Trained(
        network=network, learner=done.learner, lessons=done.lessons, courses=courses, planned=planned, share=done.share
    )


def _read(job: _Job, phase: Phase, network: Network, lessons: Lessons, epochs: int) -> Lessons:
    """The lessons, with how images are read and what their augmentation is drawn from."""
    setting, strategy = job.setting, job.strategy
    if not phase.boundary.nodes:
        read = reading_pixels(job.pixels, strategy.augment, setting.seed, epochs=epochs, sizes=_sizes(strategy))
        return replace(lessons, read=read, drawn=lambda rows, epoch: list(augment_seeds(rows, setting.seed, epoch)))
    assert isinstance(strategy, Decoding | Partial | Gradual)
    wanted = 1 if strategy.augment == "none" else strategy.views
    count = views_that_fit(wanted, len(setting.images), phase.boundary, setting.cache_limit)
    if count < wanted:
        setting.progress.note(f"{count} of {wanted} views of each image fit into the cache (--cache-size)")
    views = views_of(
        setting.images,
        setting.observed.digests,
        job.pixels,
        setting.backbone,
        phase.boundary,
        beside=network.before(phase.boundary),
        views=count,
        augment=strategy.augment,
        seed=setting.seed,
        cache=setting.cache,
        device=setting.device,
        progress=setting.progress,
    )
    # What is judged has the plain view alone; all of it in one go.
    views.ensure(np.concatenate([lessons.validation, setting.test_rows]), None, setting.progress)
    prepare = preparing_views(views, lessons.train, setting.seed, setting.progress)
    read = reading_views(views, lessons.train, setting.seed, prepare=prepare)
    return replace(lessons, read=read, drawn=drawn_for_views(views, setting.seed), prepare=prepare)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """A phase that is over: its learner as it was made, its lessons, its course, the epochs planned, the share kept."""

    learner: Learner
    lessons: Lessons
    course: Course
    epochs: int
    share: float


def _one_phase(
    job: _Job,
    phase: Phase,
    network: Network,
    lessons: Lessons,
    keeper: PhaseKeeper,
    first: dict[str, Any] | None,
    told: list[Epoch],
    again: tuple[int, Course] | None,
    share: float | None,
) -> _Done:
    """Train one phase; in the last one go back towards the `first` weights as far as that helps, or by `share`.

    `again`: how many epochs were planned where it is done again, and how they went.
    """
    setting, strategy = job.setting, job.strategy
    plan = plan_training(setting.backbone, phase.trains, freeze=strategy.freeze)
    learner = learner_of(network, phase.boundary, plan, strategy, pick_device(setting.device))
    lessons = _read(job, phase, network, lessons, strategy.epochs)
    check_train_mode(learner, lessons, setting.backbone, _epochs_of_all_sizes(strategy))
    done = keeper.finished()
    if done is not None:
        if again is None:
            _tell(setting, strategy.name, *done, keeper.number, told)
        return _Done(learner=learner, lessons=lessons, course=done[0], epochs=done[1], share=1.0)
    small = tuple(value.to(learner.device) for value in lessons.read(lessons.train[:SAMPLE], None))
    with rewritten(learner.module, small, fold=not learner.moves_statistics) as convs:
        faster = _tuned(setting, strategy, learner, lessons, convs, keeper)
        for path, conv in convs.items():
            conv.exact = path in faster.precision.exact
        if again is None:
            passes = 1 + (len(setting.targets) / len(lessons.train) if refits(strategy, lessons) else 0)
            how = epochs_that_fit(strategy, faster, lessons, keeper, setting.seed, setting.progress, passes=passes)
        else:
            how = replace(strategy, epochs=again[0])
        if _sizes(strategy):
            lessons = _read(job, phase, network, lessons, how.epochs)
        tell = (
            telling(setting, strategy.name, how.epochs, keeper.number, told)
            if again is None
            else noting(setting, again[1].chosen)
        )
        course = train(
            faster,
            lessons,
            how,
            again=None if again is None else again[1],
            seed=setting.seed + keeper.number,
            on_epoch=tell,
            keeper=keeper,
            progress=setting.progress,
        )
        if first is None or not strategy.interpolate or not course.epochs:
            share = 1.0
        elif share is not None:
            go_back(faster, first, share)
        else:
            share = interpolate(faster, lessons, first, strategy.batch_size, best=_best_loss(course))
    return _Done(learner=learner, lessons=lessons, course=course, epochs=how.epochs, share=share)


def _tell(setting: Setting, name: str, course: Course, planned: int, number: int, told: list[Epoch]) -> None:
    """Tell the epochs of a phase again that was over before the training went on."""
    tell = telling(setting, name, planned, number, told)
    for epoch in course.epochs:
        tell(epoch)


def _again(chosen: Choice, images: int) -> str:
    epochs = sum(course.chosen for course in chosen.courses)
    if not epochs:
        return f"no epoch was better than the start: that again, with the head solved on all {images:,} training images"
    return f"again, on all {images:,} training images, as far as validation found best ({epochs} epochs)"


def refits(strategy: Trained, lessons: Lessons) -> bool:
    """Whether all is done again with the validation images among those learned from."""
    held_out = len(lessons.validation) / (len(lessons.validation) + len(lessons.train))
    return strategy.refit == "always" or (strategy.refit == "auto" and held_out > WORTH_REFITTING)


def whole(lessons: Lessons) -> Lessons:
    """All images to learn from, none to judge by."""
    train = np.sort(np.concatenate([lessons.train, lessons.validation]))
    return replace(lessons, train=train, validation=np.zeros(0, np.int64))


def _best_loss(course: Course) -> float:
    return min([course.start_tempered, *(epoch.tempered_loss for epoch in course.epochs)])


def _sizes(strategy: Trained) -> tuple[int, ...]:
    return strategy.sizes if isinstance(strategy, Full | Scratch) else ()


def _epochs_of_all_sizes(strategy: Trained) -> Sequence[int]:
    sizes = _sizes(strategy)
    return [1 + number * strategy.epochs // len(sizes) for number in range(len(sizes))] or [1]


def _tuned(setting: Setting, strategy: Trained, learner: Learner, lessons: Lessons, convs: Any, keeper: PhaseKeeper) -> Learner:
    """The learner in the precision that its steps are fastest in; in that of before where it goes on."""
    kept = keeper.plan.get("precision")
    if kept is None:
        few = lessons.train[: images_to_measure(strategy.batch_size, lessons.read(lessons.train[:1], 1))]
        inputs = tuple(value.to(learner.device) for value in lessons.read(few, 1))

        def step(precision: StepPrecision) -> None:
            for path, conv in convs.items():
                conv.exact = path in precision.exact
            try_step(strategy, replace(learner, precision=precision), lessons, few, setting.seed)

        found = tune(
            strategy.precision,
            step,
            convs,
            inputs,
            learner.module,
            device=learner.device,
            memory=setting.cache,
            progress=setting.progress,
        )
        # All have measured, which takes them about as long; what rank 0 found is what all train in.
        precision = here().shared(lambda: found)
    else:
        precision = StepPrecision(half=kept["half"], exact=frozenset(kept["exact"]))
    keeper.plan["precision"] = {"half": precision.half, "exact": sorted(precision.exact)}
    return replace(learner, precision=precision)


def _words(backbone: Backbone, strategy: Trained) -> str:
    start = "a new random head" if strategy.start == "random" else "the solved head"
    if isinstance(strategy, Decoding):
        return f"a decoder on the frozen network, from {start}"
    if isinstance(strategy, Full):
        return f"the whole network, from {start}"
    if isinstance(strategy, Scratch):
        return f"the whole network, from its weights as they came ({backbone.weights})"
    if isinstance(strategy, Norm):
        return f"scale and shift of every normalisation and the head, from {start}"
    if isinstance(strategy, Gradual):
        return f"one stage more in each phase and the head, from {start}"
    names = [stage.name for stage in backbone.stages if stage.number is not None and stage.number <= strategy.stages]
    return f"{', '.join(names)} and the head, from {start}"
