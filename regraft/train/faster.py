"""The same training step in less time: layers that compute alike, rewritten while a training lasts.

A norm whose statistics stay is a fixed scale and shift of each channel, which the convolution before it can do on its way:

    norm(conv(x, W)) = conv(x, W g / s) + (b - m g / s),        g, b: scale and shift, m, s: mean and deviation

The gradients of W, g and b come out through that product as they do without it, and no step touches the activations twice.
What depthwise convolutions do is in `depthwise.py`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.layers import Conv2dSame
from timm.layers.conv2d_same import conv2d_same
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from regraft.train import depthwise

# A rewritten network must answer as before, to this share of the largest answer.
_SAME = 1e-3


class FoldedConv(nn.Module):
    """A convolution that does the work of the norm after it, in fp32 where `exact`."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm
        self.exact = False

    def forward(self, x: Tensor) -> Tensor:
        if self.exact and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._run(x.float()).to(x.dtype if x.dtype != torch.float32 else torch.bfloat16)
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        if norm is None:
            return _convolve(conv, x, conv.weight, conv.bias)
        scale_C = torch.rsqrt(cast(Tensor, norm.running_var) + norm.eps)
        if norm.affine:
            scale_C = scale_C * norm.weight
        shift_C = -cast(Tensor, norm.running_mean) * scale_C
        if norm.affine:
            shift_C = shift_C + norm.bias
        if conv.bias is not None:
            shift_C = shift_C + conv.bias * scale_C
        return _convolve(conv, x, conv.weight * scale_C[:, None, None, None], shift_C)


def _convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(conv, Conv2dSame):
        # TensorFlow's padding, which depends on the size of the image.
        if depthwise.suits(conv, x):
            return depthwise.convolve(pad_same(x, conv.kernel_size, conv.stride), weight, bias, conv.stride, (0, 0))
        return cast(Tensor, conv2d_same(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups))
    if depthwise.suits(conv, x) and not isinstance(conv.padding, str):
        return depthwise.convolve(x, weight, bias, conv.stride, conv.padding)
    return cast(Tensor, conv._conv_forward(x, weight, bias))


class Folded(nn.Module):
    """What is left of a norm whose work the convolution before it does: the activation that timm's norms carry."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm
        self.after = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.after:
            x = layer(x)
        return x


@dataclass(frozen=True, slots=True)
class Seen:
    """A convolution as a forward pass used it: the shape it was given, and the norm that alone read its value."""

    path: str
    conv: nn.Conv2d
    shape: tuple[int, ...]
    norm: nn.BatchNorm2d | None


def convolutions(module: nn.Module, inputs: Sequence[Tensor]) -> list[Seen]:
    """The convolutions that `module` calls once on `inputs`, found by watching it do so."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # by the identity of the value, which is kept so that it stays unique
    shapes: dict[nn.Module, list[tuple[int, ...]]] = {}
    norms: dict[nn.Module, nn.Module] = {}
    calls = Counter[nn.Module]()
    reads = _Reads(made)

    def after_conv(layer: nn.Module, args: tuple[Any, ...], value: Tensor) -> None:
        made[id(value)] = layer, value
        shapes.setdefault(layer, []).append(tuple(args[0].shape))

    def before_norm(layer: nn.Module, args: tuple[Any, ...]) -> None:
        calls[layer] += 1
        if args and id(args[0]) in made:
            norms[made[id(args[0])][0]] = layer

    with torch.no_grad(), watching(module, after_conv, before_norm), reads:
        module(*inputs)
    paths = {layer: path for path, layer in module.named_modules()}
    once = {conv for conv, seen in shapes.items() if len(seen) == 1}
    alone = {layer for key, (layer, _) in made.items() if layer in once and layer in norms and reads.counts[key] == 1}
    served = Counter(norms[conv] for conv in alone)
    folds = {conv: norms[conv] for conv in alone if served[norms[conv]] == calls[norms[conv]]}
    return [
        Seen(paths[conv], cast(nn.Conv2d, conv), seen[0], cast("nn.BatchNorm2d | None", folds.get(conv)))
        for conv, seen in shapes.items()
        if conv in once
    ]


class _Reads(TorchFunctionMode):
    """Counts how often values are computed with. Answers alone do not tell: a branch that begins at zero is not heard."""

    def __init__(self, made: Mapping[int, object]) -> None:
        super().__init__()
        self.made, self.counts = made, Counter[int]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if any(isinstance(one, Tensor) for one in tree_leaves(value)):  # not its shape alone
            self.counts.update({id(one) for one in tree_leaves((args, kwargs))} & self.made.keys())
        return value


@contextmanager
def watching(module: nn.Module, after_conv: Any, before_norm: Any) -> Iterator[None]:
    """Hooks on every convolution and every norm that can be folded."""
    handles = []
    for layer in module.modules():
        if layer._forward_hooks or layer._forward_pre_hooks:
            continue  # somebody else's, such as a weight norm's: nobody would call them any more
        if type(layer) in (nn.Conv2d, Conv2dSame):
            handles.append(layer.register_forward_hook(after_conv))
        elif can_fold(layer):
            handles.append(layer.register_forward_pre_hook(before_norm))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def can_fold(layer: nn.Module) -> bool:
    """Whether a layer is a batch norm in eval mode that does nothing else, or also timm's activation."""
    if not isinstance(layer, nn.BatchNorm2d) or layer.training or layer.running_mean is None:
        return False
    return type(layer) is nn.BatchNorm2d or (type(layer).__name__ == "BatchNormAct2d" and hasattr(layer, "act"))


@contextmanager
def rewritten(module: nn.Module, inputs: Sequence[Tensor], *, fold: bool = True) -> Iterator[Mapping[str, FoldedConv]]:
    """Inside, convolutions of `module` can be told their precision, and do the work of the norms after them.

    Gives the rewritten convolutions by path. Parameters and buffers are the same tensors throughout, under longer names; all is
    as before when the training ends. What does not answer as before is not rewritten. `inputs` is a small batch.
    """
    with torch.no_grad():
        before = module(*inputs)
    for folds in (True, False) if fold else (False,):
        undo, convs = _install(module, convolutions(module, inputs), folds)
        if not folds or _same(module, inputs, before):
            break
        undo()
    try:
        yield convs
    finally:
        undo()


def _same(module: nn.Module, inputs: Sequence[Tensor], before: Any) -> bool:
    with torch.no_grad():
        after = module(*inputs)
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return False
    return bool((after - before).abs().max() <= _SAME * before.abs().max())


def _install(module: nn.Module, found: Sequence[Seen], folds: bool) -> tuple[Any, dict[str, FoldedConv]]:
    """Put the rewritten layers in the places of the others, everywhere; gives how to undo that."""
    convs, new = {}, dict[nn.Module, nn.Module]()
    for seen in found:
        norm = seen.norm if folds else None
        convs[seen.path] = FoldedConv(seen.conv, norm)
        new[seen.conv] = convs[seen.path]
        if norm is not None:
            new[norm] = Folded(norm)
    # Not named_children, which leaves out a layer's second name in one parent.
    places = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent._modules.items()
        if child is not None and child in new
    ]
    for parent, name, child in places:
        setattr(parent, name, new[child])

    def undo() -> None:
        for parent, name, child in places:
            setattr(parent, name, child)

    return undo, convs
