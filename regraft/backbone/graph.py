"""The forward pass of a network as a graph: recorded, measured, and taken apart.

Torch.fx records the forward pass as a list of nodes. After some of them a single tensor is alive: all that follows depends
on that tensor alone, so that a prefix and a suffix can be split there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from regraft.errors import BackboneNotFound, first_line

# Kept whole in the graph, so that they stay recognisable: all layers with weights that stages and heads are told by.
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
WHOLE = (*WEIGHTED, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
TOKENS, MAP, MAP_LAST, FLAT = "tokens", "map", "map-channels-last", "flat"


class Untraceable(Exception):
    """The forward pass cannot be recorded; the message says why."""


class CannotCut(Exception):
    """More than tensors that are alive at a place is needed after it."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A network's graph; every node carries `meta["path"]` (author's name) and `meta["shape"]` (None if no tensor).

    `cuts` are the nodes after which a single tensor is alive. `output` is what the network gave for one image.
    """

    graph: fx.Graph
    cuts: tuple[fx.Node, ...]
    output: object


class _Tracer(NodePathTracer):  # type: ignore[misc]  # torchvision has no types
    """Keeps layers with weights whole, subclasses too, and everything that its library says must not be looked into."""

    def is_leaf_module(self, m: nn.Module, module_qualname: str) -> bool:
        return isinstance(m, WHOLE) or bool(super().is_leaf_module(m, module_qualname))


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the shape of every tensor, and every value that is none."""

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        n.meta["shape"] = tuple(value.shape) if isinstance(value, Tensor) else None
        n.meta["holds_tensor"] = holds_tensor(value)
        return value


def holds_tensor(value: object) -> bool:
    """Whether a tensor is somewhere inside tuples, lists and dictionaries."""
    if isinstance(value, Mapping):
        return any(map(holds_tensor, value.values()))
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(map(holds_tensor, value)))


def record_graph(module: nn.Module) -> fx.Graph:
    """The forward pass of `module` in its present mode, not yet measured. Raises Untraceable."""
    # timm names the modules and functions of its own that must stay whole for tracing to succeed.
    tracer = _Tracer(leaf_modules=list(get_notrace_modules()), autowrap_functions=list(get_notrace_functions()))
    try:
        graph = tracer.trace(module)
    except Exception as error:
        raise Untraceable(f"{type(error).__name__}: {first_line(error)}") from error
    for node in graph.nodes:
        node.meta["path"] = tracer.node_to_qualname.get(node, node.name)
    return cast(fx.Graph, graph)


def trace(module: nn.Module, image: Tensor, source: str) -> Traced:
    """Record the forward pass of `module` in eval mode and run it on one image (1, C, H, W).

    Raises Untraceable where it cannot be recorded, BackboneNotFound where it refuses such an image.
    """
    expected = run_once(lambda: module(image), image, source)
    graph = record_graph(module)
    try:
        with torch.inference_mode():
            output = _Recorder(module, graph=graph).run(image)
    except Exception as error:
        raise Untraceable(f"its recorded forward pass fails: {first_line(error)}") from error
    if isinstance(expected, Tensor) and not (isinstance(output, Tensor) and _same(output, expected)):
        # A branch on values was recorded as it went once.
        raise Untraceable("its recorded forward pass gives other values than the network")
    return Traced(graph, tuple(_single_tensor_cuts(graph)), output)


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal bits; an image of zeros may well have no answer but NaN."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def run_once(forward: Callable[[], object], image: Tensor, source: str) -> object:
    """What a forward pass gives. Raises BackboneNotFound, naming the size, where it does not take the image."""
    height, width = image.shape[2:]
    try:
        with torch.inference_mode():
            return forward()
    except Exception as error:
        raise BackboneNotFound(
            expected=f"{source} to take images of {height}x{width} pixels in {image.shape[1]} channels",
            got=first_line(error),
            fix="leave --size out for the size of its weights; a network of your own says its size with --size or regraft.Own",
        ) from error


def _single_tensor_cuts(graph: fx.Graph) -> list[fx.Node]:
    """Nodes after which no earlier tensor is used again. Parameters read by the graph, and sizes, do not count.

    One row per image: a value that puts windows of one image in the place of images (TNT) is not one to cut at.
    """
    nodes = [node for node in graph.nodes if node.op not in ("get_attr", "output")]
    position = {node: index for index, node in enumerate(nodes)}
    cuts, reach = [], 0
    for index, node in enumerate(nodes[:-1]):
        per_image = node.meta["shape"] is not None and node.meta["shape"][:1] == (1,)
        if per_image and node.op != "placeholder" and reach <= index and node.users:
            cuts.append(node)
        if node.meta["holds_tensor"]:
            reach = max([reach, *(position.get(user, len(nodes)) for user in node.users)])
    return cuts


def layout_of(shape: Sequence[int]) -> str:
    """ "map" (N, C, H, W), "map-channels-last" (N, H, W, C), "tokens" (N, L, C) or "flat"."""
    if len(shape) == 3:
        return TOKENS
    if len(shape) != 4 or (shape[2], shape[3]) == (1, 1):
        return FLAT
    # A square spatial pair tells the two layouts apart; a map of a non-square input is taken as channels-first.
    return MAP_LAST if shape[1] == shape[2] != shape[3] else MAP


def positions(shape: Sequence[int]) -> int:
    """How many places a value (with N) has: H * W of a map, L of tokens, 1 of a vector."""
    layout = layout_of(shape)
    if layout == FLAT:
        return 1
    return int(shape[1]) if layout == TOKENS else int(shape[2] * (shape[1] if layout == MAP_LAST else shape[3]))


