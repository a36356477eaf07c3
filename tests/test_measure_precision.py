"""The precision of a step: what is faster wins, what was found is remembered, and nothing but the choice is left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from regraft.progress import Silent
from regraft.train import tuning
from regraft.train.chance import seeded
from regraft.train.faster import FoldedConv, rewritten
from regraft.train.precision import StepPrecision


def small_network() -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.LazyLinear(2)).eval()


def measured(
    asked: tuning.Precision, seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch, memory: Path | None
) -> tuple[StepPrecision, int]:
    """What is chosen where steps take so long in each precision, and how often that was timed."""
    timed = 0

    def pretended(works: dict[str, Callable[[], None]]) -> dict[str, float]:
        nonlocal timed
        timed += 1
        for work in works.values():
            work()
        return {name: seconds["bf16" if name.startswith("bf16") else name] for name in works}

    monkeypatch.setattr(tuning, "seconds_of_each", pretended)
    network, given = small_network(), torch.zeros(2, 3, 9, 9)
    network(given)
    with rewritten(network, [given]) as convs:

        def step(precision: StepPrecision) -> None:
            with precision.computing("cpu"):
                network(given)

        found = tuning.tune(asked, step, convs, [given], network, device="cpu", memory=memory, progress=Silent())
        assert not any(conv.exact for conv in convs.values())
    assert all(value.grad is None for value in network.parameters())
    return found, timed


def test_bf16_has_to_be_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured("auto", {"bf16": 0.9, "fp32": 1.0}, monkeypatch, None)[0] == StepPrecision(half=True)
    assert not measured("auto", {"bf16": 0.97, "fp32": 1.0}, monkeypatch, None)[0].half
    assert measured("bf16", {"bf16": 1.0, "fp32": 1.5}, monkeypatch, None)[0].half
    assert measured("fp32", {"bf16": 0.1, "fp32": 1.0}, monkeypatch, None) == (StepPrecision(half=False), 0)


def test_layers_that_are_slower_in_bf16_stay_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured("bf16", {"bf16": 1.0, "fp32": 0.5}, monkeypatch, None)[0].exact == {"0", "1"}


def test_what_was_found_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, timed = measured("auto", {"bf16": 0.5, "fp32": 1.0}, monkeypatch, tmp_path)
    again, none = measured("auto", {"bf16": 2.0, "fp32": 1.0}, monkeypatch, tmp_path)
    assert (again, timed > 0, none) == (first, True, 0)
    monkeypatch.setattr(tuning, "_STEP_VERSION", tuning._STEP_VERSION + 1)
    other, timed = measured("auto", {"bf16": 2.0, "fp32": 1.0}, monkeypatch, tmp_path)
    assert timed > 0
    assert not other.half


@pytest.mark.parametrize(
    ("shapes", "batch", "images"),
    [
        ([(3, 224, 224)], 32, 8),
        ([(3, 512, 512)], 32, 8),
        ([(3, 112, 112)], 64, 32),
        ([(3, 64, 64)], 32, 32),
        ([(40, 14, 14), (1280,)], 128, 128),
        ([(3, 224, 224)], 4, 4),
    ],
)
def test_small_images_are_measured_in_larger_batches(shapes: list[tuple[int, ...]], batch: int, images: int) -> None:
    inputs: list[Tensor] = [torch.empty(1, *shape) for shape in shapes]
    assert tuning.images_to_measure(batch, inputs) == images


def test_gradients_that_were_there_are_what_they_were() -> None:
    with seeded(0):
        conv = nn.Conv2d(3, 3, 5, groups=3)
    conv.weight.grad = torch.zeros_like(conv.weight)
    kept = conv.weight.grad
    tuning.slower_in_half({"conv": FoldedConv(conv, None)}, {"conv": ((2, 3, 9, 9), True)}, "cpu")
    assert conv.weight.grad is kept
    assert not kept.any()
    assert conv.bias is not None
    assert conv.bias.grad is None


def test_shapes_are_seen_of_inputs_that_are_named() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(input=x).mean((2, 3))

    module, given = Named(), torch.zeros(2, 3, 9, 9)
    with rewritten(module, [given]) as convs:
        assert tuning.shapes_of(module, convs, [given]) == {"conv": ((2, 3, 9, 9), False)}
