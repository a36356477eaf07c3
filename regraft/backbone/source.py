"""What every source of networks gives, and what they have in common."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from regraft.backbone.model import Architecture
from regraft.data.preprocess import Preprocess
from regraft.errors import BackboneNotFound

ALWAYS_THERE = "efficientnet_lite0, efficientnet_lite1, efficientnet_lite2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A network as its author made it. `weights` says which ones it has ("none": random).

    `file` is where weights are that still have to be loaded into it; `notes` are for people.
    """

    module: nn.Module
    architecture: Architecture
    preprocess: Preprocess
    categories: tuple[str, ...] | None
    weights: str
    file: Path | None = None
    notes: tuple[str, ...] = ()


def as_module(made: object) -> nn.Module:
    """What a library's own constructor gave, which can be nothing else."""
    assert isinstance(made, nn.Module)
    return made


def check_known(name: str, known: Sequence[str], where: str) -> None:
    """Raise BackboneNotFound, with what may have been meant, unless `name` is a known one."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 4) or difflib.get_close_matches(name.split("_")[0], known, 4)
    raise BackboneNotFound(
        expected=f"a classification model of {where}",
        got=repr(name[:100]),
        fix=f"did you mean {', '.join(near)}?" if near else f"embedded and always there: {ALWAYS_THERE}",
    )
