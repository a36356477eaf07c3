"""Networks of torchvision, by its own names and enumerations of weights."""

from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from regraft.backbone.download import download
from regraft.backbone.model import Architecture
from regraft.backbone.source import Source, as_module, check_known
from regraft.backbone.weights import NONE, choose_name
from regraft.data.preprocess import Preprocess
from regraft.errors import BackboneNotFound, UsageError, first_line


def build(name: str, side: int | None = None) -> nn.Module:
    """The network with random weights; nothing is fetched or read.

    A network that is made for one size of images (ViT) is made for `side` pixels. Raises BackboneNotFound for a name that is
    not in the registry, and for a side that cannot be.
    """
    check_known(name, torchvision.models.list_models(module=torchvision.models), "torchvision")
    # Random initialisation of these two takes seconds and is overwritten or unimportant.
    slow = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    module = as_module(torchvision.models.get_model(name, weights=None, **slow))
    fixed = getattr(module, "image_size", None)
    if side is None or not isinstance(fixed, int) or fixed == side:
        return module
    try:
        return as_module(torchvision.models.get_model(name, weights=None, image_size=side))
    except Exception as error:
        raise BackboneNotFound(
            expected=f"a size that torchvision:{name} can be made for",
            got=f"{side} pixels: {first_line(error)}",
            fix=f"give a multiple of its patches of {getattr(module, 'patch_size', '?')} pixels, or leave --size out",
        ) from error


def open_torchvision(spec: str, asked: Path | str | None, size: int | None = None) -> Source:
    """ "NAME" or "NAME:WEIGHTS"; `asked` as `weights.file_or_name` gives it. Raises BackboneNotFound, UsageError.

    `size` is the side of the images, for a network with weights of the user's own; published ones have theirs.
    """
    name, _, in_spec = spec.partition(":")
    check_known(name, torchvision.models.list_models(module=torchvision.models), "torchvision")
    choices = torchvision.models.get_model_weights(name)
    named = asked if isinstance(asked, str) and asked != NONE else ""
    found = [_chosen(given, choices, name) for given in (in_spec, named) if given]
    if len(set(found)) > 1:
        raise UsageError(
            expected="weights to be named once", got=f"torchvision:{name}:{in_spec} and --weights {named}", fix="leave one out"
        )
    chosen = choices[found[0]] if found else choices["DEFAULT"]
    published = asked is None or bool(named)
    if published:
        full = f"torchvision:{name}:{chosen.name}"
        module = download(lambda: torchvision.models.get_model(name, weights=chosen), full)
    else:
        module = build(name, size or _preprocess(chosen).height)
    return Source(
        module=_without_own_normalisation(module),
        architecture=Architecture(source="torchvision", name=name),
        preprocess=_preprocess(chosen, by_half=hasattr(module, "transform_input")),
        categories=tuple(chosen.meta["categories"]) if published else None,
        weights=chosen.name if published else NONE,
        file=asked if isinstance(asked, Path) else None,
    )


def _chosen(given: str, choices: Any, name: str) -> str:
    """IMAGENET1K_V2 of "IMAGENET1K_V2" or of "ResNet50_Weights.IMAGENET1K_V2"."""
    known = [choice.name for choice in choices]
    enumeration, _, plain = given.rpartition(".")
    if enumeration not in ("", choices.__name__):
        raise BackboneNotFound(
            expected=f"torchvision's weights for {name}, those of {choices.__name__}",
            got=repr(given[:100]),
            fix=f"choose among {', '.join(known)}",
        )
    return choose_name(plain, known, f"torchvision:{name}")


def _without_own_normalisation(module: nn.Module) -> nn.Module:
    """Inception and GoogLeNet turn ImageNet's normalisation into theirs, where they were built with published weights only.

    The same network built without weights, to load a saved run, does not. So that is left to the preprocessing.
    """
    if hasattr(module, "transform_input"):
        module.transform_input = False  # type: ignore[assignment]  # an attribute of these two, not a module
    return module


def _preprocess(chosen: Any, *, by_half: bool = False) -> Preprocess:
    transform = chosen.transforms()
    crop, resize = transform.crop_size[0], transform.resize_size[0]
    return Preprocess(
        height=crop,
        width=crop,
        # Some weights were evaluated on a crop as large as the resized image, a few on one that would not fit in it.
        crop_share=min(1.0, crop / resize),
        interpolation=transform.interpolation.value,
        mean=(0.5,) * 3 if by_half else tuple(transform.mean),
        std=(0.5,) * 3 if by_half else tuple(transform.std),
    )
