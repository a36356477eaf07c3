"""What flows between the stages where every pixel has an answer: frozen values, numpy only.

Letters in names give shapes: N images, K classes, H W pixels, L levels of probability. A label is a uint8 class index, IGNORE
where no answer counts. Saliency has the classes background and object, and one logit per pixel: that of the object.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.findings import Copies
from regraft.values import HeadChoice, History, Interval, Rejected

IGNORE: Final = 255
LEVELS: Final = 256
BACKGROUND, OBJECT = "background", "object"
Kind = Literal["saliency", "semantic"]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskMap:
    """How the files of masks say classes: `values` of grey or palette pixels, `colours` of RGB ones, each to a class or IGNORE.

    `words` are the map as a person reads it, a line each.
    """

    kind: Kind
    classes: tuple[str, ...]
    values: tuple[tuple[int, int], ...] = ()
    colours: tuple[tuple[tuple[int, int, int], int], ...] = ()
    words: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Logits of a pixel: 1 for saliency, else one for each class."""
        return 1 if self.kind == "saliency" else len(self.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelCounts:
    """What scores are made of, image by image; pixels to be ignored are in none of it.

    (N, K) pixels `true_NK` of a class, `predicted_NK` called so, `both_NK`; for edges (N, K) pixels of the true and of the
    predicted edge of a class, and how many of each lie near the other. Saliency alone: `levels_N2L`, how many background and
    object pixels were given each of L = 256 probabilities of the object, rounded; else None.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    kind: Kind
    true_NK: Counts
    predicted_NK: Counts
    both_NK: Counts
    true_edge_NK: Counts
    true_edge_found_NK: Counts
    predicted_edge_NK: Counts
    predicted_edge_right_NK: Counts
    levels_N2L: Counts | None = None
    groups: tuple[str, ...] | None = None

    def of(self, rows: NDArray[np.int64]) -> "PixelCounts":
        """Those of some of the images."""
        arrays = {field.name: getattr(self, field.name)[rows] for field in fields(self) if field.name.endswith("_NK")}
        return replace(
            self,
            names=tuple(self.names[row] for row in rows),
            groups=None if self.groups is None else tuple(self.groups[row] for row in rows),
            levels_N2L=None if self.levels_N2L is None else self.levels_N2L[rows],
            **arrays,
        )

    def at(self, threshold: float) -> "PixelCounts":
        """The same where a pixel is of the object from another probability on, to the next level; edges are not counted."""
        if self.levels_N2L is None:
            return self
        called_NL = self.levels_N2L[:, :, int(np.ceil(threshold * (LEVELS - 1))) :].sum(axis=2)
        object_N, right_N = called_NL.sum(axis=1), called_NL[:, 1]
        background_N, everything_N = self.true_NK[:, 0], self.true_NK.sum(axis=1)
        none_NK = np.zeros_like(self.true_NK)
        return replace(
            self,
            predicted_NK=np.stack([everything_N - object_N, object_N], axis=1),
            both_NK=np.stack([background_N - (object_N - right_N), right_N], axis=1),
            true_edge_NK=none_NK,
            true_edge_found_NK=none_NK,
            predicted_edge_NK=none_NK,
            predicted_edge_right_NK=none_NK,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelClassScore:
    """Scores of one class over all pixels: `pixels` truly of it, in `images` images. Undefined figures are NaN."""

    name: str
    iou: Interval
    dice: float
    precision: float
    recall: float
    boundary_f: float
    pixels: int
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelScores:
    """How good answers for pixels are, with 95 % bootstrap intervals over images (over groups, where images have them).

    Saliency: `iou` and `dice` are means over images of the object's; an empty object rightly found empty counts 1. Semantic:
    means over classes of those over all pixels. `pooled_iou` is over all pixels, for saliency of the object. `boundary_f` as
    in `evaluate.pixels`. `mae` and `f_measure` (beta squared 0.3, at the threshold) are of saliency alone. `baseline`: the
    iou of the best constant answer. `threshold` is the probability from which a pixel is of the object.
    """

    n: int
    kind: Kind
    iou: Interval
    dice: Interval
    pixel_accuracy: Interval
    boundary_f: Interval
    pooled_iou: Interval
    baseline: float
    per_class: tuple[PixelClassScore, ...]
    classes: tuple[str, ...]
    mae: Interval | None = None
    f_measure: Interval | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelCalibrated:
    """What dividing the logits by `temperature` does to the probabilities of `pixels` pixels of `images` images (`on`)."""

    temperature: float
    on: str
    images: int
    pixels: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelAnswer:
    """The answer for one image: labels (H, W) at its own size, and where wanted probabilities (C, H, W); or why there is none.

    C is 1 for saliency. `shares` say what part of the image each class takes.
    """

    path: str
    status: Literal["ok", "failed"]
    reason: str = ""
    labels_HW: NDArray[np.uint8] | None = None
    probabilities_CHW: NDArray[np.float16] | None = None
    shares: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelEvaluation:
    """Scores on one set with masks, what they were made of, and what could not be read."""

    scores: PixelScores
    counts: PixelCounts
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFinding:
    """A mask to look at: `what` is "empty", "full", "all ignored" or "disagrees"; `share` of its pixels that it is about."""

    name: str
    path: Path
    what: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelSummary:
    """All that a finished fit says of itself where every pixel has an answer.

    `probe` are the scores of the solved probe on every training image by one that had not seen it, in the window that the
    network works in; `judged` those of the model on the images named by `judged_by`, likewise; `test_scores` are at the size
    of the masks. `usual_side` is the median longer side of the training images in pixels, `window` what it is shown at.
    """

    run: Path
    kind: Kind
    classes: tuple[str, ...]
    backbone: str
    weights: str
    strategy: str
    decoder: str
    loss: str
    train: int
    test: int
    window: int
    usual_side: int
    rejected: tuple[Rejected, ...]
    test_scores: PixelScores | None
    judged: PixelScores
    judged_by: str
    probe: PixelScores
    calibrated: PixelCalibrated
    threshold: float
    choice: HeadChoice
    history: History | None
    findings: tuple[MaskFinding, ...]
    copies: tuple[Copies, ...]
    mask_words: tuple[str, ...]
    tree: str
    notes: tuple[str, ...]
    split: str
    command: str
    seconds: dict[str, float]
    versions: dict[str, str]
    cache_hits: int
    cache_misses: int
    report: Path | None = None
