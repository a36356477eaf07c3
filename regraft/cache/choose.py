"""Which engine runs the frozen part: measured on a few of the user's own images, remembered for this machine and network."""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from regraft.cache import sealed
from regraft.cache.engines import Candidate, Engine, Network, Pixels, candidates
from regraft.cache.stream import Loaded, batch_on, load_images
from regraft.data.preprocess import Preprocess
from regraft.errors import UsageError, first_line
from regraft.progress import Progress
from regraft.ranks import here
from regraft.values import EngineTiming, ImagePath, Sample

# Where any image's features have a smaller cosine with fp32's, an engine is not used: docs/measurements.md#engines
AGREES = 0.99999
# A pass shorter than this, in seconds, is over before another engine is set up.
NOT_WORTH_IT = 3.0
_BATCHES_TIMED = 3
# Images that the engines are measured on, spread over the data.
_SAMPLE = 16
# A choice made for so many times fewer images, with engines left out, is made again.
_OUTGROWN = 5


@dataclass(frozen=True, slots=True)
class Chosen:
    """The engine to use, made when first needed; `ready` are the images already decoded to measure it."""

    name: str
    make: Callable[[], Engine]
    timings: tuple[EngineTiming, ...]
    ready: Mapping[ImagePath, Loaded]


def choose_engine(
    network: Network, samples: Sequence[Sample], preprocess: Preprocess, device: str, progress: Progress
) -> Chosen:
    """The remembered engine of this machine and network, or the outcome of a measurement on a few of the images.

    Of several processes rank 0 chooses for all: their rows go into one table. Raises UsageError where another one's machine
    does not have that engine.
    """
    ranks, made = here(), list[Chosen]()

    def choose() -> tuple[str, tuple[EngineTiming, ...]]:
        made.append(_choose(network, samples, preprocess, device, progress))
        return made[0].name, made[0].timings

    name, timings = ranks.shared(choose)
    return made[0] if ranks.first else replace(named_engine(network, preprocess, device, name), timings=timings)


def _choose(network: Network, samples: Sequence[Sample], preprocess: Preprocess, device: str, progress: Progress) -> Chosen:
    shape = (_SAMPLE, preprocess.height, preprocess.width, preprocess.channels)
    path = _memory(network, device)
    kept = recall(path) if path else None
    if kept is not None and not (_left_some_out(kept[1], network, device) and len(samples) > _OUTGROWN * kept[0]):
        name = next(timing.name for timing in kept[1] if timing.chosen)
        for candidate in candidates(network, device, np.zeros(shape, np.uint8)):
            if candidate.name == name:
                progress.note(f"engine: {name} (measured earlier on this machine)")
                return Chosen(name, partial(_made_again, candidate, path), kept[1], {})
    spread = [samples[i] for i in np.linspace(0, len(samples) - 1, min(len(samples), _SAMPLE)).astype(int)]
    ready = {
        sample.path: item
        for sample, item in zip(spread, load_images([(s.path, s.name) for s in spread], preprocess, looked=()), strict=True)
        if isinstance(item, Loaded)
    }
    pixels = [item.pixels for item in ready.values() if item.pixels is not None] or [np.zeros(shape[1:], np.uint8)]
    timings, engine = measure(network, np.stack(pixels), images=len(samples), device=device)
    progress.note("engines measured: " + "; ".join(describe(timing) for timing in timings))
    if path:
        remember(timings, len(samples), path)
    return Chosen(engine.name, lambda: engine, timings, ready)


def named_engine(network: Network, preprocess: Preprocess, device: str, name: str) -> Chosen:
    """The engine of that name. Raises UsageError where this machine does not have it."""
    found = candidates(network, device, np.zeros((1, preprocess.height, preprocess.width, preprocess.channels), np.uint8))
    for candidate in found:
        if candidate.name == name:
            return Chosen(name, candidate.make, (), {})
    raise UsageError(
        expected=f"the engine that computed the earlier features, {name}",
        got=f"a machine with {', '.join(candidate.name for candidate in found)}",
        fix="go on on the machine of the earlier fit, or fit again on all images",
    )


def _made_again(candidate: Candidate, path: Path | None) -> Engine:
    """The remembered engine; where it cannot be made any more, the memory of it goes."""
    try:
        return candidate.make()
    except Exception as error:
        if path is not None:
            path.unlink(missing_ok=True)
        raise UsageError(
            expected=f"the engine {candidate.name} to work as it did before on this machine",
            got=f"{type(error).__name__}: {error}",
            fix="run the same command again: the engines will be measured anew",
        ) from error


def describe(timing: EngineTiming) -> str:
    """One measurement in a few words."""
    if timing.note:
        return f"{timing.name} {timing.note}"
    return f"{timing.name} {timing.images_per_s:.0f} images/s{' (chosen)' if timing.chosen else ''}"


def _memory(network: Network, device: str) -> Path | None:
    if network.folder is None:
        return None
    key = hashlib.sha256(f"{network.digest} {machine_key(device)}".encode()).hexdigest()[:24]
    return network.folder / "engines" / f"{key}.json"


def _left_some_out(timings: Sequence[EngineTiming], network: Network, device: str) -> bool:
    return len(timings) < len(candidates(network, device, np.zeros((1, 1, 1, 3), np.uint8)))


