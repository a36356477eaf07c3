"""Heat maps: which parts of an image speak for an answer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.backbone.features import FromPixels, Normalise
from regraft.cache.engines import pick_device
from regraft.cache.stream import BATCH, Loaded, load_images
from regraft.data.names import guess, listing, shown
from regraft.errors import UnknownClass, UsageError
from regraft.evaluate.probability import probabilities
from regraft.evidence.method import method_for
from regraft.fitted import Fitted
from regraft.inputs import checked_paths
from regraft.progress import Progress, Silent
from regraft.recipe import Device
from regraft.values import Explanation, ImagePath, Prediction, Rejected

Asked = str | Sequence[str | None] | None


def explain(
    fitted: Fitted,
    paths: Iterable[str | ImagePath],
    *,
    of: Asked = None,
    top_k: int = 5,
    device: Device = "auto",
    progress: Progress = Silent(),
) -> Iterator[Explanation]:
    """Where in each image the evidence for a class lies, one Explanation per path, in order, each as soon as it is there.

    `of` names the class, for all images or for each; None is the best answer. Grad-CAM for convolutional networks (the last
    map, and those of earlier stages that the head reads), integrated gradients for others. An image that cannot be used
    gives an Explanation whose prediction has the status "failed" and the reason. Raises UnknownClass, UsageError.
    """
    items = checked_paths(paths)
    asked = _asked(fitted, of, len(items))
    explainer = _Explainer(fitted, pick_device(device), top_k)
    with progress.task("explanations", len(items), "image") as task:
        loaded = load_images(items, fitted.backbone.preprocess)
        rows = (_Item(name, number, image) for (_, name), number, image in zip(items, asked, loaded, strict=True))
        for batch in _batches(rows, BATCH):
            for explanation in explainer(batch):
                task.advance()
                yield explanation


def pixel_explainer(fitted: Fitted, *, device: Device = "auto") -> Callable[[NDArray[np.uint8], str | None], Explanation]:
    """Asks one model again and again, about images (height, width, channels) as `data.decode.load_pixels` gives them.

    The second argument names the class; None is the best answer. For one thread at a time. Raises UnknownClass.
    """
    explainer = _Explainer(fitted, pick_device(device), 1)

    def explain_pixels(pixels_HWC: NDArray[np.uint8], of: str | None) -> Explanation:
        return next(explainer([_Item("", _asked(fitted, of, 1)[0], Loaded(b"", pixels_HWC))]))

    return explain_pixels


@dataclass(frozen=True, slots=True)
class _Item:
    """An image that was asked for: its path as given, the class to explain (None: the best answer), and what was read."""

    name: str
    asked: int | None
    image: Loaded | Rejected


def _asked(fitted: Fitted, of: Asked, images: int) -> list[int | None]:
    names = [of] * images if of is None or isinstance(of, str) else list(of)
    if len(names) != images:
        raise UsageError(
            expected=f"a class for each of {images:,} images", got=f"{len(names):,}", fix="give one for all or for each"
        )
    number = {name: k for k, name in enumerate(fitted.classes)}
    unknown = next((name for name in names if name is not None and name not in number), None)
    if unknown is not None:
        near = guess(unknown, fitted.classes)
        raise UnknownClass(
            expected=f"a class of the model: {listing(fitted.classes)}",
            got=repr(unknown)[:100],
            fix=f"did you mean {shown(near)}?" if near else "give one of them, or none for the best answer",
        )
    return [None if name is None else number[name] for name in names]


def _batches(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    """In order, `size` readable images in each: the batches that predict has, so that figures are the same to the last bit."""
    batch: list[_Item] = []
    readable = 0
    for item in items:
        batch.append(item)
        readable += isinstance(item.image, Loaded)
        if readable == size:
            yield batch
            batch, readable = [], 0
    if batch:
        yield batch


class _Explainer:
    """A model made ready to be asked for evidence."""

    def __init__(self, fitted: Fitted, device: str, top_k: int) -> None:
        self._fitted, self._device, self._top_k = fitted, device, top_k
        self._normalise = Normalise(fitted.backbone.preprocess).to(device)
        self._method = method_for(fitted, device)
        # Asked for the answers themselves, which are calibrated and may be withheld: as predict gives them.
        self._network = FromPixels(fitted.answering(), fitted.backbone.preprocess).eval().to(device)

    def __call__(self, batch: Sequence[_Item]) -> Iterator[Explanation]:
        read = [(item, item.image.pixels) for item in batch if isinstance(item.image, Loaded) and item.image.pixels is not None]
        answers = iter(self._answers(np.stack([pixels for _, pixels in read]), [item for item, _ in read]) if read else ())
        for item in batch:
            yield _failed(item.name, item.image.reason) if isinstance(item.image, Rejected) else next(answers)

    def _answers(self, pixels_NHWC: NDArray[np.uint8], items: Sequence[_Item]) -> Iterator[Explanation]:
        images = self._normalise(torch.from_numpy(pixels_NHWC).to(self._device))
        # cuDNN's TF32 keeps 10 bits of the fraction: answers are to be those of predict.
        with torch.backends.cudnn.flags(allow_tf32=False):
            measured = self._method.measure(images, lambda logits: _targets(logits, [item.asked for item in items]))
            with torch.inference_mode():
                rows = self._network(torch.from_numpy(pixels_NHWC).to(self._device)).cpu().numpy()
        targets_N, evidence_NHW = (value.detach().cpu().numpy() for value in measured[1:])
        classes = self._fitted.classes
        shares_NK = probabilities(rows[:, : len(classes)], self._fitted.multi_label)
        for row, item in enumerate(items):
            yield Explanation(
                prediction=self._fitted.prediction(item.name, rows[row], self._top_k),
                of=classes[targets_N[row]],
                probability=float(shares_NK[row, targets_N[row]]),
                heat_HW=heat_of(evidence_NHW[row]),
                pixels_HWC=pixels_NHWC[row],
            )


def heat_of(evidence_HW: NDArray[np.float32]) -> NDArray[np.float32]:
    """What speaks for the class, as shares (0 to 1) of the place that does most; zero where nothing does, or against it."""
    heat = np.maximum(np.nan_to_num(evidence_HW, nan=0.0, posinf=0.0, neginf=0.0), 0)
    most = heat.max(initial=0)
    return np.asarray(heat / most if most > 0 else heat, np.float32)


def _targets(logits_NK: Tensor, asked: Sequence[int | None]) -> Tensor:
    # The first of equal ones, as `top_classes` has it.
    best = np.argmax(logits_NK.cpu().numpy(), axis=1)
    return torch.tensor([int(b) if a is None else a for a, b in zip(asked, best, strict=True)], device=logits_NK.device)


def _failed(name: str, reason: str) -> Explanation:
    return Explanation(
        prediction=Prediction(path=name, status="failed", reason=reason),
        of="",
        probability=0.0,
        heat_HW=np.zeros((0, 0), np.float32),
        pixels_HWC=np.zeros((0, 0, 0), np.uint8),
    )
