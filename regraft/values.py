"""What flows between the stages: frozen values made of numpy arrays and plain data.

Letters in names give shapes: N images, K classes, D features, F folds, H W pixels, C channels.
Nothing here imports torch, reads a file or makes a choice.
"""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "val", "test"]
# How the map of a stage becomes features: its mean and maximum, or the mean of each of its four quarters as well.
Pooling = Literal["whole", "quarters"]
FloatArray = NDArray[np.float32] | NDArray[np.float64]
# Stands between a file and what is inside of it: shards/000.tar::cat/1.jpg
INSIDE = "::"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One image inside of a file that holds many: a tar archive, a Parquet or an Arrow file.

    `container` is that file's path or URL, `inner` the image's name in it. In a tar the image is the `size` bytes from `offset`
    on. In the other two it is row `offset` of a `group` (Parquet: the number of a row group; Arrow: the byte at which a record
    batch starts) in the column `column`, whose size is not known before. `trouble`, where there is any, is the code of a
    rejection and what is wrong, such as ("link", "a symbolic link"): then it is never opened.
    """

    container: str
    inner: str
    kind: Literal["tar", "parquet", "arrow"] = "tar"
    offset: int = 0
    size: int = 0
    group: int = 0
    column: str = ""
    trouble: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.container}{INSIDE}{self.inner}"

    @property
    def name(self) -> str:
        """The last part of its name."""
        return self.inner.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of its name with the dot, or ''."""
        return PurePosixPath(self.inner).suffix

    @property
    def remote(self) -> bool:
        """Whether it lies in a file of another machine."""
        return "://" in self.container

    def as_posix(self) -> str:
        """As text."""
        return str(self)

    def exists(self) -> bool:
        """Whether the file that holds it is there; of one on another machine that is not asked."""
        return self.remote or Path(self.container).exists()


