"""Everything a person may choose, as frozen values that check themselves when they are made.

What was learned from data is never in here; see `values`.
"""

import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from regraft.errors import UsageError
from regraft.strategies import Decoding, Head, Strategy, one_of

if TYPE_CHECKING:
    from torch import nn

Device = Literal["auto", "cpu", "cuda", "mps"]
Task = Literal["classification", "saliency", "semantic"]
# What reads the maps of a network where every pixel has an answer; "linear" is the solved probe alone.
DecoderKind = Literal["linear", "small", "unet", "fpn", "deeplabv3+"]
LARGEST_MASK_VALUE = 65535  # of 16 bits
DEFAULT_BACKBONE = "efficientnet_lite0"
LOSSES = ("ce", "dice", "lovasz", "focal")
DEFAULT_LOSS = "ce+dice"


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # no drive letter


def is_url(place: str | Path) -> bool:
    """Whether `place` is text such as s3://bucket/shards: on another machine, or in a store that is no file system."""
    return isinstance(place, str) and _URL.match(place) is not None


def located(place: str | Path) -> str | Path:
    """Where something is: a Path, or a URL as it is, which a Path would take apart. file:// is a path."""
    if isinstance(place, str) and place.lower().startswith("file://"):
        from urllib.parse import unquote, urlsplit

        return Path(unquote(urlsplit(place).path))
    return place if is_url(place) else Path(place)


def check_size(size: int | None) -> None:
    """Raise UsageError unless the side of an input can have so many pixels; None is the weights' own."""
    if size is not None and not 16 <= size <= 2048:
        raise UsageError(expected="--size from 16 to 2048 pixels", got=str(size), fix="leave it out for the weights' own size")


def check_abstaining(max_error: float | None, coverage: float | None) -> None:
    """Raise UsageError unless at most one is given, and in its range."""
    if max_error is not None and coverage is not None:
        raise UsageError(
            expected="--max-error or --coverage", got="both", fix="one follows from the other on given images: leave one out"
        )
    for option, value, example in (("--max-error", max_error, 0.02), ("--coverage", coverage, 0.9)):
        if value is not None and not 0 < value < 1:
            raise UsageError(
                expected=f"{option} as a share between 0 and 1", got=f"{value:g}", fix=f"give for example {option} {example}"
            )


def loss_terms(text: str) -> tuple[tuple[str, float], ...]:
    """Names and weights of a sum of losses, such as ce+dice or ce+0.5*lovasz. Raises UsageError for anything else."""
    terms = tuple(_loss_term(part, text) for part in text.split("+"))
    names = [name for name, _ in terms]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UsageError(
            expected="each loss once in a sum", got=f"{twice[0]} twice in {text!r}", fix=f"give it a weight: 2*{twice[0]}"
        )
    return terms


