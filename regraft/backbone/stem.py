"""Networks for images of another number of channels: the layers that take the image get other weights, all else stays."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from regraft.errors import UsageError, first_line

# A network with branches of several scales resamples the image: a constant stays one up to rounding.
_ROUNDING = 1e-5
_NO_CHANNEL = -1


def adapt_stem(module: nn.Module, channels: int, *, size: tuple[int, int] = (224, 224), present: int = 3) -> nn.Module:
    """A deep copy of a network for images of `present` channels that takes (N, channels, H, W).

    More channels than three: those that were there keep their weights and the others start at zero, so that at first they
    change nothing. (timm repeats the weights and scales them down, which changes what every channel did.)
    Fewer: each channel gets an equal share of the weights' sum, a single one all of it, so that grey is answered as the same
    grey in every channel was. That holds where all channels are normalised alike; with ImageNet's statistics, which differ
    by some hundredths, `regraft.data.preprocess.with_channels` comes as near as one channel can.
    A layer that standardises its own weights (BiT, NFNets) makes them larger again by a factor.

    Which layers take the image is seen by sending marked images of `size` (height, width) through the network: a stem may
    have several branches, or rearrange pixels first. Names in the state dict, classes and modes of all layers stay.
    Raises UsageError where the channels go elsewhere than into Conv2d and Linear layers of one group.
    """
    if channels < 1:
        raise UsageError(expected="one channel or more", got=str(channels), fix="leave it out for the network's own")
    adapted = copy.deepcopy(module)
    if channels == present:
        return adapted
    with torch.no_grad(), _in_eval_mode(adapted):
        _adapt(adapted, present, channels, size)
    return adapted


def _adapt(module: nn.Module, present: int, channels: int, size: tuple[int, int]) -> None:
    layers = _layers(module)
    try:
        # Two images: that a value deep in the network looks like a mark happens, but not twice at the same place.
        one, two = (_sources(module, _marked_image(module, present, size, seed), layers) for seed in (0, 1))
    except Exception as error:
        raise UsageError(
            expected=f"{type(module).__name__} to take images of {size[0]}x{size[1]} pixels in {present} channels",
            got=first_line(error),
            fix="give the size, and the number of channels, that it was made for",
        ) from error
    old = {path: torch.where(one_F == two[path], one_F, _NO_CHANNEL) for path, one_F in one.items() if path in two}
    stem = {path: layers[path] for path, old_F in old.items() if (old_F != _NO_CHANNEL).any()}
    if not stem:
        got = "none that is a Conv2d or Linear: before them pixels are changed, or channels are read one by one"
        raise _cannot(module, channels, got)
    image = _marked_image(module, channels, size, 0)
    try:
        new = _sources(module, image, stem, {path: len(old[path]) for path in stem})
        for path, layer in stem.items():
            if why := _why_not(layer, old[path], new[path], present, channels):
                raise _cannot(module, channels, f"{path}: {why}")
            _replace_weight(layer, old[path], new[path], present, channels)
        module(image)
    except UsageError:
        raise
    except Exception as error:
        raise _cannot(module, channels, f"{', '.join(stem)}, and something else that refuses: {first_line(error)}") from error


def _cannot(module: nn.Module, channels: int, got: str) -> UsageError:
    return UsageError(
        expected=f"layers of {type(module).__name__} that take the image and can be given one of {channels} channels",
        got=got,
        fix="choose another backbone, or give this one images of the channels that it was made for",
    )


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _layers(module: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}


def _marked_image(module: nn.Module, channels: int, size: tuple[int, int], seed: int) -> Tensor:
    """An image (1, C, H, W), each channel of which is one number throughout."""
    like = next(module.parameters(), torch.empty(0))
    marks_C = torch.rand(channels, generator=torch.Generator().manual_seed(seed)) + 0.5
    return marks_C.to(like).view(1, -1, 1, 1).repeat(1, 1, *size)


def _sources(
    module: nn.Module, image: Tensor, layers: Mapping[str, nn.Conv2d | nn.Linear], widths: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    """For each of the layers, which channel of a marked image every feature of its first input is, (F,); -1: none.

    `widths`: layers that are made for another number of features get so many, whatever they are.
    """
    marks_C, found = image[0, :, 0, 0], dict[str, Tensor]()

    def look(path: str, axis: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            value, *rest = args
            if path not in found:
                found[path] = _channels_of(value.movedim(axis, 0).flatten(1), marks_C)
            if widths:
                features = torch.arange(widths[path], device=value.device) % value.shape[axis]
                value = value.index_select(axis, features)
            return value, *rest

        return before

    with ExitStack() as hooks:
        for path, layer in layers.items():
            axis = -3 if isinstance(layer, nn.Conv2d) else -1
            hooks.callback(layer.register_forward_pre_hook(look(path, axis)).remove)
        module(image)
    return found


def _channels_of(features_FP: Tensor, marks_C: Tensor) -> Tensor:
    """Which mark each feature shows at all its positions, padding (zeros) apart; -1: none."""
    same_CFP = torch.isclose(features_FP, marks_C.view(-1, 1, 1), rtol=_ROUNDING, atol=0)
    shown_CF = (same_CFP | (features_FP == 0)).all(2) & same_CFP.any(2)
    return torch.where(shown_CF.any(0), shown_CF.int().argmax(0), _NO_CHANNEL)


def _why_not(layer: nn.Conv2d | nn.Linear, old_F: Tensor, new_F: Tensor, present: int, channels: int) -> str:
    """What keeps the layer from getting weights for the features that it is given now; "" where nothing does."""
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return f"a convolution in {layer.groups} groups"
    if "weight" not in layer._parameters:
        return "its weights are computed from others"
    # How many features are of no channel, and of each channel; space-to-depth makes many of one.
    others, *old_counts = torch.bincount(old_F + 1, minlength=present + 1).tolist()
    counts = torch.bincount(new_F + 1, minlength=channels + 1).tolist()
    if old_counts != old_counts[:1] * present:
        return f"it takes {', '.join(map(str, old_counts))} features of the {present} channels, not as many of each"
    if counts != [others, *old_counts[:1] * channels]:
        return f"it would be given {len(new_F)} features, not as many more as there are channels"
    return ""


def _replace_weight(layer: nn.Conv2d | nn.Linear, old_F: Tensor, new_F: Tensor, present: int, channels: int) -> None:
    """Give the layer weights for the features `new_F`, made from those for `old_F`; see `adapt_stem`."""
    weight_OF = _centred(layer) if isinstance(layer, nn.Conv2d) else layer.weight
    # Features of one channel stand in the same order whatever the number of channels is.
    weight_COP = torch.stack([weight_OF[:, old_F == channel] for channel in range(present)])
    if channels > present >= 3:
        weight_COP = torch.cat([weight_COP, weight_COP.new_zeros(channels - present, *weight_COP.shape[1:])])
    else:
        weight_COP = (weight_COP.sum(0, keepdim=True) / channels).expand(channels, *weight_COP.shape[1:])
    changed_OF = weight_OF.new_empty(weight_OF.shape[0], len(new_F), *weight_OF.shape[2:])
    changed_OF[:, new_F == _NO_CHANNEL] = weight_OF[:, old_F == _NO_CHANNEL]
    for channel in range(channels):
        changed_OF[:, new_F == channel] = weight_COP[channel]
    layer.weight = nn.Parameter(changed_OF, requires_grad=layer.weight.requires_grad)
    if isinstance(layer, nn.Conv2d):
        layer.in_channels = len(new_F)
    else:
        layer.in_features = len(new_F)


def _centred(layer: nn.Conv2d) -> Tensor:
    """The layer's weights; without their mean where the layer takes it off itself, so that what is zero stays zero."""
    weight = layer.weight
    mean = weight.mean(dim=(1, 2, 3), keepdim=True)
    sides = [gap * (side - 1) + 1 for gap, side in zip(layer.dilation, layer.kernel_size, strict=True)]
    value = torch.randn(1, layer.in_channels, *sides, generator=torch.Generator().manual_seed(0)).to(weight)
    with_mean = layer(value)
    before = weight.clone()
    weight.sub_(mean)
    same = torch.allclose(layer(value), with_mean, rtol=1e-3, atol=1e-3 * float(with_mean.abs().max()))
    return weight if same else before
