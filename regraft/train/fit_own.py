"""Fitting a head of the user's own: solved where it is linear, else trained on what the frozen network gave, from the cache."""

import copy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.backbone.attach import HeadWeights
from regraft.backbone.features import Features, mean_of
from regraft.backbone.freeze import keeps_statistics
from regraft.cache.engines import pick_device
from regraft.cache.extract import Activations, extract_boundary
from regraft.errors import UsageError
from regraft.strategies import Head
from regraft.train.budget import epochs_that_fit
from regraft.train.groups import parameter_groups
from regraft.train.head_fit import describe_fit
from regraft.train.judge import answer
from regraft.train.learning import reading
from regraft.train.lessons import Learner, Read
from regraft.train.loop import train
from regraft.train.own_head import Averaged, OwnHead, channels_first, linear_of, reads_the_same, stage_of
from regraft.train.path import choose_l2
from regraft.train.phase_keeper import PhaseKeeper
from regraft.train.setting import Model, Setting, history_of, lessons_of, solved_model, telling

SOLVED = "your head is linear in what it reads: solved to its optimum, not trained"
_READ_ROWS = 256


def fit_own(setting: Setting, strategy: Head, own: OwnHead) -> Model:
    """The user's head, fitted on `setting`, whose solved head is what it is compared with (or, where it is linear, itself)."""
    if linear_of(own) is None:
        return _train(setting, strategy, own)
    model = solved_model(setting) if reads_the_same(setting.backbone, own) else _solve_on_map(setting, strategy, own)
    setting.progress.note(SOLVED)
    return replace(model, notes=(SOLVED,))


def _train(setting: Setting, strategy: Head, own: OwnHead) -> Model:
    how, device = strategy.how, pick_device(setting.device)
    module = Averaged(copy.deepcopy(own.module)).to(device)
    if not any(value.requires_grad for value in module.parameters()):
        raise UsageError(
            expected="a head with parameters that can be trained",
            got=f"{type(own.module).__name__}, which has none",
            fix="give it a layer with weights, or set requires_grad of those it has",
        )

    def modes(training: bool) -> None:
        module.train(training)

    learner = Learner(
        module=module,
        set_modes=modes,
        groups=parameter_groups(module.named_parameters(), {}, lr=how.base_lr, depth_decay=1.0, weight_decay=how.weight_decay),
        state=dict(module.state_dict(keep_vars=True)),
        device=device,
        moves_statistics=any(map(keeps_statistics, module.modules())),
    )
    lessons = replace(lessons_of(setting, how.balance), read=_read(setting, own))
    keeper = PhaseKeeper(setting.keepers(strategy.name), 0, [])
    how = epochs_that_fit(how, learner, lessons, keeper, setting.seed, setting.progress)
    tell = telling(setting, strategy.name, how.epochs, 0, [])
    course = train(learner, lessons, how, seed=setting.seed, on_epoch=tell, keeper=keeper, progress=setting.progress)
    judged_NK = answer(learner, lessons.read, lessons.validation, how.batch_size)
    test_MK = answer(learner, lessons.read, setting.test_rows, how.batch_size)
    takes = f"the map of {own.stage}" if own.stage else "pooled features"
    return Model(
        strategy=strategy.name,
        backbone=setting.backbone,
        head=OwnHead(module=module.head.cpu().requires_grad_(False), stage=own.stage),
        choice=setting.solved.choice,
        judged=lessons.validation,
        judged_NK=judged_NK,
        test_MK=test_MK,
        history=history_of(setting, f"your head ({type(own.module).__name__}) on {takes}", [course], lessons, judged_NK),
    )


def _read(setting: Setting, own: OwnHead) -> Read:
    if not own.stage:
        width = setting.extracted.columns.last_width
        return reading(Activations(rows=setting.extracted.features.leading(width), shapes=((width,),)))
    maps = _maps(setting, own)
    stage, _ = stage_of(setting.backbone, own)

    def read(rows: NDArray[np.int64], epoch: int | None) -> tuple[Tensor, ...]:
        (value,) = maps[rows]
        return (channels_first(stage, value),)

    return read


def _maps(setting: Setting, own: OwnHead) -> Activations:
    return extract_boundary(
        setting.images,
        setting.observed.digests,
        setting.backbone,
        stage_of(setting.backbone, own)[1],
        cache=setting.cache,
        device=setting.device,
        progress=setting.progress,
    )


def _solve_on_map(setting: Setting, strategy: Head, own: OwnHead) -> Model:
    """A 1x1 convolution on a map whose mean the network's own head does not read: solved on that mean."""
    maps = _maps(setting, own)
    blocks = [np.arange(i, min(i + _READ_ROWS, len(maps))) for i in range(0, len(maps), _READ_ROWS)]
    means_ND = torch.cat([mean_of(maps[rows][0]) for rows in blocks]).numpy()
    count, classes, targets = len(setting.targets), len(setting.classes), setting.targets
    balanced, folds_N = strategy.balance == "auto", setting.observed.folds_N
    result = choose_l2(
        means_ND[:count],
        targets,
        folds_N,
        classes=classes,
        multi_label=targets.ndim == 2,
        balanced=balanced,
        grid=None if strategy.l2 is None else (strategy.l2,),
        features="map",
        progress=setting.progress,
    )
    head = describe_fit("map", {"map": result}, int(folds_N.max()) + 1, balanced)
    # Among the features with this stage beside them: nothing from the last ones and from the stage's maximum.
    columns = Features(setting.backbone, (own.stage,)).columns
    weight_KD = np.zeros((classes, columns.width), np.float32)
    weight_KD[:, columns.last_width : columns.last_width + means_ND.shape[1]] = head.weight_KD
    return Model(
        strategy=strategy.name,
        backbone=setting.backbone,
        head=HeadWeights(taps=(own.stage,), weight_KD=weight_KD, bias_K=head.bias_K),
        choice=head.choice,
        judged=np.arange(count),
        judged_NK=head.out_of_fold_NK,
        test_MK=(means_ND[count:] @ head.weight_KD.T + head.bias_K).astype(np.float64),
    )
