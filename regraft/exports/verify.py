"""An exported file, tried on the user's own images beside the network that it came from.

Letters in names give shapes: N images, K classes, H W pixels of an image, h w those that the network expects, C channels.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from regraft.backbone.features import FromPixels
from regraft.cache.stream import in_threads
from regraft.data.decode import decode_image, load_pixels
from regraft.data.preprocess import Preprocess, to_input_size
from regraft.errors import ImageRejected
from regraft.evaluate.probability import probabilities
from regraft.exports.formats import Ask, ask_module
from regraft.fitted import Fitted
from regraft.progress import Progress, Silent
from regraft.values import Rejected, Sample

BATCH: Final = 8
# How far a probability of an fp32 export may be from the network's own.
NEAR: Final = 1e-3
# Classes so near to each other are equally likely: either may come first.
TIE: Final = 1e-6
# Distances are about 1 for images like those fitted on.
NEAR_DISTANCE: Final = 1e-2
_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An image as a user's own program has it: raw pixels (H, W, C), upright and whole; and what the network expects of it.

    `predicted` are the pixels (h, w, C) that `regraft predict` makes of the file: of large JPEGs, decoded at a reduced scale,
    they differ a little; None where they are the same.
    """

    sample: Sample
    raw: NDArray[np.uint8]
    pixels: NDArray[np.uint8]
    predicted: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """N answers (N, K) of both: `theirs` of the exported file, `ours` of the network in eager fp32, from the same pixels.

    `predicted` is `ours` from the pixels of `regraft predict`. `distances` are the largest difference there, 0 where none are
    measured.
    """

    samples: tuple[Sample, ...]
    rejected: tuple[Rejected, ...]
    ours: NDArray[np.float64]
    theirs: NDArray[np.float64]
    predicted: NDArray[np.float64]
    distance_gap: float

    def differing(self, multi_label: bool) -> list[int]:
        """Numbers of the images whose labels differ."""
        return [int(i) for i in np.flatnonzero(_differ(self.theirs, self.ours, multi_label))]


def labels_of(answers_NK: NDArray[np.float64], multi_label: bool) -> NDArray[np.int64] | NDArray[np.bool_]:
    """(N,) the likeliest class; of several labels per image (N, K), whether each is likelier than not."""
    if multi_label:
        return np.asarray(answers_NK > 0.5, np.bool_)
    return np.asarray(answers_NK.argmax(axis=1), np.int64)


def _differ(theirs: NDArray[np.float64], ours: NDArray[np.float64], multi_label: bool) -> NDArray[np.bool_]:
    """(N,) whether labels differ by more than which of equal classes rounding puts first."""
    if multi_label:
        different = labels_of(theirs, True) != labels_of(ours, True)
        return np.asarray((different & ~(np.abs(ours - 0.5) <= TIE)).any(axis=1), np.bool_)
    named = np.take_along_axis(ours, theirs.argmax(axis=1)[:, np.newaxis], axis=1)[:, 0]
    return np.asarray(~(named >= ours.max(axis=1) - TIE), np.bool_)


def same_labels(theirs: NDArray[np.float64], ours: NDArray[np.float64], multi_label: bool) -> int:
    """How many of N images have the same labels."""
    return int(np.count_nonzero(~_differ(theirs, ours, multi_label)))


