"""safetensors: the weights of the library's own network with the new head, for whoever has torch and that library."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from torch import Tensor, nn

from regraft.backbone.attach import HeadWeights, goes_in_place
from regraft.backbone.embedded import EMBEDDED
from regraft.errors import UsageError, first_line
from regraft.exports.describe import wanted_arrays
from regraft.exports.formats import Ask, ask_module
from regraft.exports.resample import Resample
from regraft.fitted import Fitted


def library_name(fitted: Fitted) -> tuple[str, str]:
    """("timm", NAME) or ("torchvision", NAME): what builds the same network. Raises UsageError where nothing plain does."""
    found = fitted.backbone.architecture
    if found.own_code:
        raise _refused(fitted, f"{fitted.backbone.name}, code of your own", "save `run.to_torch().state_dict()` in Python")
    if fitted.mirrored:
        raise _refused(fitted, "answers that are means over two sides of an image (--tta)", "fit without --tta")
    if isinstance(fitted.head, HeadWeights) and not goes_in_place(fitted.backbone, fitted.head):
        raise _refused(fitted, "a head on several stages", "fit again with --features last")
    if not isinstance(fitted.head, HeadWeights | None):
        raise _refused(fitted, "a head of your own", "save `run.to_torch().state_dict()` in Python")
    return ("timm", EMBEDDED[found.name][0]) if found.source == "builtin" else (found.source, found.name)


def _refused(fitted: Fitted, got: str, fix: str) -> UsageError:
    return UsageError(
        expected="a plain network of timm or torchvision, whose weights its library can load",
        got=f"{fitted.folder or fitted.backbone.name}: {got}",
        fix=f"{fix}; --to onnx, openvino and torch hold any network",
    )


def write_safetensors(fitted: Fitted, metadata: Mapping[str, str], path: Path) -> None:
    """Write the weights, the temperature inside; the metadata also says which network they belong to and what it expects."""
    library, name = library_name(fitted)
    # Copies: tensors that share memory could not be told apart in the file.
    state = {key: value.detach().clone().contiguous() for key, value in fitted.to_torch().state_dict().items()}
    more = {"library": library, "model": name, "input": wanted_arrays(fitted.backbone.preprocess)}
    safetensors.torch.save_file(state, path, metadata={**metadata, **{key: json.dumps(value) for key, value in more.items()}})


def ask_safetensors(path: Path, fitted: Fitted) -> Ask:
    """The file in the network that its library builds. Raises UsageError where it does not fit there."""
    library, name = library_name(fitted)
    network = _built(library, name, len(fitted.classes), fitted.backbone.preprocess.channels)
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
    except RuntimeError as error:
        raise _refused(
            fitted, f"a network that {library} builds otherwise: {first_line(error)}", "use another format"
        ) from error
    return ask_module(_Plain(network.eval(), fitted))


def _built(library: str, name: str, classes: int, channels: int) -> nn.Module:
    if library == "timm":
        import timm

        return cast(nn.Module, timm.create_model(name, num_classes=classes, in_chans=channels))
    import torchvision

    return cast(nn.Module, torchvision.models.get_model(name, num_classes=classes))


class _Plain(nn.Module):
    """The whole way of an image with a network of the library in the middle."""

    def __init__(self, network: nn.Module, fitted: Fitted) -> None:
        super().__init__()
        self.network, self.multi_label, self.preprocess = network, fitted.multi_label, fitted.backbone.preprocess
        self.resample = Resample(self.preprocess)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.preprocess.mean, self.preprocess.std))
        logits = cast(Tensor, self.network((self.resample(images) / 255 - mean) / std))
        return (torch.sigmoid(logits) if self.multi_label else torch.softmax(logits, dim=1),)
