"""How a network is fitted to new images, as frozen values that check themselves when they are made.

`Head` is solved; every other strategy trains, from the solved head. What all of them have in common stands in `Training`; an
option that a strategy has no use for cannot be given to it.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from regraft.errors import UsageError

Features = Literal["last", "stages", "auto"]
Balance = Literal["auto", "none"]
Optimizer = Literal["adamw", "sgd", "adam"]
Start = Literal["solved", "random"]
Refit = Literal["auto", "always", "never"]
Precision = Literal["auto", "fp32", "bf16"]
SCHEDULES = ("cosine", "step", "onecycle", "plateau", "constant")
AUGMENTATIONS = ("none", "flip", "light", "rotate", "trivial", "strong")
Augment = str | Callable[..., Any]

# Rates of the head and of what stands next to it, where none is given: docs/measurements.md#training
DEFAULT_LR: dict[str, float] = {"adamw": 1e-3, "adam": 1e-3, "sgd": 1e-2}


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless `value` is among `allowed`."""
    if value not in allowed:
        raise UsageError(
            expected=f"{name} to be one of {', '.join(allowed)}",
            got=repr(value),
            fix=nearest(value, allowed) or f"choose one of them for {name}",
        )


def nearest(value: object, allowed: Sequence[str]) -> str:
    """'did you mean light?', or nothing where none of them looks like it."""
    text = str(value).lower()
    # A long word that has the letters of a short one in it ("nonsense") is not meant to be that one.
    near = difflib.get_close_matches(text, [name for name in allowed if abs(len(name) - len(text)) < 3], 1)
    return f"did you mean {near[0]}?" if near else ""


