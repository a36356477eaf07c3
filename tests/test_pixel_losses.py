"""Losses of pixels against segmentation-models-pytorch, brute force and finite differences."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from segmentation_models_pytorch import losses as peers
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits
from torch import Tensor

from regraft.errors import UsageError
from regraft.segments import IGNORE
from regraft.train.pixel_losses import parse_loss, pixel_class_weights

WORDS = ("ce", "dice", "lovasz", "focal")


def batch(classes: int, *, images: int = 4, ignored: float = 0.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits in double and labels; some pixels ignored, and the class 0 absent from the last image."""
    random = torch.Generator().manual_seed(seed)
    channels = 1 if classes == 2 else classes
    logits = 2 * torch.randn(images, channels, 7, 6, generator=random, dtype=torch.float64)
    labels = torch.randint(0, classes, (images, 7, 6), generator=random)
    labels[-1] = labels[-1].clamp_min(1)
    labels[torch.rand(labels.shape, generator=random) < ignored] = IGNORE
    return logits, labels.to(torch.uint8)


def peer(word: str, classes: int) -> Any:
    mode = "binary" if classes == 2 else "multiclass"
    if word == "dice":
        return peers.DiceLoss(mode, smooth=0.5, ignore_index=IGNORE)  # both sides of its fraction are halved
    if word == "lovasz":
        return peers.LovaszLoss(mode, ignore_index=IGNORE)
    if word == "ce":
        return (
            peers.SoftBCEWithLogitsLoss(ignore_index=IGNORE)
            if classes == 2
            else peers.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=IGNORE)
        )
    return peers.FocalLoss("binary", gamma=2.0, alpha=None, ignore_index=IGNORE)


def of_peer(word: str, logits: Tensor, labels: Tensor, classes: int) -> float:
    """The other library's loss of one image, as a mean over what we take it over."""
    known = labels != IGNORE
    if word == "focal" and classes > 2:
        return float(softmax_focal_loss_with_logits(logits[:, :, known[0]], labels[known][None].long()))
    if word == "ce" and classes == 2:
        labels = labels[:, None]
    whole = float(peer(word, classes)(logits.float(), labels.long() if classes > 2 else labels.float()))
    if word == "ce":
        return whole * labels.numel() / int(known.sum())  # its ignored pixels are zeros in the mean
    if word == "dice" and classes > 2:
        return whole * classes / len(labels[known].unique())  # and so are absent classes
    return whole


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("classes", [2, 5])
def test_losses_of_single_images_are_those_of_the_other_library(word: str, classes: int) -> None:
    logits, labels = batch(classes)
    if classes == 2 and word == "lovasz":
        logits = logits[:, 0:1]
    found = parse_loss(word)(logits, labels)
    expected = [of_peer(word, logits[i : i + 1], labels[i : i + 1], classes) for i in range(len(labels))]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("classes", [2, 3])
def test_gradients_are_those_of_finite_differences(word: str, classes: int) -> None:
    logits, labels = batch(classes, images=2)
    loss = parse_loss(word, tuple(0.5 + k for k in range(classes)))
    assert torch.autograd.gradcheck(lambda values: loss(values, labels), logits.requires_grad_())


@pytest.mark.parametrize("word", [*WORDS, "ce+dice"])
@pytest.mark.parametrize("classes", [2, 4])
def test_ignored_pixels_have_no_say_and_no_gradient(word: str, classes: int) -> None:
    logits, labels = batch(classes, ignored=0.4)
    labels[1] = IGNORE
    logits.requires_grad_()
    loss = parse_loss(word)(logits, labels)
    loss.sum().backward()
    assert logits.grad is not None
    ignored = (labels == IGNORE)[:, None].expand_as(logits)
    assert (logits.grad[ignored] == 0).all()
    assert torch.isfinite(logits.grad).all()
    assert loss[1] == 0
    assert (loss[[0, 2, 3]] > 0).all()
    moved = torch.where(ignored, logits + 9, logits)
    assert torch.allclose(parse_loss(word)(moved, labels), loss)


