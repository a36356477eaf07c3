"""A head of the user's own: what it takes is found by a dry run, and it is put behind the network."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from regraft.backbone.attach import Distances, FeaturesAndHead, HeadWeights, Tempered, WithDistance
from regraft.backbone.boundary import cut
from regraft.backbone.features import Features, mean_of
from regraft.backbone.graph import FLAT, MAP_LAST, TOKENS
from regraft.backbone.head import replace_layer
from regraft.backbone.model import Backbone, Boundary, Stage
from regraft.backbone.own import found_at, importing_from
from regraft.errors import UsageError, first_line
from regraft.evaluate.novelty import Novelty
from regraft.strategies import Head, Strategy
from regraft.train.chance import seeded

MadeBy = Callable[..., Any]
_IMAGES = 3  # in the dry run: more than one for batch normalisation, and no usual number of classes or channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A value that a head may take, of `shape` without N: the pooled features, or the map or tokens at the end of `stage`.

    Maps are channels first. `channels` is what a constructor is told as `in_features`.
    """

    words: str
    shape: tuple[int, ...]
    channels: int
    stage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnHead:
    """A module from pooled features (N, D), or where `stage` is named from its map, to (N, K) or (N, K, h, w)."""

    module: nn.Module
    stage: str = ""


def offers_of(backbone: Backbone, stage: str = "") -> tuple[Offer, ...]:
    """What heads are offered, in this order: the pooled features, then the last stage that has positions, or the one named."""
    width = Features(backbone, ()).columns.last_width
    pooled = Offer(words="pooled features", shape=(width,), channels=width)
    stages = [one for one in backbone.stages if one.layout != FLAT and stage in ("", one.name)]
    return (pooled, _offer_of(stages[-1])) if stages else (pooled,)


def _offer_of(stage: Stage) -> Offer:
    shape = (stage.shape[2], *stage.shape[:2]) if stage.layout == MAP_LAST else stage.shape
    tokens = stage.layout == TOKENS
    words = f"{'tokens' if tokens else 'map'} of {stage.name}"
    return Offer(words=words, shape=shape, channels=shape[1] if tokens else shape[0], stage=stage.name)


def offer_at(backbone: Backbone, stage: str) -> Offer:
    """The offer of a stage, or of the pooled features where it is ""."""
    return next(offer for offer in offers_of(backbone, stage) if offer.stage == stage)


def own_head_of(strategy: Strategy, backbone: Backbone, classes: int, *, seed: int) -> OwnHead | None:
    """The user's head, where the strategy has one. Raises UsageError where it does not fit: told before any work."""
    if not isinstance(strategy, Head) or strategy.module is None:
        return None
    return fit_in(strategy.module, offers_of(backbone), classes, seed=seed)


def fit_in(made_by: MadeBy | str, offers: Sequence[Offer], classes: int, *, seed: int = 0) -> OwnHead:
    """The head that `made_by` is (an nn.Module, copied), makes (a function of in_features and classes) or names.

    Which of the offers it takes is found by a dry run on each. Raises UsageError, with the shapes that were offered and what
    came out.
    """
    maker = named_head(made_by) if isinstance(made_by, str) else made_by
    tried = []
    for offer in offers:
        outcome = _dry_run(maker, offer, classes, seed)
        if isinstance(outcome, nn.Module):
            _check_types(outcome)
            return OwnHead(module=outcome, stage=offer.stage)
        tried.append(f"{offer.words} {_text(offer.shape)}: {outcome}")
    raise UsageError(
        expected=f"a head that takes one of these and answers (N, {classes}), or for a map (N, {classes}, h, w)",
        got="; ".join(tried),
        fix=f"for example nn.Linear({offers[0].channels}, {classes}), or a function (in_features, classes) that makes it",
    )


def named_head(spec: str) -> MadeBy:
    """The module or function that "module:package.file:name" names, looked for from the current folder on."""
    found, here = found_at(spec.removeprefix("module:")), Path.cwd()
    if isinstance(found, nn.Module):
        return found

    def make(in_features: int, classes: int) -> object:
        with importing_from(here):
            return cast(MadeBy, found)(in_features, classes)

    return make


def _text(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['N', *map(str, shape)])})"


def _dry_run(made_by: MadeBy, offer: Offer, classes: int, seed: int) -> nn.Module | str:
    """The head where it takes the offer and gives logits, else what happened."""
    try:
        with seeded(seed):
            module = copy.deepcopy(made_by) if isinstance(made_by, nn.Module) else made_by(offer.channels, classes)
            if not isinstance(module, nn.Module):
                return f"the function gave a {type(module).__name__}, which is no nn.Module"
            given = torch.randn(_IMAGES, *offer.shape)
            with torch.no_grad():
                # In train mode a copy, whose statistics may move.
                copy.deepcopy(module.eval()).train()(given)
                value = module(given)
    except Exception as error:  # of the user's own code: anything
        return f"{type(error).__name__}: {first_line(error)}"
    if not isinstance(value, Tensor):
        return f"gave a {type(value).__name__}"
    fits = tuple(value.shape[:2]) == (_IMAGES, classes) and value.dim() in ((2, 4) if offer.stage else (2,))
    return module if fits else f"gave ({', '.join(['N' if i == 0 else str(n) for i, n in enumerate(value.shape)])})"


