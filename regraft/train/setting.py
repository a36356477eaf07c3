"""What a strategy starts from, and what it leaves behind."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from regraft.backbone.attach import HeadWeights
from regraft.backbone.model import Backbone
from regraft.cache.extract import Extracted
from regraft.errors import TooFewImages
from regraft.evaluate.compare import mean_and_error
from regraft.progress import Progress
from regraft.strategies import Balance
from regraft.train.contract import Task
from regraft.train.head_fit import HeadFit
from regraft.train.keeper import Keeper, Nowhere
from regraft.train.lessons import Lessons
from regraft.train.loop import Course
from regraft.train.observed import Observed
from regraft.train.own_head import OwnHead
from regraft.train.path import balanced_weights
from regraft.train.pixel_network import PixelHead
from regraft.values import Compared, Epoch, FloatArray, HeadChoice, History, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The images as the network saw them, and the solved head, which every other strategy starts from or has to beat.

    `targets` are those of the training images, (N,) class indices or (N, K) booleans. `cache_limit` bounds in bytes what is
    kept of the images for a training. `keepers` gives what keeps the states of a strategy, `on_epoch` hears of each epoch.
    """

    backbone: Backbone
    classes: tuple[str, ...]
    targets: NDArray[np.int64] | NDArray[np.bool_]
    observed: Observed
    extracted: Extracted
    solved: HeadFit
    task: Task
    cache: Path
    device: str
    seed: int
    progress: Progress
    cache_limit: int = 20 * 10**9
    keepers: Callable[[str], Keeper] = lambda _: Nowhere()
    on_epoch: Callable[[Epoch], None] = lambda _: None

    @property
    def images(self) -> tuple[Sample, ...]:
        """Training images, then test images: the order of the features' rows."""
        return (*self.observed.train, *self.observed.test)

    @property
    def test_rows(self) -> NDArray[np.int64]:
        """The positions of the test images among `images`."""
        return np.arange(len(self.observed.train), len(self.images), dtype=np.int64)


