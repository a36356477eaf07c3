"""Where a network can be cut in two, and the two parts.

A boundary is one tensor or several; what comes before it is the prefix, what comes after it the suffix. Prefix and then
suffix is the whole network, bit for bit in fp32 and eval mode.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx, nn

from regraft.backbone.graph import CannotCut, Untraceable, prefix_part, record_graph, suffix_part
from regraft.backbone.model import HEAD, PIXELS, Backbone, Boundary
from regraft.errors import UsageError


@dataclass(frozen=True, slots=True)
class Cut:
    """A network in two: `prefix` maps images (N, C, H, W) to a tuple of values, `suffix` takes those values to logits.

    Both share the layers of the network. In train mode the suffix runs the forward pass that the author wrote for it, dropout
    included, where that has the same nodes.
    """

    boundary: Boundary
    prefix: nn.Module
    suffix: nn.Module


def boundaries_of(backbone: Backbone) -> tuple[Boundary, ...]:
    """Every place to cut, from the pixels to the heads. A network that cannot be traced has these two alone."""
    pre = backbone.preprocess
    pixels = Boundary(name=PIXELS, nodes=(), shapes=((pre.channels, pre.height, pre.width),))
    stages = [Boundary(name=stage.name, nodes=(stage.node,), shapes=(stage.shape,)) for stage in backbone.stages]
    # Auxiliary heads that the forward pass in eval mode hears, too, read something of their own.
    inputs = tuple(dict.fromkeys(head.input_node for head in backbone.heads if head.input_node)) or ("",)
    shapes: tuple[tuple[int, ...], ...]
    if backbone.graph is None:
        shapes = (_shape_before_head(backbone),)
    else:
        by_name = {node.name: node for node in backbone.graph.nodes}
        shapes = tuple(tuple(by_name[name].meta["shape"][1:]) for name in inputs)
    return (pixels, *stages, Boundary(name=HEAD, nodes=inputs, shapes=shapes))


def boundary_for(backbone: Backbone, what: str) -> Boundary:
    """The boundary "pixels", "head", of a stage's name (its end), or "partial:N" (the input of the N-th stage from the end).

    Raises UsageError for one that the network does not have, listing those it has.
    """
    places = boundaries_of(backbone)
    if what.startswith("partial:"):
        return _before_stage(backbone, places, what)
    found = [place for place in places if place.name == what]
    if not found:
        raise UsageError(
            expected=f"a boundary of {backbone.name}: {', '.join(place.name for place in places)}",
            got=repr(what),
            fix="choose one of them; `regraft inspect` shows them with their shapes",
        )
    return found[-1]


def _before_stage(backbone: Backbone, places: tuple[Boundary, ...], what: str) -> Boundary:
    number = what.removeprefix("partial:")
    stages = len([stage for stage in backbone.stages if stage.number is not None])
    if not (number.isascii() and number.isdigit() and len(number) < 5) or not 1 <= int(number) <= stages:
        raise UsageError(
            expected=f"partial:N with N from 1 to {stages}, the number of stages of {backbone.name}",
            got=repr(what),
            fix="give a smaller number, or `full`; `regraft inspect` lists the stages" if stages else "use `head` or `full`",
        )
    index = next(i for i, stage in enumerate(backbone.stages) if stage.number == int(number))
    # places[0] is the pixels, so the boundary at an index is the end of the stage before.
    return places[index]


def cut(backbone: Backbone, boundary: Boundary, *, to_train: bool = True) -> Cut:
    """The network in two parts at a boundary of its own. Raises UsageError where it cannot be cut there.

    `to_train=False` saves recording the forward pass in train mode, where the suffix is only to be run.
    """
    if not boundary.nodes:
        return Cut(boundary, _Pixels(), _OfOne(backbone.module))
    if backbone.graph is None:
        return Cut(boundary, prefix_of(backbone, boundary), _FromHead(backbone))
    pre = backbone.preprocess
    image = torch.zeros(1, pre.channels, pre.height, pre.width)
    try:
        suffix = suffix_part(backbone.module, backbone.graph, boundary.nodes, image)
    except CannotCut as error:
        raise UsageError(
            expected=f"{backbone.name} to be cut at {boundary.name}",
            got=str(error),
            fix="choose another boundary; `regraft inspect` lists the stages",
        ) from error
    return Cut(
        boundary,
        prefix_of(backbone, boundary),
        _Suffix(suffix, _in_train_mode(backbone, boundary, image) if to_train else None),
    )


def _in_train_mode(backbone: Backbone, boundary: Boundary, image: Tensor) -> fx.GraphModule | None:
    """The suffix of the forward pass in train mode: functional dropout and the like are constants of a recorded graph.

    None where that pass is another one (Inception's returns two outputs) and the one for eval mode has to serve.
    """
    assert backbone.graph is not None
    modes = {part: part.training for part in backbone.module.modules()}
    try:
        backbone.module.train()
        graph = record_graph(backbone.module)
    except Untraceable:
        return None
    finally:
        for part, mode in modes.items():
            part.training = mode
    mine, theirs = list(backbone.graph.nodes), list(graph.nodes)
    if [(node.name, node.op) for node in mine] != [(node.name, node.op) for node in theirs]:
        return None
    for node, other in zip(mine, theirs, strict=True):
        other.meta = dict(node.meta)
    try:
        return suffix_part(backbone.module, graph, boundary.nodes, image)
    except CannotCut:
        return None


def prefix_of(backbone: Backbone, boundary: Boundary) -> nn.Module:
    """The part up to the values of a boundary alone: images (N, C, H, W) -> a tuple of them."""
    if backbone.graph is None:
        return UpToHead(backbone.module, backbone.head.path)
    return prefix_part(backbone.module, backbone.graph, boundary.nodes)


class _Pixels(nn.Module):
    """The empty prefix."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (images,)


class _OfOne(nn.Module):
    """The whole network as a suffix. In train mode it may return auxiliary logits beside the main ones."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network(images))


class _Suffix(nn.Module):
    """The part of a recorded network after a boundary, by the graph of the mode that it is in."""

    def __init__(self, in_eval: fx.GraphModule, in_train: fx.GraphModule | None) -> None:
        super().__init__()
        self.part = in_eval
        # Not as a module: its layers are those of `part`, and would stand twice in a state dict.
        self._graphs = {False: in_eval.graph, True: (in_train or in_eval).graph}
        if in_train is not None:
            for name, layer in in_train.named_children():
                if not hasattr(self.part, name):
                    self.part.add_module(name, layer)

    def train(self, mode: bool = True) -> "_Suffix":
        super().train(mode)
        self.part.graph = self._graphs[mode]
        return self

    def forward(self, *values: Tensor) -> Tensor:
        return cast(Tensor, self.part(*values))


class _Reached(Exception):
    """Carries what reached the head out of a forward pass that need not go on."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        super().__init__()


class UpToHead(nn.Module):
    """The prefix of a network that cannot be traced: its forward pass as it is, left when the head is called."""

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        self.network, self._head = network, head

    def forward(self, images: Tensor) -> tuple[Tensor]:
        def leave(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            raise _Reached(arguments[0])

        with self.network.get_submodule(self._head).register_forward_pre_hook(leave):
            try:
                self.network(images)
            except _Reached as reached:
                return (reached.value,)
        raise RuntimeError(f"{self._head} was not called in this forward pass")


class _FromHead(nn.Module):
    """The head of a network that cannot be traced, as its suffix."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        if not backbone.head.is_output:
            raise UsageError(
                expected=f"the logits of {backbone.name} to be what its layer {backbone.head.path} gives",
                got="a network that computes on after that layer and cannot be traced",
                fix="return the layer's value as it is, or write the forward pass without branches on values",
            )
        self.head = backbone.module.get_submodule(backbone.head.path)

    def forward(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.head(value)).flatten(1)


def _shape_before_head(backbone: Backbone) -> tuple[int, ...]:
    pre = backbone.preprocess
    with torch.inference_mode():
        (value,) = UpToHead(backbone.module, backbone.head.path)(torch.zeros(1, pre.channels, pre.height, pre.width))
    return tuple(value.shape[1:])
