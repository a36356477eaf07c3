"""The value that a loaded network is."""

from dataclasses import dataclass
from typing import Literal

from torch import fx, nn

from regraft.data.preprocess import Preprocess
from regraft.values import Pooling

Role = Literal["main", "auxiliary"]
PIXELS, HEAD = "pixels", "head"


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """What is needed to build the network again without its weights: a library and a plain name in its registry."""

    source: str
    name: str

    @property
    def own_code(self) -> bool:
        """Whether building it would run code that came neither with regraft nor with the libraries it needs."""
        return self.source in ("hub", "module", "python")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadLocation:
    """A layer that makes logits: its path in the module, kind ("linear", "conv1x1", "own"), widths and who found it.

    `input_node` names the graph node whose value enters the layer ("" in a network that cannot be traced). `share` is what
    the layer contributes to the output: 1, or 1/2 for each of two whose answers are averaged (distilled DeiT). `is_output`:
    the output is just that, so that replacing the layer in place gives a network of the same class (not so for SqueezeNet,
    whose convolution is followed by a ReLU). An "auxiliary" head takes part in training only (Inception V3, GoogLeNet).
    """

    path: str
    kind: str
    in_features: int
    out_features: int
    found_by: str
    input_node: str
    is_output: bool
    role: Role = "main"
    share: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A part of the network that ends at `node`, after which a single tensor of `shape` (without N) is alive.

    `name` is the author's own. `number` counts from the end the stages that hold weighted layers, 1 being the last; None for
    a stage of normalisation, pooling or activation alone. `parameters` are the names of those first used in it.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    layout: str
    number: int | None = None
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Boundary:
    """A place to cut: "pixels" (before everything), the end of a stage under the stage's name, or "head" (before the heads).

    `nodes` are the graph nodes whose values cross, none for "pixels"; `shapes` are theirs without N.
    """

    name: str
    nodes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Backbone:
    """A network in eval mode with nothing trainable, and all that was found out about it.

    `module` maps images (N, C, H, W), normalised by `preprocess`, to logits. `graph` is its traced forward pass, None where it
    cannot be traced. `heads` has the main heads first; `stages` run from the image to the head. `weights_digest` is the
    SHA-256 of every parameter and buffer; `categories` name the logits of pretrained weights; `pooling` is how the maps of
    stages become features; `notes` are for people.
    """

    module: nn.Module
    graph: fx.Graph | None
    architecture: Architecture
    heads: tuple[HeadLocation, ...]
    stages: tuple[Stage, ...]
    preprocess: Preprocess
    weights: str
    weights_digest: str
    categories: tuple[str, ...] | None
    pooling: Pooling = "whole"
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that `load_backbone` takes."""
        built_in = self.architecture.source == "builtin"
        return self.architecture.name if built_in else f"{self.architecture.source}:{self.architecture.name}"

    @property
    def head(self) -> HeadLocation:
        """The main head; the first of two that are averaged."""
        return self.heads[0]

    @property
    def main_heads(self) -> tuple[HeadLocation, ...]:
        """The heads that make the output: one, or two that are averaged."""
        return tuple(head for head in self.heads if head.role == "main")

    @property
    def auxiliary_heads(self) -> tuple[HeadLocation, ...]:
        """The heads that only training hears."""
        return tuple(head for head in self.heads if head.role == "auxiliary")
