"""Which layers make the logits: told by the author, seen in a traced forward pass, seen in a dry run, or named by the user.

Never by a table of names: those break on a third of torchvision's models.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from regraft.backbone.graph import (
    WEIGHTED,
    CannotCut,
    Traced,
    Untraceable,
    output_of,
    record_graph,
    run_once,
    suffix_part,
    used_parameters,
)
from regraft.backbone.model import HeadLocation, Role
from regraft.errors import BackboneNotFound, HeadNotFound, UsageError, first_line

BY_AUTHOR = "its author: the library's description of the model names it"
BY_TRACE = "the traced forward pass: the last layer with weights before the output"
BY_DRY_RUN = "a dry run: the last layer with weights that was called"
BY_TRAINING = "the traced forward pass in train mode: returned beside the logits"
BY_USER = "you: --head-path"


def find_heads(
    module: nn.Module, traced: Traced, image: Tensor, source: str, head_path: str | None = None
) -> tuple[HeadLocation, ...]:
    """The main heads, then the auxiliary ones, of a network in eval mode whose forward pass was traced on `image`.

    Raises HeadNotFound where no single layer (or two that are averaged) can be told, UsageError for a `head_path` that names
    nothing, BackboneNotFound where the output is not one row of logits.
    """
    check_output(traced.output, source)
    layers = _Layers(module, traced.graph)
    if head_path is not None:
        node = layers.named_by_user(head_path, source)
        return (_located(layers, node, BY_USER, _share(layers, [node], image)),)
    nodes, found_by = _main_nodes(layers, source)
    share = _share(layers, nodes, image)
    if len(nodes) > 1 and share is None and found_by == BY_AUTHOR:
        # The first is the head; others add to what it says in a way of their own (VOLO's, the maximum over the image).
        main, *others = (_located(layers, node, found_by, None) for node in nodes)
        return (main, *(replace(other, role="auxiliary") for other in others))
    if len(nodes) > 1 and share is None:
        raise HeadNotFound(
            expected=f"one layer that makes the logits of {source}, or two that are averaged",
            got=f"{len(nodes)} candidates: {', '.join(str(node.target) for node in nodes)}",
            fix="name one with --head-path; `regraft inspect` lists the layers with their shapes",
        )
    mains = tuple(_located(layers, node, found_by, share) for node in nodes)
    return (*mains, *_auxiliary(module, traced.graph, mains))


def check_output(output: object, source: str) -> None:
    """Raise BackboneNotFound unless a network answers one image with one row of numbers."""
    if isinstance(output, Tensor) and output.dim() == 2:
        return
    if isinstance(output, Tensor):
        got = f"a tensor of shape {tuple(output.shape)}"
    elif isinstance(output, Mapping):
        got = f"a dictionary with {', '.join(map(str, output)) or 'nothing'}"
    else:
        got = f"a {type(output).__name__}" + (f" of {len(output)}" if isinstance(output, tuple | list) else "")
    raise BackboneNotFound(
        expected=f"{source} to answer images with one tensor of logits (N, K)",
        got=got,
        fix="wrap it in a module that returns the logits alone: def forward(self, x): return self.net(x)['logits']",
    )


@dataclass(frozen=True, slots=True)
class _Layers:
    """A network and its graph, asked about layers."""

    module: nn.Module
    graph: fx.Graph

    def of(self, node: fx.Node) -> nn.Module:
        return self.module.get_submodule(str(node.target))

    def is_weighted(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self.of(node), WEIGHTED)

    def calls(self, path: str) -> list[fx.Node]:
        return [node for node in self.graph.nodes if node.op == "call_module" and node.target == path]

    def last_weighted(self, end: fx.Node) -> list[fx.Node]:
        """The layers with weights from which `end` is reached without another in between, in the order of the graph."""
        waiting, seen, found = list(end.all_input_nodes), set[fx.Node](), set[fx.Node]()
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if self.is_weighted(node):
                found.add(node)
            else:
                waiting += node.all_input_nodes
        return [node for node in self.graph.nodes if node in found]

    def named_by_user(self, path: str, source: str) -> fx.Node:
        calls = self.calls(path)
        if len(calls) == 1 and self.is_weighted(calls[0]):
            return calls[0]
        layers = [str(node.target) for node in self.graph.nodes if self.is_weighted(node)]
        near = difflib.get_close_matches(path, layers, 3, 0.4) or layers[-3:]
        raise UsageError(
            expected=f"--head-path to name a layer with weights that {source} uses once",
            got=f"{path!r}" + (f", which is used {len(calls)} times" if len(calls) > 1 else ""),
            fix=f"did you mean {' or '.join(near)}? `regraft inspect` shows the head that is found without it",
        )


def _main_nodes(layers: _Layers, source: str) -> tuple[list[fx.Node], str]:
    """The nodes of the layers that make the logits, and who says so."""
    declared = [node for path in declared_heads(layers.module) for node in layers.calls(path)]
    if declared and all(layers.is_weighted(node) for node in declared):
        return declared, BY_AUTHOR
    seen = layers.last_weighted(output_of(layers.graph))
    if not seen:
        raise _no_head(source)
    return seen, BY_TRACE


def _no_head(source: str) -> HeadNotFound:
    return HeadNotFound(
        expected=f"a linear layer or a 1x1 convolution that makes the logits of {source}",
        got="none in its forward pass",
        fix="choose a classification model, or name the layer with --head-path",
    )


def declared_heads(module: nn.Module) -> tuple[str, ...]:
    """The paths that timm's models name as their classifiers; none for other networks."""
    config = getattr(module, "pretrained_cfg", None)
    # timm's own class for it is no Mapping, but has the same method.
    name = config.get("classifier") if config is not None and hasattr(config, "get") else None
    names = (name,) if isinstance(name, str) else tuple(name or ())
    own = {path for path, _ in module.named_modules()}
    return tuple(path for path in names if path in own)


