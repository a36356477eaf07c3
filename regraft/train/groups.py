"""Which parameters are trained at which rate: every one that trains is in exactly one group."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

# Pretrained layers move at this share of the rate of new ones: they are near where they should be.
PRETRAINED_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters that share a learning rate and a weight decay."""

    name: str
    rate: float
    weight_decay: float
    parameters: tuple[nn.Parameter, ...]


def parameter_groups(
    module: nn.Module, *, rate: float, weight_decay: float, new: Collection[nn.Parameter] | None = None
) -> tuple[Group, ...]:
    """The groups of all parameters of `module` that require gradients.

    Those in `new` (None: all) have the rate `rate`, the others PRETRAINED_SHARE of it. Norms and biases, which have one
    dimension, are not decayed: they do not grow with the depth of the product that decay keeps small.
    """
    fresh = None if new is None else {id(value) for value in new}
    parted: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for value in module.parameters():
        if value.requires_grad:
            parted.setdefault((fresh is None or id(value) in fresh, value.ndim > 1), []).append(value)
    return tuple(
        Group(
            name=f"{'new' if is_new else 'pretrained'} {'weights' if decays else 'norms and biases'}",
            rate=rate if is_new else rate * PRETRAINED_SHARE,
            weight_decay=weight_decay if decays else 0.0,
            parameters=tuple(values),
        )
        for (is_new, decays), values in parted.items()
    )
