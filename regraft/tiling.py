"""Answers for every pixel of an image of any size, from a network that answers windows: whole or in tiles, strip by strip.

Letters in names give shapes: N windows, C logits, H W pixels of the image, h w of what the network is shown of it, R rows,
T tiles. No more than a row of tiles is in memory at once; what is finished goes to whoever asks, from the top down.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from regraft.backbone.features import FromPixels
from regraft.cache.engines import TorchEngine
from regraft.data.preprocess import RESAMPLING, Preprocess, padded_box, to_input_size
from regraft.evaluate.probability import probabilities as probabilities_of
from regraft.resizing import resized_rows

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]
# Windows (N, h, w, channels) uint8 -> their logits (N, C, h, w), as the `run` of an engine of `cache.engines`.
Ask = Callable[[Pixels], Logits]

# An image up to so many times as large as those of the training is shown whole: things are then at least half their usual size.
WHOLE_UP_TO: Final = 2.0
# Of a tile's side: what it shares with the next, and over which its weight falls to its border.
OVERLAP: Final = 0.25
BATCH: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Labels (H, W) of an image, and where wanted probabilities (C, H, W)."""

    labels_HW: NDArray[np.uint8]
    probabilities_CHW: NDArray[np.float16] | None = None


def tile_scale(height: int, width: int, *, usual_side: float, window: int, whole: bool = False) -> float | None:
    """By how much an image is resized to be answered in tiles; None: it is shown whole.

    `usual_side` is the median longer side of the training images in pixels, `window` the side of the network's input. In
    tiles, things have the size that they had in training.
    """
    if whole or max(height, width) <= WHOLE_UP_TO * usual_side:
        return None
    return window / usual_side


def asking(module: nn.Module, preprocess: Preprocess, device: str = "cpu") -> Ask:
    """What gives `module`'s answers for windows, in fp32.

    `module` maps normalised windows (N, channels, height, width) of `preprocess` to logits (N, C, height, width), in eval
    mode; it is moved to `device`.
    """
    return TorchEngine(FromPixels(module, preprocess).eval(), device=device, dtype=torch.float32).run


def answer_image(
    image: Image.Image,
    ask: Ask,
    preprocess: Preprocess,
    *,
    usual_side: float | None,
    threshold: float = 0.5,
    probabilities: bool = False,
    batch: int = BATCH,
) -> Answer:
    """The class of every pixel of one upright image, at its own size, with bounded memory.

    `usual_side` is the median longer side of the training images in pixels: images more than twice as large are answered in
    tiles (`tile_scale`); None shows every image whole. One logit is that of the object, whose label is 1 where its
    probability is at least `threshold`.
    """
    side = max(preprocess.height, preprocess.width)
    scale = usual_side and tile_scale(image.height, image.width, usual_side=usual_side, window=side)
    strips = answer_strips(image, ask, preprocess, scale=scale, batch=batch)
    return decide(strips, (image.height, image.width), threshold=threshold, probabilities=probabilities)


def logits_of_image(
    image: Image.Image, ask: Ask, preprocess: Preprocess, *, scale: float | None, batch: int = BATCH
) -> NDArray[np.float32]:
    """Logits (C, H, W) of an image, all at once; those of large ones are better taken from `answer_strips`."""
    return np.concatenate(list(answer_strips(image, ask, preprocess, scale=scale, batch=batch)), axis=1)


def answer_strips(
    image: Image.Image, ask: Ask, preprocess: Preprocess, *, scale: float | None, batch: int = BATCH
) -> Iterator[Logits]:
    """Logits (C, R, W) of an image of H x W pixels, strip by strip from the top; the R add up to H.

    The image is shown whole, as in training with `fit` "pad", where `scale` is None. Else it is resized by it and covered
    with windows that overlap by a quarter; their logits are averaged with weights that fall to the borders. Either way the
    logits are resized bilinearly to the image's own size.

    `ask` gives the logits of windows (N, height, width, channels) of `preprocess`, at most `batch` at a time.
    """
    width, height = image.size
    if scale is None:
        size, rows = _whole(image, ask, preprocess)
    else:
        size = max(1, round(height * scale)), max(1, round(width * scale))
        rows = _tiled(image, size, ask, preprocess, batch)
    yield from resized_rows(rows, size, (height, width))


