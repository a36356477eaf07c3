"""Networks of timm, by its own names and tags."""

from pathlib import Path
from typing import Any

import timm
from torch import nn

from regraft.backbone.download import download
from regraft.backbone.model import Architecture
from regraft.backbone.source import Source, as_module, check_known
from regraft.backbone.weights import NONE, choose_name
from regraft.data.preprocess import Interpolation, Preprocess
from regraft.errors import BackboneNotFound, UsageError

_RESAMPLING: dict[str, Interpolation] = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos": "lanczos",
}


# A network that comes without a head (EVA-02, DINOv2) gets one of as many classes, to be replaced.
_CLASSES = 1000


def build(name: str) -> nn.Module:
    """The network with random weights; nothing is fetched or read. Raises BackboneNotFound for a name not in the registry."""
    # A name with a prefix such as hf-hub: or local-dir: would make timm fetch or read something.
    check_known(name, timm.list_models(), "timm")
    return _with_any_head(as_module(timm.create_model(name)))


def _with_any_head(module: nn.Module) -> nn.Module:
    if not module.num_classes:
        module.reset_classifier(_CLASSES)  # type: ignore[operator]  # timm's own method
    return module


def open_timm(spec: str, asked: Path | str | None, *, standard_head: bool) -> Source:
    """ "NAME" or "NAME.tag"; `asked` as `weights.file_or_name` gives it. Raises BackboneNotFound, UsageError."""
    name, _, tag = spec.partition(".")
    check_known(name, timm.list_models(), "timm")
    published = isinstance(asked, str) and asked != NONE
    if published or asked is None:
        tag = _tag(name, tag, str(asked) if published else "")
        module, weights = _published(name, tag, standard_head), f"timm {tag or 'default'}"
        subset = timm.data.infer_imagenet_subset(module)
    else:
        # A tag still says which head there is and what a file of its weights expects of an image.
        full = f"{name}.{_tag(name, tag, '')}" if tag else name
        module = _with_any_head(_with_head(as_module(timm.create_model(full)), name, bool(tag) and standard_head))
        weights, subset = NONE, None
    return Source(
        module=module,
        architecture=Architecture(source="timm", name=name),
        preprocess=_preprocess(module),
        categories=tuple(timm.data.ImageNetInfo(subset).label_descriptions()) if subset else None,
        weights=weights,
        file=asked if isinstance(asked, Path) else None,
    )


def _tag(name: str, in_spec: str, in_weights: str) -> str:
    """The tag of the published weights; "" for the library's default."""
    tags = [full.partition(".")[2] for full in timm.list_models(pretrained=True) if full.partition(".")[0] == name]
    if not tags:
        raise BackboneNotFound(
            expected=f"published weights of timm:{name}",
            got="none: timm has this network without weights",
            fix="--weights none starts from random ones, --weights FILE from your own",
        )
    found = [choose_name(given.removeprefix(f"{name}."), tags, f"timm:{name}") for given in (in_spec, in_weights) if given]
    if len(set(found)) > 1:
        raise UsageError(
            expected="weights to be named once", got=f"timm:{name}.{in_spec} and --weights {in_weights}", fix="leave one out"
        )
    return found[0] if found else ""


def _published(name: str, tag: str, standard_head: bool) -> nn.Module:
    full = f"{name}.{tag}" if tag else name
    module = download(lambda: timm.create_model(full, pretrained=True), f"timm:{full}")
    # Used as it is, a network without a head has no answer to give, and a random one would be worse than none.
    return _with_any_head(_with_head(module, name, bool(tag))) if standard_head else module


def _with_head(module: nn.Module, name: str, standard: bool) -> nn.Module:
    """The module, where `standard` with a head of as many classes as the plain name has."""
    outputs = build(name).num_classes if standard else module.num_classes
    if outputs != module.num_classes:
        module.reset_classifier(outputs)  # type: ignore[operator]  # timm's own method
    return module


def _preprocess(module: nn.Module) -> Preprocess:
    config: dict[str, Any] = timm.data.resolve_data_config({}, model=module)
    height, width = config["input_size"][1:]
    fit = {"squash": "squash", "border": "pad"}.get(config.get("crop_mode", "center"), "crop")
    return Preprocess(
        height=height,
        width=width,
        fit=fit,  # type: ignore[arg-type]  # the values of the dict are the literals
        crop_share=config["crop_pct"],
        interpolation=_RESAMPLING.get(config["interpolation"], "bicubic"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