def machine_key(device: str) -> str:
    """What a measurement depends on beside the network: versions, processor, threads, device."""
    versions = {name: _version(name) for name in ("torch", "openvino")}
    capability = torch.backends.cpu.get_cpu_capability()
    return json.dumps([versions, capability, platform.machine(), torch.get_num_threads(), device])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def measure(network: Network, sample: Pixels, *, images: int, device: str) -> tuple[tuple[EngineTiming, ...], Engine]:
    """Time every engine worth trying on `sample` (n, H, W, C); the fastest whose features agree with fp32, and all timings.

    `images` is how many are to come: an engine that is slow to make is left out where the others would be through before.
    """
    timed: list[tuple[EngineTiming, Engine]] = []
    failed: list[EngineTiming] = []
    too_coarse: set[str] = set()
    reference_ND = None
    for candidate in candidates(network, device, sample):
        rate = max((timing.images_per_s for timing, _ in timed), default=0.0)
        if candidate.slow_to_make and images < rate * NOT_WORTH_IT:
            continue
        if candidate.precision in too_coarse:
            note = f"not tried: {candidate.precision} was found too coarse for this network"
            failed.append(_unused(candidate, note))
            continue
        try:
            timing, engine, rows_ND = _time(candidate, sample, reference_ND, device, network.last_width)
        except Exception as error:
            if reference_ND is None:  # plain torch itself cannot run this network
                raise
            failed.append(_unused(candidate, f"not used: {type(error).__name__}: {first_line(error, 120)}"))
            continue
        reference_ND = rows_ND if reference_ND is None else reference_ND
        if timing.cosine < AGREES:
            too_coarse.add(candidate.precision)
        timed.append((timing, engine))
    best = max((item for item in timed if item[0].cosine >= AGREES), key=lambda item: item[0].images_per_s)
    return (*(replace(timing, chosen=timing is best[0]) for timing, _ in timed), *failed), best[1]


def _unused(candidate: Candidate, note: str) -> EngineTiming:
    return EngineTiming(name=candidate.name, images_per_s=0.0, cosine=0.0, setup_s=0.0, chosen=False, note=note)


def _time(
    candidate: Candidate, sample: Pixels, reference_ND: NDArray[np.float32] | None, device: str, last_width: int
) -> tuple[EngineTiming, Engine, NDArray[np.float32]]:
    start = time.perf_counter()
    engine = candidate.make()
    # In batches of the size that is timed: engines compile their kernels for each size when they first meet it.
    size = batch_on(device)
    batches = [sample[i : i + size] for i in range(0, len(sample), size)]
    rows_ND = np.concatenate(list(engine.stream(iter(batches))))
    set_up = time.perf_counter() - start
    cosine = 1.0 if reference_ND is None else smallest_cosine(rows_ND, reference_ND, last_width)
    rate = 0.0
    if cosine >= AGREES:
        start = time.perf_counter()
        count = sum(len(rows) for rows in engine.stream(iter(batches[:1] * _BATCHES_TIMED)))
        rate = count / (time.perf_counter() - start)
    note = "" if cosine >= AGREES else f"not used: its features differ from fp32's (cosine {cosine:.4f})"
    timing = EngineTiming(name=candidate.name, images_per_s=rate, cosine=cosine, setup_s=set_up, chosen=False, note=note)
    return timing, engine, rows_ND


def smallest_cosine(a_ND: NDArray[np.float32], b_ND: NDArray[np.float32], last_width: int) -> float:
    """The smallest cosine between corresponding rows of two sets of features (N, D), `b_ND` being the reference.

    Measured from the reference's mean row: what all images share would hide the differences that a head works with. The
    head's own input (the first `last_width` columns) and the pooled stages are judged apart, for the same reason.
    """
    if len(b_ND) > 1:
        centre_D = b_ND.mean(axis=0)
        a_ND, b_ND = a_ND - centre_D, b_ND - centre_D
    parts = [slice(0, last_width), slice(last_width, None)] if 0 < last_width < a_ND.shape[1] else [slice(None)]
    return min(float(_cosines(a_ND[:, part], b_ND[:, part]).min()) for part in parts)


def _cosines(a_ND: NDArray[np.float32], b_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    norms_N = np.linalg.norm(a_ND, axis=1) * np.linalg.norm(b_ND, axis=1)
    product_N = np.sum(a_ND.astype(np.float64) * b_ND, axis=1)
    return np.where(norms_N > 0, product_N / np.maximum(norms_N, 1e-30), 1.0)


def remember(timings: tuple[EngineTiming, ...], images: int, path: Path) -> None:
    """Keep a measurement made for `images` images; failing to is no error."""
    sealed.remember(path, json.dumps({"images": images, "timings": [asdict(timing) for timing in timings]}).encode())


def recall(path: Path) -> tuple[int, tuple[EngineTiming, ...]] | None:
    """An earlier measurement: for how many images, and the timings."""
    with suppress(ValueError, TypeError, KeyError):
        kept = json.loads(sealed.recall(path) or b"null")
        timings = tuple(EngineTiming(**timing) for timing in kept["timings"])
        if sum(timing.chosen for timing in timings) == 1:
            return int(kept["images"]), timings
    return None
