"""What trains and what stays as it is: every parameter belongs to exactly one of the two.

`requires_grad=False` is not enough to freeze: statistics of normalisation layers drift in train mode, dropout disturbs. One
function sets modes, and sets them every time: frozen parts are in eval mode always, and so are all layers that keep running
statistics, unless they are asked to move them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from regraft.backbone.boundary import boundaries_of, boundary_for
from regraft.backbone.graph import used_parameters
from regraft.backbone.model import Backbone
from regraft.errors import UsageError

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
STRATEGIES = ("head", "partial:N", "full", "norm", "scratch")


@dataclass(frozen=True, slots=True)
class Plan:
    """Names of the parameters that train and of those that stay, together all of the network's, each once.

    `move_statistics`: whether running statistics follow the new images where a layer's parameters train (from scratch only:
    statistics of a small set ruin what was pretrained).
    """

    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    move_statistics: bool = False


def plan_training(backbone: Backbone, strategy: str, *, freeze: Sequence[str] = ()) -> Plan:
    """What `strategy` trains of a network whose parameters have the names of `backbone.module`'s.

    "head": the heads alone; "partial:N": also the last N stages and what stands between them and the heads; "norm": the heads,
    and scale and shift of every normalisation; "full" and "scratch": everything. `freeze` takes away again: each rule is a
    stage's name, a stage's number from the end, or the beginning of parameter names. Raises UsageError for a strategy that
    does not exist, and for a rule that matches nothing.
    """
    names = [name for name, _ in backbone.module.named_parameters()]
    trainable = _chosen(backbone, strategy, names)
    for rule in freeze:
        trainable -= _matched(backbone, rule, names)
    return Plan(
        trainable=tuple(name for name in names if name in trainable),
        frozen=tuple(name for name in names if name not in trainable),
        move_statistics=strategy == "scratch",
    )


def _chosen(backbone: Backbone, strategy: str, names: Sequence[str]) -> set[str]:
    if strategy in ("full", "scratch"):
        return set(names)
    heads = {name for name in names if _of_heads(backbone, name)}
    if strategy == "head":
        return heads
    if strategy == "norm":
        return heads | _norm_parameters(backbone.module)
    if strategy.startswith("partial:"):
        from_here = _first_stage(backbone, strategy)
        before = {name for stage in backbone.stages[:from_here] for name in stage.parameters}
        return set(names) - before - _unused(backbone, names)
    raise UsageError(
        expected=f"a strategy: {', '.join(STRATEGIES)}",
        got=repr(strategy),
        fix="for example --strategy partial:1, which trains the last stage and the head",
    )


def _of_heads(backbone: Backbone, name: str) -> bool:
    return any(name.startswith(f"{head.path}.") for head in backbone.heads)


def _norm_parameters(module: nn.Module) -> set[str]:
    return {
        f"{path}.{name}" if path else name
        for path, layer in module.named_modules()
        if is_norm(layer)
        for name, _ in layer.named_parameters(recurse=False)
    }


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer normalises: torch's own, and those that libraries write themselves (FrozenBatchNorm2d, LayerNorm2d)."""
    return isinstance(layer, _NORMS) or (type(layer).__name__.endswith(("Norm", "Norm2d")) and not any(layer.children()))


def _first_stage(backbone: Backbone, strategy: str) -> int:
    # The boundary before the stages that train; it raises for a number that there is not.
    return boundaries_of(backbone).index(boundary_for(backbone, strategy))


def _unused(backbone: Backbone, names: Sequence[str]) -> set[str]:
    """Parameters that the forward pass in eval mode does not use, those of auxiliary heads apart."""
    if backbone.graph is None:
        return set()
    used = set(used_parameters(backbone.graph, names))
    return {name for name in names if name not in used and not _of_heads(backbone, name)}


def _matched(backbone: Backbone, rule: str, names: Sequence[str]) -> set[str]:
    # Names before numbers: the stages of a plain Sequential are called "0", "1", "2".
    stages_meant = [stage for stage in backbone.stages if stage.name == rule]
    stages_meant = stages_meant or [stage for stage in backbone.stages if rule == str(stage.number or "")]
    matched = {name for stage in stages_meant for name in stage.parameters} or {name for name in names if name.startswith(rule)}
    if not rule or not matched:
        stages = ", ".join(stage.name for stage in backbone.stages) or "none"
        raise UsageError(
            expected=f"--freeze to match parameters of {backbone.name}: a stage ({stages}), its number, or the start of names",
            got=repr(rule),
            fix="`regraft inspect` lists the stages; names start as in its parameters, for example layer1.0.conv1",
        )
    return matched


def apply_plan(module: nn.Module, plan: Plan) -> None:
    """Set `requires_grad` of every parameter. Raises KeyError for a parameter that the plan does not name."""
    trains = dict.fromkeys(plan.trainable, True) | dict.fromkeys(plan.frozen, False)
    for name, value in module.named_parameters():
        value.requires_grad_(trains[name])


Modes = tuple[tuple[nn.Module, bool], ...]


def modes_of(module: nn.Module, plan: Plan) -> Modes:
    """Every part, and whether it is in train mode while training: where the plan trains something, and statistics may move.

    A part without parameters (dropout) follows the innermost part around it that has some.
    """
    trainable = {id(value) for name, value in module.named_parameters() if name in set(plan.trainable)}
    modes: dict[nn.Module, bool] = {}
    _find_modes(module, trainable, plan.move_statistics, True, modes)
    return tuple(modes.items())


def set_modes(module: nn.Module, plan: Plan, *, training: bool) -> None:
    """Set the mode of every part: train mode only where the plan trains something, and never where statistics must stay."""
    apply_modes(module, modes_of(module, plan), training=training)


def apply_modes(module: nn.Module, modes: Modes, *, training: bool) -> None:
    """Set modes that were found before: in train mode only those that have it in `modes`, and only where `training`."""
    # By the author's own `train` first: some drop there what they computed from weights that are about to change (LeViT).
    module.train(training)
    for part, mode in modes:
        part.training = training and mode


def _find_modes(
    module: nn.Module, trainable: set[int], move_statistics: bool, mode: bool, modes: dict[nn.Module, bool]
) -> None:
    if any(True for _ in module.parameters()):
        mode = mode and any(id(value) in trainable for value in module.parameters())
    keeps = keeps_statistics(module) and not (move_statistics and _all_train(module, trainable))
    modes[module] = mode and not keeps
    for child in module.children():
        _find_modes(child, trainable, move_statistics, mode, modes)


def _all_train(module: nn.Module, trainable: set[int]) -> bool:
    return all(id(value) in trainable for value in module.parameters(recurse=False))


def keeps_statistics(layer: nn.Module) -> bool:
    """Whether a layer itself has running statistics that train mode would move."""
    return any(name.startswith(("running_", "num_batches")) for name, _ in layer.named_buffers(recurse=False))
