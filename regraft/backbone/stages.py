"""The stages of a network: the last cuts inside each of its author's blocks, and which parameters are whose."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from torch import fx, nn

from regraft.backbone.graph import FLAT, WEIGHTED, WHOLE, Traced, layout_of, positions
from regraft.backbone.model import HeadLocation, Stage

# A child with this share of the parameters holds the stages; one with less is a stage. Between ResNet-18's `layer4`
# (0.75) and the `blocks` of the EfficientNets (0.88).
_CONTAINER_SHARE = 0.8
_SERIES = 3


def find_stages(module: nn.Module, traced: Traced, heads: Sequence[HeadLocation]) -> tuple[Stage, ...]:
    """The last cut inside each of the author's blocks, from the image to the heads.

    A block is a child of the model, or of a child that holds nearly everything (`features.7`, `blocks.6`,
    `encoder.layers.encoder_layer_3`). Blocks that are single layers (VGG, AlexNet) are joined while the resolution stays.
    Hidden layers after the last map (VGG's `classifier`) are a stage as well; pooling and flattening alone are none, so that
    the stages do not depend on the size of the images.
    """
    order = {node: index for index, node in enumerate(traced.graph.nodes)}
    by_name = {node.name: node for node in traced.graph.nodes}
    end = min(order[by_name[head.input_node]] for head in heads if head.role == "main")
    before = [node for node in traced.cuts if order[node] <= end]
    owners = _first_uses(module, traced.graph)
    ends = _ends_of_blocks(module, before, heads[0].path)
    weighted = _weights(module)
    stages, since = [], -1
    for name, node in ends:
        mine = tuple(key for key, index in owners.items() if since < index <= order[node])
        if layout_of(node.meta["shape"]) == FLAT and not weighted & set(mine):
            continue
        stages.append(
            Stage(
                name=name,
                node=node.name,
                shape=tuple(node.meta["shape"][1:]),
                layout=layout_of(node.meta["shape"]),
                parameters=mine,
            )
        )
        since = order[node]
    return _numbered(stages, weighted)


def _first_uses(module: nn.Module, graph: fx.Graph) -> dict[str, int]:
    """The position in the graph at which each parameter that it uses is used first."""
    uses: dict[str, int] = {}
    # A tensor that stands under two names in the network is one parameter, as `named_parameters` has it.
    names = {id(value): name for name, value in module.named_parameters()}
    for index, node in enumerate(graph.nodes):
        if node.op == "call_module":
            values = list(module.get_submodule(str(node.target)).parameters())
        elif node.op == "get_attr":
            values = _parameter_at(module, str(node.target))
        else:
            continue
        for value in values:
            if id(value) in names:
                uses.setdefault(names[id(value)], index)
    return uses


def _parameter_at(module: nn.Module, path: str) -> list[nn.Parameter]:
    parent, _, name = path.rpartition(".")
    value = getattr(module.get_submodule(parent), name, None)
    return [value] if isinstance(value, nn.Parameter) else []


def _ends_of_blocks(module: nn.Module, cuts: Sequence[fx.Node], head: str) -> list[tuple[str, fx.Node]]:
    """The last cut of each block, by the block's name. What holds the blocks is told by those with positions."""
    in_place = [node for node in cuts if layout_of(node.meta["shape"]) != FLAT] or cuts
    container = _stage_container(module, {str(node.meta["path"]) for node in in_place}, head)
    ends = dict(zip(_block_names([str(node.meta["path"]) for node in cuts], container), cuts, strict=True))
    order = {node: index for index, node in enumerate(cuts)}
    kept: list[tuple[str, fx.Node]] = []
    for name, node in sorted(ends.items(), key=lambda item: order[item[1]]):
        joins = kept and _is_layer(module, name) and _is_layer(module, kept[-1][0]) and _same_positions(node, kept[-1][1])
        kept = [*(kept[:-1] if joins else kept), (name, node)]
    return kept


def _weights(module: nn.Module) -> set[str]:
    """The names of the weights of layers: positions and class tokens belong to none, norms and biases have one dimension."""
    return {
        f"{path}.{name}" if path else name
        for path, layer in module.named_modules()
        for name, value in layer.named_parameters(recurse=False)
        if value.dim() > 1 and isinstance(layer, WEIGHTED)
    }


def _numbered(stages: Sequence[Stage], weighted: set[str]) -> tuple[Stage, ...]:
    """Stages with their numbers from the end; those without a layer with weights have none."""
    numbered, number = [], 0
    for stage in reversed(stages):
        holds = any(name in weighted for name in stage.parameters)
        number += holds
        numbered.append(replace(stage, number=number if holds else None))
    return tuple(reversed(numbered))


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
        block = inside.get_submodule(largest)
        # Several of one kind side by side are the stages, even where the last of them holds nearly everything (small RegNets).
        alike = sum(type(inside.get_submodule(name)) is type(block) for name in sizes)
        if alike >= _SERIES or not any(True for _ in block.children()):
            return container
        container = prefix + largest


def _block_names(paths: Sequence[str], container: str) -> list[str]:
    """The block of each path; where the forward pass goes through two lists in turn (Twins), the blocks are their items."""
    names = [_block_name(path, container) for path in paths]
    runs = [name for name, _ in groupby(names)]
    in_turn = {name for name in runs if runs.count(name) > 1}
    return [_deeper(path, name) if name in in_turn else name for path, name in zip(paths, names, strict=True)]


def _deeper(path: str, name: str) -> str:
    return ".".join(path.split(".")[: name.count(".") + 2])


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
    return isinstance(layer, WHOLE) or not any(layer.children())


def _same_positions(a: fx.Node, b: fx.Node) -> bool:
    return bool(positions(a.meta["shape"]) == positions(b.meta["shape"]))
