"""Which networks can be used by name, with which weights, and whether those are on disk. No network is built for that."""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import timm
import torch
import torchvision
from huggingface_hub import constants

from regraft.backbone.embedded import weights_file
from regraft.backbone.weights import NONE, file_or_name
from regraft.errors import UsageError

Library = Literal["embedded", "torchvision", "timm"]

# Parameters, and ImageNet top-1 in per cent as the authors of EfficientNet-Lite published it for these weights.
_EMBEDDED = {
    "efficientnet_lite0": (4_652_008, 75.1),
    "efficientnet_lite1": (5_416_680, 76.7),
    "efficientnet_lite2": (6_092_072, 77.6),
}
_WEIGHT_FILES = (".safetensors", ".bin", ".pth", ".pt")
_MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Usable:
    """A network with one set of published weights, under the `name` that every command takes.

    `weights` names them, None where none are published; `default` are those that the plain name stands for. What the library
    does not state is None: `imagenet_top1` (per cent), `parameters` (with the head), `bytes` (of the file of weights).
    """

    name: str
    library: Library
    weights: str | None
    default: bool
    on_disk: bool
    imagenet_top1: float | None = None
    parameters: int | None = None
    bytes: int | None = None


def embedded() -> tuple[Usable, ...]:
    """The networks that come with regraft."""
    return tuple(
        Usable(
            name=name,
            library="embedded",
            weights="ImageNet-1k",
            default=True,
            on_disk=True,
            imagenet_top1=top1,
            parameters=parameters,
            bytes=weights_file(name).stat().st_size,
        )
        for name, (parameters, top1) in _EMBEDDED.items()
    )


def of_torchvision() -> tuple[Usable, ...]:
    """torchvision's classification networks, one row for each of their weights."""
    here = _checkpoints()
    return tuple(
        _of_enum(name, weights, here)
        for name in sorted(torchvision.models.list_models(module=torchvision.models), key=_naturally)
        for weights in torchvision.models.get_model_weights(name)
    )


def _naturally(name: str) -> list[tuple[str, int]]:
    """A key that sorts resnet18 before resnet101."""
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D+)(\d*)|$", name)]


def _of_enum(name: str, weights: Any, here: frozenset[str]) -> Usable:
    return Usable(
        name=f"torchvision:{name}:{weights.name}",
        library="torchvision",
        weights=weights.name,
        default=weights is torchvision.models.get_model_weights(name)["DEFAULT"],
        on_disk=_file_name(weights.url) in here,
        imagenet_top1=_top1(weights),
        parameters=weights.meta["num_params"],
        # torchvision states the size in units of 1024 x 1024 bytes.
        bytes=round(weights.meta["_file_size"] * _MEBIBYTE),
    )


def _top1(weights: Any) -> float | None:
    top1 = weights.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    return None if top1 is None else float(top1)


def of_timm() -> tuple[Usable, ...]:
    """timm's networks, one row for each of their weights, and one for a network without any."""
    tags: dict[str, list[str]] = {name: [] for name in timm.list_models()}
    for full in timm.list_models(pretrained=True):
        name, _, tag = full.partition(".")
        tags[name].append(tag)
    checkpoints, hub = _checkpoints(), _in_hub_cache()
    return tuple(row for name, its in tags.items() for row in _of_tags(name, its, checkpoints, hub))


def _of_tags(name: str, tags: list[str], checkpoints: frozenset[str], hub: frozenset[str]) -> Iterator[Usable]:
    if not tags:
        yield Usable(name=f"timm:{name}", library="timm", weights=None, default=True, on_disk=False)
        return
    default = timm.models.get_pretrained_cfg(name).tag
    for tag in tags:
        config = timm.models.get_pretrained_cfg(f"{name}.{tag}")
        here = config.hf_hub_id in hub if config.hf_hub_id else _file_name(config.url) in checkpoints
        yield Usable(name=f"timm:{name}.{tag}", library="timm", weights=tag, default=tag == default, on_disk=here)


