"""What `config.json` holds, as frozen records that check themselves.

Every number and name is bounded, because a saved model may come from anybody. Layout and meaning: docs/format.md.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, ValidationInfo, field_validator, model_validator

from regraft.errors import DataUnusable
from regraft.recipe import DecoderKind
from regraft.segments import IGNORE, PixelScores
from regraft.values import Interval, Pooling, Scores

FORMAT: Final = "regraft"
FORMAT_VERSION: Final = 6
MAX_CLASSES = 100_000
MAX_ANSWER = 8
MAX_CLASS_NAME = 256
# Marks that reorder what a reader sees, so that a name can look like another one (CVE-2021-42574).
_BIDI_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROL_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def check_class_names(names: Sequence[str]) -> None:
    """Raise DataUnusable unless a model with these classes can be saved; cheap enough to call before any work."""
    if not 1 <= len(names) <= MAX_CLASSES:
        raise DataUnusable(
            expected=f"1 to {MAX_CLASSES:,} classes", got=f"{len(names):,}", fix="check the folder or the label column"
        )
    seen: set[str] = set()
    for name in names:
        problem = _problem_of_name(name)
        # NFC twins look the same and are one folder on some file systems.
        normal = unicodedata.normalize("NFC", name)
        problem = problem or ("there twice" if normal in seen else None)
        if problem:
            raise DataUnusable(
                expected="class names that differ, are not blank and hold only visible characters",
                got=f"class name {quoted(name)}: {problem}",
                fix="rename that class",
            )
        seen.add(normal)


def _problem_of_name(name: str) -> str | None:
    if not name.strip():
        return "blank"
    if len(name) > MAX_CLASS_NAME:
        return f"{len(name):,} characters, over {MAX_CLASS_NAME}"
    for letter in name:
        if letter in _BIDI_MARKS or unicodedata.category(letter) in _CONTROL_CATEGORIES:
            return f"holds the control character U+{ord(letter):04X}"
    return None


def quoted(value: object, limit: int = 60) -> str:
    """`value` in ASCII, cut short: safe to print whatever it holds."""
    text = ascii(value[: limit + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _checked_classes(names: tuple[str, ...]) -> tuple[str, ...]:
    check_class_names(names)
    return names


def _no_repeats(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("holds a name twice")
    return names


# Names of own code: shown to people, compared with nothing, opened by nobody. What a "hub" name says of a folder is its last
# part alone.
_OWN_NAMES = {
    "hub": re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*(:[\w-][\w./-]*)?|[\w-]+):[A-Za-z_]\w*", re.ASCII),
    "module": re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII),
    "python": re.compile(r"[A-Za-z_][\w-]*", re.ASCII),
}
# A plain name of a model registry. timm's create_model also takes "hf-hub:..." and "local-dir:...", which reach the
# network and the disk, so nothing that could hold a scheme or a path gets to a library.
_REGISTRY_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)?", re.ASCII)
MAX_REGISTRY_NAME, MAX_OWN_NAME = 100, 300


def is_own_name(source: str, name: str) -> bool:
    """Whether a network of own code ("hub", "module" or "python") can be saved under this name."""
    return len(name) <= MAX_OWN_NAME and ".." not in name and bool(_OWN_NAMES[source].fullmatch(name))


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
# Dotted paths of modules, whose parts may be numbers (nn.Sequential).
NodeName = Annotated[str, Field(max_length=256, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\z")]
Count = Annotated[int, Field(ge=0, le=2**40)]
Side = Annotated[int, Field(ge=16, le=2048)]
Byte = Annotated[int, Field(ge=0, le=255)]
Mean = Annotated[float, Field(ge=-100, le=100)]
Deviation = Annotated[float, Field(gt=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
PlainText = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00-\x1f\x7f]*\z")]
PackageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z")]
VersionText = Annotated[str, Field(pattern=r"^[ -~]{1,100}\z")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class ArchitectureRecord(_Record):
    """The network without its weights. Never code, never arguments.

    Of a library ("timm", "torchvision", "builtin") `name` is the plain name there, by which it is built. The sources "hub",
    "module" and "python" are own code: nothing is built by their names, which only tell people what to name again. `answer`
    then holds the first logits of the fitted model for one image, to recognise another network with the same weights.
    `head_path` is the layer that makes the logits where the user named it.
    """

    source: Literal["timm", "torchvision", "builtin", "hub", "module", "python"]
    name: Annotated[str, Field(max_length=MAX_OWN_NAME)]
    head_path: NodeName | None
    answer: Annotated[tuple[float, ...], Field(min_length=1, max_length=MAX_ANSWER)] | None

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str, info: ValidationInfo) -> str:
        source = info.data.get("source")
        of_library = len(name) <= MAX_REGISTRY_NAME and _REGISTRY_NAME.fullmatch(name)
        if not (is_own_name(source, name) if source in _OWN_NAMES else of_library):
            raise ValueError("not a plain name")
        return name

    @property
    def own_code(self) -> bool:
        """Whether building it would run code that came neither with regraft nor with the libraries it needs."""
        return self.source in _OWN_NAMES


class FeaturesRecord(_Record):
    """What the head reads: "last" (the input of the network's own head) or "stages" (the nodes `taps`, pooled).

    "own": a head of the user's own, which is code and not in the file; it reads the pooled features, or the map at the end of
    the one stage in `taps`. "maps": those of all stages in `taps`, for an answer at every pixel. `width` is the number of
    features per image, or of the maps' channels. `pooling` is how maps become features: by mean and maximum of the whole, or
    the mean of each quarter as well.
    """

    kind: Literal["last", "stages", "own", "maps"]
    taps: Annotated[tuple[NodeName, ...], Field(max_length=1000), FailFast(), AfterValidator(_no_repeats)]
    width: Annotated[int, Field(ge=1, le=10_000_000)]
    pooling: Pooling


class PreprocessRecord(_Record):
    """The fields of `regraft.data.preprocess.Preprocess`, under the same names; sides in pixels.

    `mean` and `std` have one entry per channel: 1 (grey), 3 (RGB) or 4 (RGB and alpha).
    """

    height: Side
    width: Side
    fit: Literal["crop", "squash", "pad"]
    crop_share: Annotated[float, Field(gt=0, le=1)]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    mean: Annotated[tuple[Mean, ...], Field(max_length=4), FailFast()]
    std: Annotated[tuple[Deviation, ...], Field(max_length=4), FailFast()]
    background: tuple[Byte, Byte, Byte]

    @model_validator(mode="after")
    def _of_one_number_of_channels(self) -> Self:
        if len(self.mean) not in (1, 3, 4) or len(self.mean) != len(self.std):
            raise ValueError("mean and std of other than 1, 3 or 4 channels")
        return self


class AbstainRecord(_Record):
    """When no class is answered: below the probability `confidence` (2: always), or beyond the `distance`; None: no threshold.

    `max_error` and `coverage` are what was asked for, None where nothing was.
    """

    confidence: Annotated[float, Field(ge=0, le=2)] | None
    distance: NotNegative | None
    max_error: Share | None
    coverage: Share | None


class NoveltyRecord(_Record):
    """How far an image lies from those fitted on: the pooled stages `taps` and the numbers of columns, and the tensors' shapes.

    `axes` directions and `known` images; `usual` is the distance that is called 1.
    """

    taps: Annotated[tuple[NodeName, ...], Field(max_length=1000), FailFast(), AfterValidator(_no_repeats)]
    blocks: Annotated[tuple[Annotated[int, Field(ge=1, le=10_000_000)], ...], Field(min_length=1, max_length=1001), FailFast()]
    axes: Annotated[int, Field(ge=1, le=10_000)]
    known: Annotated[int, Field(ge=1, le=1_000_000)]
    usual: Positive


class TrainingRecord(_Record):
    """What the model was fitted on and how. `samples` and `test_samples` count images; `split` is a sentence.

    `data_fingerprint` is the SHA-256 that identifies the data. Figures of the head are None where it was not solved.
    """

    samples: Count
    test_samples: Count
    data_fingerprint: Sha256
    split: PlainText
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)]
    strategy: Annotated[str, Field(max_length=64, pattern=r"^[a-z][a-z_]*(:[0-9]{1,4})?\z")]
    l2: Positive | None
    gradient_norm: NotNegative | None
    folds: Annotated[int, Field(ge=2, le=10_000)] | None
    balanced: bool


class IntervalRecord(_Record):
    """An estimate with its 95 % interval, in 0..1, from `n` images."""

    value: Share
    low: Share
    high: Share
    n: Count


class ScoreRecord(_Record):
    """The main figures of `regraft.values.Scores`; None where a figure is undefined."""

    accuracy: IntervalRecord
    macro_f1: Share | None
    nll: NotNegative | None
    ece: Share | None
    baseline: Share | None

    @classmethod
    def of(cls, scores: Scores) -> "ScoreRecord":
        """The record of measured scores; a NaN, which JSON does not have, becomes None."""
        return cls(
            accuracy=_interval(scores.accuracy),
            macro_f1=_share(scores.macro_f1),
            nll=_defined(scores.nll),
            ece=_share(scores.ece),
            baseline=_share(scores.baseline),
        )


def _interval(interval: Interval) -> IntervalRecord:
    value, low, high = (_within_one(float(share)) for share in (interval.value, interval.low, interval.high))
    return IntervalRecord(value=value, low=low, high=high, n=int(interval.n))


def _defined(figure: float) -> float | None:
    return float(figure) if math.isfinite(figure) else None


def _share(figure: float) -> float | None:
    return _within_one(float(figure)) if math.isfinite(figure) else None


def _within_one(share: float) -> float:
    # Rounding takes the end of an interval a few units past 0 or 1; anything more is a mistake and gets refused.
    nearest = min(max(share, 0.0), 1.0)
    return nearest if abs(nearest - share) < 1e-9 else share


class ScoresRecord(_Record):
    """Scores on the test images and in cross-validation on the training images, where there were any."""

    test: ScoreRecord | None
    cross_validation: ScoreRecord | None


class PixelScoreRecord(_Record):
    """The main figures of `regraft.segments.PixelScores`; None where a figure is undefined."""

    iou: IntervalRecord
    dice: IntervalRecord
    pixel_accuracy: IntervalRecord
    baseline: Share | None

    @classmethod
    def of(cls, scores: PixelScores) -> "PixelScoreRecord":
        """The record of measured scores."""
        intervals = (_interval(one) for one in (scores.iou, scores.dice, scores.pixel_accuracy))
        iou, dice, pixel_accuracy = intervals
        return cls(iou=iou, dice=dice, pixel_accuracy=pixel_accuracy, baseline=_share(scores.baseline))


class PixelsRecord(_Record):
    """What a model has beside where every pixel has an answer.

    `decoder` reads the maps; saliency calls a pixel the object from the probability `threshold`; images whose longer side is
    far above `usual_side` pixels are answered in tiles. `values` and `colours` say which class a pixel of a mask file means.
    `scores` are None where nothing was measured.
    """

    decoder: DecoderKind
    threshold: Share
    usual_side: Annotated[int, Field(ge=1, le=1_000_000)]
    values: Annotated[tuple[tuple[Annotated[int, Field(ge=0, le=65535)], Byte], ...], Field(max_length=65536), FailFast()]
    colours: Annotated[tuple[tuple[tuple[Byte, Byte, Byte], Byte], ...], Field(max_length=65536), FailFast()]
    test: PixelScoreRecord | None
    judged: PixelScoreRecord | None


class Config(_Record):
    """All of a saved model but its tensors. Raises DataUnusable for class names that cannot be saved.

    `classes` are in the order of the logits. `mirrored`: these are the mean of those for the image and its mirror
    image. What the network with its head gives is divided by `temperature`. `novelty` is None where nothing measures how new an
    image is. `weights_digest` is the SHA-256 of the backbone's original weights. `pixels` is there for the tasks that answer
    for every pixel, and None for classification.
    """

    format: Literal["regraft"] = FORMAT
    format_version: Literal[6] = FORMAT_VERSION
    task: Literal["classification", "saliency", "semantic"] = "classification"
    multi_label: bool
    mirrored: bool
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)]
    abstain: AbstainRecord
    novelty: NoveltyRecord | None
    classes: Annotated[tuple[str, ...], Field(max_length=MAX_CLASSES), FailFast(), AfterValidator(_checked_classes)]
    architecture: ArchitectureRecord
    weights_digest: Sha256
    features: FeaturesRecord
    preprocess: PreprocessRecord
    training: TrainingRecord
    scores: ScoresRecord
    versions: Annotated[dict[PackageName, VersionText], Field(max_length=100)]
    pixels: PixelsRecord | None = None

    @model_validator(mode="after")
    def _of_one_task(self) -> Self:
        of_pixels = self.task != "classification"
        if of_pixels != (self.pixels is not None) or of_pixels != (self.features.kind == "maps"):
            raise ValueError("a task with the fields of another")
        if self.pixels is not None:
            pixels, known = self.pixels, {*range(len(self.classes)), IGNORE}
            meant = [*(value for value, _ in pixels.values), *(colour for colour, _ in pixels.colours)]
            if not {index for _, index in (*pixels.values, *pixels.colours)} <= known or len(set(meant)) < len(meant):
                raise ValueError("masks that say a class which is not there, or two at once")
        return self


class WeightsFile(_Record):
    """The file that a config belongs to: its size in bytes and the SHA-256 of all of it."""

    file: Literal["model.safetensors"]
    bytes: Annotated[int, Field(ge=10, le=2**40)]
    sha256: Sha256


class SealedConfig(Config):
    """A config as it stands in the file: bound to its weights, and with the checksum of all the rest."""

    model: WeightsFile
    checksum: Sha256
