"""What came of an export."""

from dataclasses import dataclass
from pathlib import Path

from regraft.exports.formats import Target
from regraft.values import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Cost:
    """What int8 costs, on labelled images: shares right of the network in fp32 and of the file, and their paired difference.

    `changed` are the images whose label is another: name, label before, label after. `fp32_bytes` is the size that the same
    export has in fp32, `speed` images per second as a share of that one's.
    """

    before: Interval
    after: Interval
    difference: Interval
    changed: tuple[tuple[str, str, str], ...]
    fp32_bytes: int
    speed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An exported file and how it did on `images` images, named by `on`; `lost` were not found, `rejected` not readable.

    `same_labels` counts the images with the labels of the network in eager fp32, `largest_difference` is that of all their
    probabilities. Both get the same pixels there; `as_predicted` and `predicted_difference` compare with what `regraft predict`
    says of the files, which decodes large JPEGs at a reduced scale. `images_per_s` and `eager_images_per_s` are from raw pixels
    to answers, `batch` at a time; 0 where nothing was tried (`verified` False).
    """

    path: Path
    to: Target
    precision: str
    classes: tuple[str, ...]
    bytes: int
    verified: bool
    images: int = 0
    on: str = ""
    lost: int = 0
    rejected: int = 0
    same_labels: int = 0
    largest_difference: float = 0.0
    distance_difference: float = 0.0
    as_predicted: int = 0
    predicted_difference: float = 0.0
    images_per_s: float = 0.0
    eager_images_per_s: float = 0.0
    batch: int = 0
    int8: Int8Cost | None = None

    @property
    def speed(self) -> float:
        """Images per second as a share of eager fp32's; 0 where nothing was tried."""
        return self.images_per_s / self.eager_images_per_s if self.eager_images_per_s else 0.0