def check_number(name: str, value: object, least: float, example: str, *, whole: bool = True, most: float = math.inf) -> None:
    """Raise UsageError unless `value` is a finite number from `least` to `most`, where `whole` a whole one."""
    kinds = (int,) if whole else (int, float)
    # True is an int in Python, and a number of epochs to nobody.
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most or math.isinf(value):
        wanted = f"{'a whole number' if whole else 'a number'} of {least:g} or more"
        wanted = wanted if math.isinf(most) else f"{'a whole number' if whole else 'a number'} from {least:g} to {most:g}"
        raise UsageError(expected=f"{name} to be {wanted}", got=repr(value), fix=f"give for example {example}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a part is trained that cannot be solved.

    `epochs` passes over the training images, fewer where `minutes` do not hold so many: a few timed steps tell, and the
    schedule is laid out for what fits. `patience`: stop after so many epochs without a better validation loss.

    `optimizer` "adamw", "adam" or "sgd" (momentum 0.9, Nesterov). `lr` is the rate of the head and the last stage; each stage
    before them moves at `depth_decay` times the rate of the one after it. `schedule` is "cosine" (after a short warm-up),
    "step" (a tenth after every third of the epochs; "step:3" after every 3 epochs), "onecycle" (Smith 2018), "plateau" (a tenth
    after 2 epochs without a better validation loss) or "constant". `weight_decay` spares norms and biases.

    A step takes `batch_size` images, in parts where memory asks for it, with the same result. Longer gradients than `clip` are
    shortened. `precision` "bf16" computes in half precision what is faster so on this processor and keeps the weights in fp32;
    "auto" measures whether that pays.

    `augment` is a name (none, flip, light, rotate, trivial, strong) or a transform of your own from uint8 (C, H, W) to the same
    shape, such as one of torchvision.transforms.v2. `label_smoothing`, `mixup` and `cutmix` (alpha of their beta distribution)
    are off at 0. `ema` averages the weights over about 1 / (1 - ema) steps; 0: it does not. `interpolate`: the weights that are
    kept lie between those it began with and the best (WiSE-FT, Wortsman et al. 2022), where validation is best.

    `refit`: the epoch and the weights between are chosen on a fold that is held out; "always" does what was chosen again on all
    training images, "auto" does so where more than a tenth of them was held out.

    `features`: what the head that it begins with reads, as for `Head`; "auto": what the solved head does best with. With "last"
    the outcome is a plain network of its library.

    `balance` "auto": rare classes count as much as frequent ones. `start` "random" begins with a new head in place of the
    solved one. What `freeze` names stays as it is all the same: stages by name or by number from the end, or the beginnings of
    parameter names.
    """

    epochs: int = 20
    minutes: float | None = None
    patience: int | None = None
    optimizer: Optimizer = "adamw"
    lr: float | None = None
    depth_decay: float = 0.85
    schedule: str = "cosine"
    weight_decay: float = 0.05
    batch_size: int = 32
    clip: float = 1.0
    precision: Precision = "auto"
    augment: Augment = "none"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    interpolate: bool = True
    refit: Refit = "auto"
    features: Features = "auto"
    balance: Balance = "none"
    start: Start = "solved"
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("--balance", self.balance, get_args(Balance))
        one_of("--optimizer", self.optimizer, get_args(Optimizer))
        one_of("precision", self.precision, get_args(Precision))
        one_of("start", self.start, get_args(Start))
        one_of("refit", self.refit, get_args(Refit))
        one_of("--features", self.features, get_args(Features))
        check_augment(self.augment)
        check_schedule(self.schedule)
        check_number("--epochs", self.epochs, 1, "10")
        check_number("--batch-size", self.batch_size, 2, "32")
        check_number("weight_decay", self.weight_decay, 0, "0.05", whole=False)
        check_number("--depth-decay", self.depth_decay, 1e-6, "0.85", whole=False, most=1)
        check_number("clip", self.clip, 1e-6, "1.0", whole=False)
        check_number("label_smoothing", self.label_smoothing, 0, "0.1", whole=False, most=0.99)
        check_number("ema", self.ema, 0, "0.99", whole=False, most=0.99999)
        for name in ("mixup", "cutmix"):
            check_number(name, getattr(self, name), 0, "0.2", whole=False, most=100)
        if self.lr is not None:
            check_number("--lr", self.lr, 1e-12, "0.001", whole=False)
        if self.minutes is not None:
            check_number("--minutes", self.minutes, 0.01, "10", whole=False)
        if self.patience is not None:
            check_number("patience", self.patience, 1, "5")
        if not isinstance(self.freeze, tuple) or not all(isinstance(rule, str) for rule in self.freeze):
            raise UsageError(
                expected="freeze to be a tuple of texts", got=repr(self.freeze), fix='for example ("layer1", "bn1")'
            )

    @property
    def base_lr(self) -> float:
        """The rate of the head and the last stage."""
        return DEFAULT_LR[self.optimizer] if self.lr is None else self.lr


def check_schedule(schedule: object) -> None:
    """Raise UsageError unless it is the name of a schedule, or "step:N"."""
    name, _, number = schedule.partition(":") if isinstance(schedule, str) else (schedule, "", "")
    if name == "step" and number.isascii() and number.isdigit() and 0 < len(number) < 6 and int(number) > 0:
        return
    if name == "step" and ":" in str(schedule):
        raise UsageError(
            expected="step:N with a whole number of epochs", got=repr(schedule), fix="step:3 takes a tenth every 3 epochs"
        )
    one_of("--schedule", schedule, SCHEDULES)


def check_augment(augment: object) -> None:
    """Raise UsageError unless it is the name of an augmentation, or something that can be called."""
    if callable(augment) or (isinstance(augment, str) and augment.startswith("module:")) or augment in AUGMENTATIONS:
        return
    raise UsageError(
        expected=f"--augment to be one of {', '.join(AUGMENTATIONS)}, or module:FILE:NAME for a transform of your own",
        got=repr(augment),
        fix=nearest(augment, AUGMENTATIONS) or "choose one of them for --augment",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Feature extraction: everything frozen, a linear head solved at its optimum, or a head of your own trained.

    `features`: "last" (the input of the network's own head), "stages" (also the pooled mean and max of the later stages),
    or "auto" (whichever cross-validates better). `l2` fixes the regularisation; None chooses it by cross-validation.

    `module` is your own head: an nn.Module, a function (in_features: int, classes: int) that makes one, or as text
    "module:package.file:name" for such a thing in a file of yours, from the current folder on. It takes pooled features
    (N, D), or the map (N, C, H, W) of the last stage that has positions (tokens (N, L, C) where it has those), and answers
    (N, K), or (N, K, h, w), which is averaged. The solved head is then what it has to beat. `training` says how it is trained.
    """

    features: Features = "auto"
    balance: Balance = "none"
    l2: float | None = None
    module: Callable[..., Any] | str | None = None
    training: Training | None = None

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
        if self.module is None and self.training is not None:
            raise UsageError(
                expected="options of training with something that is trained",
                got="a linear head, which is solved to its optimum",
                fix="leave them out, or choose another strategy: partial:1, full, scratch",
            )
        if self.training is not None and self.training.augment != "none":
            raise UsageError(
                expected="a head of your own without --augment: it learns from what the frozen network gave, once per image",
                got=f"augment={self.training.augment!r}",
                fix="leave it out; partial:1 trains with augmented views",
            )

    @property
    def name(self) -> str:
        return "head"

    @property
    def how(self) -> Training:
        """How a head of one's own is trained."""
        # A head is small and its images are cached: many epochs cost little, and the best of them is kept.
        how = self.training or Training(epochs=30, lr=1e-3)
        return replace(how, balance=self.balance) if self.balance == "auto" else how


@dataclass(frozen=True, kw_only=True, slots=True)
class Partial(Training):
    """The last `stages` stages are trained together with the head, from the solved head; what is before them stays as it is.

    That frozen part runs once per image and view: `views` is the number of augmented versions of each image that are kept, the
    image as it is among them; an epoch shows one of them, and so in turn.
    """

    stages: int = 1
    epochs: int = 12
    augment: Augment = "light"
    mixup: float = 0.4
    views: int = 4

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        check_number("the N of partial:N", self.stages, 1, "partial:1")
        check_number("views", self.views, 1, "4", most=64)

    @property
    def name(self) -> str:
        return f"partial:{self.stages}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Full(Training):
    """The whole network is trained, from the solved head.

    `sizes`: sides in pixels that the epochs are spent at, from first to last in equal parts, for example (96, 128, 160); the
    images are shown as large as they are otherwise, and always when judged.
    """

    epochs: int = 10
    augment: Augment = "light"
    mixup: float = 0.4
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        _check_sizes(self.sizes)

    @property
    def name(self) -> str:
        return "full"


@dataclass(frozen=True, kw_only=True, slots=True)
class Norm(Training):
    """The head, and scale and shift of every normalisation; their statistics and all other weights stay."""

    epochs: int = 10
    augment: Augment = "light"
    mixup: float = 0.4
    depth_decay: float = 1.0

    @property
    def name(self) -> str:
        return "norm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gradual(Training):
    """Gradual unfreezing (Howard and Ruder 2018): the last stage first, then one stage more in each phase, down to the pixels.

    `epochs` are those of each phase, `phases` how many there are at most (None: one for each stage, and the whole network).
    """

    epochs: int = 2
    augment: Augment = "light"
    mixup: float = 0.4
    views: int = 4
    phases: int | None = None

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        check_number("views", self.views, 1, "4", most=64)
        if self.phases is not None:
            check_number("phases", self.phases, 1, "3")

    @property
    def name(self) -> str:
        return f"gradual:{self.epochs}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scratch(Training):
    """The whole network is trained from the weights it comes with, all layers at one rate, statistics of its norms included."""

    epochs: int = 30
    depth_decay: float = 1.0
    augment: Augment = "none"
    interpolate: bool = False
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        _check_sizes(self.sizes)
        if self.interpolate:
            raise UsageError(
                expected="scratch without interpolate",
                got="interpolate=True",
                fix="leave it out: between random weights and trained ones there is nothing worth having",
            )

    @property
    def name(self) -> str:
        return "scratch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Auto:
    """The solved head first; then, within `minutes` of training, what could be better on these images, on the same folds.

    The costlier one is kept only where its gain on the validation images is larger than its standard error. `training` holds
    options for whatever is trained; its `epochs` and `minutes` are chosen here.
    """

    minutes: float = 10.0
    balance: Balance = "none"
    training: Training = field(default_factory=lambda: Training(augment="light", mixup=0.4))

    def __post_init__(self) -> None:
        check_number("--minutes", self.minutes, 0.01, "10", whole=False)
        one_of("--balance", self.balance, ("auto", "none"))

    @property
    def name(self) -> str:
        return "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding(Training):
    """Feature extraction where every pixel has an answer: everything frozen, a decoder trained on what the stages gave.

    It begins at the probe that is solved for single pixels. `views` as for `Partial`.
    """

    epochs: int = 20
    augment: Augment = "light"
    views: int = 4
    batch_size: int = 8

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        check_number("views", self.views, 1, "4", most=64)

    @property
    def name(self) -> str:
        return "head"


Trained = Partial | Full | Norm | Gradual | Scratch | Decoding
Strategy = Head | Trained | Auto


def _check_sizes(sizes: object) -> None:
    if not isinstance(sizes, tuple) or not all(isinstance(side, int) and 16 <= side <= 2048 for side in sizes):
        raise UsageError(
            expected="sizes to be a tuple of sides from 16 to 2048 pixels",
            got=repr(sizes),
            fix="give for example (96, 128, 160)",
        )
