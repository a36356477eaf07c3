"""What an exported file says of itself: plain text under plain keys, the same in every format."""

import json
from importlib.metadata import version

from regraft.data.preprocess import Preprocess
from regraft.evaluate.abstain import Thresholds
from regraft.fitted import Fitted


def describe(fitted: Fitted, *, precision: str = "fp32") -> dict[str, str]:
    """The metadata of an export, values as JSON.

    `classes` is the list of names in the order of the probabilities; `multi_label` whether each has a probability of its own;
    `confidence_threshold` and `distance_threshold` say when an answer is to be withheld (null: never), below and above which;
    `preprocessing` says in words what is done to an image inside; `backbone`, `precision` and `made_by` where it came from.
    """
    thresholds: Thresholds = fitted.thresholds
    return {
        "classes": json.dumps(list(fitted.classes)),
        "multi_label": json.dumps(fitted.multi_label),
        "confidence_threshold": json.dumps(thresholds.confidence),
        "distance_threshold": json.dumps(thresholds.distance if fitted.novelty is not None else None),
        "backbone": json.dumps(fitted.backbone.name),
        "precision": json.dumps(precision),
        "preprocessing": json.dumps(preprocessing_words(fitted.backbone.preprocess)),
        "made_by": json.dumps(f"regraft {version('regraft')}"),
    }


def preprocessing_words(preprocess: Preprocess) -> str:
    """From an image to the input of the network, in a sentence."""
    size = f"{preprocess.width} x {preprocess.height}"
    fit = {
        "crop": f"resized so that the central crop of {size} is {preprocess.crop_share:.4g} of the shorter side",
        "squash": f"both sides resized to {size}",
        "pad": f"the longer side resized to fit {size}, the rest filled with {preprocess.background}",
    }[preprocess.fit]
    kind = {1: "luminance of RGB", 3: "RGB", 4: "RGB and alpha"}[preprocess.channels]
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (preprocess.mean, preprocess.std))
    return f"{kind}, {fit} ({preprocess.interpolation}, antialiased); divided by 255, mean {mean}, deviation {std}"


def wanted_arrays(preprocess: Preprocess) -> dict[str, object]:
    """The same as numbers, for a script that preprocesses by itself."""
    return {
        "height": preprocess.height,
        "width": preprocess.width,
        "fit": preprocess.fit,
        "crop_share": preprocess.crop_share,
        "interpolation": preprocess.interpolation,
        "background": preprocess.background,
        "mean": preprocess.mean,
        "std": preprocess.std,
    }
