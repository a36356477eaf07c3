"""What a network is made of and what a strategy would train: every parameter in one row, and in one row only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from regraft.backbone.attach import fresh_heads
from regraft.backbone.catalogue import published
from regraft.backbone.freeze import Plan, plan_training
from regraft.backbone.graph import used_parameters
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone, HeadLocation
from regraft.backbone.weights import NONE, forget
from regraft.data.preprocess import Preprocess
from regraft.errors import UsageError
from regraft.recipe import Own, check_size

Kind = Literal["stage", "between", "head", "auxiliary", "unused", "other"]
_OWNERS_SHOWN = 3
_STEP = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Some of a network's parameters: how many there are, and how many a strategy would train.

    `kind`: a "stage" of the author's; what stands "between" the last stage and the head; a "head"; what belongs to an
    "auxiliary" head; what is "unused" when the network answers; "other", where no stages could be told. `shape` (without N)
    and `layout` are those of the value at a stage's end, () and "" for other parts. `number` counts stages from the end.
    """

    name: str
    kind: Kind
    parameters: int
    trainable: int
    shape: tuple[int, ...] = ()
    layout: str = ""
    number: int | None = None

    @property
    def frozen(self) -> int:
        return self.parameters - self.trainable

    def stride(self, side: int) -> int | None:
        """Pixels of an image of `side` pixels from one place of the map to the next; None for what is no map."""
        places = {"map": self.shape[-1:], "map-channels-last": self.shape[:1]}.get(self.layout)
        return round(side / places[0]) if places else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """What `regraft inspect` shows. The parts hold every parameter once, in the order of the forward pass.

    `classes` is how many the new head has that was counted; None where it was the network's own. `flops` are
    floating-point operations for one image of `preprocess`'s size: a multiply-add is two. `bytes` are those of the weights.
    `other_sizes`: sides in pixels that were tried beside its own, and whether it took such an image.
    """

    source: str
    weights: str
    strategy: str
    classes: int | None
    heads: tuple[HeadLocation, ...]
    parts: tuple[Part, ...]
    preprocess: Preprocess
    bytes: int
    flops: int
    other_sizes: tuple[tuple[int, bool], ...]
    notes: tuple[str, ...]

    @property
    def stages(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.kind == "stage")

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def trainable(self) -> int:
        return sum(part.trainable for part in self.parts)


def structure_of(
    backbone: Backbone, *, classes: int | None = None, strategy: str = "head", freeze: Sequence[str] = ()
) -> Structure:
    """The parts of a network under a strategy; with `classes`, those of the network with a new head of so many.

    Raises UsageError for fewer than two classes, a strategy that does not exist or goes deeper than the network, and a rule
    that matches nothing.
    """
    _check_classes(classes)
    plan = plan_training(backbone, strategy, freeze=freeze)
    with torch.random.fork_rng(devices=[]):
        module = backbone.module if classes is None else fresh_heads(backbone, classes)
    return Structure(
        source=backbone.name,
        weights=backbone.weights,
        strategy=strategy,
        classes=classes,
        heads=backbone.heads,
        parts=_parts(backbone, module, plan),
        preprocess=backbone.preprocess,
        bytes=_bytes_of(module),
        flops=flops_of(module, backbone.preprocess),
        other_sizes=other_sizes(module, backbone.preprocess),
        notes=backbone.notes,
    )


def _parts(backbone: Backbone, module: nn.Module, plan: Plan) -> tuple[Part, ...]:
    """Every parameter of `module`, the network or the same with new heads, in its part."""
    rest = {name: value.numel() for name, value in module.named_parameters()}
    frozen = frozenset(plan.frozen)

    def take(names: Iterable[str], name: str, kind: Kind) -> Part:
        sizes = {one: rest.pop(one) for one in list(names) if one in rest}
        trainable = sum(size for one, size in sizes.items() if one not in frozen)
        return Part(name=name, kind=kind, parameters=sum(sizes.values()), trainable=trainable)

    # Heads first: what a new one is made of need not be in the old network's graph.
    heads = [
        take(_below(rest, head.path), head.path, "head" if head.role == "main" else "auxiliary") for head in backbone.heads
    ]
    parts = [
        replace(take(stage.parameters, stage.name, "stage"), shape=stage.shape, layout=stage.layout, number=stage.number)
        for stage in backbone.stages
    ]
    # All of them where the forward pass could not be traced.
    used = list(rest) if backbone.graph is None else used_parameters(backbone.graph, rest)
    if used:
        parts.append(take(used, _summary(used), "between" if backbone.stages else "other"))
    parts += heads
    for head in backbone.auxiliary_heads:
        parent = head.path.rpartition(".")[0]
        branch = _below(rest, parent)
        if branch:
            parts.append(take(branch, parent, "auxiliary"))
    if rest:
        parts.append(take(list(rest), _summary(rest), "unused"))
    return tuple(parts)