def _share(layers: _Layers, nodes: Sequence[fx.Node], image: Tensor) -> float | None:
    """What each of the layers contributes to the output, where the output is just their mean; None where it is not.

    Told by evidence: the layers' values are replaced by noise, and the rest of the network is run on it.
    """
    draw = torch.Generator().manual_seed(0)
    noise = [torch.randn(2, *node.meta["shape"][1:], generator=draw) for node in nodes]
    try:
        rest = suffix_part(layers.module, layers.graph, [node.name for node in nodes], image)
        with torch.inference_mode():
            output = rest(*noise)
    except (CannotCut, RuntimeError):
        return None
    return 1 / len(nodes) if _is_mean(output, noise) else None


def _is_mean(output: object, values: Sequence[Tensor]) -> bool:
    if len({value.shape for value in values}) > 1 or not isinstance(output, Tensor):
        return False
    mean = torch.stack([value.flatten(1) for value in values]).mean(0)
    return output.shape == mean.shape and torch.allclose(output, mean, atol=1e-6)


def _located(layers: _Layers, node: fx.Node, found_by: str, share: float | None) -> HeadLocation:
    return located(layers.of(node), str(node.target), found_by, share, input_node=node.all_input_nodes[0].name)


def located(
    layer: nn.Module, path: str, found_by: str, share: float | None, *, input_node: str = "", role: Role = "main"
) -> HeadLocation:
    """A layer as a HeadLocation. Raises HeadNotFound for a layer that is no linear map of one vector or of each position."""
    if isinstance(layer, nn.Linear):
        kind, width, classes = "linear", layer.in_features, layer.out_features
    elif isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        kind, width, classes = "conv1x1", layer.in_channels, layer.out_channels
    else:
        raise HeadNotFound(
            expected="a linear layer or a 1x1 convolution as the head",
            got=f"{path}: {first_line(str(layer))}",
            fix="name another layer with --head-path",
        )
    return HeadLocation(
        path=path,
        kind=kind,
        in_features=width,
        out_features=classes,
        found_by=found_by,
        input_node=input_node,
        is_output=share is not None,
        role=role,
        share=share or 1.0,
    )


def _auxiliary(module: nn.Module, graph: fx.Graph, main: Sequence[HeadLocation]) -> tuple[HeadLocation, ...]:
    """Heads that take part in training only: what the network returns in train mode beside its logits."""
    names = [name for name, _ in module.named_parameters()]
    if len(used_parameters(graph, names)) == len(names):
        return ()
    try:
        module.train()
        layers = _Layers(module, record_graph(module))
    except Untraceable:
        return ()
    finally:
        module.eval()
    known = {head.path for head in main}
    found = {str(node.target): layers.of(node) for node in layers.last_weighted(output_of(layers.graph))}
    others = []
    for path, layer in found.items():
        # What else a network returns in train mode (a reconstruction, say) makes no logits and is left alone.
        with suppress(HeadNotFound):
            others.append(located(layer, path, BY_TRAINING, 1.0, role="auxiliary"))
    classes = main[0].out_features
    return tuple(other for other in others if other.path not in known and other.out_features == classes)


def find_head_untraced(module: nn.Module, image: Tensor, source: str, head_path: str | None = None) -> tuple[HeadLocation, ...]:
    """The head of a network that cannot be traced, by running it on `image` with every layer watched.

    Raises as `find_heads` does.
    """
    called = _called_layers(module, image, source)
    if head_path is not None and head_path not in called:
        near = difflib.get_close_matches(head_path, called, 3, 0.4) or called[-3:]
        raise UsageError(
            expected=f"--head-path to name a layer with weights that {source} uses",
            got=repr(head_path),
            fix=f"did you mean {' or '.join(near)}?",
        )
    if not called:
        raise _no_head(source)
    path = head_path or called[-1]
    layer = module.get_submodule(path)
    draw = torch.Generator().manual_seed(0)
    noise: list[Tensor] = []

    def replace(_: nn.Module, __: object, value: Tensor) -> Tensor:
        noise.append(torch.randn(value.shape, generator=draw))
        return noise[-1]

    with layer.register_forward_hook(replace), torch.inference_mode():
        output = module(image)
    share = 1.0 if len(noise) == 1 and _is_mean(output, noise) else None
    return (located(layer, path, BY_DRY_RUN if head_path is None else BY_USER, share),)


def _called_layers(module: nn.Module, image: Tensor, source: str) -> list[str]:
    """The paths of the layers with weights in the order of their last calls; checks the output on the way."""
    called: list[str] = []

    def note(path: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, ___: object) -> None:
            if path in called:
                called.remove(path)
            called.append(path)

        return hook

    hooks = [layer.register_forward_hook(note(path)) for path, layer in module.named_modules() if isinstance(layer, WEIGHTED)]
    try:
        check_output(run_once(lambda: module(image), image, source), source)
    finally:
        for one in hooks:
            one.remove()
    return called


def replace_layer(module: nn.Module, path: str, layer: nn.Module) -> None:
    """Put `layer` at `path`."""
    parent, _, name = path.rpartition(".")
    # Sequential and ModuleList keep their parts by the same names as every module.
    module.get_submodule(parent).add_module(name, layer)
