"""A model that answers for every pixel."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from regraft.backbone.model import Backbone
from regraft.backbone.segmenter import Segmenter
from regraft.cache.engines import pick_device
from regraft.data.decode import decode_image
from regraft.data.masked import read_masked_evaluation
from regraft.data.masks import read_labels
from regraft.data.settle import settle_masks
from regraft.errors import DataUnusable, ImageRejected
from regraft.evaluate.pixel_scores import score_pixels
from regraft.evaluate.pixels import ImageCounts, count_pixels, gather_counts
from regraft.inputs import checked_paths
from regraft.progress import Progress, Silent
from regraft.recipe import Data, Device
from regraft.segments import Kind, MaskMap, PixelAnswer, PixelCounts, PixelEvaluation, PixelSummary
from regraft.task.classify import groups_of
from regraft.tiling import Answer, Ask, answer_image, asking
from regraft.train.pixel_network import PixelHead
from regraft.values import ImagePath, Rejected, Sample


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedPixels:
    """A network with a head for every pixel, and the names of the classes.

    Logits are divided by `temperature`; saliency calls a pixel the object from the probability `threshold`. `usual_side` is the
    median longer side of the training images in pixels: larger images are answered in tiles at that scale. `folder` is the run
    it was saved to or loaded from. `summary` tells of the fit, where it happened in this process.
    """

    backbone: Backbone
    head: PixelHead
    mask_map: MaskMap
    usual_side: int
    temperature: float = 1.0
    threshold: float = 0.5
    folder: Path | None = None
    summary: PixelSummary | None = None
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        where = f" in {self.folder}" if self.folder else ""
        return f"<regraft.FittedPixels: {self.kind} with {self.backbone.name}, {len(self.classes)} classes{where}>"

    @property
    def kind(self) -> Kind:
        """What is answered: "saliency" or "semantic"."""
        return self.mask_map.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of labels."""
        return self.mask_map.classes

    def to_torch(self) -> nn.Module:
        """A module in eval mode from preprocessed images (N, 3, H, W) float32 of any size to logits (N, C, H, W).

        C is 1 for saliency, else the number of classes. It shares nothing with this model.
        """
        head = _Tempered(copy.deepcopy(self.head.module), self.temperature)
        return Segmenter(self.backbone, self.head.levels, head).eval()

    @cached_property
    def _asking(self) -> dict[str, Ask]:
        return {}

    def _ask(self, device: str) -> Ask:
        """What answers windows on `device`, made once."""
        if device not in self._asking:
            self._asking[device] = asking(self.to_torch(), self.backbone.preprocess, device)
        return self._asking[device]

    def predict(
        self,
        paths: Iterable[str | ImagePath],
        *,
        whole: bool = False,
        probabilities: bool = False,
        device: Device = "auto",
        progress: Progress = Silent(),
    ) -> list[PixelAnswer]:
        """The class of every pixel of each image at its own size, one PixelAnswer per path, in order.

        `whole` shows large images at once, made small, in place of tile by tile. `probabilities` are kept only where wanted. An
        image that cannot be used gives one with status "failed" and the reason; nothing is raised for it.
        """
        return list(self.iter_predict(paths, whole=whole, probabilities=probabilities, device=device, progress=progress))

    def iter_predict(
        self,
        paths: Iterable[str | ImagePath],
        *,
        whole: bool = False,
        probabilities: bool = False,
        device: Device = "auto",
        progress: Progress = Silent(),
    ) -> Iterator[PixelAnswer]:
        """`predict`, each answer as soon as it is there."""
        items = checked_paths(paths)
        where = pick_device(device)
        with progress.task("images", len(items), "image") as task:
            for path, name in items:
                try:
                    image = self.opened(path, name)
                except ImageRejected as error:
                    yield PixelAnswer(path=name, status="failed", reason=error.got)
                else:
                    yield self.answer(image, name, whole=whole, probabilities=probabilities, device=where)
                task.advance()

    def opened(self, source: ImagePath | bytes, name: str = "") -> Image.Image:
        """An image, from a file or its bytes, upright and in the colours that `answer` takes. Raises ImageRejected."""
        preprocess = self.backbone.preprocess
        background = None if preprocess.channels == 4 else preprocess.background
        return decode_image(source, background=background, name=name).pixels

    def answer(
        self,
        image: Image.Image,
        name: str = "",
        *,
        whole: bool = False,
        probabilities: bool = False,
        device: str = "auto",
    ) -> PixelAnswer:
        """What `predict` says of one image that was `opened`."""
        answer = self._answer(image, pick_device(device), whole=whole, probabilities=probabilities)
        return PixelAnswer(
            path=name,
            status="ok",
            labels_HW=answer.labels_HW,
            probabilities_CHW=answer.probabilities_CHW,
            shares=self._shares(answer.labels_HW),
        )

    def evaluate(self, data: Data, *, device: Device = "auto", progress: Progress = Silent()) -> PixelEvaluation:
        """Scores on images with masks, which say classes as those of the fit do. Raises DataUnusable, UsageError."""
        read = read_masked_evaluation(data, self.classes, progress=progress)
        samples, theirs = settle_masks(read, data, like=self.mask_map, progress=progress)
        counts, rejected = self.count(samples.samples, mask_map=theirs, device=device, progress=progress)
        if not counts.names:
            found = f"none of {len(samples.samples)} under {data.path}"
            raise DataUnusable(expected="images that can be read", got=found, fix="check the folder")
        return PixelEvaluation(
            scores=score_pixels(counts, threshold=self.threshold if self.kind == "saliency" else None),
            counts=counts,
            rejected=(*samples.rejected, *rejected),
            notes=samples.notes,
        )

    def count(
        self,
        samples: Iterable[Sample],
        *,
        mask_map: MaskMap | None = None,
        device: Device = "auto",
        progress: Progress = Silent(),
    ) -> tuple[PixelCounts, tuple[Rejected, ...]]:
        """What scores are made of, for images with masks at their own size; and the images that could not be read.

        `mask_map` says what the values in these masks mean, where it is not as in those of the fit.
        """
        every, where = list(samples), pick_device(device)
        rows, kept, rejected = list[ImageCounts](), list[Sample](), list[Rejected]()
        with progress.task("images", len(every), "image") as task:
            for sample in every:
                try:
                    image = self.opened(sample.path, sample.name)
                except ImageRejected as error:
                    rejected.append(Rejected(path=sample.path, name=sample.name, code=error.code, reason=error.got))
                else:
                    kept.append(sample)
                    rows.append(self._counted(sample, image, mask_map or self.mask_map, where))
                task.advance()
        names = tuple(sample.name for sample in kept)
        return gather_counts(rows, names, self.classes, self.kind, groups_of(kept)), tuple(rejected)

    def _counted(self, sample: Sample, image: Image.Image, mask_map: MaskMap, device: str) -> ImageCounts:
        assert sample.mask is not None, "read with its mask"
        truth_HW = read_labels(sample.mask, mask_map, sample.name)
        answer = self._answer(image, device, whole=False, probabilities=self.kind == "saliency")
        probability_HW = answer.probabilities_CHW[0] if answer.probabilities_CHW is not None else None
        return count_pixels(truth_HW, answer.labels_HW, len(self.classes), probability_HW=probability_HW)

    def _answer(self, image: Image.Image, device: str, *, whole: bool, probabilities: bool) -> Answer:
        return answer_image(
            image,
            self._ask(device),
            self.backbone.preprocess,
            usual_side=None if whole else self.usual_side,
            threshold=self.threshold,
            probabilities=probabilities,
        )

    def _shares(self, labels_HW: NDArray[np.uint8]) -> tuple[tuple[str, float], ...]:
        counts_K = np.bincount(labels_HW.ravel(), minlength=len(self.classes)) / max(1, labels_HW.size)
        return tuple((name, float(share)) for name, share in zip(self.classes, counts_K, strict=True))


class _Tempered(nn.Module):
    """A head whose logits are divided by a temperature."""

    def __init__(self, head: nn.Module, temperature: float) -> None:
        super().__init__()
        self.head, self.temperature = head, temperature

    def forward(self, values: Sequence[Tensor], size: tuple[int, int] | None = None) -> Tensor:
        logits: Tensor = self.head(values, size)
        return logits / self.temperature
