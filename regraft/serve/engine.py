"""What runs the network of a server: always in fp32, so that it answers as `predict` does; the faster of what is installed."""

import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import nn

from regraft.backbone.features import FromPixels
from regraft.cache.engines import Network, OpenVinoEngine, Pixels, Rows, TorchEngine, pick_device
from regraft.data.preprocess import Preprocess
from regraft.errors import first_line

Engine = TorchEngine | OpenVinoEngine
Note = Callable[[str], None]
# Of a probability, at worst, on made-up images: on real ones it was up to twice as much, and 1e-5 is promised. Engines round
# otherwise by 1e-5 of a logit; a head with a very low temperature makes much of that.
_ALIKE = 5e-6
_TIMED = 3


def fastest(module: nn.Module, preprocess: Preprocess, classes: int, device: str, batch: int, note: Note) -> Engine:
    """What runs pixels (n, H, W, C) uint8 of at most `batch` images through `module`: the faster engine that gives the same.

    The first `classes` columns of what it gives are logits; by those engines are compared. `note` is told what was measured.
    On the processor OpenVINO is tried where it is installed.
    """
    network, where = FromPixels(module, preprocess).eval(), pick_device(device)
    sample = sample_of(preprocess, batch)
    openvino = _openvino(network, sample, note) if where == "cpu" and find_spec("openvino") else None
    plain = TorchEngine(network, device=where, dtype=torch.float32)
    reference, rate = _timed(plain, sample)
    if openvino is None:
        note(f"engine: {plain.name}, {rate:.0f} images/s in batches of {batch}")
        return plain
    rows, other = _timed(openvino, sample)
    apart = _apart(rows[:, :classes], reference[:, :classes])
    better = apart <= _ALIKE and other > rate
    measured = f"{plain.name} {rate:.0f} images/s, {openvino.name} {other:.0f} images/s"
    doubt = f", whose probabilities may be otherwise by {apart:.1g}" if apart > _ALIKE else ""
    if better:
        for size in range(1, batch):  # kernels are made for each size when it is first met
            openvino.run(sample[:size])
    chosen: Engine = openvino if better else plain
    note(f"engine: {chosen.name} ({measured}{doubt}; batches of {batch})")
    return chosen


def _openvino(network: FromPixels, sample: Pixels, note: Note) -> OpenVinoEngine | None:
    # Several batches side by side, a thread for each, do more than many threads that wait for each other over one; a single
    # image gets them all.
    hint = "THROUGHPUT" if len(sample) > 1 else "LATENCY"
    try:
        return OpenVinoEngine(Network(network, "", None), sample, "fp32", hint=hint)
    except Exception as error:  # it cannot run every network
        note(f"openvino cannot run this network: {first_line(error)}")
        return None


def _apart(logits_NK: Rows, reference_NK: Rows) -> float:
    """The most by which a probability can differ: a softmax changes by a quarter of what two logits do to each other."""
    change_NK = logits_NK.astype(np.float64) - reference_NK
    between_N = change_NK.max(axis=1) - change_NK.min(axis=1)
    return float(max(between_N.max(), np.abs(change_NK).max()) / 4)


def _timed(engine: Engine, sample: Pixels) -> tuple[Rows, float]:
    """Rows, and images per second; the first pass, in which kernels are made, is not counted."""
    rows = engine.run(sample)
    start = time.perf_counter()
    done = sum(len(part) for part in engine.stream(iter([sample] * _TIMED)))
    return rows, done / (time.perf_counter() - start)


def sample_of(preprocess: Preprocess, count: int) -> Pixels:
    """Made-up images (count, H, W, C): coarse patches of scattered levels, for no model was shown plain noise."""
    height, width, channels = preprocess.height, preprocess.width, preprocess.channels
    patches = np.random.default_rng(0).integers(0, 256, (count, -(-height // 16), -(-width // 16), channels), np.uint8)
    return np.ascontiguousarray(patches.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width])