def test_the_lovasz_extension_is_the_iou_loss_where_errors_are_all_or_nothing() -> None:
    """Every set of mistakes on six pixels: probabilities of 0 and 1, for which the extension has to give 1 - IoU."""
    truth = np.array([1, 1, 1, 2, 2, 0])
    for answer in itertools.product(range(3), repeat=6):
        said = np.array(answer)
        ious = [((truth == k) & (said == k)).sum() / ((truth == k) | (said == k)).sum() for k in range(3)]
        logits = torch.full((1, 3, 1, 6), -1e4, dtype=torch.float64)
        logits[0, torch.from_numpy(said), 0, torch.arange(6)] = 1e4
        assert float(parse_loss("lovasz")(logits, torch.from_numpy(truth)[None, None])) == pytest.approx(1 - np.mean(ious))


def test_each_image_counts_by_itself() -> None:
    for word, classes in itertools.product(WORDS, (2, 5)):
        logits, labels = batch(classes)
        together = parse_loss(word)(logits, labels)
        alone = torch.cat([parse_loss(word)(logits[i : i + 1], labels[i : i + 1]) for i in range(len(labels))])
        assert torch.allclose(together, alone)


def test_sums_and_weights_are_as_written() -> None:
    logits, labels = batch(3)
    parts = {word: parse_loss(word)(logits, labels) for word in WORDS}
    assert torch.allclose(parse_loss("ce+0.5*dice")(logits, labels), parts["ce"] + 0.5 * parts["dice"])
    assert torch.allclose(parse_loss(" CE + lovasz ")(logits, labels), parts["ce"] + parts["lovasz"])
    assert [str(parse_loss(text)) for text in ("ce+0.5*dice", "1*focal")] == ["ce+0.5*dice", "focal"]
    assert parse_loss(str(parse_loss("2*ce+dice"))) == parse_loss("2*ce+dice")


@pytest.mark.parametrize(
    ("text", "match"),
    [("cross", "ce, dice, lovasz, focal"), ("lovas", "mean lovasz"), ("ce+ce", "twice"), ("", "ce, dice"), ("ce+", "ce, dice"),
     ("-1*ce", "above 0"), ("x*ce", "above 0"), ("nan*ce", "above 0"), ("inf*dice", "above 0")],
)  # fmt: skip
def test_what_is_no_loss_is_refused_with_those_there_are(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        parse_loss(text)


def test_class_weights_weigh_pixels() -> None:
    for word, classes in itertools.product(("ce", "focal"), (2, 3)):
        logits, labels = batch(classes)
        weights = (0.5, 2.0, 3.0)[:classes]
        each = [parse_loss(word)(logits, torch.where(labels == k, labels, IGNORE)) for k in range(classes)]
        shares = [(labels == k).sum((1, 2)) / (labels != IGNORE).sum((1, 2)) for k in range(classes)]
        expected = sum(w * share * loss for w, share, loss in zip(weights, shares, each, strict=True))
        assert torch.allclose(parse_loss(word, weights)(logits, labels), expected)
    with pytest.raises(ValueError, match="2 class weights"):
        parse_loss("ce", (1.0, 1.0, 1.0))(*batch(2))
    with pytest.raises(ValueError, match=r"\(B, H, W\)"):
        parse_loss("ce")(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 5))


def test_an_absent_object_leaves_dice_without_a_say() -> None:
    logits, nothing = torch.randn(2, 1, 5, 5), torch.zeros(2, 5, 5)
    assert parse_loss("dice")(logits, nothing).tolist() == [0, 0]
    # The hinge of the worst pixel: to call any of them the object makes the IoU 0.
    assert torch.allclose(parse_loss("lovasz")(logits, nothing), (1 + logits).flatten(1).amax(1).clamp_min(0))


def test_half_precision_is_computed_in_single() -> None:
    logits, labels = batch(3)
    half = parse_loss("ce+dice")(logits.half(), labels)
    assert half.dtype == torch.float32
    assert torch.allclose(half, parse_loss("ce+dice")(logits, labels).float(), atol=2e-3)


def test_class_weights_follow_the_median_frequency() -> None:
    counts = np.array([800, 100, 100, 0, 200])
    weights = pixel_class_weights(counts)
    assert weights[1] / weights[0] == pytest.approx(8)
    assert weights[4] / weights[0] == pytest.approx(4)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    assert weights[3] == 1
    rare = pixel_class_weights(np.array([10**6, 10**6, 10]))
    assert rare[2] / rare[0] == pytest.approx(10)
    with pytest.raises(ValueError, match="pixels"):
        pixel_class_weights(np.zeros(3, np.int64))
