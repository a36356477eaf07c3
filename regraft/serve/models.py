"""What a server does with a model: an image is decoded on a thread, answered by the worker, and put in words on a thread."""

import base64
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.artifact.load import read_config
from regraft.artifact.schema import IntervalRecord, SealedConfig
from regraft.cache.engines import give_back
from regraft.data.container import in_memory, inspect
from regraft.data.decode import load_pixels
from regraft.data.problem import Problem
from regraft.errors import ImageRejected
from regraft.evaluate.probability import probabilities
from regraft.fitted import Fitted
from regraft.fitted_pixels import FittedPixels
from regraft.mask_files import label_png
from regraft.palette import palette_of
from regraft.rows import prediction_fields, rounded
from regraft.segments import PixelAnswer
from regraft.serve.engine import Engine, Note, fastest, sample_of
from regraft.serve.refusal import image_refused
from regraft.serve.settings import Settings

Fields = dict[str, Any]
Image_ = TypeVar("Image_")
# How far a probability may be from the one of the same image at another time.
_SAME = 1e-5


class Model(Protocol):
    """One of the two kinds. `prepare` is called once, before `run`, which then is asked by `threads` at a time."""

    batch: int
    threads: int

    def describe(self) -> Fields: ...
    def prepare(self, note: Note) -> None: ...
    def decode(self, data: bytes) -> Any: ...
    def run(self, items: Sequence[Any]) -> Sequence[Any]: ...
    def fields(self, answer: Any, top_k: int) -> Fields: ...
    def probe(self) -> Any: ...
    def same(self, one: Any, other: Any) -> bool: ...


def model_of(fitted: Fitted | FittedPixels, settings: Settings) -> Model:
    """What answers for `fitted`."""
    return PixelModel(fitted, settings) if isinstance(fitted, FittedPixels) else ImageModel(fitted, settings)


def check_pixels(data: bytes, most: int) -> None:
    """Raise Refused for an image of more than `most` pixels, before it is decoded."""
    try:
        header = inspect(in_memory(data), len(data))
    except Problem as problem:
        raise image_refused(problem.code) from None
    except Exception:  # whatever else a broken header brings about
        raise image_refused("damaged") from None
    if header.width * header.height > most:
        raise image_refused("too_many_pixels")


class ImageModel:
    """Classes of images: answers are rows as `Fitted.answering` gives them."""

    def __init__(self, fitted: Fitted, settings: Settings) -> None:
        self._fitted, self._settings = fitted, settings
        self._preprocess = fitted.backbone.preprocess
        self._engine: Engine | None = None
        self.threads = 1
        self.batch = settings.batch if settings.batching else 1

    def describe(self) -> Fields:
        fitted = self._fitted
        config = _config(fitted)
        scores = config.scores if config else None
        measured = scores and (scores.test or scores.cross_validation)
        return {
            "task": "classification",
            "multi_label": fitted.multi_label,
            "abstains": fitted.thresholds.confidence is not None or fitted.thresholds.distance is not None,
            "accuracy": _interval(measured.accuracy) if measured else None,
            "iou": None,
            **_common(fitted, config),
        }

    def prepare(self, note: Note) -> None:
        module, classes = self._fitted.answering(), len(self._fitted.classes)
        self._engine = fastest(module, self._preprocess, classes, self._settings.device, self.batch, note)
        self.threads = self._engine.streams
        give_back()  # what measuring and converting have used

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        return _decoded(data, self._settings.max_pixels, partial(load_pixels, data, self._preprocess))

    def run(self, items: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[np.float32]]:
        assert self._engine is not None, "prepared before it is asked"
        return list(self._engine.run(np.stack(items)))

    def fields(self, answer: NDArray[np.float32], top_k: int) -> Fields:
        return prediction_fields(self._fitted.prediction("", answer, min(top_k, len(self._fitted.classes))))

    def probe(self) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = sample_of(self._preprocess, 1)[0]
        return pixels

    def same(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
        first, second = self._probabilities(one), self._probabilities(other)
        return bool(np.isfinite(first).all() and np.abs(first - second).max() <= _SAME)

    def _probabilities(self, row: NDArray[np.float32]) -> NDArray[np.float64]:
        logits_1K = row[np.newaxis, : len(self._fitted.classes)].astype(np.float64)
        return probabilities(logits_1K, self._fitted.multi_label)


class PixelModel:
    """A class for every pixel: one image at a time, for each fills the processor and the memory by itself."""

    batch = threads = 1

    def __init__(self, fitted: FittedPixels, settings: Settings) -> None:
        self._fitted, self._settings = fitted, settings

    def describe(self) -> Fields:
        fitted = self._fitted
        config = _config(fitted)
        scores = config.pixels if config else None
        measured = scores and (scores.test or scores.judged)
        return {
            "task": fitted.kind,
            "multi_label": False,
            "abstains": False,
            "accuracy": _interval(measured.pixel_accuracy) if measured else None,
            "iou": _interval(measured.iou) if measured else None,
            **_common(fitted, config),
        }

    def prepare(self, note: Note) -> None:
        note("engine: torch, one image at a time")

    def decode(self, data: bytes) -> Image.Image:
        return _decoded(data, self._settings.max_pixels, partial(self._fitted.opened, data))

    def run(self, items: Sequence[Image.Image]) -> Sequence[PixelAnswer]:
        return [self._fitted.answer(image, device=self._settings.device) for image in items]

    def fields(self, answer: PixelAnswer, top_k: int) -> Fields:
        labels_HW = cast(NDArray[np.uint8], answer.labels_HW)
        palette = palette_of(max(2, len(self._fitted.classes)))
        return {
            "status": "ok",
            "width": labels_HW.shape[1],
            "height": labels_HW.shape[0],
            "shares": [{"class": name, "share": rounded(share)} for name, share in answer.shares],
            "colours": [list(colour) for colour in palette],
            "mask": base64.b64encode(label_png(labels_HW, palette)).decode("ascii"),
        }

    def probe(self) -> Image.Image:
        return Image.fromarray(np.squeeze(sample_of(self._fitted.backbone.preprocess, 1)[0]))

    def same(self, one: PixelAnswer, other: PixelAnswer) -> bool:
        return one.labels_HW is not None and np.array_equal(one.labels_HW, cast(NDArray[np.uint8], other.labels_HW))


def _decoded(data: bytes, most: int, decode: Callable[[], Image_]) -> Image_:
    check_pixels(data, most)
    try:
        return decode()
    except ImageRejected as error:
        raise image_refused(error.code) from None


def _config(fitted: Fitted | FittedPixels) -> SealedConfig | None:
    """Of the run that the model was loaded from or saved to."""
    return read_config(fitted.folder) if fitted.folder else None


def _common(fitted: Fitted | FittedPixels, config: SealedConfig | None) -> Fields:
    return {
        "classes": list(fitted.classes),
        "backbone": fitted.backbone.name,
        "strategy": config.training.strategy if config else None,
    }


def _interval(record: IntervalRecord) -> Fields:
    return {"value": record.value, "low": record.low, "high": record.high, "n": record.n}
