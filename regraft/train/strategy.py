"""From the solved head to what the recipe asks for."""

from regraft.backbone.freeze import plan_training
from regraft.backbone.model import Backbone
from regraft.recipe import Head, Strategy
from regraft.train.fit_network import fit_network
from regraft.train.fit_own import fit_own
from regraft.train.own_head import OwnHead
from regraft.train.setting import Model, Setting, solved_model


def check_strategy(strategy: Strategy, backbone: Backbone) -> None:
    """Raise UsageError for stages or rules that the network does not have: told before any work."""
    if not isinstance(strategy, Head):
        plan_training(backbone, strategy.name, freeze=strategy.freeze)


def apply_strategy(setting: Setting, strategy: Strategy, own: OwnHead | None) -> Model:
    """The model of a strategy. `own` is the user's head, as it was found to fit.

    Raises Diverged, UsageError, and what extracting values raises.
    """
    if not isinstance(strategy, Head):
        return fit_network(setting, strategy)
    return solved_model(setting) if own is None else fit_own(setting, strategy, own)
