"""What training makes small where every pixel has an answer: a loss for each image, from logits and the classes of its pixels.

The losses of segmentation-models-pytorch reduce over the whole batch, leave absent classes in the mean as zeros, and know no
focal loss of a softmax that ignores pixels. The same formulas stand here for each image by itself; tests hold them to that
library's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from regraft.recipe import loss_terms
from regraft.segments import IGNORE

GAMMA = 2.0  # Lin et al. 2017, table 1b: the best of those tried
SMOOTHING = 1.0  # pixels, on both sides of the fraction: an object of a few pixels cannot make the gradient jump
# A class a hundred times rarer than the median would weigh a hundred times as much, and be answered far too often.
MOST_WEIGHT = 10.0
Term = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelLoss:
    """A sum of losses, `terms` being their names and weights.

    `class_weights`, (K,) or of an object's background and itself, weigh the pixels in "ce" and "focal"; the losses of whole
    regions count each class alike as they are.
    """

    terms: tuple[tuple[str, float], ...]
    class_weights: tuple[float, ...] | None = None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,) losses from logits (B, C, H, W) and classes (B, H, W), IGNORE among them; C = 1 is the logit of an object.

        In single precision, or double where the logits are. An image whose pixels are all ignored has the loss and the
        gradient 0. Raises ValueError where shapes or the number of class weights do not fit.
        """
        logits, labels = _checked(logits, labels, self.class_weights)
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        parts = [weight * _TERMS[name](logits, labels, weights) for name, weight in self.terms]
        return torch.stack(parts).sum(dim=0)

    def __str__(self) -> str:
        return "+".join(name if weight == 1 else f"{weight:g}*{name}" for name, weight in self.terms)


def parse_loss(text: str, class_weights: tuple[float, ...] | None = None) -> PixelLoss:
    """The loss that `text` names: "ce", "dice", "lovasz", "focal", or a sum such as "ce+dice" or "ce+0.5*dice".

    "ce": cross-entropy in nats, binary for one channel. "dice": 1 - soft Dice (Milletari et al. 2016). "lovasz": the Lovász
    hinge of an object, the Lovász softmax of classes (Berman et al. 2018). "focal": Lin et al. 2017 with gamma 2. The last
    three but "focal" are means over the classes that are in the image. Raises UsageError for anything else.
    """
    return PixelLoss(terms=loss_terms(text), class_weights=class_weights)


def pixel_class_weights(counts_K: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K,) weights of classes by how many pixels they have: median frequency over frequency (Eigen and Fergus 2015).

    Held between 1/10 and 10, then scaled so that the mean over all pixels is 1: a loss keeps its size. A class without a pixel
    has the weight 1. Raises ValueError where there is no pixel at all.
    """
    counts_K = np.asarray(counts_K, np.float64)
    there_K = counts_K > 0
    if not there_K.any():
        raise ValueError("expected pixels of at least one class")
    ratio_K = np.median(counts_K[there_K]) / np.where(there_K, counts_K, 1.0)
    weights_K = np.clip(ratio_K, 1 / MOST_WEIGHT, MOST_WEIGHT)
    weights_K *= counts_K.sum() / (weights_K * counts_K).sum()
    return np.where(there_K, weights_K, 1.0)


def _checked(logits: Tensor, labels: Tensor, weights: tuple[float, ...] | None) -> tuple[Tensor, Tensor]:
    if logits.ndim != 4 or labels.shape != (len(logits), *logits.shape[2:]):
        raise ValueError(f"expected logits (B, C, H, W) and labels (B, H, W), got {(*logits.shape,)} and {(*labels.shape,)}")
    classes = max(2, logits.shape[1])
    if weights is not None and len(weights) != classes:
        raise ValueError(f"expected {classes} class weights, got {len(weights)}")
    return (logits if logits.dtype == torch.float64 else logits.float()).flatten(2), labels.long().flatten(1)


def _cross_entropies(logits_BCP: Tensor, labels_BP: Tensor) -> Tensor:
    """(B, P) nats; 0 for pixels to be ignored."""
    if logits_BCP.shape[1] > 1:
        return F.cross_entropy(logits_BCP, labels_BP, reduction="none", ignore_index=IGNORE)
    truth_BP = (labels_BP == 1).to(logits_BCP.dtype)
    losses_BP = F.binary_cross_entropy_with_logits(logits_BCP[:, 0], truth_BP, reduction="none")
    return losses_BP * (labels_BP != IGNORE)


def _pixel_means(losses_BP: Tensor, labels_BP: Tensor, weights: Tensor | None) -> Tensor:
    """(B,) means over the pixels that count.

    Weights are not divided by their sum, as torch does: in an image of a single class they would then do nothing.
    """
    known_BP = labels_BP != IGNORE
    if weights is not None:
        losses_BP = losses_BP * weights[labels_BP.masked_fill(~known_BP, 0)]
    return losses_BP.sum(dim=1) / known_BP.sum(dim=1).clamp_min(1)


def _ce(logits_BCP: Tensor, labels_BP: Tensor, weights: Tensor | None) -> Tensor:
    return _pixel_means(_cross_entropies(logits_BCP, labels_BP), labels_BP, weights)


def _focal(logits_BCP: Tensor, labels_BP: Tensor, weights: Tensor | None) -> Tensor:
    losses_BP = _cross_entropies(logits_BCP, labels_BP)
    # 1 - p by expm1: near p = 1 the difference would be all rounding.
    return _pixel_means((-torch.expm1(-losses_BP)) ** GAMMA * losses_BP, labels_BP, weights)


def _regions(logits_BCP: Tensor, labels_BP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, C, P) truth as booleans and probabilities, both 0 where ignored, and (B, C) the classes that are in an image."""
    known_B1P = (labels_BP != IGNORE)[:, None]
    if logits_BCP.shape[1] == 1:
        truth_BCP, chance_BCP = (labels_BP == 1)[:, None], torch.sigmoid(logits_BCP)
    else:
        classes_C1 = torch.arange(logits_BCP.shape[1], device=labels_BP.device)[:, None]
        truth_BCP, chance_BCP = labels_BP[:, None] == classes_C1, torch.softmax(logits_BCP, dim=1)
    return truth_BCP, chance_BCP * known_B1P, truth_BCP.any(dim=2)


