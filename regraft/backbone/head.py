"""Which layer makes the logits: found by evidence, never by a table of names."""

from torch import fx, nn

from regraft.backbone.boundary import Traced
from regraft.backbone.model import HeadLocation
from regraft.errors import HeadNotFound

_WEIGHT_BEARING = (nn.Linear, nn.Conv2d)


def find_head(module: nn.Module, traced: Traced, source: str) -> HeadLocation:
    """The last weight-bearing layer before the output of the traced forward pass.

    Raises HeadNotFound where the output does not come out of a Linear layer or a 1x1 convolution.
    """
    node = _last_weight_bearing(module, traced.graph)
    if node is None:
        raise HeadNotFound(
            expected=f"a layer with weights that makes the logits of {source}",
            got="none in its forward pass",
            fix="choose a classification model",
        )
    layer = module.get_submodule(str(node.target))
    width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    return HeadLocation(
        path=str(node.target),
        kind="linear" if isinstance(layer, nn.Linear) else "conv1x1",
        in_features=int(width),  # type: ignore[arg-type]  # nn.Module attributes are untyped
        found_by="traced forward pass: last layer with weights before the output",
        input_node=str(node.all_input_nodes[0].name),
        is_output=_reaches_output_alone(module, node),
    )


def _last_weight_bearing(module: nn.Module, graph: fx.Graph) -> fx.Node | None:
    nodes: list[fx.Node] = list(graph.nodes)
    for node in reversed(nodes):
        if node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), _WEIGHT_BEARING):
            return node
    return None


def _reaches_output_alone(module: nn.Module, node: fx.Node) -> bool:
    """Whether the layer's own value, or that value through an Identity or Dropout, is what the network returns."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.op == "output":
            return True
        if user.op != "call_module" or not isinstance(module.get_submodule(str(user.target)), nn.Identity | nn.Dropout):
            return False
        node = user
    return False


def replace_head(module: nn.Module, location: HeadLocation, layer: nn.Module) -> None:
    """Put `layer` where the old head was."""
    parent, _, name = location.path.rpartition(".")
    owner = module.get_submodule(parent)
    if isinstance(owner, nn.Sequential):
        owner[int(name) if name.isdigit() else list(dict(owner.named_children())).index(name)] = layer
    else:
        setattr(owner, name, layer)
