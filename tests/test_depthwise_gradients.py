"""Gradients of depthwise convolutions: those of torch's own, in every shape, and as they are under autocast."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regraft.train import depthwise
from regraft.train.chance import seeded

# Height and width of the image, kernel, stride, padding.
SHAPES = [
    ((9, 8), (3, 3), (1, 1), (1, 1)),
    ((9, 8), (5, 5), (1, 1), (2, 2)),
    ((9, 8), (5, 5), (2, 2), (2, 2)),
    ((11, 10), (5, 5), (2, 2), (0, 0)),
    ((11, 12), (3, 3), (2, 2), (0, 0)),
    ((8, 9), (3, 3), (2, 2), (1, 1)),
    ((9, 9), (7, 7), (1, 1), (3, 3)),
    ((12, 13), (4, 6), (3, 2), (1, 2)),
    ((9, 10), (1, 4), (2, 1), (0, 3)),
    ((7, 7), (2, 2), (3, 3), (0, 0)),  # some pixels reach no answer
    ((7, 8), (5, 5), (1, 1), (4, 4)),
    ((1, 1), (11, 11), (2, 2), (5, 5)),  # columns of the kernel that meet nothing of the image
    ((2, 3), (9, 11), (1, 1), (4, 5)),
    ((1, 1), (4, 4), (1, 1), (3, 3)),
]


def tensors(size: tuple[int, int], kernel: tuple[int, int], *, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    with seeded(0):
        x = torch.randn(2, 3, *size, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight, bias = torch.randn(3, 1, *kernel, dtype=dtype), torch.randn(3, dtype=dtype)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def gradients(value: Tensor, into: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with seeded(1):
        slope = torch.randn(value.shape)
    return torch.autograd.grad(value, into, slope.to(value.dtype))


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), SHAPES)
def test_they_are_the_finite_differences(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    given = tensors(size, kernel, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, w, b: depthwise.convolve(x, w, b, stride, padding), given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), SHAPES)
def test_they_are_those_of_torch(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    given = tensors(size, kernel, dtype=dtype)
    value = depthwise.convolve(*given, stride, padding)
    wanted = F.conv2d(*given, stride, padding, groups=3)
    assert torch.equal(value, wanted)
    share = 1e-5 if dtype == torch.float32 else 1e-2
    for found, own in zip(gradients(value, given), gradients(wanted, given), strict=True):
        assert found.dtype == own.dtype
        assert torch.allclose(found, own, rtol=0, atol=share * float(own.abs().max()))


def test_autocast_makes_them_bf16_inside_and_fp32_outside() -> None:
    given = tensors((9, 9), (5, 5), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = depthwise.convolve(*given, (1, 1), (2, 2))
        wanted = F.conv2d(*given, padding=2, groups=3)
    assert value.dtype == torch.bfloat16
    assert torch.equal(value, wanted)
    for found, own in zip(gradients(value, given), gradients(wanted, given), strict=True):
        assert found.dtype == torch.float32
        assert torch.allclose(found, own, rtol=0, atol=1e-2 * float(own.abs().max()))


def test_autocast_leaves_float64_as_it_is() -> None:
    given = tensors((9, 9), (5, 5), dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        value = depthwise.convolve(*given, (1, 1), (2, 2))
    assert torch.equal(value, F.conv2d(*given, padding=2, groups=3))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_backward_pass_inside_autocast_is_in_the_precision_of_the_forward_pass(stride: int) -> None:
    given = tensors((9, 9), (5, 5), dtype=torch.float32)
    once, again = (depthwise.convolve(*given, (stride, stride), (2, 2)) for _ in range(2))
    wanted = gradients(once, given)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(again, given)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_their_own_gradients_are_refused() -> None:
    given = tensors((9, 9), (5, 5), dtype=torch.float32)
    (slope,) = torch.autograd.grad(depthwise.convolve(*given, (1, 1), (2, 2)).square().sum(), given[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()  # type: ignore[no-untyped-call]


def test_one_image_without_a_batch_is_left_to_torch() -> None:
    assert not depthwise.suits(nn.Conv2d(4, 4, 5, groups=4), torch.zeros(4, 9, 9))


@pytest.mark.parametrize("trained", ["x", "weight", "bias"])
def test_what_does_not_train_has_no_gradient(trained: str) -> None:
    given = dict(zip(("x", "weight", "bias"), tensors((9, 9), (5, 5), dtype=torch.float32), strict=True))
    for name, value in given.items():
        value.requires_grad_(name == trained)
    depthwise.convolve(given["x"], given["weight"], given["bias"], (1, 1), (2, 2)).sum().backward()  # type: ignore[no-untyped-call]
    assert [name for name, value in given.items() if value.grad is not None] == [trained]


@pytest.mark.parametrize(
    ("conv", "suits"),
    [
        (nn.Conv2d(4, 4, 5, padding=2, groups=4), True),
        (nn.Conv2d(4, 8, 5, padding=2, groups=4), False),
        (nn.Conv2d(4, 4, 5, padding=2, groups=2), False),
        (nn.Conv2d(4, 4, 5, padding=2, groups=4, dilation=2), False),
        (nn.Conv2d(4, 4, 5, padding=2, groups=4, padding_mode="reflect"), False),
        (nn.Conv2d(4, 4, 5, padding="same", groups=4), False),
        (nn.Conv2d(4, 4, 3, padding=3, groups=4), False),
        (nn.Conv2d(1, 1, 3), False),
    ],
)
def test_other_convolutions_are_left_to_torch(conv: nn.Conv2d, suits: bool) -> None:
    assert depthwise.suits(conv, torch.zeros(1, 4, 9, 9)) is suits
