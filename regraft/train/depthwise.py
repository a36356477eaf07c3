"""Depthwise convolutions whose gradients take no longer on processors than their answers do.

oneDNN, which computes them there, has fast code for some gradients only: for those of weights up to three columns wide, and for
those of the input in fp32 or with a stride of one. Elsewhere it takes up to 20 times as long. Here the same sums are taken in
the shapes that are fast: docs/measurements.md#step

Gradients of these gradients there are none: asking for them raises.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Columns of a kernel whose gradient is fast.
_WIDEST = 3


def suits(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether `convolve` can do what `conv` does: one filter a channel, zeros around, on the processor."""
    return (
        x.device.type == "cpu"
        and x.dim() == 4
        and conv.groups == conv.in_channels == conv.out_channels > 1
        and conv.padding_mode == "zeros"
        and conv.dilation == (1, 1)
        and not isinstance(conv.padding, str)
        and all(pad < side for pad, side in zip(conv.padding, conv.kernel_size, strict=True))
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    """`conv2d` of x (N, C, H, W) with weight (C, 1, h, w); under autocast in its precision, float64 apart, as conv2d itself."""
    if torch.is_autocast_enabled(x.device.type):
        x, weight, bias = _as_autocast(x), _as_autocast(weight), None if bias is None else _as_autocast(bias)
    return cast(Tensor, _Depthwise.apply(x, weight, bias, stride, padding))


def _as_autocast(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.to(torch.get_autocast_dtype(value.device.type))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = of_bias = None
        # In the precision of the answers, whatever the precision that this is called in.
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_x = _of_input(x, weight, grad, ctx.stride, ctx.padding)
            if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
                of_weight, of_bias = _of_weight(x, weight, grad, ctx.stride, ctx.padding, ctx.needs_input_grad[2])
        return of_x, of_weight, of_bias, None, None


def _of_weight(
    x: Tensor, weight: Tensor, grad: Tensor, stride: tuple[int, int], padding: tuple[int, int], with_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients of weight and bias, three columns of the kernel at a time, each from the part of `x` that they met.

    Zeros around are written out there: oneDNN's fast code does not think them up for images smaller than the kernel.
    """
    high, wide = weight.shape[2:]
    if wide <= _WIDEST and x.shape[2] >= high and x.shape[3] >= wide:
        _, of_weight, of_bias = _native(x, weight, grad, stride, padding, (False, True, with_bias))
        return of_weight, of_bias
    of_weight, of_bias = torch.empty_like(weight), None
    step = min(wide, _WIDEST)
    # All blocks are equally wide: the last begins early enough, and columns that it shares come out alike in both.
    for left in sorted({*range(0, wide - step, step), wide - step}):
        first, width = left - padding[1], (grad.shape[3] - 1) * stride[1] + step
        inside = x[..., max(0, first) : max(0, first + width)]  # none of it where the kernel is far wider than the image
        before = min(max(0, -first), width)
        met = F.pad(inside, (before, width - before - inside.shape[3], padding[0], padding[0]))
        columns = slice(left, left + step)
        asked = (False, True, with_bias and left == 0)
        _, part, maybe = _native(met, weight[..., columns].contiguous(), grad, stride, (0, 0), asked)
        of_weight[..., columns] = part
        of_bias = maybe if left == 0 else of_bias
    return of_weight, of_bias


def _of_input(x: Tensor, weight: Tensor, grad: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """The gradient of the input: convolutions of `grad` with the kernel turned round.

    With a stride each tap of the kernel reaches only every so many pixels of the input; the taps that reach the same ones are a
    kernel of their own.
    """
    if stride != (1, 1) and grad.dtype == torch.float32:
        of_x, _, _ = _native(x, weight, grad, stride, padding, (True, False, False))
        return cast(Tensor, of_x)
    if stride == (1, 1):
        return _turned(grad, weight, padding)
    found = torch.zeros_like(x, dtype=grad.dtype, memory_format=torch.channels_last)
    for top in range(min(stride[0], weight.shape[2])):
        for left in range(min(stride[1], weight.shape[3])):
            part = _turned(grad, weight[:, :, top :: stride[0], left :: stride[1]], (0, 0))
            rows, from_row = _reached(top, stride[0], padding[0], x.shape[2], part.shape[2])
            columns, from_column = _reached(left, stride[1], padding[1], x.shape[3], part.shape[3])
            place = found[:, :, rows, columns]
            place.copy_(part[:, :, from_row : from_row + place.shape[2], from_column : from_column + place.shape[3]])
    return found


def _turned(grad: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    high, wide = weight.shape[2:]
    return F.conv2d(grad, weight.flip(2, 3), None, 1, (high - 1 - padding[0], wide - 1 - padding[1]), groups=len(weight))


def _reached(first: int, stride: int, padding: int, side: int, count: int) -> tuple[slice, int]:
    """The pixels of the input that taps first, first + stride, ... reach, and which of their `count` values is the first one's.

    Value q belongs to pixel stride * q + first - padding, which may lie outside.
    """
    start = max(0, -(-(padding - first) // stride))
    stop = min(count, (side - 1 + padding - first) // stride + 1)
    pixel = stride * start + first - padding
    return slice(pixel, pixel + stride * (stop - start), stride), start


def _native(
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    asked: tuple[bool, bool, bool],
) -> tuple[Any, ...]:
    bias_sizes = [len(weight)] if asked[2] else None
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, bias_sizes, list(stride), list(padding), [1, 1], False, [0, 0], len(weight), list(asked)
    )
    return tuple(found)
