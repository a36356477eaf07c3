"""What differs between tasks where something is trained; everything else in this folder asks here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.backbone.model import Backbone, Boundary
from regraft.strategies import Trained
from regraft.train.lessons import Lessons
from regraft.train.objective import Objective
from regraft.values import FloatArray, Interval

if TYPE_CHECKING:
    import numpy as np

    from regraft.train.setting import ModelHead, Setting


class Network(Protocol):
    """A network of its own to train, with its new layers `heads`."""

    @property
    def backbone(self) -> Backbone:
        """The network itself, sharing no layer with another."""

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """What is new, and always trains."""

    def suffix(self, boundary: Boundary) -> nn.Module:
        """The part from a boundary to the outputs."""

    def before(self, boundary: Boundary) -> tuple[str, ...]:
        """The stages before a boundary whose pooled maps the suffix wants, last of its values."""

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Every parameter once, under a name of its own."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Every parameter and buffer by name: the tensors themselves."""


class Task(Protocol):
    """What is to be learned of images. `rows` are positions among the images of the setting."""

    @property
    def right(self) -> str:
        """What `rightness` is called where it is shown, after a number: "% right"."""

    def boundary(self, backbone: Backbone, place: Boundary) -> Boundary:
        """What has to cross where a strategy cuts the network at `place`."""

    def objective(self, setting: "Setting", strategy: Trained) -> Objective:
        """What is wanted of the outputs."""

    def network(self, setting: "Setting", lessons: Lessons, strategy: Trained) -> Network:
        """The network as a training begins with it: at what was solved on these lessons."""

    def taken_apart(self, network: Network, setting: "Setting", name: str) -> "tuple[Backbone, ModelHead]":
        """What became of it, trained by the strategy of that name."""

    def rightness(self, setting: "Setting", rows: "NDArray[np.int64]", answers_NM: FloatArray) -> "NDArray[np.float64]":
        """(n,) how much of each training image is right, 0 to 1, by answers as the objective keeps them."""

    def interval(self, rightness_N: "NDArray[np.float64]") -> Interval:
        """The mean of that, and how far it may be off."""
