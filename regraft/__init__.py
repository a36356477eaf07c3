"""Transfer learning in PyTorch: a folder of labelled images in, a model you can trust out.

    run = regraft.fit("photos/")
    run.predict(["a.jpg"])
    regraft.load("runs/photos")

Names are imported when they are first used, so that `import regraft` starts at once and does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regraft.api import fit
    from regraft.errors import (
        BackboneNotFound,
        DataUnusable,
        NotConverged,
        OutOfSpace,
        OutputExists,
        RegraftError,
        SavedModelRefused,
        UsageError,
    )
    from regraft.fitted import Fitted, pretrained
    from regraft.recipe import Data, Head, Recipe
    from regraft.saved import load
    from regraft.values import Evaluation, Interval, Prediction, Predictions, RunSummary, Scores

    __version__: str

__all__ = [
    "BackboneNotFound",
    "Data",
    "DataUnusable",
    "Evaluation",
    "Fitted",
    "Head",
    "Interval",
    "NotConverged",
    "OutOfSpace",
    "OutputExists",
    "Prediction",
    "Predictions",
    "Recipe",
    "RegraftError",
    "RunSummary",
    "SavedModelRefused",
    "Scores",
    "UsageError",
    "__version__",
    "fit",
    "load",
    "pretrained",
]

_HOMES = {
    "regraft.api": ("fit",),
    "regraft.errors": (
        "BackboneNotFound",
        "DataUnusable",
        "NotConverged",
        "OutOfSpace",
        "OutputExists",
        "RegraftError",
        "SavedModelRefused",
        "UsageError",
    ),
    "regraft.fitted": ("Fitted", "pretrained"),
    "regraft.recipe": ("Data", "Head", "Recipe"),
    "regraft.saved": ("load",),
    "regraft.values": ("Evaluation", "Interval", "Prediction", "Predictions", "RunSummary", "Scores"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("regraft")
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
