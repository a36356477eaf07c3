"""Where networks come from: the embedded ones, timm and torchvision."""

import difflib
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torchvision
from huggingface_hub import constants
from torch import nn

from regraft.backbone import weights as weight_files
from regraft.backbone.model import Architecture
from regraft.data.preprocess import Interpolation, Preprocess
from regraft.errors import BackboneNotFound

EMBEDDED = {
    "efficientnet_lite0": ("tf_efficientnet_lite0", 224),
    "efficientnet_lite1": ("tf_efficientnet_lite1", 240),
    "efficientnet_lite2": ("tf_efficientnet_lite2", 260),
}
_RESAMPLING: dict[str, Interpolation] = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos": "lanczos",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A network as its author made it. `weights` says which ones were loaded ("none": random)."""

    module: nn.Module
    architecture: Architecture
    preprocess: Preprocess
    categories: tuple[str, ...] | None
    weights: str


def build(architecture: Architecture) -> nn.Module:
    """The network with random weights; nothing is fetched or read. Raises BackboneNotFound for a name not in the registry."""
    if architecture.source == "torchvision":
        _check_known(architecture.name, torchvision.models.list_models(module=torchvision.models), "torchvision")
        # Random initialisation of these two takes seconds and is overwritten or unimportant.
        slow = {"init_weights": False} if architecture.name in ("inception_v3", "googlenet") else {}
        return _checked(torchvision.models.get_model(architecture.name, weights=None, **slow))
    if architecture.source == "builtin":
        _check_known(architecture.name, list(EMBEDDED), "the embedded backbones")
        return _checked(timm.create_model(EMBEDDED[architecture.name][0]))
    # A name with a prefix such as hf-hub: or local-dir: would make timm fetch or read something.
    _check_known(architecture.name, timm.list_models(), "timm")
    return _checked(timm.create_model(architecture.name))


def _checked(module: object) -> nn.Module:
    assert isinstance(module, nn.Module)
    return module


def _check_known(name: str, known: list[str], where: str) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 4) or difflib.get_close_matches(name.split("_")[0], known, 4)
    raise BackboneNotFound(
        expected=f"a classification model of {where}",
        got=repr(name[:100]),
        fix=f"did you mean {', '.join(near)}?" if near else f"embedded and always there: {', '.join(EMBEDDED)}",
    )


def open_source(spec: str, weights: str | None, *, standard_head: bool = False) -> Source:
    """Build the network that `spec` names and load its weights.

    `spec`: an embedded name, "timm:NAME[.tag]" or "torchvision:NAME[:WEIGHTS_ENUM]". `weights`: None for the published
    ones (downloaded if not on disk), "none" for random ones, or a local .safetensors or .pth file. `standard_head` gives
    weights that come without a head, or with one of another size, the head that the plain name has, so that the plain name
    builds the same network again; it has random weights, and is there to be replaced.
    Raises BackboneNotFound.
    """
    if spec.count(":") == 0:
        return _embedded(spec, weights)
    if spec.startswith("timm:"):
        return _timm(spec.removeprefix("timm:"), weights, standard_head)
    if spec.startswith("torchvision:"):
        name, _, enum = spec.removeprefix("torchvision:").partition(":")
        return _torchvision(name, enum or None, weights)
    raise BackboneNotFound(
        expected="a backbone such as efficientnet_lite0, timm:resnet50.a1_in1k or torchvision:resnet18:IMAGENET1K_V1",
        got=repr(spec[:100]),
        fix=f"embedded: {', '.join(EMBEDDED)}; timm: and torchvision: take their libraries' own names",
    )


