"""The same training step in less time: layers that compute alike, rewritten while a training lasts.

A norm whose statistics stay is a fixed scale and shift of each channel, which the convolution before it can do on its way:

    norm(conv(x, W)) = conv(x, W g / s) + (b - m g / s),        g, b: scale and shift, m, s: mean and deviation

The gradients of W, g and b come out through that product as they do without it, and no step touches the activations twice.
What depthwise convolutions do is in `depthwise.py`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from timm.layers import Conv2dSame
from timm.layers.conv2d_same import conv2d_same
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regraft.train import depthwise
from regraft.train.chance import seeded

# A rewritten network must answer as before, to this share of the largest answer.
_SAME = 1e-3


class _Stand(nn.Module):
    """A layer in the place of another. What others read of that one (its weight, its kernel size) they find here, too."""

    stands_for: ClassVar[str]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == self.stands_for:  # not there yet, as while a copy is made
                raise
            return getattr(getattr(self, self.stands_for), name)


class FoldedConv(_Stand):
    """A convolution that does the work of the norm after it, in fp32 where `exact`."""

    stands_for = "conv"

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm
        self.exact = False

    def forward(self, *args: Tensor, **named: Tensor) -> Tensor:
        (x,) = (*args, *named.values())  # `input` to Conv2d, `x` to Conv2dSame
        device = x.device.type
        # Autocast leaves float64 alone.
        if self.exact and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
            with torch.autocast(device, enabled=False):
                return self._run(x.float()).to(torch.get_autocast_dtype(device))
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        if norm is None:
            return _convolve(conv, x, conv.weight, conv.bias)
        scale_C = torch.rsqrt(cast(Tensor, norm.running_var) + norm.eps)
        if norm.weight is not None:
            scale_C = scale_C * norm.weight
        shift_C = -cast(Tensor, norm.running_mean) * scale_C
        if norm.bias is not None:
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


class Folded(_Stand):
    """What is left of a norm whose work the convolution before it does: the activation that timm's norms carry."""

    stands_for = "norm"

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
    """A convolution as a forward pass used it, and the norm that alone read its value."""

    path: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None


def convolutions(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[list[Seen], list[Tensor]]:
    """The convolutions that `module` calls once on `inputs`, found by watching it do so, and what it answered."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # by the identity of the value, which is kept so that it stays unique
    norms: dict[nn.Module, nn.Module] = {}
    made_by, calls = Counter[nn.Module](), Counter[nn.Module]()
    reads = _Reads(made)

    def after_conv(layer: nn.Module, _: Any, value: Tensor) -> None:
        made[id(value)] = layer, value
        made_by[layer] += 1

    def before_norm(layer: nn.Module, args: tuple[Any, ...]) -> None:
        calls[layer] += 1
        if args and id(args[0]) in made:
            norms[made[id(args[0])][0]] = layer

    with watching(module, after_conv, before_norm), reads:
        answers = _answers(module, inputs)
    paths = {layer: path for path, layer in module.named_modules()}
    once = [conv for conv, times in made_by.items() if times == 1]
    alone = {layer for key, (layer, _) in made.items() if layer in once and layer in norms and reads.counts[key] == 1}
    served = Counter(norms[conv] for conv in alone)
    folds = {conv: norms[conv] for conv in alone if served[norms[conv]] == calls[norms[conv]]}
    found = [Seen(paths[conv], cast(nn.Conv2d, conv), cast("nn.BatchNorm2d | None", folds.get(conv))) for conv in once]
    return found, answers


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often values are computed with. Answers alone do not tell: a branch that begins at zero is not heard.

    It sees every operation, those of compiled code, too, and none that only asks for a shape.
    """

    def __init__(self, made: Mapping[int, object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made, self.counts = made, Counter[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts.update({id(one) for one in tree_leaves((args, kwargs))} & self.made.keys())
        return func(*args, **(kwargs or {}))


@contextmanager
def watching(module: nn.Module, after_conv: Any, before_norm: Any) -> Iterator[None]:
    """Hooks on every convolution that can be rewritten and every norm that can be folded."""
    handles = []
    for layer in module.modules():
        if _is_changed(layer):
            continue
        if type(layer) in (nn.Conv2d, Conv2dSame):
            handles.append(layer.register_forward_hook(after_conv))
        elif can_fold(layer):
            handles.append(layer.register_forward_pre_hook(before_norm))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_changed(layer: nn.Module) -> bool:
    """Whether somebody made this one layer do other things than its class: nobody would call them any more.

    Hooks, such as a weight norm's, or a method of its own.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(hooks) or not vars(layer).keys().isdisjoint(("forward", "_conv_forward"))


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

    It goes by what the network does in the mode it is in: give it in eval mode, and with no branch that reads the value of a
    convolution in train mode only.
    """
    found, before = convolutions(module, inputs)
    convs: Mapping[str, FoldedConv]
    with ExitStack() as stack:
        for folds in (True, False) if fold else (False,):
            convs = stack.enter_context(_installed(module, found, folds))
            if _same(module, inputs, before):
                break
            stack.close()
        else:
            convs = {}
        yield convs


def _answers(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """All that a forward pass gives, the same each time. Buffers stay, also the statistics of norms in train mode."""
    kept = [(value, value.clone()) for value in module.buffers()]
    with torch.no_grad(), seeded(0):
        try:
            return [one for one in tree_leaves(module(*inputs)) if isinstance(one, Tensor)]
        finally:
            for value, old in kept:
                if not torch.equal(value, old):
                    value.copy_(old)


def _same(module: nn.Module, inputs: Sequence[Tensor], before: Sequence[Tensor]) -> bool:
    try:
        after = _answers(module, inputs)
        pairs = list(zip(before, after, strict=True))
        return bool(pairs) and all(bool((new - old).abs().max() <= _SAME * old.abs().max()) for old, new in pairs)
    except Exception:  # such as of code that takes no other class than the one it knows
        return False


@contextmanager
def _installed(module: nn.Module, found: Sequence[Seen], folds: bool) -> Iterator[dict[str, FoldedConv]]:
    """Inside, the rewritten layers are in the places of the others, everywhere."""
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
    try:
        for parent, name, child in places:
            setattr(parent, name, new[child])
        yield convs
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)
