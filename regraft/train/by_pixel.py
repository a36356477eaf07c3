"""Training for classes of pixels: a probe on what the stages gave at a pixel, and a decoder that begins as it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.backbone.decoders import Refined, make_decoder
from regraft.backbone.model import Backbone, Boundary
from regraft.backbone.pixel_probe import PixelProbe
from regraft.backbone.pyramid import Level
from regraft.cache.labels import Labels
from regraft.data.augment_labels import augment_labels
from regraft.evaluate.compare import mean_interval
from regraft.segments import MaskMap
from regraft.strategies import Trained
from regraft.train.chance import seeded
from regraft.train.contract import Network
from regraft.train.kept_pixels import Layout, keep, losses_in, overlaps, shared
from regraft.train.lessons import Lessons
from regraft.train.objective import Judged
from regraft.train.pixel_network import PixelHead, PixelNetwork, crossing, pixel_network, taken_apart
from regraft.train.pixel_probe import SampledPixels, solve_probe
from regraft.train.setting import Setting
from regraft.values import FloatArray, Interval

PROBE_ALONE = "linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Each pixel has a class. `loss` gives those (n,) of logits (n, C, H, W) and labels (n, H, W); `l2` is the probe's."""

    mask_map: MaskMap
    labels: Labels
    levels: tuple[Level, ...]
    sampled: SampledPixels
    l2: float
    balanced: bool
    decoder: str
    loss: Callable[[Tensor, Tensor], Tensor]
    right: str = "% overlap (IoU)"

    @property
    def layout(self) -> Layout:
        """How answers are kept."""
        return Layout(self.mask_map.kind, len(self.mask_map.classes))

    def boundary(self, backbone: Backbone, place: Boundary) -> Boundary:
        return crossing(backbone, self.levels, place)

    def objective(self, setting: Setting, strategy: Trained) -> "ByPixel":
        channels = setting.backbone.preprocess.channels
        return ByPixel(self.labels, self.layout, self.loss, augment_labels(strategy.augment), channels)

    def plain_objective(self, channels: int) -> "ByPixel":
        """What is wanted of outputs for images as they are."""
        return ByPixel(self.labels, self.layout, self.loss, augment_labels("none"), channels)

    def network(self, setting: Setting, lessons: Lessons, strategy: Trained) -> PixelNetwork:
        probe = self.probe(lessons.train)
        head: nn.Module = probe
        if self.decoder != PROBE_ALONE:
            pre = setting.backbone.preprocess
            with seeded(setting.seed):
                decoder = make_decoder(self.decoder, self.levels, self.mask_map.channels, height=pre.height, width=pre.width)
            head = Refined(probe, decoder)
        return pixel_network(setting.backbone, self.levels, head)

    def probe(self, images: NDArray[np.int64]) -> PixelProbe:
        """The probe solved on the pixels of some images."""
        return solve_probe(
            self.sampled.of(images),
            self.levels,
            classes=len(self.mask_map.classes),
            channels=self.mask_map.channels,
            l2=self.l2,
            balanced=self.balanced,
            size=(self.labels.height, self.labels.width),
        )

    def taken_apart(self, network: Network, setting: Setting, name: str) -> tuple[Backbone, PixelHead]:
        assert isinstance(network, PixelNetwork), "made by `network`"
        return taken_apart(network, setting.backbone, self.decoder, self.mask_map.channels, name)

    def rightness(self, setting: Setting, rows: NDArray[np.int64], answers_NM: FloatArray) -> NDArray[np.float64]:
        return overlaps(self.layout, answers_NM)

    def interval(self, rightness_N: NDArray[np.float64]) -> Interval:
        return mean_interval(rightness_N)


@dataclass(frozen=True, slots=True)
class ByPixel:
    """A class for each pixel: what is kept of the answers is laid out by `layout`."""

    labels: Labels
    layout: Layout
    loss: Callable[[Tensor, Tensor], Tensor]
    moved: Callable[..., Tensor]
    channels: int

    def truth(self, lessons: Lessons, rows: NDArray[np.int64], epoch: int | None, device: str) -> Tensor:
        """(n, H, W) labels, moved as the images were."""
        labels = torch.from_numpy(self.labels[rows])
        if epoch is not None and lessons.drawn is not None:
            drawn = lessons.drawn(rows, epoch)
            changed = [i for i, seed in enumerate(drawn) if seed is not None]
            if changed:
                labels[changed] = self.moved(labels[changed], [seed for seed in drawn if seed is not None], self.channels)
        return labels.to(device)

    def losses(self, value: Any, truth: Tensor, others: Tensor | None, share: float, smoothing: float) -> tuple[Tensor, Tensor]:
        own = self.loss(value, _sized(truth, value))
        whole = own if others is None else share * own + (1 - share) * self.loss(value, _sized(others, value))
        return whole, own.detach()

    def right(self, value: Any, truth: Tensor) -> Tensor:
        logits = value.detach()
        return shared(self.layout, logits, _sized(truth, logits))

    def answers(self, lessons: Lessons, outputs: Tensor, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        labels = self.truth(lessons, rows, None, str(outputs.device))
        return keep(self.layout, outputs, labels, self.loss(outputs, labels))

    def judged(self, lessons: Lessons, answers_NM: FloatArray, rows: NDArray[np.int64]) -> Judged:
        loss = float(losses_in(answers_NM).mean())
        return Judged(loss=loss, accuracy=float(overlaps(self.layout, answers_NM).mean()), tempered=loss)


def _sized(labels_NHW: Tensor, logits: Tensor) -> Tensor:
    """Labels as large as the logits, which are smaller where a training begins with small images."""
    if labels_NHW.shape[1:] == logits.shape[2:]:
        return labels_NHW
    larger = nn.functional.interpolate(labels_NHW[:, None].float(), logits.shape[2:], mode="nearest-exact")
    return larger[:, 0].to(labels_NHW.dtype)