def decide(strips: Iterable[Logits], size: tuple[int, int], *, threshold: float = 0.5, probabilities: bool = False) -> Answer:
    """Labels of an image of `size` (height, width) from strips of its logits, and where wanted probabilities.

    One logit per pixel is that of the object: label 1 where its probability is at least `threshold`. Of several the largest
    counts.
    """
    labels_HW, top = np.empty(size, np.uint8), 0
    shares_CHW: NDArray[np.float16] | None = None
    for logits_CRW in strips:
        part, single = slice(top, top + logits_CRW.shape[1]), len(logits_CRW) == 1
        shares_CRW = _probabilities(logits_CRW) if single or probabilities else None
        if single and shares_CRW is not None:
            labels_HW[part] = shares_CRW[0] >= threshold
        else:
            labels_HW[part] = logits_CRW.argmax(axis=0)
        if probabilities and shares_CRW is not None:
            if shares_CHW is None:
                shares_CHW = np.empty((len(logits_CRW), *size), np.float16)
            shares_CHW[:, part] = shares_CRW
        top = part.stop
    return Answer(labels_HW=labels_HW, probabilities_CHW=shares_CHW)


def _probabilities(logits_CRW: Logits) -> NDArray[np.float64]:
    """(C, R, W) of a strip: a sigmoid of one logit, a softmax of several."""
    channels, rows, width = logits_CRW.shape
    logits_PC = logits_CRW.reshape(channels, -1).T
    return probabilities_of(logits_PC, multi_label=channels == 1).T.reshape(channels, rows, width)


def _whole(image: Image.Image, ask: Ask, preprocess: Preprocess) -> tuple[tuple[int, int], Iterator[Logits]]:
    padding = replace(preprocess, fit="pad")
    left, top, width, height = padded_box(image.size, padding)
    logits_Chw = ask(to_input_size(image, padding)[np.newaxis])[0, :, top : top + height, left : left + width]
    return (height, width), iter([logits_Chw])


# -- tiles


