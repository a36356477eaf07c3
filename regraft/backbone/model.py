"""The value that a loaded network is."""

from dataclasses import dataclass

from torch import fx, nn

from regraft.data.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """What is needed to build the network again without its weights: a library and a plain name in its registry."""

    source: str
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadLocation:
    """The layer that makes the logits: its path in the module, kind ("linear", "conv1x1"), width and who found it.

    `input_node` names the graph node whose value enters the layer. `is_output`: the layer alone makes the output, so that
    replacing it in place gives a network of the same class (not so for distilled DeiT's two heads, or SqueezeNet).
    """

    path: str
    kind: str
    in_features: int
    found_by: str
    input_node: str
    is_output: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A place to cut: after `node` a single tensor of `shape` (without N) is alive. `name` is the author's own."""

    name: str
    node: str
    shape: tuple[int, ...]
    layout: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Backbone:
    """A network in eval mode with nothing trainable, and all that was found out about it.

    `module` maps images (N, 3, H, W), normalised by `preprocess`, to logits. `stages` run from the image to the head.
    `weights_digest` is the SHA-256 of every parameter and buffer; `categories` name the logits of pretrained weights.
    """

    module: nn.Module
    graph: fx.Graph
    architecture: Architecture
    head: HeadLocation
    stages: tuple[Stage, ...]
    preprocess: Preprocess
    weights: str
    weights_digest: str
    categories: tuple[str, ...] | None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that `load_backbone` takes."""
        built_in = self.architecture.source == "builtin"
        return self.architecture.name if built_in else f"{self.architecture.source}:{self.architecture.name}"
