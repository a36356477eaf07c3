"""What a worker makes its network from: small values that travel, with all that is needed where nothing else is shared."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn

from regraft.artifact.load import CONFIG_FILE, WEIGHTS_FILE
from regraft.backbone.features import Features
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.data.preprocess import Preprocess
from regraft.errors import BackboneNotFound, SavedModelRefused
from regraft.fitted import Fitted, pretrained
from regraft.recipe import Own
from regraft.saved import load_classifier
from regraft.train.chance import seeded


class Model(Protocol):
    """Something that can be sent to a worker and opened there."""

    def open(self) -> tuple[nn.Module, Preprocess]:
        """A module from normalised images to one row each, and how images are prepared. Raises RegraftError."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """A run by the bytes of its files: workers need not see its folder. `backbone` and `head` name own code again."""

    files: Mapping[str, bytes]
    backbone: str | None = None
    head: str | None = None
    trust: bool = False

    @classmethod
    def read(cls, folder: Path, *, backbone: str | None = None, head: str | None = None, trust: bool = False) -> "RunModel":
        """The run in `folder`. Raises SavedModelRefused where its files cannot be read."""
        try:
            files = {name: (folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
        except OSError as error:
            raise SavedModelRefused(
                expected=f"a saved model in {folder}",
                got=f"{error.filename}: {error.strerror}",
                fix="check the folder, or fit again",
            ) from error
        return cls(files=files, backbone=backbone, head=head, trust=trust)

    def open(self) -> tuple[nn.Module, Preprocess]:
        with tempfile.TemporaryDirectory(prefix="regraft-") as folder:
            for name, data in self.files.items():
                (Path(folder) / name).write_bytes(data)
            fitted = load_classifier(folder, backbone=self.backbone, head=self.head, trust=self.trust)
        return fitted.answering(), fitted.backbone.preprocess


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """A pretrained network as it is, which each worker loads by its name; `digest` is that of its weights."""

    name: str
    digest: str
    weights: str | None = None
    trust: bool = False
    head_path: str | None = None

    def open(self) -> tuple[nn.Module, Preprocess]:
        fitted = pretrained(self.name, weights=self.weights, trust=self.trust, head_path=self.head_path)
        _check_same(fitted.backbone, self.digest)
        return fitted.answering(), fitted.backbone.preprocess


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The frozen part of a backbone, as `regraft.features` names it."""

    backbone: str | Own | nn.Module
    weights: str | None = None
    size: int | None = None
    channels: int | None = None
    head_path: str | None = None
    trust: bool = False
    seed: int = 0
    taps: tuple[str, ...] = ()
    digest: str = ""

    def load(self) -> Backbone:
        """The backbone, the whole image shown to it. Raises BackboneNotFound, HeadNotFound, UsageError."""
        with seeded(self.seed):  # random weights follow from the seed
            return load_backbone(
                self.backbone,
                weights=self.weights,
                size=self.size,
                whole_image=True,
                trust=self.trust,
                head_path=self.head_path,
                channels=self.channels,
            )

    def open(self) -> tuple[nn.Module, Preprocess]:
        backbone = self.load()
        _check_same(backbone, self.digest)
        return Features(backbone, self.taps), backbone.preprocess


def model_of(
    model: str,
    fitted: Fitted,
    *,
    weights: str | None = None,
    backbone: str | None = None,
    head: str | None = None,
    trust: bool = False,
    head_path: str | None = None,
) -> RunModel | PretrainedModel:
    """What the workers open for `fitted`, which was opened from `model` with the same options."""
    if fitted.folder is not None:
        return RunModel.read(fitted.folder, backbone=backbone, head=head, trust=trust)
    digest = fitted.backbone.weights_digest
    return PretrainedModel(name=model, digest=digest, weights=everywhere(weights), trust=trust, head_path=head_path)


def everywhere(weights: str | Path | None) -> str | None:
    """What names weights, so that a process with another working folder understands it: a file by its whole path."""
    return None if weights is None else str(Path(weights).absolute() if Path(weights).is_file() else weights)


def _check_same(backbone: Backbone, digest: str) -> None:
    """Raise BackboneNotFound where this machine has other weights under that name than the one that asks."""
    if backbone.weights_digest != digest:
        raise BackboneNotFound(
            expected=f"the weights of {backbone.name} that the machine which asks has ({digest[:12]})",
            got=f"others on a worker ({backbone.weights_digest[:12]})",
            fix="install the same versions everywhere, or give every machine the same file with --weights",
        )