def blend_weights(length: int, window: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Starts (T,) of the tiles that cover `length` pixels along one side, and their weights (T, window).

    Neighbours share a quarter of a tile or more. Each weight falls to the borders as a raised cosine and is nowhere zero;
    those of all tiles add up to 1 at every pixel. Where `length` is less than `window`, one tile begins before 0.
    """
    if length <= window:
        return np.array([-((window - length) // 2)]), np.ones((1, window), np.float32)
    step = window - int(np.ceil(OVERLAP * window))
    starts_T = np.rint(np.linspace(0, length - window, 1 + -(-(length - window) // max(1, step)))).astype(np.intp)
    ramp = max(1.0, OVERLAP * window)
    inside = np.minimum(np.arange(window) + 0.5, window - np.arange(window) - 0.5)
    weight = np.sin(0.5 * np.pi * np.minimum(1.0, inside / ramp)) ** 2
    total = np.zeros(length)
    for start in starts_T:
        total[start : start + window] += weight
    return starts_T, np.array([weight / total[start : start + window] for start in starts_T], np.float32)


def _tiled(
    image: Image.Image, size: tuple[int, int], ask: Ask, preprocess: Preprocess, batch: int
) -> Iterator[NDArray[np.float32]]:
    """Rows (C, R, w) of logits of an image resized to `size` (h, w), as soon as no later tile adds to them."""
    height, width = size
    tops, down = blend_weights(height, preprocess.height)
    lefts, across = blend_weights(width, preprocess.width)
    sum_Chw: NDArray[np.float32] | None = None
    for top, following, weight_h in zip(tops, [*tops[1:], height], down, strict=True):
        strip = _strip(image, size, int(top), preprocess)
        for start in range(0, len(lefts), batch):
            columns = range(start, min(start + batch, len(lefts)))
            answers = ask(np.stack([_window(strip, int(lefts[column]), preprocess) for column in columns]))
            if sum_Chw is None:
                sum_Chw = np.zeros((answers.shape[1], min(height, preprocess.height), width), np.float32)
            for column, logits_Chw in zip(columns, answers, strict=True):
                _add(sum_Chw, logits_Chw, weight_h, across[column], (int(top), int(lefts[column])))
        assert sum_Chw is not None, "every side is covered by at least one tile"
        done = min(int(following) - max(0, int(top)), sum_Chw.shape[1])
        yield sum_Chw[:, :done]
        sum_Chw[:, : sum_Chw.shape[1] - done] = sum_Chw[:, done:].copy()
        sum_Chw[:, sum_Chw.shape[1] - done :] = 0


def _add(sum_Chw: Logits, logits_Chw: Logits, weight_h: Logits, weight_w: Logits, corner: tuple[int, int]) -> None:
    """Add a tile to the rows that begin at its top; what of it lies outside of the image is padding, and left out."""
    rows, columns = max(0, -corner[0]), max(0, -corner[1])
    left = max(0, corner[1])
    height, width = min(sum_Chw.shape[1], len(weight_h)), min(sum_Chw.shape[2], len(weight_w))
    inner = logits_Chw[:, rows : rows + height, columns : columns + width]
    weight = weight_h[rows : rows + height, np.newaxis] * weight_w[columns : columns + width]
    sum_Chw[:, :height, left : left + width] += inner * weight


def _strip(image: Image.Image, size: tuple[int, int], top: int, preprocess: Preprocess) -> Pixels:
    """Rows (R, w, channels) of the image resized to `size`, from `top` on, as high as a window or the whole of it.

    The resampling reads beyond the box, so these are the pixels that resizing the whole image would give.
    """
    height, width = size
    first, last = max(0, top), min(height, top + preprocess.height)
    ratio = image.height / height
    box = (0.0, first * ratio, float(image.width), min(float(image.height), last * ratio))
    resample = RESAMPLING[preprocess.interpolation]
    colours, alpha = _apart(image, preprocess.channels)
    shown = colours.resize((width, last - first), resample, box=box)
    if preprocess.channels == 1:
        return np.asarray(shown)[..., np.newaxis]
    rgb = np.asarray(shown if shown.mode == "RGB" else shown.convert("RGB"))
    if preprocess.channels == 3:
        return rgb
    if alpha is None:
        return np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    return np.dstack([rgb, np.asarray(alpha.resize((width, last - first), resample, box=box))])


def _apart(image: Image.Image, channels: int) -> tuple[Image.Image, Image.Image | None]:
    """Colours and alpha, which are resized apart: the colours are those of the image without alpha."""
    alpha = image.getchannel("A") if image.mode.endswith("A") else None
    mode = "L" if channels == 1 else image.mode.removesuffix("A")
    return (image if image.mode == mode else image.convert(mode)), alpha


def _window(strip: Pixels, left: int, preprocess: Preprocess) -> Pixels:
    """The window at `left` of a strip; a strip that is smaller than a window lies in the middle of one, on background."""
    high, wide = min(len(strip), preprocess.height), min(strip.shape[1], preprocess.width)
    part = strip[:, max(0, left) : max(0, left) + wide]
    if (high, wide) == (preprocess.height, preprocess.width):
        return part
    canvas = np.empty((preprocess.height, preprocess.width, preprocess.channels), np.uint8)
    canvas[:] = _background(preprocess)
    top, at = (preprocess.height - high) // 2, (preprocess.width - wide) // 2
    canvas[top : top + high, at : at + wide] = part
    return canvas


def _background(preprocess: Preprocess) -> NDArray[np.uint8]:
    """The pixel that padding has in training: the background, and transparent."""
    colour = Image.new("RGB", (1, 1), preprocess.background)
    pixel = np.asarray(colour.convert("L") if preprocess.channels == 1 else colour).reshape(-1)
    return np.append(pixel, np.uint8(0)) if preprocess.channels == 4 else pixel
