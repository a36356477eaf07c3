"""Ways to run the frozen part: eager torch in several precisions, OpenVINO, an accelerator. The fastest that agrees is used."""

import contextlib
import copy
import ctypes
import gc
import hashlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regraft.errors import UsageError
from regraft.ranks import on_this_machine, processors

Pixels = NDArray[np.uint8]
Rows = NDArray[np.float32]


class Engine(Protocol):
    """Runs pixels (N, H, W, C) uint8 through a module; `stream` keeps several batches under way and answers in order."""

    name: str

    def stream(self, batches: Iterator[Pixels]) -> Iterator[Rows]: ...


def torch_name(device: str, dtype: torch.dtype) -> str:
    return f"torch {device} {precision_name(dtype)}"


def precision_name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def openvino_name(precision: str) -> str:
    return f"openvino {precision}"


class TorchEngine:
    """Eager torch on one device, channels last; `dtype` other than float32 means autocast."""

    streams = 1

    def __init__(self, module: nn.Module, *, device: str, dtype: torch.dtype) -> None:
        self.module = module.to(device)
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if tensor.dim() == 4:  # `module.to(memory_format=...)` refuses networks that hold tensors of five dimensions
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        self.device, self.dtype = device, dtype
        self.name = torch_name(device, dtype)

    def stream(self, batches: Iterator[Pixels]) -> Iterator[Rows]:
        for pixels in batches:
            yield self.run(pixels)

    def run(self, pixels: Pixels) -> Rows:
        half = self.dtype != torch.float32
        # cuDNN's TF32 keeps 10 bits of the fraction: not what fp32 promises.
        with (
            torch.inference_mode(),
            torch.autocast(self.device, self.dtype, enabled=half),
            torch.backends.cudnn.flags(allow_tf32=half),
        ):
            images = torch.from_numpy(pixels).to(self.device)
            return cast(Rows, self.module(images).float().cpu().numpy())


class OpenVinoEngine:
    """OpenVINO on the processor with two batches under way; the converted network is kept in `folder`."""

    def __init__(
        self, network: "Network", sample: Pixels, precision: str, *, hint: str = "THROUGHPUT", threads: int | None = None
    ) -> None:
        import openvino

        self.name = openvino_name(precision)
        core = openvino.Core()
        model = _converted(core, network, sample)
        model.reshape([-1, *sample.shape[1:]])
        # Throughput mode gives each of the processor's streams its own batch; measured in docs/measurements.md#engines
        if threads is None and (sharing := on_this_machine()) > 1:  # OpenVINO would take all processors for each of them
            threads = max(1, processors() // sharing)
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32"}.get(precision, precision),
            "PERFORMANCE_HINT": hint,
        }
        if threads is not None:  # of a process that has not all processors to itself
            options["INFERENCE_NUM_THREADS"] = threads
        self._compiled = core.compile_model(model, "CPU", options)
        self._size = 0
        self._alone = threading.local()
        self.streams = int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._queue_size = max(2, self.streams)

    def stream(self, batches: Iterator[Pixels]) -> Iterator[Rows]:
        requests = [self._compiled.create_infer_request() for _ in range(self._queue_size)]
        under_way: list[tuple[int, Pixels, int]] = []
        for number, pixels in enumerate(batches):
            slot, count = number % len(requests), len(pixels)
            if len(under_way) == len(requests):
                yield self._finish(requests, *under_way.pop(0))
            pixels = self._filled_up(pixels)
            requests[slot].start_async({0: pixels}, share_inputs=True)
            # share_inputs: the request reads this array in place, so it must live until the answer is there.
            under_way.append((slot, pixels, count))
        for waiting in under_way:
            yield self._finish(requests, *waiting)

    def run(self, pixels: Pixels) -> Rows:
        """One batch by itself, of any size, for whoever waits for it; `streams` threads may ask at a time."""
        request = getattr(self._alone, "request", None)
        if request is None:
            request = self._alone.request = self._compiled.create_infer_request()
        request.infer({0: pixels}, share_inputs=True)
        return np.array(request.get_output_tensor().data, np.float32)

    def _filled_up(self, pixels: Pixels) -> Pixels:
        """A short last batch as long as the others: kernels for another size would be compiled for it alone."""
        self._size = max(self._size, len(pixels))
        missing = self._size - len(pixels)
        return np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)]) if missing else pixels

    @staticmethod
    def _finish(requests: Sequence[Any], slot: int, _: Pixels, count: int) -> Rows:
        requests[slot].wait()
        return np.array(requests[slot].get_output_tensor().data[:count], np.float32)


def _converted(core: Any, network: "Network", sample: Pixels) -> Any:
    """The network as OpenVINO holds it, from the cache folder if it was converted before by the same version."""
    import openvino

    name = hashlib.sha256(f"{network.digest} {openvino.__version__} {sample.shape[1:]}".encode()).hexdigest()[:24]
    path = network.folder / "engines" / f"{name}.xml" if network.folder else None
    if path is not None and _is_whole(path):
        with contextlib.suppress(RuntimeError):  # of a version that reads it no more: converted again
            return core.read_model(path)
    # One image: conversion runs the network, eagerly.
    model = _convert(network.module, torch.from_numpy(sample[:1]))
    if path is not None:
        _keep(model, path)
    return model


