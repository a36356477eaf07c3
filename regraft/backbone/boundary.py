"""Where a network can be cut in two: read from its own computation graph.

Torch.fx records the forward pass as a list of nodes. After some of them a single tensor is alive: all that follows depends
on that tensor alone, so a prefix and a suffix can be split there. Stages are the last such places inside each of the
author's blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torch import fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from regraft.backbone.model import HeadLocation, Stage
from regraft.errors import BackboneNotFound

_WHOLE = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm)
# A child with this share of the parameters holds the stages; one with less is a stage. Between ResNet-18's `layer4`
# (0.75) and the `blocks` of the EfficientNets (0.88).
_CONTAINER_SHARE = 0.8
TOKENS, MAP, MAP_LAST, FLAT = "tokens", "map", "map-channels-last", "flat"


@dataclass(frozen=True, slots=True)
class Traced:
    """A network's graph; every node carries `meta["path"]` (author's name) and `meta["shape"]` (None if no tensor)."""

    graph: fx.Graph
    cuts: tuple[fx.Node, ...]


class _Tracer(NodePathTracer):  # type: ignore[misc]  # torchvision has no types
    """Keeps layers with weights whole, subclasses too, so that they stay recognisable in the graph."""

    def is_leaf_module(self, m: nn.Module, module_qualname: str) -> bool:
        return isinstance(m, _WHOLE) or bool(super().is_leaf_module(m, module_qualname))


class _ShapeRecorder(fx.Interpreter):
    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        n.meta["shape"] = tuple(value.shape) if isinstance(value, torch.Tensor) else None
        items = value if isinstance(value, tuple | list) else (value,)
        n.meta["holds_tensor"] = any(isinstance(item, torch.Tensor) for item in items)
        return value


def trace(module: nn.Module, height: int, width: int, source: str) -> Traced:
    """Record the forward pass of `module` in eval mode on one (1, 3, height, width) image.

    Raises BackboneNotFound when the forward pass refuses that size or cannot be recorded.
    """
    # timm names the modules and functions of its own that must stay whole for tracing to succeed.
    tracer = _Tracer(leaf_modules=list(get_notrace_modules()), autowrap_functions=list(get_notrace_functions()))
    try:
        graph = tracer.trace(module)
    except Exception as error:
        raise BackboneNotFound(
            expected=f"{source} to be traceable by torch.fx",
            got=f"{type(error).__name__}: {_first_line(error)}",
            fix="use another backbone; `regraft predict` on the embedded ones needs no tracing",
        ) from error
    for node in graph.nodes:
        node.meta["path"] = tracer.node_to_qualname.get(node, node.name)
    _record_shapes(module, graph, height, width, source)
    return Traced(graph, tuple(_single_tensor_cuts(graph)))


def _record_shapes(module: nn.Module, graph: fx.Graph, height: int, width: int, source: str) -> None:
    try:
        with torch.inference_mode():
            _ShapeRecorder(fx.GraphModule(module, graph)).run(torch.zeros(1, 3, height, width))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise BackboneNotFound(
            expected=f"{source} to take images of {height}x{width} pixels",
            got=_first_line(error),
            fix="leave --size out to use the size its weights were trained with",
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _single_tensor_cuts(graph: fx.Graph) -> list[fx.Node]:
    """Nodes after which no earlier tensor is used again. Parameters read by the graph, and sizes, do not count."""
    nodes = [node for node in graph.nodes if node.op not in ("get_attr", "output")]
    position = {node: index for index, node in enumerate(nodes)}
    cuts, reach = [], 0
    for index, node in enumerate(nodes[:-1]):
        if node.meta["shape"] is not None and node.op != "placeholder" and reach <= index and node.users:
            cuts.append(node)
        if node.meta["holds_tensor"]:
            reach = max([reach, *(position.get(user, len(nodes)) for user in node.users)])
    return cuts


def find_stages(module: nn.Module, traced: Traced, head: HeadLocation) -> tuple[Stage, ...]:
    """The last cut inside each of the author's blocks, from the image to the head, where the value still has positions.

    A block is a child of the model, or of a child that holds nearly everything (`features.7`, `blocks.6`,
    `encoder.layers.encoder_layer_3`). Blocks that are single layers (VGG, AlexNet) are joined while the resolution stays.
    """
    cuts = [node for node in _before(traced, head.input_node) if layout_of(node.meta["shape"]) != FLAT]
    container = _stage_container(module, {str(node.meta["path"]) for node in cuts}, head.path)
    ends = {_block_name(node.meta["path"], container): node for node in cuts}
    kept: list[tuple[str, fx.Node]] = []
    for name, node in ends.items():
        joins = kept and _is_layer(module, name) and _is_layer(module, kept[-1][0]) and _same_positions(node, kept[-1][1])
        kept = [*(kept[:-1] if joins else kept), (name, node)]
    return tuple(
        Stage(name=name, node=node.name, shape=node.meta["shape"][1:], layout=layout_of(node.meta["shape"]))
        for name, node in kept
    )


def _before(traced: Traced, head_input: str) -> list[fx.Node]:
    names = [node.name for node in traced.graph.nodes]
    return [node for node in traced.cuts if names.index(node.name) <= names.index(head_input)]


def _stage_container(module: nn.Module, paths: set[str], head: str) -> str:
    """The innermost module that holds nearly all parameters of the part with positions; "" is the network itself."""
    container = ""
    while True:
        inside = module.get_submodule(container)
        prefix = f"{container}." if container else ""
        sizes = {
            name: sum(p.numel() for key, p in child.named_parameters() if not f"{prefix}{name}.{key}".startswith(f"{head}."))
            for name, child in inside.named_children()
            if any(path == prefix + name or path.startswith(f"{prefix}{name}.") for path in paths)
        }
        largest = max(sizes, key=sizes.__getitem__, default=None)
        if largest is None or sizes[largest] < _CONTAINER_SHARE * sum(sizes.values()):
            return container
        if not any(True for _ in inside.get_submodule(largest).children()):
            return container
        container = prefix + largest


def _block_name(path: str, container: str) -> str:
    if container and path.startswith(container + "."):
        return ".".join(path.split(".")[: container.count(".") + 2])
    parts = path.split(".")
    shared = container.split(".") if container else []
    depth = next((i for i, (a, b) in enumerate(zip(parts, shared, strict=False)) if a != b), min(len(parts), len(shared)))
    return ".".join(parts[: depth + 1])


def _is_layer(module: nn.Module, path: str) -> bool:
    try:
        layer = module.get_submodule(path)
    except AttributeError:  # the value of a function, such as `relu` in the forward pass
        return True
    return isinstance(layer, _WHOLE) or not any(layer.children())


def _same_positions(a: fx.Node, b: fx.Node) -> bool:
    return bool(positions(a.meta["shape"]) == positions(b.meta["shape"]))


def positions(shape: Sequence[int]) -> int:
    """How many places a value (with N) has: H * W of a map, L of tokens, 1 of a vector."""
    layout = layout_of(shape)
    if layout == FLAT:
        return 1
    return int(shape[1]) if layout == TOKENS else int(shape[2] * (shape[1] if layout == MAP_LAST else shape[3]))


def layout_of(shape: Sequence[int]) -> str:
    """ "map" (N, C, H, W), "map-channels-last" (N, H, W, C), "tokens" (N, L, C) or "flat"."""
    if len(shape) == 3:
        return TOKENS
    if len(shape) != 4 or (shape[2], shape[3]) == (1, 1):
        return FLAT
    # A square spatial pair tells the two layouts apart; a map of a non-square input is taken as channels-first.
    return MAP_LAST if shape[1] == shape[2] != shape[3] else MAP


def prefix_graph(module: nn.Module, graph: fx.Graph, nodes: Sequence[str]) -> fx.GraphModule:
    """The part of the network that computes `nodes`, as a module: images -> tuple of their values."""
    copy = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    copy.graph_copy(graph, values)
    by_name = {node.name: value for node, value in values.items()}
    copy.output(tuple(by_name[name] for name in nodes))
    part = fx.GraphModule(module, copy)
    part.graph.eliminate_dead_code()
    part.delete_all_unused_submodules()
    part.recompile()
    part.eval()
    return part