def _below(names: Iterable[str], path: str) -> list[str]:
    """The parameters of the module at `path`; none for the whole network."""
    return [name for name in names if path and name.startswith(f"{path}.")]


def _summary(names: Iterable[str]) -> str:
    """The modules that parameters belong to: 'norm, fc_norm'; where they are many, the outermost ones."""
    owners = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    if len(owners) > _OWNERS_SHOWN:
        owners = list(dict.fromkeys(owner.partition(".")[0] for owner in owners))
    more = f" and {len(owners) - _OWNERS_SHOWN} more" if len(owners) > _OWNERS_SHOWN else ""
    return ", ".join(owners[:_OWNERS_SHOWN]) + more


def _bytes_of(module: nn.Module) -> int:
    """Bytes of everything that is saved of a network; a tensor under two names counts once."""
    tensors = {(value.data_ptr(), value.shape): value for value in module.state_dict().values()}
    return sum(value.numel() * value.element_size() for value in tensors.values())


def flops_of(module: nn.Module, preprocess: Preprocess) -> int:
    """Floating-point operations for one image in eval mode: matrix products and convolutions, a multiply-add as two."""
    image = torch.zeros(1, preprocess.channels, preprocess.height, preprocess.width)
    # Fused attention is one operation that nobody counts: a ViT would seem to need a third less.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            module(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())


def other_sizes(module: nn.Module, preprocess: Preprocess) -> tuple[tuple[int, bool], ...]:
    """Whether the network takes images of half its side, and of a little more, by trying."""
    side = min(preprocess.height, preprocess.width)
    # Multiples of what networks divide an image by; a size that is none would be refused for that alone.
    tried = sorted({max(_STEP, side // 2 // _STEP * _STEP), (side // _STEP + 1) * _STEP} - {side})
    return tuple((one, _takes(module, preprocess.channels, one)) for one in tried)


def _takes(module: nn.Module, channels: int, side: int) -> bool:
    try:
        with torch.inference_mode():
            module(torch.zeros(1, channels, side, side))
    except Exception:  # of anybody's code: anything
        return False
    finally:
        forget(module)
    return True


def inspect(
    backbone: str | Own | nn.Module | Backbone,
    *,
    classes: int | None = None,
    strategy: str = "head",
    freeze: Sequence[str] = (),
    weights: str | Path | None = None,
    size: int | None = None,
    head_path: str | None = None,
    trust: bool = False,
) -> Structure:
    """What a network is made of, where its head is and what a strategy would train.

    Published weights that are not on disk are not fetched: the figures need none, and a note says so. See `structure_of` and
    `load_backbone` for the options and for what is raised.
    """
    if not isinstance(backbone, Backbone):
        # Before a network is built, which may take a while.
        _check_classes(classes)
        check_size(size)
        # Random weights are nobody's concern here: the caller's generator stays as it is.
        with torch.random.fork_rng(devices=[]):
            backbone = _without_download(backbone, weights=weights, size=size, head_path=head_path, trust=trust)
    return structure_of(backbone, classes=classes, strategy=strategy, freeze=freeze)


def _check_classes(classes: int | None) -> None:
    if classes is not None and classes < 2:
        raise UsageError(expected="two classes or more", got=str(classes), fix="leave it out for the network's own head")


def _without_download(
    spec: str | Own | nn.Module, *, weights: str | Path | None, size: int | None, head_path: str | None, trust: bool
) -> Backbone:
    """The network, with random weights where those that are published would have to be fetched."""
    row = published(spec, weights) if isinstance(spec, str) else None
    if row is None or row.on_disk:
        return load_backbone(spec, weights=weights, size=size, head_path=head_path, trust=trust)
    backbone = load_backbone(row.name, weights=NONE, size=size, head_path=head_path, trust=trust)
    why = f"its weights {row.weights} are not on disk" if row.weights else "no weights are published for it"
    return replace(backbone, notes=(f"{why}: these are the figures of the architecture, with random ones", *backbone.notes))
