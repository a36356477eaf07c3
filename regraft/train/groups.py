"""Which parameters are trained at which rate: every one that trains is in exactly one group."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from regraft.backbone.model import Backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters that share a learning rate and a weight decay, by name."""

    name: str
    lr: float
    weight_decay: float
    parameters: Mapping[str, nn.Parameter]


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    depths: Mapping[str, int],
    *,
    lr: float,
    depth_decay: float,
    weight_decay: float,
) -> tuple[Group, ...]:
    """The groups of all parameters that require gradients.

    A parameter of depth d moves at `lr` times `depth_decay` to the power of d; `depths` has those above 0, by name. Norms and
    biases, which have one dimension, are not decayed: they do not grow with the depth of the product that decay keeps small.
    """
    parted: dict[tuple[int, bool], dict[str, nn.Parameter]] = {}
    for name, value in named:
        if value.requires_grad:
            parted.setdefault((depths.get(name, 0), value.ndim > 1), {})[name] = value
    return tuple(
        Group(
            name=f"depth {depth}, {'weights' if decays else 'norms and biases'}",
            lr=lr * depth_decay**depth,
            weight_decay=weight_decay if decays else 0.0,
            parameters=values,
        )
        for (depth, decays), values in sorted(parted.items(), key=lambda item: (item[0][0], not item[0][1]))
    )


def depths_of(backbone: Backbone) -> dict[str, int]:
    """How many stages stand between a parameter and the head: 0 in the last stage; those of no stage are with the deepest.

    Heads are not among them.
    """
    heads = tuple(f"{head.path}." for head in backbone.heads)
    numbered = {name: (stage.number or 1) - 1 for stage in backbone.stages for name in stage.parameters}
    deepest = max(numbered.values(), default=0)
    names = (name for name, _ in backbone.module.named_parameters() if not name.startswith(heads))
    return {name: numbered.get(name, deepest) for name in names}