def _file_name(url: str | None) -> str:
    """What torch.hub calls the file that it downloads from `url`."""
    return Path(urlsplit(url or "").path).name


def _checkpoints() -> frozenset[str]:
    """The files in torch.hub's folder of weights, where torchvision keeps its own and timm some."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def _in_hub_cache() -> frozenset[str]:
    """The repositories ("timm/resnet18.a1_in1k") of which the Hugging Face cache holds a whole file of weights."""
    folder = Path(constants.HF_HUB_CACHE)
    found = {
        path.relative_to(folder).parts[0]
        for path in folder.glob("models--*/snapshots/*/*")
        # A link to a file that is gone, or whose download was cut short, does not exist.
        if path.suffix in _WEIGHT_FILES and path.exists()
    }
    return frozenset(name.removeprefix("models--").replace("--", "/") for name in found)


def everything() -> tuple[Usable, ...]:
    """All of it: the embedded networks first."""
    return (*embedded(), *of_torchvision(), *of_timm())


def matching(pattern: str, rows: Iterable[Usable]) -> tuple[Usable, ...]:
    """The rows whose name, with or without its library, `pattern` matches: a glob where it has `*`, `?` or `[`, else a part.

    Raises UsageError where there is none.
    """
    glob = pattern if any(letter in pattern for letter in "*?[") else f"*{pattern}*"
    match = re.compile(fnmatch.translate(glob.casefold())).match
    known = tuple(rows)
    found = tuple(row for row in known if match(row.name.casefold()) or match(_plain(row.name).casefold()))
    if not pattern.strip() or not found:
        raise UsageError(
            expected="a pattern that matches the name of a backbone",
            got=repr(pattern[:100]),
            fix=_advice(pattern, known),
        )
    return found


def _plain(name: str) -> str:
    return name.partition(":")[2] or name


def _advice(pattern: str, rows: Iterable[Usable]) -> str:
    plain = sorted({re.split(r"[.:]", _plain(row.name))[0] for row in rows})
    word = re.split(r"[.:]", _plain(pattern.casefold()))[0].strip("*?[]")
    near = difflib.get_close_matches(word, plain, 3, 0.5)
    return f"did you mean {' or '.join(near)}?" if near else "for example 'timm:convnext*', torchvision: or resnet50"


def published(spec: str, weights: object = None) -> Usable | None:
    """The row of the published weights that a name of torchvision or timm stands for, or `weights` names for it.

    None for all other names, for a file of weights and for none.
    """
    library, _, rest = spec.partition(":")
    asked = file_or_name(weights) if isinstance(weights, str | Path) else weights
    if library not in ("torchvision", "timm") or isinstance(asked, Path) or asked == NONE:
        return None
    mark, rows = (":", of_torchvision()) if library == "torchvision" else (".", of_timm())
    name, _, named = rest.partition(mark)
    # Two names are for `load_backbone` to refuse; "ResNet50_Weights.DEFAULT" and "resnet50.a1_in1k" are long forms of one.
    given = named or str(asked or "")
    if named and asked:
        return None
    mine = [row for row in rows if row.name.removeprefix(f"{library}:").partition(mark)[0] == name]
    if library == "torchvision" and mine:
        given = given.removeprefix(f"{torchvision.models.get_model_weights(name).__name__}.")
    else:
        given = given.removeprefix(f"{name}.")
    if given in ("", "DEFAULT"):
        return next((row for row in mine if row.default), None)
    return next((row for row in mine if row.weights == given), None)


def imagenet_top1(spec: str) -> float | None:
    """ImageNet top-1 in per cent of the published weights that `spec` stands for, where its library states it."""
    if spec in _EMBEDDED:
        return _EMBEDDED[spec][1]
    row = published(spec)
    return row.imagenet_top1 if row else None
