"""Which precision a training step computes in: measured layer by layer, then as a whole, and remembered for this machine."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from regraft.cache import sealed
from regraft.cache.choose import machine_key
from regraft.progress import Progress
from regraft.strategies import Precision
from regraft.train.faster import FoldedConv
from regraft.train.precision import FP32, StepPrecision

# Images that are measured with where they are as large as this, in values: the precisions come in the same order for a batch.
SAMPLE, _LARGE = 8, 3 * 224 * 224
_REPEATS = 3
# How steps are computed; with another number what was measured before is measured again.
_STEP_VERSION = 2
# A gain below this share is not worth fewer digits.
_WORTH_IT = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The choice, with the seconds a step of so many images takes in each precision that was tried."""

    precision: StepPrecision
    images: int
    seconds: Mapping[str, float]

    def describe(self) -> str:
        """The measurement in a few words."""
        rates = ", ".join(f"{name} {self.images / seconds:.0f} images/s" for name, seconds in self.seconds.items())
        return f"training step measured: {rates}; {self.precision.name} it is"


def images_to_measure(batch_size: int, inputs: Sequence[Tensor]) -> int:
    """So many images of the kind of `inputs`; of small ones up to a whole batch, for there the calls cost what sums do not."""
    values = sum(value[0].numel() for value in inputs)
    return min(batch_size, max(SAMPLE, SAMPLE * _LARGE // max(1, values)))


def tune(
    asked: Precision,
    step: Callable[[StepPrecision], None],
    convs: Mapping[str, FoldedConv],
    inputs: Sequence[Tensor],
    module: nn.Module,
    *,
    device: str,
    memory: Path | None,
    progress: Progress,
) -> StepPrecision:
    """The precision to train in; "fp32" where bf16 does not pay, and always where the device has no use for it.

    `step(precision)` leaves gradients for a batch of `inputs` and changes nothing else. What is found is kept in `memory`.
    """
    if asked == "fp32":
        return FP32
    name = _digest(asked, module, inputs, device)
    kept = _recall(memory, name)
    tuned = kept or _measure(asked, step, convs, inputs, module, device)
    if kept is None:
        _remember(memory, name, tuned)
    progress.note(tuned.describe() + (" (measured earlier on this machine)" if kept else ""))
    return tuned.precision


def _measure(
    asked: Precision,
    step: Callable[[StepPrecision], None],
    convs: Mapping[str, FoldedConv],
    inputs: Sequence[Tensor],
    module: nn.Module,
    device: str,
) -> Tuned:
    exact = frozenset(slower_in_half(convs, shapes_of(module, convs, inputs), device))
    half = StepPrecision(half=True, exact=exact)
    if asked == "bf16":
        return Tuned(precision=half, images=len(inputs[0]), seconds=seconds_of_each({half.name: partial(step, half)}))
    works: dict[str, Callable[[], None]] = {choice.name: partial(step, choice) for choice in (FP32, half)}
    seconds = seconds_of_each(works)
    best = half if seconds[half.name] < _WORTH_IT * seconds[FP32.name] else FP32
    return Tuned(precision=best, images=len(inputs[0]), seconds=seconds)


def seconds_of_each(works: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """The shortest of a few times of each, taken in turns: what else the machine does then hits all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(1 + _REPEATS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:  # the first one compiles kernels and fills caches
                times[name].append(time.perf_counter() - start)
    return {name: min(each) for name, each in times.items()}


def shapes_of(
    module: nn.Module, convs: Mapping[str, FoldedConv], inputs: Sequence[Tensor]
) -> dict[str, tuple[tuple[int, ...], bool]]:
    """The shape that each convolution is given, and whether a gradient has to come out of it on that side."""
    seen: dict[str, tuple[tuple[int, ...], bool]] = {}

    def note(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], None]:
        def keep(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            (x,) = (*args, *named.values())
            seen[path] = tuple(x.shape), x.requires_grad

        return keep

    handles = [conv.register_forward_pre_hook(note(path), with_kwargs=True) for path, conv in convs.items()]
    try:
        module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def slower_in_half(
    convs: Mapping[str, FoldedConv], shapes: Mapping[str, tuple[tuple[int, ...], bool]], device: str
) -> list[str]:
    """The convolutions whose forward and backward pass takes longer in bf16, each kind and shape measured once."""
    outcome: dict[object, bool] = {}
    slower = []
    for path, layer in convs.items():
        if path not in shapes:
            continue
        conv = layer.conv
        kind = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.groups, conv.dilation, *shapes[path])
        if kind not in outcome:
            outcome[kind] = _is_slower(layer, *shapes[path], device)
        if outcome[kind]:
            slower.append(path)
    return slower


def _is_slower(layer: FoldedConv, shape: tuple[int, ...], needs_grad: bool, device: str) -> bool:
    given = torch.randn(shape, device=device, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    given.requires_grad_(needs_grad)

    def run(exact: bool) -> None:
        layer.exact = exact
        with torch.autocast(device.partition(":")[0], torch.bfloat16):
            value: Tensor = layer(given)
        if value.requires_grad:
            torch.autograd.backward(value, torch.ones_like(value))

    # Taken away meanwhile: a backward pass would add to them where they are.
    kept = {value: value.grad for value in layer.parameters()}
    layer.zero_grad(set_to_none=True)
    times = seconds_of_each({"bf16": partial(run, False), "fp32": partial(run, True)})
    layer.exact = False
    for value, grad in kept.items():
        value.grad = grad
    return times["fp32"] < times["bf16"]


def _digest(asked: str, module: nn.Module, inputs: Sequence[Tensor], device: str) -> str:
    layers = [(path, type(layer).__name__, layer.extra_repr()) for path, layer in module.named_modules()]
    trains = [name for name, value in module.named_parameters() if value.requires_grad]
    shapes = [tuple(value.shape) for value in inputs]
    return hashlib.sha256(repr((_STEP_VERSION, asked, layers, trains, shapes, machine_key(device))).encode()).hexdigest()[:24]


def _recall(memory: Path | None, name: str) -> Tuned | None:
    if memory is None:
        return None
    with suppress(ValueError, TypeError, KeyError):
        kept = json.loads(sealed.recall(_path(memory, name)) or b"null")
        precision = StepPrecision(half=bool(kept["half"]), exact=frozenset(map(str, kept["exact"])))
        return Tuned(precision=precision, images=int(kept["images"]), seconds={k: float(v) for k, v in kept["seconds"].items()})
    return None


def _remember(memory: Path | None, name: str, tuned: Tuned) -> None:
    """Failing to is no error."""
    if memory is not None:
        fields = {"half": tuned.precision.half, "exact": sorted(tuned.precision.exact), "images": tuned.images}
        sealed.remember(_path(memory, name), json.dumps(fields | {"seconds": dict(tuned.seconds)}).encode())


def _path(memory: Path, name: str) -> Path:
    return memory / "engines" / f"step-{name}.json"
