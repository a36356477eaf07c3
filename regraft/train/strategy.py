"""From the solved head to what the recipe asks for."""

from dataclasses import replace
from typing import cast

import torch

from regraft.backbone.freeze import plan_training
from regraft.backbone.model import Backbone
from regraft.backbone.own import found_at
from regraft.data.augment import augmentation
from regraft.data.preprocess import Preprocess
from regraft.errors import UsageError
from regraft.strategies import Augment, Auto, Head, Strategy
from regraft.train.auto import fit_auto
from regraft.train.fit_network import fit_network, phases_of
from regraft.train.fit_own import fit_own
from regraft.train.own_head import OwnHead
from regraft.train.setting import Model, Setting, solved_model


def check_strategy(strategy: Strategy, backbone: Backbone) -> None:
    """Raise UsageError for what cannot work, before any work: stages and rules the network has not, transforms that fail."""
    how = strategy.training if isinstance(strategy, Head | Auto) else strategy
    if how is not None:
        _try_out(how.augment, backbone.preprocess)
    if isinstance(strategy, Head | Auto):
        return
    for phase in phases_of(backbone, strategy):
        plan_training(backbone, phase.trains, freeze=strategy.freeze)


def _try_out(augment: Augment, pre: Preprocess) -> None:
    """Raise UsageError where a transform of the user's own fails on an image of the network's size."""
    if callable(augment):
        image = torch.arange(pre.height * pre.width * pre.channels).remainder(256).to(torch.uint8)
        augmentation(augment)(image.reshape(1, pre.height, pre.width, pre.channels), [(0, 0, 0)])


def resolved(strategy: Strategy) -> Strategy:
    """The strategy with the user's own augmentation where that was named as text. Raises UsageError."""
    if isinstance(strategy, Head):
        return strategy
    if isinstance(strategy, Auto):
        how = strategy.training
        return replace(strategy, training=replace(how, augment=_found(how.augment)))
    return replace(strategy, augment=_found(strategy.augment))


def _found(augment: Augment) -> Augment:
    if not isinstance(augment, str) or not augment.startswith("module:"):
        return augment
    found = found_at(augment.removeprefix("module:"))
    if not callable(found):
        raise UsageError(
            expected=f"{augment} to be a transform of images, or a function",
            got=f"a {type(found).__name__}",
            fix="name another",
        )
    return cast(Augment, found)


def apply_strategy(setting: Setting, strategy: Strategy, own: OwnHead | None) -> Model:
    """The model of a strategy. `own` is the user's head, as it was found to fit.

    Raises Diverged, UsageError, and what extracting values raises.
    """
    if isinstance(strategy, Auto):
        return fit_auto(setting, strategy)
    if not isinstance(strategy, Head):
        return fit_network(setting, strategy)
    return solved_model(setting) if own is None else fit_own(setting, strategy, own)
