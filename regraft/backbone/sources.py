"""Where networks come from: embedded, timm, torchvision, a hub repository, or the user's own code."""

from pathlib import Path

from torch import nn

from regraft.backbone import embedded, hub, own, timm_source, torchvision_source
from regraft.backbone.embedded import EMBEDDED
from regraft.backbone.model import Architecture
from regraft.backbone.source import Source
from regraft.backbone.weights import file_or_name
from regraft.errors import BackboneNotFound
from regraft.recipe import Own

__all__ = ["EMBEDDED", "Source", "build", "open_source"]

_EXAMPLES = (
    "efficientnet_lite0, timm:resnet50.a1_in1k, torchvision:resnet18:IMAGENET1K_V1, hub:owner/repo:entry, hub:FOLDER:entry "
    "or module:package.file:function"
)


def build(architecture: Architecture, side: int | None = None) -> nn.Module:
    """The network with random weights; nothing is fetched, read or run but its library.

    `side` is that of its images in pixels, for a network that has to know it beforehand.
    Raises BackboneNotFound for a name that its library does not have. Own code is never built: see `open_source`.
    """
    assert not architecture.own_code, "own code is run for nobody who did not name it"
    if architecture.source == "torchvision":
        return torchvision_source.build(architecture.name, side)
    return embedded.build(architecture.name) if architecture.source == "builtin" else timm_source.build(architecture.name)


def open_source(
    spec: str | Own | nn.Module,
    weights: str | Path | None,
    *,
    standard_head: bool = False,
    trust: bool = False,
    size: int | None = None,
) -> Source:
    """The network that `spec` names, with its weights but for those in a file, which `Source.file` then names.

    `weights`: None for the published ones (downloaded if not on disk), "none" for random ones, a name (torchvision's
    enumeration, timm's tag) or a local .safetensors or .pth file. `standard_head` gives weights that come without a head, or
    with one of another size, the head that the plain name has, so that the plain name builds the same network again; it has
    random weights, and is there to be replaced. `trust` lets the code of a remote hub repository run. `size` is the side in
    pixels for a network that does not say its own. Raises BackboneNotFound, UsageError.
    """
    asked = file_or_name(weights)
    if isinstance(spec, nn.Module):
        spec = Own(module=spec)
    if isinstance(spec, Own):
        return own.open_python(spec, asked, size)
    kind, colon, rest = spec.partition(":")
    if not colon:
        return embedded.open_embedded(spec, asked)
    if kind == "timm":
        return timm_source.open_timm(rest, asked, standard_head=standard_head)
    if kind == "torchvision":
        return torchvision_source.open_torchvision(rest, asked, size)
    if kind == "hub":
        return hub.open_hub(rest, asked, trust=trust, size=size)
    if kind == "module":
        return own.open_module(rest, asked, size)
    raise BackboneNotFound(
        expected=f"a backbone such as {_EXAMPLES}",
        got=repr(spec[:100]),
        fix=f"embedded: {', '.join(EMBEDDED)}; timm: and torchvision: take their libraries' own names",
    )