# Where an image is: a file of its own, or inside of a larger one.
ImagePath = Path | Member


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image and what is known of it.

    `name` is its path relative to the root of the data, with forward slashes, in Unicode NFC: it orders the
    samples and identifies the image in tables and reports. `labels` holds one class name, several for multi-label data, none
    where unknown. `mask` is the file with the class of every pixel, for the tasks that want one.
    """

    path: ImagePath
    name: str
    labels: tuple[str, ...] = ()
    part: Part | None = None
    group: str | None = None
    mask: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """One image set aside: `code` is stable ("truncated"), `reason` is for people."""

    path: ImagePath
    name: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What a source holds, in the order of `name`. `classes` are the sorted names of all labels.

    `tree` is the layout as it was understood, for printing; `notes` are things a person should know (ignored entries, links).
    """

    root: Path
    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    multi_label: bool = False
    rejected: tuple[Rejected, ...] = ()
    tree: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which images train and choose, and which only judge.

    `folds_N` gives each training image its cross-validation fold, 0 to F-1; images of one group share one.
    `how` says in a sentence how the test images were chosen, `drawn` whether that was done here; `notes` what else a person
    should know of the split; `rejected` holds images of a separate test set that could not be read.
    """

    classes: tuple[str, ...]
    multi_label: bool
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    folds_N: NDArray[np.int64]
    how: str
    drawn: bool = False
    notes: tuple[str, ...] = ()
    rejected: tuple[Rejected, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Logits of N images in the order of `classes`, with the truth where it is known.

    `targets` is (N,) class indices, or (N, K) booleans for multi-label data, or None. `groups` names for each image what it was
    drawn with (a patient, a video), itself where it stands alone; None where all do. Intervals go by it.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    logits_NK: FloatArray
    targets: NDArray[np.int64] | NDArray[np.bool_] | None
    multi_label: bool = False
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and its 95 % interval, all in 0..1 for proportions; `n` is what it was estimated from.

    Ends are NaN where there is too little to tell.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """Scores of one class: `support` images truly of it, `predicted` images called it."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreIntervals:
    """The figures of `Scores` that are no proportions, each with its 95 % interval."""

    macro_f1: Interval
    nll: Interval
    ece: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How good predictions are. Undefined figures (no image of a class) are NaN, and left out of means.

    `nll` is the mean negative log-likelihood in nats; `ece` the expected calibration error, binning in `evaluate.calibration`;
    `baseline` the accuracy of always answering the largest class. For multi-label data `accuracy` is the share of
    images with every label right, and `confusion_KK` is None.
    """

    n: int
    accuracy: Interval
    macro_f1: float
    nll: float
    ece: float
    intervals: ScoreIntervals
    baseline: float
    per_class: tuple[ClassScore, ...]
    confusion_KK: NDArray[np.int64] | None
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """One regularisation strength tried: cross-validated negative log-likelihood with its standard error, and accuracy."""

    features: str
    l2: float
    nll: float
    nll_se: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTiming:
    """One engine measured: images per second, smallest cosine of features with fp32's, seconds to set up."""

    name: str
    images_per_s: float
    cosine: float
    setup_s: float
    chosen: bool
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadChoice:
    """How the head was chosen: every strength tried, the winner, and how exactly its optimum was reached."""

    tried: tuple[Strength, ...]
    features: str
    l2: float
    gradient_norm: float
    iterations: int
    folds: int
    balanced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One pass over the training images. Losses are in nats per image (several labels: per image and label).

    `loss` and `accuracy` are of the training images while they were trained on, the other three of the validation images
    afterwards; `tempered_loss` is their loss at the one temperature that suits it best, and chooses the epoch. `rate` and
    `lowest_rate` are the largest and the smallest learning rate at the end: those of the head and of the first layers. `phase`
    counts those of gradual unfreezing, from 1; `strategy` is that of the training, of which `auto` has several.
    """

    number: int
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    tempered_loss: float
    rate: float
    seconds: float
    lowest_rate: float = 0.0
    phase: int = 1
    strategy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How a part that cannot be solved was trained, and whether that paid.

    `what` names it. `train` and `validation` count images; the validation images are one fold of the training images, and
    chose the epoch `chosen` by its tempered loss there (0: no epoch was better than the start) and `share`, how far the weights
    that were kept lie from those it began with to that epoch's; `refitted`: all that was done
    again on all training images. `accuracy` and `solved` are
    shares of these images that are right: of what was trained, and of solved heads that had not seen them; `gain` is their
    difference, `gain_se` its paired standard error.
    """

    what: str
    train: int
    validation: int
    start_loss: float
    start_accuracy: float
    start_tempered: float
    epochs: tuple[Epoch, ...]
    chosen: int
    accuracy: Interval
    solved: Interval
    gain: float
    gain_se: float
    share: float = 1.0
    refitted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A strategy that `auto` tried or left out, beside the solved head on the same validation images.

    `nll` is the likelihood's negative logarithm at the temperature that suits the answers best, in nats per image; `gain` is by
    how much it is less than the solved head's, `gain_se` the paired standard error. `seconds` were spent on it. `kept` is what
    the model is of; `note` says why one was left out. Figures are NaN where it was.
    """

    strategy: str
    accuracy: float
    nll: float
    gain: float
    gain_se: float
    seconds: float
    kept: bool
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOfThumb:
    """What tutorials advise from the number of images and their likeness to those that a network was trained on.

    `confidence` is the mean largest probability that the network's own classifier gives the images; NaN where it has none.
    """

    images: int
    confidence: float
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmented:
    """Training images as augmentation shows them. `words` say what it does.

    `sheet` is a PNG with a row for each of `names`: the image as it is, then `versions` of it.
    """

    words: str
    sheet: bytes
    names: tuple[str, ...]
    versions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What dividing the logits by `temperature` does to the probabilities of `images` images, named by `on`.

    The temperature comes from out-of-fold logits of training images (of a trained network: those of its validation images).
    `nll_before` and `nll_after` are in nats per image, `ece_before` and `ece_after` as in `Scores`.
    """

    temperature: float
    on: str
    images: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AbstainRule:
    """When no class is answered: below the calibrated `confidence`, or at a novelty `distance` above that one.

    None: that side has no threshold. `max_error` and `coverage` are what was asked for, None where nothing was. The rest is
    what it does on the images named by `on`: the share `covered` that is answered, `error_answered` among these and `error_all`
    without the rule.
    """

    confidence: float | None
    distance: float | None
    max_error: float | None
    coverage: float | None
    on: str
    covered: Interval
    error_answered: Interval
    error_all: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The answer for one input: classes with probabilities, best first; or why there is none.

    `abstained`: the answer should not be relied on, and `why` says what for; the classes are given all the same. `distance` is
    how far the image lies from those fitted on (1 is usual for new ones), where that is measured.
    `explanation` is the path of the picture of its evidence, where one was asked for.
    """

    path: str
    status: Literal["ok", "failed"]
    reason: str = ""
    top: tuple[tuple[str, float], ...] = ()
    abstained: bool = False
    why: str = ""
    distance: float | None = None
    explanation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Where in one image the evidence for the class `of` lies, whose `probability` the model gives.

    `heat_HW` is 1 at the place that speaks most for the class and 0 where nothing does; `pixels_HWC` is the image as the
    network saw it, of the same height and width. Both are empty for an image that failed.
    """

    prediction: Prediction
    of: str
    probability: float
    heat_HW: NDArray[np.float32]
    pixels_HWC: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores on one labelled data set, the predictions they were made from, and what could not be read.

    `scores` count every answer; `abstain` says what withholding some does here, where the model does so.
    """

    scores: Scores
    predictions: Predictions
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    abstain: AbstainRule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedBackbone:
    """How one backbone does on the images of a ranking, out of fold; or, where it "failed", the `reason`.

    `nll` is in nats per image; `behind` is by how much that is more than the best one's, on the same images. Each `_error` is a
    standard error. `tied`: not worse than the best by more than chance. `imagenet_top1` is in per cent, None where it is not
    stated. `images_per_s` is the network alone with `engine`; `cached`: no image had to go through it this time.
    """

    backbone: str
    status: Literal["ok", "failed"]
    reason: str = ""
    accuracy: float = float("nan")
    accuracy_error: float = float("nan")
    nll: float = float("nan")
    nll_error: float = float("nan")
    behind: float = float("nan")
    behind_error: float = float("nan")
    tied: bool = False
    features: str = ""
    imagenet_top1: float | None = None
    parameters: int = 0
    images_per_s: float = 0.0
    engine: str = ""
    cached: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Backbones compared on `images` training images: the best by likelihood first, those that failed last.

    `recommended` is the smallest of those tied with the best. `baseline` is the accuracy of always answering the largest class.
    """

    backbones: tuple[RankedBackbone, ...]
    best: str
    recommended: str
    images: int
    folds: int
    classes: tuple[str, ...]
    baseline: float
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """How good heads are that learned from so many `images`, on training images that they had not seen.

    `accuracy` and `nll` (nats per image; several labels: per image and label) are means over `heads`, fitted to as many images
    each; the `_error`s are standard errors.
    """

    images: int
    accuracy: float
    accuracy_error: float
    nll: float
    nll_error: float
    heads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """The share that is wrong after learning from n images: `floor` + `scale` n^-`exponent`."""

    floor: float
    scale: float
    exponent: float

    def __call__(self, images: float) -> float:
        return float(self.floor + self.scale * images**-self.exponent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What so many `images` of the same kind would give: the accuracy, and the `gain` over those there are, with 95 % bands."""

    images: int
    accuracy: Interval
    gain: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """Accuracy against the number of training images, and what more of them would bring.

    `images` is how many there are, `judged` how many of them the points were judged on. `law` is fitted to the points; `band`
    is what it and its uncertainty give along the range of the figure, `projections` at 1.5 and 2 times the images and at 500
    more, in ascending order. All three are empty where there are too few points to tell.
    """

    points: tuple[CurvePoint, ...]
    images: int
    judged: int
    multi_label: bool = False
    law: PowerLaw | None = None
    band: tuple[Projection, ...] = ()
    projections: tuple[Projection, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """An image that is worth a label: its answers, best first, and how unsure they are.

    `doubt` is 1 minus the lead of the best answer over the second, in probability: 1 is a tie. Several labels per image: 1
    where a label has the probability 1/2, 0 where each is certain.
    """

    path: str
    top: tuple[tuple[str, float], ...]
    doubt: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestions:
    """Images to label next, the most useful first, of `images` that could be read; `alike` were left out as near copies.

    `rejected` are those that could not be read.
    """

    chosen: tuple[Suggestion, ...]
    images: int
    alike: int
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """All that a finished fit says of itself: what the report shows and `--json` prints.

    `strategy` is that of the model; where "auto" was `asked` for, the one that it kept. `head` is the solved head, always
    there. Where something was trained, `history` tells how, and `cross_validation` holds the scores on its validation images:
    one fold of the training images, which chose the epoch. `weights` says what the network began with ("none": random ones).
    """

    run: Path
    backbone: str
    strategy: str
    classes: tuple[str, ...]
    train: int
    test: int
    rejected: tuple[Rejected, ...]
    test_scores: Scores | None
    cross_validation: Scores
    seconds: dict[str, float]
    engine: str
    engines: tuple[EngineTiming, ...]
    cache_hits: int
    cache_misses: int
    head: HeadChoice
    tree: str
    notes: tuple[str, ...]
    split: str
    command: str
    versions: dict[str, str] = field(default_factory=dict)
    report: Path | None = None
    history: History | None = None
    compared: tuple[Compared, ...] = ()
    rule: RuleOfThumb | None = None
    calibrated: Calibrated | None = None
    abstain: AbstainRule | None = None
    weights: str = ""
    learning: "LearningCurve | None" = None

    @property
    def asked(self) -> str:
        """The strategy that was asked for."""
        return "auto" if self.compared else self.strategy

    @property
    def judged_by(self) -> str:
        """What `cross_validation` is, in a word."""
        return "validation" if self.history else "cross-validation"