def _embedded(name: str, weights: str | None) -> Source:
    if name not in EMBEDDED:
        where = [f"timm:{name}"] * (name.partition(".")[0] in timm.list_models())
        where += [f"torchvision:{name}"] * (name in torchvision.models.list_models(module=torchvision.models))
        near = where or difflib.get_close_matches(name, list(EMBEDDED), 3, 0.4) or list(EMBEDDED)
        raise BackboneNotFound(
            expected=f"one of the embedded backbones ({', '.join(EMBEDDED)}) or a name with its library",
            got=repr(name[:100]),
            fix=f"did you mean {' or '.join(near)}?",
        )
    architecture = Architecture(source="builtin", name=name)
    module = build(architecture)
    loaded = _load_given(module, name, weights)
    if loaded is None:
        weight_files.load_in_order(module, weight_files.embedded_state(name), name)
    size = EMBEDDED[name][1]
    # (x - 127) / 128 is how these weights were trained, not timm's 0.5 / 0.5.
    preprocess = Preprocess(height=size, width=size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    categories = tuple(timm.data.ImageNetInfo().label_descriptions())
    return Source(
        module=module,
        architecture=architecture,
        preprocess=preprocess,
        categories=None if loaded else categories,
        weights=loaded or "embedded ImageNet-1k",
    )


def _load_given(module: nn.Module, name: str, weights: str | None) -> str | None:
    """Load what the user named ("none" or a file) and say what; None where the published weights are wanted."""
    if weights is None:
        return None
    if weights == "none":
        return "none"
    path = Path(weights)
    if not path.is_file():
        raise BackboneNotFound(
            expected=f"--weights for {name} to be a local file, or none",
            got=f"{weights!r}, which is not a file",
            fix="give a .safetensors or .pth file; published weights are named in the backbone, e.g. timm:resnet50.a1_in1k",
        )
    weight_files.load_file(module, path, name)
    return path.name


def _timm(name: str, weights: str | None, standard_head: bool) -> Source:
    plain, _, tag = name.partition(".")
    architecture = Architecture(source="timm", name=plain)
    if weights is None:
        known = timm.list_models(pretrained=True)
        build_known = timm.list_models()
        _check_known(plain, build_known, "timm")
        if tag:
            _check_known(name, known, "timm's pretrained weights")
        module = _download(lambda: timm.create_model(name, pretrained=True), f"timm:{name}")
        loaded = f"timm {tag or 'default'}"
        outputs = build(architecture).num_classes if standard_head and tag else module.num_classes
        if outputs != module.num_classes:
            module.reset_classifier(outputs)  # type: ignore[operator]  # timm's own method
    else:
        module = build(architecture)
        loaded = _load_given(module, f"timm:{plain}", weights) or "none"
    config: dict[str, Any] = timm.data.resolve_data_config({}, model=module)
    subset = timm.data.infer_imagenet_subset(module) if weights is None else None
    categories = tuple(timm.data.ImageNetInfo(subset).label_descriptions()) if subset else None
    height, width = config["input_size"][1:]
    fit = {"squash": "squash", "border": "pad"}.get(config.get("crop_mode", "center"), "crop")
    preprocess = Preprocess(
        height=height,
        width=width,
        fit=fit,  # type: ignore[arg-type]  # the values of the dict are the literals
        crop_share=config["crop_pct"],
        interpolation=_RESAMPLING.get(config["interpolation"], "bicubic"),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return Source(module=module, architecture=architecture, preprocess=preprocess, categories=categories, weights=loaded)


def _torchvision(name: str, enum: str | None, weights: str | None) -> Source:
    architecture = Architecture(source="torchvision", name=name)
    module = build(architecture) if weights is not None else None
    _check_known(name, torchvision.models.list_models(module=torchvision.models), "torchvision")
    choices = torchvision.models.get_model_weights(name)
    if enum is not None:
        _check_known(enum, [choice.name for choice in choices], f"torchvision's weights for {name}")
    chosen = choices[enum] if enum else choices["DEFAULT"]
    if module is None:
        module = _download(lambda: torchvision.models.get_model(name, weights=chosen), f"torchvision:{name}:{chosen.name}")
        loaded = chosen.name
    else:
        loaded = _load_given(module, f"torchvision:{name}", weights) or "none"
    return Source(
        module=module,
        architecture=architecture,
        preprocess=_torchvision_preprocess(chosen),
        categories=tuple(chosen.meta["categories"]) if weights is None else None,
        weights=loaded,
    )


def _torchvision_preprocess(chosen: Any) -> Preprocess:
    transform = chosen.transforms()
    crop, resize = transform.crop_size[0], transform.resize_size[0]
    return Preprocess(
        height=crop,
        width=crop,
        # Some weights were evaluated on a crop as large as the resized image, a few on one that would not fit in it.
        crop_share=min(1.0, crop / resize),
        interpolation=_RESAMPLING[transform.interpolation.value],
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )


@contextmanager
def _offline_where_it_is() -> Iterator[None]:
    """Without a network the hub's client tries for most of a minute before it looks at what is on disk; say so beforehand."""
    before = constants.HF_HUB_OFFLINE
    try:
        if not getproxies():
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _download(make: Callable[[], object], spec: str) -> nn.Module:
    try:
        with _offline_where_it_is():
            return _checked(make())
    except Exception as error:
        raise BackboneNotFound(
            expected=f"the published weights of {spec}, on disk or from the network",
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}",
            fix=(
                f"without a network use an embedded backbone ({', '.join(EMBEDDED)}), "
                "or pass a local file: --weights weights.safetensors"
            ),
        ) from error
