"""A model that can be asked: a fitted run, or a pretrained network as it is."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.backbone.attach import BothSides, FeaturesAndHead, HeadWeights, attach_head
from regraft.backbone.embed import embedded
from regraft.backbone.features import Features
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.cache.answer import logits_of
from regraft.cache.store import default_folder
from regraft.data.materialise import on_disk
from regraft.data.read import read_evaluation
from regraft.errors import BackboneNotFound, DataUnusable, UsageError
from regraft.evaluate.abstain import Thresholds, judge_rule
from regraft.evaluate.metrics import score
from regraft.evaluate.novelty import Novelty
from regraft.evaluate.probability import confidences, decisions, known_truth, probabilities, right, sureness
from regraft.findings import Audit
from regraft.inputs import checked_paths
from regraft.progress import Progress, Silent
from regraft.recipe import Data, Device
from regraft.task.classify import predictions_of, top_classes
from regraft.train.own_head import OwnHead, attach_own, own_behind_features, with_distance
from regraft.train.suggest import KEPT, choose_next, doubts, gather
from regraft.values import (
    AbstainRule,
    Evaluation,
    ImagePath,
    Prediction,
    Predictions,
    Rejected,
    RunSummary,
    Sample,
    Suggestion,
    Suggestions,
)

if TYPE_CHECKING:
    from torch import nn

_SUGGESTED_TOP = 3  # classes that a suggestion names


@dataclass(frozen=True, eq=False, kw_only=True)
class Fitted:
    """A network with the names of its classes. `head` is linear, one of the user's own, or None: a pretrained network as it is.

    `mirrored`: answers are the mean of those for the image and its mirror image. All logits are divided by `temperature`, so
    that probabilities are calibrated. `novelty` measures how far an image is from those fitted on, where that is known,
    `thresholds` say when an answer is withheld. `folder` is the run it was saved to or loaded from. `summary` tells of the
    fit, where it happened in this process.
    """

    backbone: Backbone
    head: HeadWeights | OwnHead | None
    classes: tuple[str, ...]
    multi_label: bool = False
    mirrored: bool = False
    temperature: float = 1.0
    novelty: Novelty | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    folder: Path | None = None
    summary: RunSummary | None = None
    audit: Audit | None = None
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        where = f" in {self.folder}" if self.folder else ""
        return f"<regraft.Fitted: {self.backbone.name}, {len(self.classes)} classes{where}>"

    @cached_property
    def _module(self) -> "nn.Module":
        return self.answering()

    def answering(self) -> "nn.Module":
        """A module from preprocessed images to logits (N, K), and one more column with distances where these are measured."""
        if self.novelty is None or self.head is None:
            return self.to_torch()
        return self._with_views(with_distance(self.backbone, self.head, self.novelty, self.temperature))

    def _with_views(self, module: "nn.Module") -> "nn.Module":
        return BothSides(module).eval() if self.mirrored else module

    def to_torch(self) -> "nn.Module":
        """A module in eval mode from preprocessed images (N, 3, H, W) float32 to logits (N, K), sharing nothing with this one.

        A head on the last features alone (`features="last"`) gives the library's plain network with that head in the old
        one's place: its state dict loads into torchvision's or timm's own model with the same number of classes. With test-time
        views (`mirrored`) that network stands within one that shows it both sides.
        """
        if isinstance(self.head, OwnHead):
            module = attach_own(self.backbone, self.head, self.temperature)
        else:
            module = attach_head(self.backbone, self.head and self.head.at(self.temperature))
        return self._with_views(module)

    def logits(
        self, samples: Sequence[Sample], *, device: Device = "auto", progress: Progress = Silent()
    ) -> NDArray[np.float64]:
        """(N, K) logits of images that are known to be readable. Raises DataUnusable where one is not any more."""
        answers = list(self._ask([(sample.path, sample.name) for sample in samples], device, progress))
        lost = [answer.name for answer in answers if isinstance(answer, Rejected)]
        if lost:
            raise DataUnusable(
                expected="images that stay as they are while they are worked with",
                got=f"no longer readable: {', '.join(lost[:5])}",
                fix="run the same command again",
            )
        return self._parted(answers)[0]

    def _parted(self, answers: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Logits (N, K), and how far the images are from those fitted on (N,), where that is measured."""
        rows = np.array(answers, np.float64).reshape(len(answers), -1 if answers else len(self.classes))
        logits_NK, rest = rows[:, : len(self.classes)], rows[:, len(self.classes) :]
        return logits_NK, rest[:, 0] if rest.shape[1] else None

    def _ask(
        self, items: Sequence[tuple[ImagePath, str]], device: Device, progress: Progress
    ) -> Iterator[NDArray[Any] | Rejected]:
        return logits_of(items, self._module, self.backbone.preprocess, device=device, progress=progress)

    def predict(
        self, paths: Iterable[str | ImagePath], *, top_k: int = 5, device: Device = "auto", progress: Progress = Silent()
    ) -> list[Prediction]:
        """The `top_k` classes of each image with their probabilities, one Prediction per path, in order.

        An image that cannot be used gives one with status "failed" and the reason; nothing is raised for it.
        """
        return list(self.iter_predict(paths, top_k=top_k, device=device, progress=progress))

    def iter_predict(
        self, paths: Iterable[str | ImagePath], *, top_k: int = 5, device: Device = "auto", progress: Progress = Silent()
    ) -> Iterator[Prediction]:
        """`predict`, each answer as soon as it is there. All paths are taken before the first image is read."""
        items = checked_paths(paths)
        if not isinstance(top_k, int) or top_k < 1:
            raise UsageError(expected="top_k as a whole number of 1 or more", got=repr(top_k), fix="leave it out for 5")
        for (_, name), answer in zip(items, self._ask(items, device, progress), strict=True):
            if isinstance(answer, Rejected):
                yield Prediction(path=name, status="failed", reason=answer.reason)
            else:
                yield self.prediction(name, answer, top_k)

    def prediction(self, name: str, answer: NDArray[Any], top_k: int) -> Prediction:
        """What the row that `answering` gives for one image says: its `top_k` classes, and whether the answer is withheld."""
        logits_1K, rest = answer[np.newaxis, : len(self.classes)], answer[len(self.classes) :]
        sure = float(sureness(logits_1K, self.multi_label)[0])
        distance = float(rest[0]) if len(rest) else None
        why = self.thresholds.why(sure, distance)
        top = top_classes(logits_1K, self.classes, self.multi_label, top_k)[0]
        return Prediction(path=name, status="ok", top=top, abstained=bool(why), why=why, distance=distance)

    def suggest(
        self,
        paths: Iterable[str | ImagePath],
        count: int = 100,
        *,
        seed: int = 0,
        device: Device = "auto",
        progress: Progress = Silent(),
    ) -> Suggestions:
        """Which of these images without labels to label next, at most `count` of them, the most useful first.

        Such as the model is unsure of and that tell it different things; near copies are not suggested twice. Images that
        cannot be read are listed and left out. Fewer than `count` come back where there are no more that differ. The same
        `seed` gives the same images.

        Raises UsageError for a pretrained network as it is, DataUnusable where no image can be read.
        """
        items = checked_paths(paths)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UsageError(expected="a count of 1 or more", got=repr(count), fix="leave it out for 100")
        module = self._embedding()
        rows = logits_of(items, module, self.backbone.preprocess, device=device, progress=progress)
        found = gather(rows, len(self.classes), self.multi_label, most=max(KEPT, 2 * count))
        if not found.images:
            why = f": {found.rejected[0].name}: {found.rejected[0].reason}" if found.rejected else ""
            raise DataUnusable(expected="images that can be read", got=f"none of {len(items)}{why}", fix="check the folder")
        shares_PK = probabilities(found.logits_PK, self.multi_label)
        order = choose_next(found.features_PD, shares_PK, count, multi_label=self.multi_label, seed=seed)
        rows_C = np.array(order.chosen, dtype=np.int64)
        tops = top_classes(found.logits_PK[rows_C], self.classes, self.multi_label, _SUGGESTED_TOP)
        unsure_C = doubts(shares_PK[rows_C], self.multi_label)
        return Suggestions(
            chosen=tuple(
                Suggestion(path=items[place][1], top=top, doubt=float(doubt))
                for place, top, doubt in zip(found.places_P[rows_C], tops, unsure_C, strict=True)
            ),
            images=found.images,
            alike=order.alike,
            rejected=found.rejected,
        )

    def _embedding(self) -> "nn.Module":
        """Normalised images -> what the head reads, then its logits."""
        if self.head is None:
            raise UsageError(
                expected="a run, whose classes are to be learned better",
                got=f"{self.backbone.name} as it is",
                fix="fit it to your own images first: regraft fit photos/",
            )
        if isinstance(self.head, OwnHead):
            return embedded(own_behind_features(self.backbone, self.head, self.temperature), mirrored=self.mirrored)
        features = copy.deepcopy(Features(self.backbone, self.head.taps))
        return embedded(FeaturesAndHead(features, self.head.at(self.temperature).as_layer()), mirrored=self.mirrored)

    def evaluate(self, data: Data | str | Path, *, device: Device = "auto", progress: Progress = Silent()) -> Evaluation:
        """Scores on labelled images: a folder of class folders, a table or a torchvision:NAME, its test part if it has parts.

        Classes are matched by name. Raises UnknownClass, DataUnusable, TooManyUnreadable.
        """
        named = data if isinstance(data, Data) else Data(path=data)
        data = on_disk(named, default_folder(), progress=progress)
        samples = read_evaluation(data, self.classes, multi_label=self.multi_label, progress=progress)
        items = [(sample.path, sample.name) for sample in samples.samples]
        answers = list(self._ask(items, device, progress))
        good = [i for i, answer in enumerate(answers) if not isinstance(answer, Rejected)]
        if not good:
            raise DataUnusable(expected="images that can be read", got=f"none under {samples.root}", fix="check the folder")
        logits_NK, distance_N = self._parted([answers[i] for i in good])
        predictions = predictions_of([samples.samples[i] for i in good], self.classes, self.multi_label, logits_NK)
        return Evaluation(
            scores=score(predictions),
            predictions=predictions,
            rejected=(*samples.rejected, *(answer for answer in answers if isinstance(answer, Rejected))),
            notes=samples.notes,
            abstain=self._withheld(predictions, distance_N),
        )

    def _withheld(self, predictions: Predictions, distance_N: NDArray[np.float64] | None) -> AbstainRule | None:
        if self.thresholds == Thresholds():
            return None
        good = right(known_truth(predictions), decisions(predictions))
        return judge_rule(self.thresholds, confidences(predictions), distance_N, good, on="these")


def pretrained(
    backbone: str,
    *,
    weights: str | Path | None = None,
    size: int | None = None,
    trust: bool = False,
    head_path: str | None = None,
) -> Fitted:
    """A pretrained network as it is, with the names of the classes it was trained on.

    `weights`, `size`, `trust` and `head_path` are those of `Recipe`.

    Raises BackboneNotFound, also for weights whose classes have no known names.
    """
    loaded = load_backbone(backbone, weights=weights, size=size, trust=trust, head_path=head_path)
    if loaded.categories is None:
        raise BackboneNotFound(
            expected="weights whose classes have names, such as those trained on ImageNet",
            got=f"{backbone} with weights {loaded.weights}",
            fix="fit it to your own images first: regraft fit photos/ --backbone " + backbone,
        )
    return Fitted(backbone=loaded, head=None, classes=loaded.categories, notes=loaded.notes)