def _check_types(module: nn.Module) -> None:
    """Raise UsageError for tensors that a saved model cannot hold."""
    odd = [name for name, value in module.state_dict().items() if value.dtype not in (torch.float32, torch.int64)]
    if odd:
        raise UsageError(
            expected="a head of float32 tensors (counters may be int64)",
            got=f"other types in {', '.join(odd[:5])}",
            fix="convert it: head.float()",
        )


def linear_of(own: OwnHead) -> nn.Linear | nn.Conv2d | None:
    """The layer that such a head is, where it is linear in its input and has a bias: then its best weights can be solved for.

    The mean over positions of a 1x1 convolution is that linear map of the mean over positions.
    """
    layer = own.module
    while isinstance(layer, nn.Sequential) and len(layer) == 1:
        layer = layer[0]
    if type(layer) is nn.Linear and layer.bias is not None and not own.stage:
        return layer
    # Without padding and strides every position counts once.
    plain = type(layer) is nn.Conv2d and (layer.kernel_size, layer.stride, layer.groups) == ((1, 1), (1, 1), 1)
    if plain and layer.padding in ((0, 0), 0, "valid", "same") and layer.bias is not None:
        return cast(nn.Conv2d, layer)
    return None


def baseline_of(strategy: Strategy, backbone: Backbone, own: OwnHead | None) -> Head:
    """The solved head that runs first: what a linear head of the user's own is itself, and what anything else has to beat."""
    if not isinstance(strategy, Head):
        return Head(balance=strategy.balance)
    plain = replace(strategy, module=None, training=None)
    linear = own is not None and linear_of(own) is not None and reads_the_same(backbone, own)
    return replace(plain, features="last") if linear else plain


def reads_the_same(backbone: Backbone, own: OwnHead) -> bool:
    """Whether the mean of what the head takes is the input of the network's own head, as it is in most networks."""
    if not own.stage:
        return True
    pre = backbone.preprocess
    image = torch.randn(1, pre.channels, pre.height, pre.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean, last = mean_of(MapOf(backbone, own)(image)), Features(backbone, ())(image)
    return mean.shape == last.shape and bool(torch.allclose(mean, last, rtol=1e-4, atol=1e-5))


def stage_of(backbone: Backbone, own: OwnHead) -> tuple[Stage, Boundary]:
    """The stage whose map the head takes, and the boundary at its end."""
    stage = next(stage for stage in backbone.stages if stage.name == own.stage)
    # Not by name: a stage may be called "head", as a boundary is that stands elsewhere.
    return stage, Boundary(name=stage.name, nodes=(stage.node,), shapes=(stage.shape,))


def channels_first(stage: Stage, value: Tensor) -> Tensor:
    """The value of a stage as a head gets it."""
    return value.permute(0, 3, 1, 2) if stage.layout == MAP_LAST else value


class MapOf(nn.Module):
    """Normalised images (N, C, H, W) -> the map of a stage, channels first, or its tokens."""

    def __init__(self, backbone: Backbone, own: OwnHead) -> None:
        super().__init__()
        self._stage, boundary = stage_of(backbone, own)
        self.prefix = cut(backbone, boundary).prefix
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        (value,) = self.prefix(images)
        return channels_first(self._stage, value)


class Averaged(nn.Module):
    """A head whose answers for each position are averaged, where it gives such."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, value: Tensor) -> Tensor:
        logits = cast(Tensor, self.head(value))
        return logits.mean(dim=(2, 3)) if logits.dim() == 4 else logits


def with_distance(backbone: Backbone, head: HeadWeights | OwnHead, novelty: Novelty, temperature: float) -> nn.Module:
    """Normalised images (N, C, H, W) -> logits divided by `temperature` and distances (N, K + 1), in eval mode.

    A head of the user's own has to read pooled features: a map alone would need a second pass.
    """
    features = copy.deepcopy(Features(backbone, novelty.taps))
    if isinstance(head, HeadWeights):
        layer: nn.Module = head.at(temperature).as_layer()
        return WithDistance(features, layer, Distances(novelty), head.weight_KD.shape[1]).eval()
    layer = Tempered(copy.deepcopy(head.module), temperature)
    return WithDistance(features, layer, Distances(novelty), features.columns.last_width).eval()


def attach_own(backbone: Backbone, own: OwnHead, temperature: float = 1.0) -> nn.Module:
    """Normalised images (N, C, H, W) -> logits (N, K) divided by `temperature`, in eval mode, sharing nothing with either.

    A head on pooled features goes where the network's own was, where that took them as they are.
    """
    (place, *others) = backbone.main_heads
    if own.stage or others or not place.is_output or place.kind != "linear":
        return own_behind_features(backbone, own, temperature)
    module = copy.deepcopy(backbone.module)
    replace_layer(module, place.path, _tempered(own, temperature))
    return module.eval()


def _tempered(own: OwnHead, temperature: float) -> nn.Module:
    head: nn.Module = copy.deepcopy(own.module)
    return head if temperature == 1 else Tempered(head, temperature)


def own_behind_features(backbone: Backbone, own: OwnHead, temperature: float = 1.0) -> FeaturesAndHead:
    """`attach_own` as what the head takes and the head, apart."""
    head = _tempered(own, temperature)
    if own.stage:
        return FeaturesAndHead(copy.deepcopy(MapOf(backbone, own)), Averaged(head)).eval()
    return FeaturesAndHead(copy.deepcopy(Features(backbone, ())), head).eval()