ModelHead = HeadWeights | OwnHead | PixelHead


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What the strategy of that name made: a network with its head, and answers to images that it was not fitted on.

    `judged` are positions of training images, `judged_NK` the logits for them: of all, each by a head that had not seen it, or
    where `history` is there of its validation images. `test_MK` are the logits of the test images. `choice` is the solved
    head's.
    """

    strategy: str
    backbone: Backbone
    head: ModelHead
    choice: HeadChoice
    judged: NDArray[np.int64]
    judged_NK: FloatArray
    test_MK: FloatArray
    history: History | None = None
    compared: tuple[Compared, ...] = ()
    notes: tuple[str, ...] = ()


def solved_model(setting: Setting) -> Model:
    """The solved head as it is."""
    head, columns = setting.solved, setting.extracted.columns
    return Model(
        strategy="head",
        backbone=setting.backbone,
        head=HeadWeights(taps=columns.taps if head.features == "stages" else (), weight_KD=head.weight_KD, bias_K=head.bias_K),
        choice=head.choice,
        judged=np.arange(len(setting.observed.train), dtype=np.int64),
        judged_NK=head.out_of_fold_NK,
        test_MK=head.logits(setting.observed.test_features),
    )


# Validation images above so many cost time in every epoch and training images; so many tell epochs apart.
MOST_VALIDATION = 2500


def lessons_of(setting: Setting, balance: Balance) -> Lessons:
    """All training images but a fold or a part of one, which is for validation; how they are read is yet to be said.

    Raises TooFewImages where next to nothing is left.
    """
    folds_N, targets = setting.observed.folds_N, setting.targets
    validation = _at_most(np.flatnonzero(folds_N == validation_fold(folds_N, targets)), setting.observed.train, targets)
    train = np.setdiff1d(np.arange(len(folds_N)), validation)
    if len(train) < 2:
        raise TooFewImages(
            expected="two images or more to train on, beside those for validation",
            got=f"{len(train)} of {len(targets)} training images, the others being of one group",
            fix="give more images, or smaller groups",
        )
    weights = balanced_weights(targets, len(setting.classes)).T if balance == "auto" else np.ones((len(targets), 1))
    return Lessons(
        read=_unsaid,
        targets=targets,
        weights=weights[:, 0] if targets.ndim == 1 else weights,
        train=train,
        validation=validation,
        names=tuple(sample.name for sample in setting.images),
    )


def _unsaid(rows: NDArray[np.int64], epoch: int | None) -> tuple[Tensor, ...]:
    raise AssertionError("how images are read has to be said first")


def _at_most(fold: NDArray[np.int64], samples: Sequence[Sample], targets: NDArray[Any]) -> NDArray[np.int64]:
    """The fold, or where it is large whole groups of it up to MOST_VALIDATION images, drawn the same on every run."""
    if len(fold) <= MOST_VALIDATION:
        return fold
    groups: dict[str, list[int]] = {}
    for row in fold:
        groups.setdefault(group_of(samples[row]), []).append(int(row))
    kept: list[int] = []
    for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()):
        if len(kept) >= MOST_VALIDATION:
            break
        kept += groups[name]
    return np.array(sorted(kept), np.int64)


def validation_fold(folds_N: NDArray[np.int64], targets: NDArray[np.int64] | NDArray[np.bool_]) -> int:
    """The first fold without which no class loses all its training images; if there is none, the one that costs fewest."""

    def kept(fold: int) -> int:
        rest = targets[folds_N != fold]
        return len(np.unique(rest)) if targets.ndim == 1 else int(rest.any(axis=0).sum())

    return max(map(int, np.unique(folds_N)), key=kept)


def telling(setting: Setting, strategy: str, epochs: int, phase: int, told: list[Epoch]) -> Callable[[Epoch], None]:
    """Says each epoch in a line, and to whoever else listens, numbered on through the phases; `told` collects them."""
    before, right = len(told), setting.task.right

    def tell(epoch: Epoch) -> None:
        whole = replace(epoch, number=before + epoch.number, phase=phase + 1, strategy=strategy)
        told.append(whole)
        setting.on_epoch(whole)
        words = f"phase {phase + 1}, " if phase else ""
        rates = f"{epoch.rate:.1e}" + (f" to {epoch.lowest_rate:.1e}" if epoch.lowest_rate < epoch.rate else "")
        setting.progress.note(
            f"{words}epoch {epoch.number}/{epochs}: loss {epoch.loss:.3f}, {100 * epoch.accuracy:.1f} {right}; validation loss "
            f"{epoch.validation_loss:.3f}, {100 * epoch.validation_accuracy:.1f} {right}; rate {rates}; "
            f"{epoch.seconds:.1f} s"
        )

    return tell


def noting(setting: Setting, epochs: int) -> Callable[[Epoch], None]:
    """Says each epoch of a training without validation in a line."""

    def tell(epoch: Epoch) -> None:
        setting.progress.note(
            f"epoch {epoch.number}/{epochs} on all images: loss {epoch.loss:.3f}, "
            f"{100 * epoch.accuracy:.1f} {setting.task.right}; "
            f"{epoch.seconds:.1f} s"
        )

    return tell


def history_of(
    setting: Setting,
    what: str,
    courses: Sequence[Course],
    lessons: Lessons,
    logits_VK: FloatArray,
    share: float = 1.0,
    *,
    refitted: bool = False,
) -> History:
    """The courses of a training's phases beside the solved head, on the same validation images."""
    validation = lessons.validation
    both = (logits_VK, setting.solved.out_of_fold_NK[validation])
    trained, solved = (setting.task.rightness(setting, validation, rows) for rows in both)
    groups = [group_of(setting.observed.train[i]) for i in validation]
    gain, gain_se = mean_and_error(trained - solved, groups)
    epochs, chosen = list[Epoch](), 0
    for phase, course in enumerate(courses):
        # A phase of which no epoch was kept ends where the one before it did.
        chosen = len(epochs) + course.chosen if course.chosen else chosen
        epochs += [replace(epoch, number=len(epochs) + i, phase=phase + 1) for i, epoch in enumerate(course.epochs, 1)]
    return History(
        what=what,
        train=len(lessons.train),
        validation=len(validation),
        start_loss=courses[0].start_loss,
        start_accuracy=courses[0].start_accuracy,
        start_tempered=courses[0].start_tempered,
        epochs=tuple(epochs),
        chosen=chosen,
        share=share,
        refitted=refitted,
        accuracy=setting.task.interval(trained),
        solved=setting.task.interval(solved),
        gain=gain,
        gain_se=gain_se,
    )


def group_of(sample: Sample) -> str:
    """What images are drawn by: those of one group together, any other alone."""
    return sample.group or sample.name
