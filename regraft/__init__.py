"""Transfer learning in PyTorch: a folder of labelled images in, a model you can trust out.

    run = regraft.fit("photos/")
    run.predict(["a.jpg"])
    regraft.load("runs/photos")

Names are imported when they are first used, so that `import regraft` starts at once and does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regraft.api import audit, extend, fit
    from regraft.backbone.structure import inspect
    from regraft.bulk.features import ImageFeatures, features
    from regraft.bulk.predicting import predict_on_ray
    from regraft.comparing import compare
    from regraft.errors import (
        BackboneNotFound,
        DataUnusable,
        Diverged,
        InputUnusable,
        NotConverged,
        OutOfSpace,
        OutputExists,
        RegraftError,
        SavedModelRefused,
        UsageError,
    )
    from regraft.estimator import ImageClassifier
    from regraft.evaluate.paired import Comparison
    from regraft.evidence.explain import explain
    from regraft.exports.exporting import export
    from regraft.exports.outcome import Exported
    from regraft.findings import Audit
    from regraft.fitted import Fitted, pretrained
    from regraft.fitted_pixels import FittedPixels
    from regraft.ranking import rank
    from regraft.recipe import Data, Own, Recipe
    from regraft.report.write import rebuild_report
    from regraft.saved import load
    from regraft.sharding import Sharded, shard
    from regraft.strategies import Auto, Decoding, Full, Gradual, Head, Norm, Partial, Scratch, Training
    from regraft.values import (
        Evaluation,
        Explanation,
        Interval,
        Prediction,
        Predictions,
        Ranking,
        RunSummary,
        Scores,
        Suggestion,
        Suggestions,
    )

    __version__: str

__all__ = [
    "Audit",
    "Auto",
    "BackboneNotFound",
    "Comparison",
    "Data",
    "DataUnusable",
    "Decoding",
    "Diverged",
    "Evaluation",
    "Explanation",
    "Exported",
    "Fitted",
    "FittedPixels",
    "Full",
    "Gradual",
    "Head",
    "ImageClassifier",
    "ImageFeatures",
    "InputUnusable",
    "Interval",
    "Norm",
    "NotConverged",
    "OutOfSpace",
    "OutputExists",
    "Own",
    "Partial",
    "Prediction",
    "Predictions",
    "Ranking",
    "Recipe",
    "RegraftError",
    "RunSummary",
    "SavedModelRefused",
    "Scores",
    "Scratch",
    "Sharded",
    "Suggestion",
    "Suggestions",
    "Training",
    "UsageError",
    "__version__",
    "audit",
    "compare",
    "explain",
    "export",
    "extend",
    "features",
    "fit",
    "inspect",
    "load",
    "predict_on_ray",
    "pretrained",
    "rank",
    "rebuild_report",
    "shard",
]

_HOMES = {
    "regraft.api": ("audit", "extend", "fit"),
    "regraft.backbone.structure": ("inspect",),
    "regraft.bulk.features": ("ImageFeatures", "features"),
    "regraft.bulk.predicting": ("predict_on_ray",),
    "regraft.comparing": ("compare",),
    "regraft.errors": (
        "BackboneNotFound",
        "DataUnusable",
        "Diverged",
        "InputUnusable",
        "NotConverged",
        "OutOfSpace",
        "OutputExists",
        "RegraftError",
        "SavedModelRefused",
        "UsageError",
    ),
    "regraft.estimator": ("ImageClassifier",),
    "regraft.evaluate.paired": ("Comparison",),
    "regraft.evidence.explain": ("explain",),
    "regraft.exports.exporting": ("export",),
    "regraft.exports.outcome": ("Exported",),
    "regraft.findings": ("Audit",),
    "regraft.fitted": ("Fitted", "pretrained"),
    "regraft.fitted_pixels": ("FittedPixels",),
    "regraft.ranking": ("rank",),
    "regraft.recipe": ("Data", "Own", "Recipe"),
    "regraft.report.write": ("rebuild_report",),
    "regraft.saved": ("load",),
    "regraft.sharding": ("Sharded", "shard"),
    "regraft.strategies": ("Auto", "Decoding", "Full", "Gradual", "Head", "Norm", "Partial", "Scratch", "Training"),
    "regraft.values": (
        "Evaluation",
        "Explanation",
        "Interval",
        "Prediction",
        "Predictions",
        "Ranking",
        "RunSummary",
        "Scores",
        "Suggestion",
        "Suggestions",
    ),
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
