"""Training the last stages or the whole network: one path for `partial`, `full` and `scratch`.

The part before the boundary runs once per image; what crosses it is read from the cache in every epoch. With the boundary at
the pixels that part is empty, and the cache holds decoded images.
"""

from typing import cast

import numpy as np
import torch

from regraft.backbone.attach import HeadWeights
from regraft.backbone.boundary import boundary_for
from regraft.backbone.features import FromPixels
from regraft.backbone.freeze import apply_plan, plan_training, set_modes
from regraft.backbone.model import PIXELS, Backbone, Boundary
from regraft.backbone.weights import put_state
from regraft.cache.engines import pick_device
from regraft.cache.extract import extract_boundary
from regraft.errors import UsageError, first_line
from regraft.recipe import Full, Partial, Scratch
from regraft.train.chance import seeded
from regraft.train.convex import make_loss, solve_design
from regraft.train.design import make_design
from regraft.train.groups import parameter_groups
from regraft.train.loop import Learner, Lessons, answer, outputs_of, train
from regraft.train.network import Copy, copy_to_train, taken_apart
from regraft.train.path import balanced_weights
from regraft.train.setting import Model, Setting, history_of, lessons_of, mirroring, reading, telling
from regraft.values import FloatArray


def fit_network(setting: Setting, strategy: Partial | Full | Scratch) -> Model:
    """Train what the strategy says, from the solved head (`scratch`: from the weights as they are).

    Raises Diverged; UsageError where the network has no such stage or does not take its images in train mode.
    """
    boundary = boundary_for(setting.backbone, strategy.name if isinstance(strategy, Partial) else PIXELS)
    values = extract_boundary(
        setting.images,
        setting.observed.digests,
        setting.backbone,
        boundary,
        cache=setting.cache,
        device=setting.device,
        progress=setting.progress,
    )
    read = reading(values)
    if not isinstance(strategy, Partial) and strategy.augment == "flip":
        read = mirroring(read, len(values), setting.seed)
    lessons = lessons_of(setting, read, strategy.balance)
    start = None if isinstance(strategy, Scratch) else _solved_without(setting, lessons, balanced=strategy.balance == "auto")
    with seeded(setting.seed):
        width = setting.extracted.columns.last_width
        network = copy_to_train(setting.backbone, boundary, start, len(setting.classes), width)
    learner = learner_of(network, boundary, strategy, pick_device(setting.device))
    _check_train_mode(learner, lessons, setting.backbone)
    tell = telling(setting, strategy.epochs)
    course = train(learner, lessons, strategy, seed=setting.seed, on_epoch=tell, progress=setting.progress)
    judged_NK = answer(learner, read, lessons.validation, strategy.batch)
    test_MK = answer(learner, read, setting.test_rows, strategy.batch)
    backbone, head = taken_apart(network, setting.backbone, strategy.name)
    return Model(
        backbone=backbone,
        head=head,
        choice=setting.solved.choice,
        judged=lessons.validation,
        judged_NK=judged_NK,
        test_MK=test_MK,
        history=history_of(setting, _words(setting.backbone, strategy), course, lessons, judged_NK),
    )


def _words(backbone: Backbone, strategy: Partial | Full | Scratch) -> str:
    if isinstance(strategy, Full):
        return "the whole network, from the solved head"
    if isinstance(strategy, Scratch):
        return f"the whole network, from its weights as they came ({backbone.weights})"
    names = [stage.name for stage in backbone.stages if stage.number is not None and stage.number <= strategy.stages]
    return f"{', '.join(names)} and the head, from the solved head"


def _solved_without(setting: Setting, lessons: Lessons, *, balanced: bool) -> HeadWeights:
    """The solved head on the last features, that has not seen the validation images: they are to judge what it becomes."""
    strengths = [strength for strength in setting.solved.choice.tried if strength.features == "last"]
    best = min(strengths, key=lambda strength: strength.nll)
    classes, targets = len(setting.classes), setting.targets[lessons.train]
    weights_LN = balanced_weights(setting.targets, classes)[:, lessons.train] if balanced else np.ones((1, len(targets)))
    rows = setting.observed.train_features.leading(setting.extracted.columns.last_width).take(lessons.train)
    design = make_design(cast(FloatArray, rows))
    loss = make_loss(targets, weights_LN[None], classes, design)
    head = solve_design(design, loss, None, classes=classes, l2=best.l2, tolerance=1e-5)
    weight_KD, bias_K = head.unstandardised()
    return HeadWeights(taps=(), weight_KD=weight_KD.astype(np.float32), bias_K=bias_K.astype(np.float32))


def learner_of(network: Copy, boundary: Boundary, strategy: Partial | Full | Scratch, device: str) -> Learner:
    """What the strategy trains of a network, ready to learn; what it does not train is frozen."""
    own, suffix = network.backbone, network.suffix
    plan = plan_training(own, strategy.name, freeze=strategy.freeze)
    apply_plan(own.module, plan)
    for layer in network.heads:
        layer.requires_grad_(True)
    module = (suffix if boundary.nodes else FromPixels(suffix, own.preprocess)).to(device)

    def modes(training: bool) -> None:
        # First the suffix, which may run another graph in train mode; then its layers, frozen ones and statistics apart.
        module.train(training)
        set_modes(own.module, plan, training=training)

    scratch = isinstance(strategy, Scratch)
    new = None if scratch else [value for layer in network.heads for value in layer.parameters()]
    groups = parameter_groups(module, rate=strategy.rate, weight_decay=strategy.weight_decay, new=new)
    return Learner(module=module, set_modes=modes, groups=groups, device=device)


def _check_train_mode(learner: Learner, lessons: Lessons, backbone: Backbone) -> None:
    """Raise UsageError where a network does in eval mode only what it should: auxiliary heads want larger images."""
    before = {name: value.clone() for name, value in learner.module.state_dict().items()}
    learner.set_modes(True)
    try:
        with torch.no_grad(), seeded(0):
            outputs_of(learner.module(*(value.to(learner.device) for value in lessons.read(lessons.train[:2], None))))
    except (RuntimeError, ValueError, TypeError) as error:
        pre = backbone.preprocess
        raise UsageError(
            expected=f"{backbone.name} to take images of {pre.height}x{pre.width} pixels in train mode",
            got=first_line(error),
            fix="give a larger --size, or --strategy head, which does not train the network; forward has to give logits",
        ) from error
    finally:
        put_state(learner.module, before)
        learner.set_modes(False)
