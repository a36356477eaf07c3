"""What a strategy starts from, and what it leaves behind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from regraft.backbone.attach import HeadWeights
from regraft.backbone.model import Backbone
from regraft.cache.extract import Activations, Extracted
from regraft.errors import TooFewImages
from regraft.evaluate.compare import mean_and_error
from regraft.evaluate.interval import wilson
from regraft.evaluate.probability import decisions, right
from regraft.progress import Progress
from regraft.recipe import Balance
from regraft.task.classify import predictions_of
from regraft.train.chance import flipped
from regraft.train.head_fit import HeadFit
from regraft.train.loop import Course, Lessons, Read
from regraft.train.observed import Observed
from regraft.train.own_head import OwnHead
from regraft.train.path import balanced_weights
from regraft.values import Epoch, FloatArray, HeadChoice, History, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The images as the network saw them, and the solved head, which every other strategy starts from or has to beat.

    `targets` are those of the training images, (N,) class indices or (N, K) booleans.
    """

    backbone: Backbone
    classes: tuple[str, ...]
    targets: NDArray[np.int64] | NDArray[np.bool_]
    observed: Observed
    extracted: Extracted
    solved: HeadFit
    cache: Path
    device: str
    seed: int
    progress: Progress

    @property
    def images(self) -> tuple[Sample, ...]:
        """Training images, then test images: the order of the features' rows."""
        return (*self.observed.train, *self.observed.test)

    @property
    def test_rows(self) -> NDArray[np.int64]:
        """The positions of the test images among `images`."""
        return np.arange(len(self.observed.train), len(self.images), dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a strategy made: a network with its head, and answers to images that it was not fitted on.

    `judged` are positions of training images, `judged_NK` the logits for them: of all, each by a head that had not seen it, or
    where `history` is there of its validation images. `test_MK` are the logits of the test images. `choice` is the solved
    head's.
    """

    backbone: Backbone
    head: HeadWeights | OwnHead
    choice: HeadChoice
    judged: NDArray[np.int64]
    judged_NK: FloatArray
    test_MK: FloatArray
    history: History | None = None
    notes: tuple[str, ...] = ()


def solved_model(setting: Setting) -> Model:
    """The solved head as it is."""
    head, columns = setting.solved, setting.extracted.columns
    return Model(
        backbone=setting.backbone,
        head=HeadWeights(taps=columns.taps if head.features == "stages" else (), weight_KD=head.weight_KD, bias_K=head.bias_K),
        choice=head.choice,
        judged=np.arange(len(setting.observed.train), dtype=np.int64),
        judged_NK=head.out_of_fold_NK,
        test_MK=head.logits(setting.observed.test_features),
    )


def lessons_of(setting: Setting, read: Read, balance: Balance) -> Lessons:
    """All training images but a fold, which is for validation. Raises TooFewImages where next to nothing is left."""
    folds_N, targets = setting.observed.folds_N, setting.targets
    fold = validation_fold(folds_N, targets)
    train = np.flatnonzero(folds_N != fold)
    if len(train) < 2:
        raise TooFewImages(
            expected="two images or more to train on, beside those for validation",
            got=f"{len(train)} of {len(targets)} training images, the others being of one group",
            fix="give more images, or smaller groups",
        )
    weights = balanced_weights(targets, len(setting.classes)).T if balance == "auto" else np.ones((len(targets), 1))
    return Lessons(
        read=read,
        targets=targets,
        weights=weights[:, 0] if targets.ndim == 1 else weights,
        train=train,
        validation=np.flatnonzero(folds_N == fold),
    )


def validation_fold(folds_N: NDArray[np.int64], targets: NDArray[np.int64] | NDArray[np.bool_]) -> int:
    """The first fold without which no class loses all its training images; if there is none, the one that costs fewest."""

    def kept(fold: int) -> int:
        rest = targets[folds_N != fold]
        return len(np.unique(rest)) if targets.ndim == 1 else int(rest.any(axis=0).sum())

    return max(map(int, np.unique(folds_N)), key=kept)


def reading(activations: Activations) -> Read:
    """Values from the cache, the same in every epoch."""
    return lambda rows, _: activations[rows]


def mirroring(read: Read, images: int, seed: int) -> Read:
    """Pixels (n, H, W, C) of which an epoch shows about half mirrored."""

    def read_mirrored(rows: NDArray[np.int64], epoch: int | None) -> tuple[Tensor, ...]:
        (pixels,) = read(rows, epoch)
        if epoch is not None:
            chosen = flipped(images, seed, epoch)[rows]
            pixels[chosen] = pixels[chosen].flip(2)
        return (pixels,)

    return read_mirrored


def telling(setting: Setting, epochs: int) -> Callable[[Epoch], None]:
    """Says each epoch in a line."""

    def tell(epoch: Epoch) -> None:
        setting.progress.note(
            f"epoch {epoch.number}/{epochs}: loss {epoch.loss:.3f}, {100 * epoch.accuracy:.1f} % right; validation loss "
            f"{epoch.validation_loss:.3f}, {100 * epoch.validation_accuracy:.1f} % right; rate {epoch.rate:.1e}; "
            f"{epoch.seconds:.1f} s"
        )

    return tell


def history_of(setting: Setting, what: str, course: Course, lessons: Lessons, logits_VK: FloatArray) -> History:
    """The course of a training beside the solved head, on the same validation images."""
    validation = lessons.validation
    samples = [setting.observed.train[i] for i in validation]
    trained, solved = (_right(setting, samples, logits) for logits in (logits_VK, setting.solved.out_of_fold_NK[validation]))
    groups = [sample.group or sample.name for sample in samples]
    gain, gain_se = mean_and_error(trained.astype(np.float64) - solved, groups)
    return History(
        what=what,
        train=len(lessons.train),
        validation=len(validation),
        start_loss=course.start_loss,
        start_accuracy=course.start_accuracy,
        start_tempered=course.start_tempered,
        epochs=course.epochs,
        chosen=course.chosen,
        accuracy=wilson(int(trained.sum()), len(trained)),
        solved=wilson(int(solved.sum()), len(solved)),
        gain=gain,
        gain_se=gain_se,
    )


def _right(setting: Setting, samples: list[Sample], logits_NK: FloatArray) -> NDArray[np.bool_]:
    predictions = predictions_of(samples, setting.classes, setting.targets.ndim == 2, logits_NK)
    assert predictions.targets is not None
    return right(predictions.targets, decisions(predictions))
