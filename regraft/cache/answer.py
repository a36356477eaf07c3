"""Images through a whole network, head included, without keeping anything."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regraft.backbone.features import FromPixels
from regraft.cache.engines import Engine, Network, OpenVinoEngine, TorchEngine, pick_device
from regraft.cache.extract import Activations
from regraft.cache.stream import batch_on, load_images, run_images
from regraft.data.preprocess import Preprocess
from regraft.progress import Progress, Silent
from regraft.values import ImagePath, Rejected

# Setting OpenVINO up takes seconds; fewer images than this are answered sooner without: docs/measurements.md#engines
MANY = 400


def logits_of(
    paths: Sequence[tuple[ImagePath, str]],
    module: nn.Module,
    preprocess: Preprocess,
    *,
    device: str = "auto",
    progress: Progress = Silent(),
) -> Iterator[NDArray[np.float32] | Rejected]:
    """For each (path, name) its logits (K,), or why there are none, in order.

    `module` maps normalised images to logits. Always in fp32: an image gets the same answer alone and among ten thousand
    others, up to rounding (1e-5 in probability).
    """
    network = FromPixels(module, preprocess).eval()
    images = load_images(paths, preprocess)
    with progress.task("images", len(paths), "image") as task:
        where = pick_device(device)
        engine = lambda: full_precision(network, preprocess, where, len(paths))  # noqa: E731
        for item in run_images(images, engine, batch_on(where)):
            task.advance()
            if isinstance(item, Rejected):
                yield item
            else:
                assert item.features is not None, "nothing is known beforehand here"
                yield item.features


def values_of(
    pixels: Activations, module: nn.Module, preprocess: Preprocess, *, device: str = "auto"
) -> Iterator[NDArray[np.float32]]:
    """What `module` makes of images that were decoded before, one row for each, in order."""
    network, where = FromPixels(module, preprocess).eval(), pick_device(device)
    batch = batch_on(where)
    starts = range(0, len(pixels), batch)
    batches = (np.asarray(pixels[np.arange(start, min(start + batch, len(pixels)))][0].numpy(), np.uint8) for start in starts)
    for rows in full_precision(network, preprocess, where, len(pixels)).stream(batches):
        yield from rows


def full_precision(
    network: FromPixels, preprocess: Preprocess, device: str, images: int, *, threads: int | None = None
) -> Engine:
    """The fp32 engine for so many images; `threads`: of OpenVINO, where it is not to take all processors."""
    if device == "cpu" and images >= MANY:
        shape = (1, preprocess.height, preprocess.width, preprocess.channels)
        try:
            return OpenVinoEngine(Network(network, "", None), np.zeros(shape, np.uint8), "fp32", threads=threads)
        except Exception:  # not installed, or unable to run this network: slower is better than not at all
            pass
    return TorchEngine(network, device=device, dtype=torch.float32)
