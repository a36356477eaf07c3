"""Images through a network: decoded on a few threads while the network runs, in order, with bounded memory."""

import hashlib
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft.cache.engines import Engine
from regraft.data.decode import load_pixels, load_pixels_and_look, read_image
from regraft.data.preprocess import Preprocess
from regraft.errors import ImageRejected
from regraft.ranks import on_this_machine, processors
from regraft.values import ImagePath, Rejected

Item = TypeVar("Item")
Made = TypeVar("Made")
# Small batches stay in the processor's cache: docs/measurements.md#engines
BATCH = 8
# An accelerator wants enough work at once to be busy; not measured, for want of one.
BATCH_ON_ACCELERATOR = 64
# Batches decoded ahead of the network; bounds memory, and keeps the decoding threads busy.
AHEAD = 8


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image read: its digest, its pixels unless they were `known`, and its look (`data.look`) where that was wanted."""

    digest: bytes
    pixels: NDArray[np.uint8] | None
    look: NDArray[np.void] | None = None


def decoding_threads() -> int:
    """One per processor of this process: decoding is work for the processor, not waiting."""
    return max(1, processors() // on_this_machine())


def load_image(
    path: ImagePath, name: str, preprocess: Preprocess, known: Container[bytes], looked: Container[bytes] | None = None
) -> Loaded | Rejected:
    """Read one file once; decode it at most once, and not where all that is wanted is known.

    `looked` holds the digests of images whose look is known; None: looks are not wanted.
    """
    try:
        data = read_image(path, name)
        digest = hashlib.sha256(data).digest()
        if looked is None or digest in looked:
            return Loaded(digest, None if digest in known else load_pixels(data, preprocess, name))
        pixels, look = load_pixels_and_look(data, preprocess, name)
        return Loaded(digest, None if digest in known else pixels, look)
    except ImageRejected as error:
        return Rejected(path=path, name=name, code=error.code, reason=error.got.removeprefix(f"{name}: "))


def load_images(
    items: Iterable[tuple[ImagePath, str]],
    preprocess: Preprocess,
    known: Container[bytes] = (),
    ready: Mapping[ImagePath, Loaded] = MappingProxyType({}),
    looked: Container[bytes] | None = None,
    *,
    threads: int | None = None,
) -> Iterator[Loaded | Rejected]:
    """Every image in order, decoded on threads, a bounded number ahead of whoever asks. Those in `ready` are not read again.

    `threads`: how many, where this process has not all processors to itself.
    """

    def load(item: tuple[ImagePath, str]) -> Loaded | Rejected:
        return ready.get(item[0]) or load_image(*item, preprocess, known, looked)

    return in_threads(load, items, ahead=BATCH * AHEAD, threads=threads)


def in_threads(
    make: Callable[[Item], Made], items: Iterable[Item], *, ahead: int | None = None, threads: int | None = None
) -> Iterator[Made]:
    """What `make` makes of each item, in order, at most `ahead` of whoever asks; None: a few for each thread."""
    source, threads = iter(items), threads or decoding_threads()
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            waiting.extend(pool.submit(make, item) for item in islice(source, ahead or 4 * threads))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(make, item) for item in islice(source, 1))
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True, slots=True)
class Row:
    """The features of one image (D,), and its digest; `features` is None for a known image."""

    digest: bytes
    features: NDArray[np.float32] | None


def batch_on(device: str) -> int:
    """Images that the network takes at a time."""
    return BATCH if device == "cpu" else BATCH_ON_ACCELERATOR


def run_images(
    images: Iterable[Loaded | Rejected], engine: Callable[[], Engine], batch: int = BATCH
) -> Iterator[Row | Rejected]:
    """What the network makes of each image, in order. `engine` is called when the first image needs it."""
    order: deque[Loaded | Rejected] = deque()
    batches = _batches(images, order, batch)
    first = next(batches, None)
    if first is None:
        yield from (_without_features(item) for item in order)
        return
    with closing(batches):
        for rows_ND in engine().stream(chain([first], batches)):
            row_iter = iter(rows_ND)
            row = next(row_iter, None)
            while order and row is not None:
                item = order.popleft()
                if isinstance(item, Loaded) and item.pixels is not None:
                    yield Row(item.digest, row)
                    row = next(row_iter, None)
                else:
                    yield _without_features(item)
    yield from (_without_features(item) for item in order)


def _without_features(item: Loaded | Rejected) -> Row | Rejected:
    return item if isinstance(item, Rejected) else Row(item.digest, None)


def _batches(images: Iterable[Loaded | Rejected], order: deque[Loaded | Rejected], size: int) -> Generator[NDArray[np.uint8]]:
    """Batches of pixels (N, H, W, C); every image, with pixels or without, is noted in `order`."""
    batch: list[NDArray[np.uint8]] = []
    for item in images:
        if isinstance(item, Loaded) and item.pixels is not None:
            batch.append(item.pixels)
        order.append(item)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
