"""The tutorials' rule of thumb: which strategy, by how many images there are and how like the first task's they are."""

from typing import cast

import numpy as np
import torch
from torch import nn

from regraft.backbone.model import Backbone
from regraft.cache.extract import Extracted
from regraft.train.observed import Observed
from regraft.values import RuleOfThumb

FEW, MANY = 1_000, 10_000
# ImageNet's own validation photos give 0.6 to 0.7; drawings and clothes on white ground 0.1 to 0.4.
ALIKE = 0.5
_MOST, _LEAST = 2000, 160


def rule_of_thumb(backbone: Backbone, observed: Observed, extracted: Extracted) -> RuleOfThumb:
    """The advice, with the mean confidence of the network's own classifier on the training images as their likeness."""
    images = len(observed.train)
    confidence = _confidence(backbone, observed, extracted)
    alike = confidence >= ALIKE
    if images < FEW:
        advice = "head: few images, whatever their likeness" if alike or np.isnan(confidence) else "head, or the last stages"
    elif images <= MANY:
        advice = "the last stages" if alike or np.isnan(confidence) else "more stages, or the whole network at a small rate"
    else:
        advice = "the whole network"
    return RuleOfThumb(images=images, confidence=confidence, advice=advice)


def _confidence(backbone: Backbone, observed: Observed, extracted: Extracted) -> float:
    """Mean largest probability; NaN at small sizes, and for a classifier that is not plainly linear or knows no classes."""
    layer = backbone.module.get_submodule(backbone.head.path)
    # On small inputs networks are sure of what they do not know.
    if min(backbone.preprocess.height, backbone.preprocess.width) < _LEAST:
        return float("nan")
    plain = isinstance(layer, nn.Linear) and len(backbone.main_heads) == 1 and backbone.head.is_output
    if not plain or backbone.categories is None or cast(nn.Linear, layer).in_features != extracted.columns.last_width:
        return float("nan")
    rows = np.linspace(0, len(observed.train) - 1, min(_MOST, len(observed.train))).astype(np.int64)
    features_ND = observed.train_features.leading(extracted.columns.last_width).take(rows)[:]
    with torch.no_grad():
        shares_NK = torch.softmax(layer(torch.from_numpy(features_ND)), dim=1)
    return float(shares_NK.amax(dim=1).mean())