def _convert(module: nn.Module, example: torch.Tensor) -> Any:
    """The module as OpenVINO holds it, with shapes but for the first as in `example`.

    Recorded as one function of its input, with the weights as constants: a tenth of the time that a recording module by module
    takes, with which OpenVINO's own `convert_model` begins, and the same operations.
    """
    import openvino

    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of every shape that becomes a constant; shapes are constant here on purpose.
        warnings.simplefilter("ignore")
        try:
            from openvino.frontend import FrontEndManager
            from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

            # A constant may not want a gradient. The copy has the same numbers in the same place.
            shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
            frozen = copy.deepcopy(module, shared | {id(b): b for b in module.buffers()})
            function = torch.jit.trace(  # type: ignore[no-untyped-call]
                lambda images: frozen(images), example, check_trace=False
            )
            frontend = FrontEndManager().load_by_framework("pytorch")
            decoder = TorchScriptPythonDecoder(function, example_input=example)  # has to outlive what is made of it
            return frontend.convert(frontend.load(decoder))
        except Exception:  # not the public way in: where another version of OpenVINO or a network does not take it
            return openvino.convert_model(module, example_input=example)


def _is_whole(path: Path) -> bool:
    """Whether a kept network is what was written: OpenVINO would read changed weights without complaint."""
    try:
        return path.with_suffix(".sha256").read_text() == _digest_of(path)
    except OSError:
        return False


def _digest_of(path: Path) -> str:
    total = hashlib.sha256()
    for part in (path, path.with_suffix(".bin")):
        with part.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _keep(model: Any, path: Path) -> None:
    """Write the network, and last the digest without which it is not used. Without space there is just no copy."""
    import openvino

    temporary = path.with_name(f"{path.stem}.{os.getpid()}.xml")
    with contextlib.suppress(OSError, RuntimeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(model, temporary, compress_to_fp16=False)
        digest = _digest_of(temporary)
        path.with_suffix(".sha256").unlink(missing_ok=True)
        temporary.with_suffix(".bin").replace(path.with_suffix(".bin"))
        temporary.replace(path)
        path.with_suffix(".sha256").write_text(digest)


def give_back() -> None:
    """Let the system have what decoding and engines have freed: the C library keeps it, and a solver's matrix comes on top.

    Where the C library is another than glibc, nothing happens.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def has_fast_bf16() -> bool:
    """Whether the processor has bf16 instructions; without them bf16 is slower than fp32."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability.startswith("AVX512"):
        return bool(torch.cpu._is_avx512_bf16_supported())
    return bool(getattr(torch.cpu, "_is_arm_bf16_supported", lambda: False)())


def pick_device(device: str) -> str:
    """The device to use; "auto" takes "cuda", "mps" or "cpu", whichever is there. Raises UsageError for one that is not."""
    there = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if device == "auto":
        return there[0]
    if device not in there:
        fix = "leave --device out; a torch built for the device and its driver have to be installed to use it"
        raise UsageError(expected=f"--device to be {' or '.join(there)} on this machine", got=device, fix=fix)
    return device


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that this machine could use, and its arithmetic. `slow_to_make`: only worth trying for many images."""

    name: str
    make: Callable[[], Engine]
    precision: str = "fp32"
    slow_to_make: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """What an engine is made from: the module (raw pixels to rows), its digest, and the cache folder for converted copies.

    The first `last_width` columns of a row are the head's own input; 0 where that does not matter.
    """

    module: nn.Module
    digest: str
    folder: Path | None
    last_width: int = 0


def candidates(network: Network, device: str, sample: Pixels) -> list[Candidate]:
    """Every engine of this machine, the reference (eager fp32) first."""

    def torch_engine(where: str, dtype: torch.dtype) -> Candidate:
        # Engines move and relay out their module, so each gets its own.
        make = lambda: TorchEngine(copy.deepcopy(network.module), device=where, dtype=dtype)  # noqa: E731
        return Candidate(torch_name(where, dtype), make, precision_name(dtype))

    def openvino_engine(precision: str) -> Candidate:
        return Candidate(openvino_name(precision), lambda: OpenVinoEngine(network, sample, precision), precision, True)

    if device != "cpu":
        half = torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
        return [torch_engine(device, torch.float32), torch_engine(device, half)]
    fast_bf16 = has_fast_bf16()
    found = [torch_engine("cpu", torch.float32)]
    found += [torch_engine("cpu", torch.bfloat16)] * fast_bf16
    if find_spec("openvino"):
        found += [openvino_engine(precision) for precision in ("bf16", "fp32")[not fast_bf16 :]]
    return found