def _class_means(losses_BC: Tensor, there_BC: Tensor) -> Tensor:
    """(B,) the mean over the classes that are in an image, 0 without any."""
    return (losses_BC * there_BC).sum(dim=1) / there_BC.sum(dim=1).clamp_min(1)


def _dice(logits_BCP: Tensor, labels_BP: Tensor, _: Tensor | None) -> Tensor:
    truth_BCP, chance_BCP, there_BC = _regions(logits_BCP, labels_BP)
    both_BC = (chance_BCP * truth_BCP).sum(dim=2)
    whole_BC = chance_BCP.sum(dim=2) + truth_BCP.sum(dim=2)
    return _class_means(1 - (2 * both_BC + SMOOTHING) / (whole_BC + SMOOTHING), there_BC)


def _lovasz(logits_BCP: Tensor, labels_BP: Tensor, _: Tensor | None) -> Tensor:
    """Ignored pixels get an error of 0 or less, and so add nothing wherever they are sorted to."""
    if logits_BCP.shape[1] == 1:
        truth_BP, known_BP = labels_BP == 1, labels_BP != IGNORE
        errors_BP = 1 - logits_BCP[:, 0] * (2 * truth_BP.to(logits_BCP.dtype) - 1)
        return _extension(F.relu(errors_BP) * known_BP, truth_BP)
    truth_BCP, chance_BCP, there_BC = _regions(logits_BCP, labels_BP)
    # Only of classes that are there: to sort pixels is what costs.
    truth_MP = truth_BCP[there_BC]
    losses_M = _extension((truth_MP.to(chance_BCP.dtype) - chance_BCP[there_BC]).abs(), truth_MP)
    return _class_means(torch.zeros_like(chance_BCP[:, :, 0]).masked_scatter(there_BC, losses_M), there_BC)


def _extension(errors_MP: Tensor, truth_MP: Tensor) -> Tensor:
    """(M,) the Lovász extension of 1 - IoU at errors of 0 or more (Berman et al. 2018, algorithm 1)."""
    sorted_MP, order_MP = errors_MP.sort(dim=1, descending=True)
    truth_MP = truth_MP.gather(1, order_MP).to(errors_MP.dtype)
    total_M1, found_MP = truth_MP.sum(dim=1, keepdim=True), truth_MP.cumsum(dim=1)
    missed_MP = (1 - truth_MP).cumsum(dim=1)
    jaccard_MP = 1 - (total_M1 - found_MP) / (total_M1 + missed_MP)
    return (sorted_MP * jaccard_MP.diff(dim=1, prepend=jaccard_MP.new_zeros(len(jaccard_MP), 1))).sum(dim=1)


_TERMS: dict[str, Term] = {"ce": _ce, "dice": _dice, "lovasz": _lovasz, "focal": _focal}
