"""Weights of a network: what was asked for, and what a local file holds. Every name and shape is accounted for."""

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from regraft.errors import BackboneNotFound, first_line

NONE = "none"
# Keras and older torchvision said it like this; a name that says which weights has taken their place everywhere.
_OUTDATED = ("pretrained", "true", "false", "default", "imagenet")
_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".h5", ".onnx", ".npz")
# What training scripts call the state dict where they save more than that.
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_SHOWN = 5


def file_or_name(weights: str | Path | None) -> Path | str | None:
    """A local file as a Path, a name (or "none") as text, None for the published weights.

    A member of torchvision's enumerations counts as its name. Raises BackboneNotFound for a file that is not there.
    """
    if weights is None or weights == NONE:
        return weights if weights is None else NONE
    path = Path(str(weights))
    if path.is_file():
        return path
    if isinstance(weights, Path) or path.suffix in _FILES or "/" in str(weights) or "\\" in str(weights):
        raise BackboneNotFound(
            expected="--weights to be a name, a local file or none",
            got=f"{str(weights)!r}, which is not a file",
            fix="give a .safetensors or .pth file, or the name of published weights such as IMAGENET1K_V1 or a1_in1k",
        )
    return str(weights)


def choose_name(given: str, known: Sequence[str], spec: str) -> str:
    """`given` where it is one of the `known` names of the weights of `spec`; otherwise raises BackboneNotFound."""
    if given in known:
        return given
    outdated = given.lower().partition("=")[0] in _OUTDATED
    near = difflib.get_close_matches(given, known, 4, 0.4) or known[:4]
    names = f"name them: --weights {known[0]}" if outdated and known else f"did you mean {', '.join(near)}?"
    raise BackboneNotFound(
        expected=f"a name of published weights of {spec}" + (", which pretrained=True no longer says" if outdated else ""),
        got=repr(given[:100]),
        fix=(f"{names} " if known else "")
        + "leave --weights out for the usual ones; --weights none starts from random ones, --weights FILE from your own",
    )


def put_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load tensors by name; those that `state` lacks stay as they are.

    What a network notes beside its tensors stays too: MNASNet takes no state dict without its version. It is in eval mode
    afterwards, and what it computed from its former weights is forgotten.
    """
    own = module.state_dict()
    own.update(state)
    module.load_state_dict(own)
    forget(module)


def forget(module: nn.Module) -> None:
    """Leave the network in eval mode, without what it may have computed from its weights and kept.

    LeViT, EfficientViT and others keep biases that they look up in eval mode, and drop them when they begin to train.
    """
    module.train()
    module.eval()


def load_file(
    module: nn.Module, path: Path, source: str, *, heads: Callable[[], Sequence[str]], heads_replaced: bool
) -> tuple[str, ...]:
    """Load a local safetensors or .pth file; every name and shape must match on both sides. Gives notes for people.

    A prefix that all names have, such as "module.", is taken off where they match without it, and the other way round.
    `heads` tells the paths of the network's heads and is asked only where something differs: with `heads_replaced` they may
    differ, because nothing will use them. A .pth is read with `weights_only=True`, which runs none of its code.
    Raises BackboneNotFound.
    """
    own = module.state_dict()
    state, renamed = _renamed(_read_state(path), own)
    differing = _differences(state, own)
    if not differing:
        put_state(module, state)
        return (f"{path.name}: {renamed}",) if renamed else ()
    paths = tuple(heads())
    elsewhere = [name for name in differing if not _within(name, paths)]
    rest = {name: value for name, value in state.items() if not _within(name, paths)}
    if heads_replaced and rest and not elsewhere:
        put_state(module, rest)
        note = f"{path.name}: all but the head ({', '.join(paths)}) was loaded, which is replaced anyhow"
        return (f"{note}; {renamed}" if renamed else note,)
    fix = "choose the backbone that the file was saved from"
    if rest and not elsewhere:
        fix = f"its head is another one: `regraft fit` puts a new one in its place; to use it as it is, {fix}"
    raise BackboneNotFound(
        expected=f"{path} to hold exactly the {len(own)} tensors of {source}",
        got=f"{len(differing)} tensors that differ: {_listed(differing)}" + (f" ({renamed})" if renamed else ""),
        fix=fix,
    )


def _within(name: str, paths: Sequence[str]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)


def _listed(differing: Mapping[str, str]) -> str:
    """The first five layers with what is wrong with them."""
    layers: dict[str, str] = {}
    for name, problem in differing.items():
        layer = name.rpartition(".")[0]
        # A layer whose very weight is not there is not there.
        whole = "(" not in problem and differing.get(f"{layer}.weight") == problem
        layers.setdefault(layer, f"{layer if whole else name} {problem}")
    shown = list(layers.values())[:_SHOWN]
    more = f"; and {len(layers) - _SHOWN} more layers" if len(layers) > _SHOWN else ""
    return "; ".join(shown) + more


def _differences(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Name to what is wrong with it, for every tensor that is not in both with one shape."""
    found = {}
    for name, value in own.items():
        if name not in state:
            found[name] = "is missing"
        elif state[name].shape != value.shape:
            found[name] = f"is {tuple(state[name].shape)} in the file, not {tuple(value.shape)}"
    return found | {name: "is not in the network" for name in state if name not in own}