class Reference:
    """A fitted network in eager fp32: pixels (N, h, w, C) that it expects -> probabilities (N, K), distances (N,)."""

    def __init__(self, fitted: Fitted) -> None:
        self.preprocess, self.multi_label, self.classes = fitted.backbone.preprocess, fitted.multi_label, len(fitted.classes)
        self._ask = ask_module(_Alone(FromPixels(fitted.answering(), self.preprocess).eval()))

    def __call__(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        (rows,) = self._ask(pixels)
        return probabilities(rows[:, : self.classes], self.multi_label), rows[:, self.classes :].astype(np.float64)


class _Alone(nn.Module):
    """A module whose one answer comes as the first of several."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: object) -> tuple[object]:
        return (self.module(images),)


def open_image(sample: Sample, preprocess: Preprocess) -> Opened | Rejected:
    """One image in each of the forms that answers are compared on; why not, where it cannot be used."""
    try:
        background = None if preprocess.channels == 4 else preprocess.background
        decoded = decode_image(sample.path, background=background, name=sample.name)
        raw = np.array(decoded.pixels.convert("RGBA" if preprocess.channels == 4 else "RGB"))
        pixels = to_input_size(decoded.pixels, preprocess)
        predicted = load_pixels(sample.path, preprocess, sample.name) if decoded.format == "JPEG" else pixels
    except ImageRejected as error:
        reason = error.got.removeprefix(f"{sample.name}: ")
        return Rejected(path=sample.path, name=sample.name, code=error.code, reason=reason)
    same = np.array_equal(predicted, pixels)
    return Opened(sample=sample, raw=raw, pixels=pixels, predicted=None if same else predicted)


def compare_answers(ask: Ask, reference: Reference, samples: Sequence[Sample], *, progress: Progress = Silent()) -> Answered:
    """Every image alone through the exported file, and through the network. `ask` takes raw images (N, H, W, C)."""
    ours, theirs, predicted = list[NDArray[np.float64]](), list[NDArray[np.float64]](), list[NDArray[np.float64]]()
    kept, rejected, gap = list[Sample](), list[Rejected](), 0.0
    with progress.task("trying", len(samples), "image") as task:
        for batch in _batches(in_threads(lambda sample: open_image(sample, reference.preprocess), samples)):
            good = [image for image in batch if isinstance(image, Opened)]
            rejected += [image for image in batch if isinstance(image, Rejected)]
            if good:
                answers_NK, distances_N1 = reference(np.stack([image.pixels for image in good]))
                for row, image in enumerate(good):
                    found = ask(image.raw[np.newaxis])
                    ours.append(answers_NK[row])
                    theirs.append(found[0][0].astype(np.float64))
                    changed = image.predicted
                    predicted.append(answers_NK[row] if changed is None else reference(changed[np.newaxis])[0][0])
                    if len(found) > 1:
                        gap = max(gap, abs(float(found[1][0]) - float(distances_N1[row, 0])))
                kept += [image.sample for image in good]
            task.advance(len(batch))
    shape = (len(kept), reference.classes)
    three = (np.array(rows, np.float64).reshape(shape) for rows in (ours, theirs, predicted))
    ours_NK, theirs_NK, predicted_NK = three
    return Answered(
        samples=tuple(kept),
        rejected=tuple(rejected),
        ours=ours_NK,
        theirs=theirs_NK,
        predicted=predicted_NK,
        distance_gap=gap,
    )


def _batches(images: Iterator[Opened | Rejected]) -> Iterator[list[Opened | Rejected]]:
    batch: list[Opened | Rejected] = []
    for image in images:
        batch.append(image)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Images per second of both from raw pixels to answers, `batch` at a time, and how far their answers were apart."""

    theirs: float
    ours: float
    batch: int
    largest_difference: float


def compare_pace(ask: Ask, reference: Reference, samples: Sequence[Sample], *, rounds: int = _ROUNDS) -> Pace | None:
    """Eight images of one size, in turns; the median of `rounds`. None where no image can be read.

    The network is given what it expects by Pillow, as `regraft predict` does; the exported file does that by itself.
    """
    opened = [image for sample in samples[:BATCH] if isinstance(image := open_image(sample, reference.preprocess), Opened)]
    if not opened:
        return None
    first = opened[0].raw
    size = first.shape[1], first.shape[0]
    images = [Image.fromarray(opened[i % len(opened)].raw).resize(size) for i in range(BATCH)]
    raw_NHWC = np.stack([np.asarray(image) for image in images])

    def by_network() -> NDArray[np.float64]:
        return reference(np.stack([to_input_size(image, reference.preprocess) for image in images]))[0]

    # The first calls make what later ones use again.
    gap = float(np.abs(ask(raw_NHWC)[0] - by_network()).max())
    seconds = [(_seconds(lambda: ask(raw_NHWC)), _seconds(by_network)) for _ in range(rounds)]
    theirs, ours = (BATCH / median(times) for times in zip(*seconds, strict=True))
    return Pace(theirs=theirs, ours=ours, batch=BATCH, largest_difference=gap)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_sheet(path: Path, samples: Sequence[Sample], preprocess: Preprocess) -> None:
    """A PNG of some images, eight in a row."""
    from regraft.data.contact import contact_sheet

    opened = [image for sample in samples if isinstance(image := open_image(sample, preprocess), Opened)]
    if opened:
        pictures = [image.raw for image in opened]
        path.write_bytes(contact_sheet([pictures[start : start + 8] for start in range(0, len(pictures), 8)]))
