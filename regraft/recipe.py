"""Everything a person may choose, as frozen values that check themselves when they are made.

What was learned from data is never in here; see `values`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regraft.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

Features = Literal["last", "stages", "auto"]
Balance = Literal["auto", "none"]
Augment = Literal["none", "flip"]
Device = Literal["auto", "cpu", "cuda", "mps"]
DEFAULT_BACKBONE = "efficientnet_lite0"


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless `value` is among `allowed`."""
    if value not in allowed:
        raise UsageError(
            expected=f"{name} to be one of {', '.join(allowed)}", got=repr(value), fix=f"choose one of them for {name}"
        )


def check_size(size: int | None) -> None:
    """Raise UsageError unless the side of an input can have so many pixels; None is the weights' own."""
    if size is not None and not 16 <= size <= 2048:
        raise UsageError(expected="--size from 16 to 2048 pixels", got=str(size), fix="leave it out for the weights' own size")


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Where the labelled images are and how to read them.

    `path` is a folder of class folders (with or without train/, val/, test/), a CSV or Parquet table, or a data set of
    torchvision by name: torchvision:CIFAR10. `test` is "auto" (the data's own test part, else 20 % held out), "none"
    (cross-validation only) or another folder, table or name.
    `columns` name the table's columns; `group_pattern` is a regular expression on an image's name whose first
    parenthesis (or whole match) is its group: images of one group stay on one side of every split.
    """

    path: Path
    test: str | Path = "auto"
    test_share: float = 0.2
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"
    group_column: str | None = None
    group_pattern: str | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise UsageError(
                expected="a test share between 0 and 1", got=str(self.test_share), fix="give for example 0.2, or --test none"
            )
        if self.group_pattern is not None:
            try:
                re.compile(self.group_pattern)
            except re.error as error:
                raise UsageError(
                    expected="--group-pattern to be a regular expression",
                    got=f"{self.group_pattern!r} ({error})",
                    fix="for example '^([^_]+)_' groups by what stands before the first underscore",
                ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a part is trained that cannot be solved: AdamW, its rate rising for a moment and then falling as a cosine.

    `rate` is that of new layers; pretrained ones move at a tenth of it. `weight_decay` spares norms and biases. `balance`
    "auto": rare classes count as much as frequent ones. What `freeze` names stays as it is all the same: stages by name or by
    number from the end, or the beginnings of parameter names.
    """

    epochs: int = 20
    rate: float = 1e-3
    batch: int = 32
    weight_decay: float = 0.05
    balance: Balance = "none"
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("--balance", self.balance, ("auto", "none"))
        _check_number("--epochs", self.epochs, 1, "10")
        _check_number("rate", self.rate, 1e-12, "0.001", whole=False)
        _check_number("batch", self.batch, 2, "32")
        _check_number("weight_decay", self.weight_decay, 0, "0.05", whole=False)
        if not isinstance(self.freeze, tuple) or not all(isinstance(rule, str) for rule in self.freeze):
            raise UsageError(
                expected="freeze to be a tuple of texts", got=repr(self.freeze), fix='for example ("layer1", "bn1")'
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Feature extraction: everything frozen, a linear head solved at its optimum, or a head of your own trained.

    `features`: "last" (the input of the network's own head), "stages" (also the pooled mean and max of the later stages),
    or "auto" (whichever cross-validates better). `l2` fixes the regularisation; None chooses it by cross-validation.

    `module` is your own head: an nn.Module, a function (in_features: int, classes: int) that makes one, or as text
    "module:package.file:name" for such a thing in a file of yours, from the current folder on. It takes pooled features
    (N, D), or the map (N, C, H, W) of the last stage that has positions (tokens (N, L, C) where it has those), and answers
    (N, K), or (N, K, h, w), which is averaged. The solved head is then what it has to beat. `epochs` and `rate` are those of
    its training.
    """

    features: Features = "auto"
    balance: Balance = "none"
    l2: float | None = None
    module: Callable[..., Any] | str | None = None
    epochs: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        one_of("--features", self.features, ("last", "stages", "auto"))
        one_of("--balance", self.balance, ("auto", "none"))
        if self.l2 is not None and not self.l2 > 0:
            raise UsageError(expected="an l2 above 0", got=str(self.l2), fix="leave it out to have it chosen")
        if self.module is not None and not isinstance(self.module, str) and not callable(self.module):
            raise UsageError(
                expected="the module of a head to be an nn.Module, or a function (in_features, classes) that makes one",
                got=repr(self.module),
                fix="for example Head(module=lambda width, classes: nn.Linear(width, classes))",
            )
        if self.module is None and (self.epochs is not None or self.rate is not None):
            raise UsageError(
                expected="--epochs with something that is trained",
                got="a linear head, which is solved to its optimum",
                fix="leave them out, or choose another strategy: partial:1, full, scratch",
            )
        self.training()

    @property
    def name(self) -> str:
        return "head"

    def training(self) -> Training:
        """How a head of one's own is trained."""
        # A head is small and its images are cached: many epochs cost little, and the best of them is kept.
        return Training(
            epochs=30 if self.epochs is None else self.epochs,
            rate=1e-3 if self.rate is None else self.rate,
            balance=self.balance,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Partial(Training):
    """The last `stages` stages are trained together with the head, from the solved head; what is before them stays as it is."""

    stages: int = 1
    epochs: int = 10

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        _check_number("the N of partial:N", self.stages, 1, "partial:1")

    @property
    def name(self) -> str:
        return f"partial:{self.stages}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Full(Training):
    """The whole network is trained, from the solved head. `augment` "flip": a mirrored image is as good as the image."""

    epochs: int = 10
    augment: Augment = "none"

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        one_of("augment", self.augment, ("none", "flip"))

    @property
    def name(self) -> str:
        return "full"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scratch(Training):
    """The whole network is trained from the weights it comes with, all layers at one rate, statistics of its norms included.

    `augment` "flip": a mirrored image is as good as the image.
    """

    epochs: int = 30
    augment: Augment = "none"

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        one_of("augment", self.augment, ("none", "flip"))

    @property
    def name(self) -> str:
        return "scratch"


Strategy = Head | Partial | Full | Scratch


def _check_number(name: str, value: object, least: float, example: str, *, whole: bool = True) -> None:
    kinds = (int,) if whole else (int, float)
    # True is an int in Python, and a number of epochs to nobody.
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < float("inf"):
        wanted = f"{'a whole number' if whole else 'a number'} of {least:g} or more"
        raise UsageError(expected=f"{name} to be {wanted}", got=repr(value), fix=f"give for example {example}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Own:
    """A network of your own, as a backbone: a module that maps images (N, C, H, W) to logits (N, K).

    `input_shape` is (C, H, W): 1 channel (grey), 3 (RGB) or 4 (RGB and alpha); None is 3 channels of 224 x 224 pixels. `mean`
    and `std`, one entry per channel, normalise pixels divided by 255; None is ImageNet's. `name` is what it is called where
    it is shown; None is its class. The module is copied, never changed. It is not saved as code: whoever loads a run of it
    names it again.
    """

    module: "nn.Module" = field(repr=False)
    input_shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        shape = self.input_shape
        if shape is not None and not (
            len(shape) == 3 and shape[0] in (1, 3, 4) and all(16 <= side <= 2048 for side in shape[1:])
        ):
            raise UsageError(
                expected="input_shape as (channels, height, width): 1, 3 or 4 channels, sides from 16 to 2048 pixels",
                got=repr(shape),
                fix="give for example (3, 64, 64)",
            )
        channels = shape[0] if shape else 3
        given = self.mean or (), self.std or ()
        if any(given) and not (len(given[0]) == len(given[1]) == channels and all(0 < s <= 100 for s in given[1])):
            raise UsageError(
                expected=f"mean and std of {channels} channels, for pixels from 0 to 1, each deviation above 0",
                got=f"mean {self.mean} and std {self.std}",
                fix="leave both out for ImageNet's, or give for example mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)",
            )
        if self.name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,99}", self.name):
            raise UsageError(
                expected="a name of letters, digits, - and _, at most 100",
                got=repr(self.name[:100]),
                fix="give for example my_net",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One fit: data, backbone, strategy and where to run.

    `weights` is a name (torchvision's enumeration, timm's tag), a local file, "none" for random ones, or None for the
    published ones. `size` overrides the input side in pixels (square); None takes what the weights were trained with. `trust`
    lets a remote hub repository run its author's code; `head_path` names the layer that makes the logits, which is found
    otherwise. `channels` are those of the images: 1 (grey), 3 or 4 (RGB and alpha); None is what the backbone was made for.
    `cache` is the feature cache's folder; None is the user's cache folder.
    """

    data: Data
    backbone: str | Own = DEFAULT_BACKBONE
    weights: str | None = None
    strategy: Strategy = field(default_factory=Head)
    size: int | None = None
    seed: int = 0
    device: Device = "auto"
    cache: Path | None = None
    trust: bool = False
    head_path: str | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        one_of("--device", self.device, ("auto", "cpu", "cuda", "mps"))
        check_size(self.size)
        if self.channels not in (None, 1, 3, 4):
            raise UsageError(
                expected="--channels 1 (grey), 3 (RGB) or 4 (RGB and alpha)",
                got=str(self.channels),
                fix="leave it out for what the backbone was made for",
            )
        if self.seed < 0:
            raise UsageError(expected="--seed of 0 or more", got=str(self.seed), fix="give a whole number such as 0")