def _renamed(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors under the names that fit the network best, and what was done to them ("": nothing).

    Wrappers such as nn.DataParallel put the same prefix before all names.
    """
    candidates = [(state, "")]
    for prefix in _prefixes(state):
        shorter = {name.removeprefix(prefix): value for name, value in state.items()}
        candidates.append((shorter, f"the prefix {prefix!r} of all names in the file was taken off"))
    for prefix in _prefixes(own):
        longer = {prefix + name: value for name, value in state.items()}
        candidates.append((longer, f"the network's prefix {prefix!r} was put before all names in the file"))
    return min(candidates, key=lambda candidate: len(_differences(candidate[0], own)))


def _prefixes(names: Mapping[str, Tensor]) -> list[str]:
    """What all names begin with, up to a dot: ["module.", "module.backbone."]."""
    parents = [name.split(".")[:-1] for name in names]
    same = [len(set(parts)) == 1 for parts in zip(*parents, strict=False)]
    common = same.index(False) if False in same else len(same)
    return [".".join(parents[0][: count + 1]) + "." for count in range(common)]


def _read_state(path: Path) -> dict[str, Tensor]:
    safe = path.suffix == ".safetensors"
    try:
        state = safetensors.torch.load_file(path) if safe else torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise BackboneNotFound(
            expected=f"{path} to be a state dict (tensors by name)",
            got=_why_unreadable(error),
            fix="save the weights alone: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
        ) from error
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(_is_tensor(*item) for item in state.items()):
        raise BackboneNotFound(
            expected=f"{path} to be a state dict (tensors by name)",
            got=_what_it_is(state),
            fix="save the weights alone: torch.save(model.state_dict(), 'weights.pth')",
        )
    return dict(state)


def _is_tensor(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _what_it_is(state: object) -> str:
    if not isinstance(state, dict):
        return f"a {type(state).__name__}"
    others = [f"{name!r}: {type(value).__name__}" for name, value in state.items() if not _is_tensor(name, value)]
    return f"a dictionary with other things in it: {', '.join(others[:_SHOWN])}" if others else "an empty dictionary"


def _why_unreadable(error: Exception) -> str:
    """Torch's own texts advise to run the file's code."""
    text = str(error)
    if asked := re.search(r"GLOBAL ([\w.]+)", text):
        return f"a pickle that asks for {asked[1]}, not tensors alone; none of its code was run"
    if "TorchScript" in text:
        return "a TorchScript program, not tensors alone; none of its code was run"
    if "Weights only load failed" in text:
        return "something else than tensors, or a damaged file; none of its code was run"
    return f"{type(error).__name__}: {first_line(error)}"


def digest(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of every parameter and buffer."""
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        array = value.detach().cpu().contiguous()
        total.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        total.update(array.view(torch.uint8).numpy() if array.ndim else array.reshape(1).view(torch.uint8).numpy())
    return total.hexdigest()
