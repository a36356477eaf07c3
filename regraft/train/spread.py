"""Weights, gradients and moments spread over the ranks while a training lasts: torch's FSDP2 (`fully_shard`).

For networks whose training does not fit on one device: AdamW keeps four numbers for each weight, of which each of P ranks then
has the P-th part; the weights of one unit of layers at a time are put together for its passes. What is trained is a copy, and
the network has the outcome when the training is over.

Asked for by REGRAFT_FSDP=1 in the environment of several processes. Every rank has to run as many passes as any other.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from regraft.ranks import Ranks
from regraft.train.lessons import Learner

ASKED = "REGRAFT_FSDP"
# Units of layers: at most this share of all weights, so that little is whole at a time, and at least so many numbers.
_MOST, _LEAST = 0.25, 1 << 10


def is_asked(ranks: Ranks) -> bool:
    """Whether a training of these ranks is to be spread."""
    return not ranks.alone and os.environ.get(ASKED, "0") not in ("", "0")


@contextmanager
def spread(learner: Learner, inputs: Sequence[Tensor], ranks: Ranks) -> Iterator[Learner]:
    """Inside, a learner of the same names whose parameters are spread; `inputs` is a small batch for a look at its layers.

    At the end, if there was no error, the weights of `learner` are what the other's were.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    learner.set_modes(False)
    module = copy.deepcopy(learner.module)
    for value in module.parameters():
        value.data = value.data.contiguous()  # no other layout can be cut
    units = _units(module, inputs)
    mesh = init_device_mesh(learner.device.partition(":")[0], (ranks.size,))
    whole = {value for value in module.parameters() if value.dim() == 0}
    old = _paths(learner.module)
    for unit in (*units, module):
        # After every pass, the last unit's too: what is still whole would not hear of other weights (averages, the best).
        fully_shard(unit, mesh=mesh, ignored_params=whole, reshard_after_forward=True)
    _away(learner)

    def now(value: Tensor) -> Any:
        return _at(module, old[id(value)]) if id(value) in old else value

    def set_modes(training: bool) -> None:
        learner.set_modes(training)
        module.train(training)
        for layer, own in zip(learner.module.modules(), module.modules(), strict=True):
            own.training = layer.training

    groups = [
        replace(group, parameters={name: now(value) for name, value in group.parameters.items()}) for group in learner.groups
    ]
    state = {name: now(value) for name, value in learner.state.items()}
    yield replace(learner, module=module, set_modes=set_modes, groups=tuple(groups), state=state, spread=True)
    _back(learner, state)


def _units(module: nn.Module, inputs: Sequence[Tensor]) -> list[nn.Module]:
    """The largest parts of at most a share of all weights that are called as a whole and share no weight with another."""
    called: set[nn.Module] = set()
    handles = [layer.register_forward_pre_hook(lambda layer, _: called.add(layer)) for layer in module.modules()]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    # Who holds a layer or a weight: a folded norm stands in two places.
    holders: dict[object, set[nn.Module]] = {}
    for layer in module.modules():
        for held in (*layer.children(), *layer.parameters(recurse=False)):
            holders.setdefault(held, set()).add(layer)
    most = _MOST * sum(value.numel() for value in module.parameters())

    def found(layer: nn.Module) -> Iterator[nn.Module]:
        inside = set(layer.modules())
        own = list(layer.parameters())
        alone = all(holders[held] <= inside for held in (*own, *(inside - {layer})))
        if layer in called and alone and _LEAST <= sum(value.numel() for value in own) <= most:
            yield layer
        else:
            for child in layer.children():
                yield from found(child)

    return list(dict.fromkeys(unit for child in module.children() for unit in found(child)))


def _paths(module: nn.Module) -> dict[int, str]:
    named = (*module.named_parameters(), *module.named_buffers())
    return {id(value): path for path, value in named}


def _at(module: nn.Module, path: str) -> Tensor:
    holder, _, name = path.rpartition(".")
    return cast(Tensor, getattr(module.get_submodule(holder), name))


def _away(learner: Learner) -> None:
    """The learner's own weights leave the device meanwhile."""
    for value in learner.module.parameters():
        value.data = value.data.cpu()


@torch.no_grad()
def _back(learner: Learner, state: dict[str, Tensor]) -> None:
    for value in learner.module.parameters():
        value.data = value.data.to(learner.device)
    for name, own in learner.state.items():
        own.copy_(in_full(state[name]))
    learner.set_modes(True)  # what was computed from other weights is dropped
    learner.set_modes(False)


def in_full(value: Tensor) -> Tensor:
    """All of a tensor, on every rank; all of them have to call this."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def laid_like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor that every rank has, spread as `other` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(other, DTensor):
        return value
    placed = value.to(other.device).contiguous()
    return distribute_tensor(placed, other.device_mesh, other.placements, src_data_rank=None)