def _loss_term(part: str, text: str) -> tuple[str, float]:
    factor, _, name = part.strip().lower().rpartition("*")
    name = name.strip()
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, 1)
        raise UsageError(
            expected=f"--loss as a loss among {', '.join(LOSSES)}, or a sum such as ce+dice or ce+0.5*dice",
            got=f"{name!r} in {text!r}" if name else f"{text!r}",
            fix=f"did you mean {near[0]}?" if near else "choose among these",
        )
    try:
        weight = float(factor) if factor else 1.0
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UsageError(
            expected="weights of losses to be numbers above 0", got=f"{part.strip()!r} in {text!r}", fix=f"give 0.5*{name}"
        )
    return name, weight


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Where the labelled images are and how to read them.

    `path` is a folder of class folders (with or without train/, val/, test/), a CSV or Parquet table, a data set of
    torchvision by name, torchvision:CIFAR10, or shards: tar archives, Parquet or Arrow files with the images inside, as a
    folder, a file, a pattern (shards-{000..009}.tar, train-*.tar) or a URL of these (s3://bucket/shards). `test` is "auto" (the
    data's own test part, else 20 % held out), "none" (cross-validation only) or another folder, table, name or other shards.
    `columns` name the table's columns; `group_pattern` is a regular expression on an image's name whose first
    parenthesis (or whole match) is its group: images of one group stay on one side of every split. `exclude` is a list of
    images to leave out, as `regraft audit` writes it: a CSV table with the column path and, where some are kept, action.

    For the tasks whose every pixel has an answer, `masks` is the folder of the masks, or the name of the folder that stands
    beside images/; None is masks/ beside images/, or a table's `mask_column`. `test_masks` are those of a separate test set.
    `class_list` says what the values in masks mean (`data.class_list`); `ignore` is a value there that stands for no answer.
    """

    path: str | Path
    test: str | Path = "auto"
    test_share: float = 0.2
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"
    group_column: str | None = None
    group_pattern: str | None = None
    skip_bad: bool = False
    exclude: Path | None = None
    task: Task = "classification"
    masks: Path | None = None
    test_masks: Path | None = None
    class_list: Path | None = None
    ignore: int | None = None
    mask_column: str = "mask"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", located(self.path))
        self._check_masks()
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

    @property
    def local(self) -> Path:
        """`path`, on a disk of this machine. Raises UsageError for a URL."""
        if isinstance(self.path, Path):
            return self.path
        raise UsageError(
            expected="a folder or a table on this machine",
            got=f"the URL {self.path}",
            fix="download it first; through a URL, regraft reads shards of classified images",
        )

    def _check_masks(self) -> None:
        one_of("--task", self.task, get_args(Task))
        given = {"--masks": self.masks, "--test-masks": self.test_masks, "--classes": self.class_list, "--ignore": self.ignore}
        unused = [option for option, value in given.items() if value is not None]
        if self.task == "classification" and unused:
            raise UsageError(
                expected=f"{' and '.join(unused)} with a task whose every pixel has an answer",
                got="--task classification",
                fix="add --task saliency (one object before a background) or --task semantic, or leave it out",
            )
        if self.test_masks is not None and self.test in ("auto", "none"):
            raise UsageError(
                expected="--test-masks with --test, the folder of the images that they belong to",
                got=f"--test {self.test}",
                fix="add --test FOLDER, or leave --test-masks out",
            )
        if self.ignore is not None and not 0 <= self.ignore <= LARGEST_MASK_VALUE:
            raise UsageError(
                expected=f"--ignore as a value in masks, from 0 to {LARGEST_MASK_VALUE}",
                got=str(self.ignore),
                fix="give the grey level or index that stands for no answer; 255 needs no mention in semantic masks",
            )


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
    `cache` is the feature cache's folder; None is the user's cache folder. `go_on_from` is a run whose network this fit starts
    with, in place of `backbone`. `tta`: answers are the mean of those for the image and its mirror image. `cache_limit` bounds
    in bytes what is kept of the images for a training. `tensorboard` writes its curves for that, too. `max_error` or
    `coverage` say when the model withholds its answer: where more than that share of its answers would be wrong, or beyond
    that share of the images; neither: only for images unlike all it was fitted on.

    Where every pixel has an answer, `decoder` is what stands on the network's maps ("linear": the solved probe alone), and
    `loss` what it is trained by, a sum of cross-entropy, Dice, Lovász and focal terms.
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
    go_on_from: Path | None = None
    tta: bool = False
    cache_limit: int = 20 * 10**9
    tensorboard: bool = False
    max_error: float | None = None
    coverage: float | None = None
    decoder: str = "auto"
    loss: str = DEFAULT_LOSS

    def __post_init__(self) -> None:
        check_abstaining(self.max_error, self.coverage)
        one_of("--device", self.device, ("auto", "cpu", "cuda", "mps"))
        one_of("--decoder", self.decoder, ("auto", *get_args(DecoderKind)))
        loss_terms(self.loss)
        check_size(self.size)
        if isinstance(self.strategy, Decoding) and self.data.task == "classification":
            raise UsageError(
                expected="Decoding with a task whose every pixel has an answer",
                got="classification",
                fix="give Head(), or Data(task='saliency')",
            )
        if self.channels not in (None, 1, 3, 4):
            raise UsageError(
                expected="--channels 1 (grey), 3 (RGB) or 4 (RGB and alpha)",
                got=str(self.channels),
                fix="leave it out for what the backbone was made for",
            )
        given = {"--weights": self.weights, "--size": self.size, "--channels": self.channels, "--head-path": self.head_path}
        too_many = [option for option, value in given.items() if value is not None]
        if self.go_on_from is not None and too_many:
            raise UsageError(
                expected=f"--from with none of {', '.join(given)}",
                got=f"{' and '.join(too_many)} beside it",
                fix=f"leave {'it' if len(too_many) == 1 else 'them'} out: the earlier run says all that",
            )
        if isinstance(self.cache_limit, bool) or not isinstance(self.cache_limit, int) or self.cache_limit < 1:
            raise UsageError(expected="a cache size above 0", got=repr(self.cache_limit), fix="give for example 20GB")
        if self.seed < 0:
            raise UsageError(expected="--seed of 0 or more", got=str(self.seed), fix="give a whole number such as 0")