def position_dims(shape: Sequence[int]) -> tuple[int, ...]:
    """The dimensions of a value (with N) that are places."""
    layout = layout_of(shape)
    return (1,) if layout == TOKENS else (1, 2) if layout == MAP_LAST else (2, 3)


def quarter_means(value: Tensor) -> tuple[Tensor, ...]:
    """(N, C) means of the quarters of a map, row by row, which share the middle of odd sides; none of other values."""
    layout = layout_of(value.shape)
    if layout not in (MAP, MAP_LAST):
        return ()
    first, second = position_dims(value.shape)
    height, width = value.shape[first], value.shape[second]
    if min(height, width) < 2:
        return ()
    rows = (value.narrow(first, 0, (height + 1) // 2), value.narrow(first, height // 2, (height + 1) // 2))
    columns = (0, (width + 1) // 2), (width // 2, (width + 1) // 2)
    parts = (half.narrow(second, start, length) for half in rows for start, length in columns)
    return tuple(part.mean(dim=(first, second)) for part in parts)


def prefix_part(module: nn.Module, graph: fx.Graph, nodes: Sequence[str]) -> fx.GraphModule:
    """The part of the network that computes `nodes`, as a module that shares its layers: images -> tuple of their values."""
    copy = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    copy.graph_copy(graph, values)
    by_name = {node.name: value for node, value in values.items()}
    copy.output(tuple(by_name[name] for name in nodes))
    return as_module(module, copy)


def suffix_part(module: nn.Module, graph: fx.Graph, nodes: Sequence[str], image: Tensor) -> fx.GraphModule:
    """The part of the network after `nodes`, as a module that shares its layers: their values -> the output.

    Sizes that were read off earlier tensors become constants, or multiples of N; `image` (1, C, H, W) is there to tell which.
    Raises CannotCut where an earlier tensor is needed.
    """
    by_name = {node.name: node for node in graph.nodes}
    copy = fx.Graph()
    # Placeholders come first and in order, used or not: they are the arguments.
    values: dict[fx.Node, object] = {by_name[name]: copy.placeholder(name) for name in nodes}
    first = cast(fx.Node, next(iter(values.values())))
    after = _following(graph, set(values))
    of_the_image = _following(graph, {node for node in graph.nodes if node.op == "placeholder"}, stop=set(values))

    def value_of(node: fx.Node) -> object:
        if node not in values:
            if node.op == "placeholder" and node.meta["holds_tensor"]:
                raise CannotCut("what comes after the cut looks at the image itself")
            if node in of_the_image and node not in after and not node.meta["holds_tensor"]:
                values[node] = _size_again(module, copy, first, node, image)
            else:
                values[node] = copy.node_copy(node, cast(Callable[[fx.Node], fx.Node], value_of))
        return values[node]

    # In the order of the graph, which is a valid one.
    for node in graph.nodes:
        if node in after and node.op != "output":
            value_of(node)
    copy.output(fx.map_arg(output_of(graph).args[0], cast(Any, value_of)))
    return as_module(module, copy)


def used_parameters(graph: fx.Graph, names: Iterable[str]) -> list[str]:
    """Those of the parameters that the recorded forward pass uses."""
    targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    return [name for name in names if any(name == target or name.startswith(f"{target}.") for target in targets)]


def output_of(graph: fx.Graph) -> fx.Node:
    """The node of what the network returns."""
    nodes: list[fx.Node] = list(graph.nodes)
    return nodes[-1]


def _following(graph: fx.Graph, nodes: set[fx.Node], stop: set[fx.Node] | None = None) -> set[fx.Node]:
    """The nodes and all that is computed from them, not passing through `stop`."""
    found = set(nodes)
    for node in graph.nodes:
        if any(source in found for source in node.all_input_nodes) and not (stop and node in stop):
            found.add(node)
    return found


def _size_again(module: nn.Module, graph: fx.Graph, tensor: fx.Node, node: fx.Node, image: Tensor) -> object:
    """A value read off an earlier tensor, from the tensor at hand: a constant, or a multiple of its N. Raises CannotCut."""
    if "sizes" not in node.meta:
        _record_sizes(module, node.graph, image)

    def again(one: object, two: object) -> object:
        if isinstance(one, tuple | list) and isinstance(two, tuple | list) and len(one) == len(two):
            return tuple(again(a, b) for a, b in zip(one, two, strict=True))
        if isinstance(one, torch.device):
            return graph.call_function(getattr, (tensor, "device"))
        if one == two:
            return one
        if isinstance(one, int) and two == 2 * one:
            return graph.call_function(_times, (graph.call_method("size", (tensor, 0)), one))
        raise CannotCut(f"{node.name} depends on the number of images in a way that is not plain")

    return again(*node.meta["sizes"])


def _record_sizes(module: nn.Module, graph: fx.Graph, image: Tensor) -> None:
    """Leave in `meta["sizes"]` of every node that is no tensor what it gives for one image and for two."""

    class Keeper(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            kept.setdefault(n, []).append(None if holds_tensor(value) else value)
            return value

    kept: dict[fx.Node, list[object]] = {}
    with torch.inference_mode():
        for count in (1, 2):
            Keeper(module, graph=graph).run(image.expand(count, -1, -1, -1))
    for node, values in kept.items():
        node.meta["sizes"] = tuple(values)


def _times(size: int, factor: int) -> int:
    return size * factor


def as_module(module: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A graph as a module in eval mode with those of the layers that it uses, shared."""
    part = fx.GraphModule(module, graph)
    part.graph.eliminate_dead_code()
    part.delete_all_unused_submodules()
    part.recompile()
    part.eval()
    return part
