"""Pretrained networks as they are, on 20 labelled photos: wrong weights, channels or normalisation could not pass."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from regraft.fitted import Fitted, pretrained


@pytest.fixture(scope="module")
def photos() -> list[Path]:
    """Files named imagenet_NUMBER_CLASSINDEX.jpg."""
    spec = find_spec("foolbox")
    assert spec is not None
    assert spec.origin is not None
    return sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))


@pytest.fixture(scope="module")
def lite0() -> Fitted:
    return pretrained("efficientnet_lite0")


# One photo labelled jeep shows a convertible: Lite0 has jeep seventh to ninth under torchvision's own preprocessing as well.
IN_TOP_5 = {"efficientnet_lite0": 19, "efficientnet_lite1": 20, "efficientnet_lite2": 20}


@pytest.mark.parametrize("name", IN_TOP_5)
def test_photos_are_recognised(name: str, photos: list[Path]) -> None:
    model = pretrained(name)
    assert len(photos) == 20
    truth = [model.classes[int(path.stem.split("_")[2])] for path in photos]
    answers = [[label for label, _ in prediction.top] for prediction in model.predict(photos)]
    assert sum(label == top[0] for label, top in zip(truth, answers, strict=True)) >= 18
    assert sum(label in top for label, top in zip(truth, answers, strict=True)) >= IN_TOP_5[name]


def test_probabilities_are_sorted_and_sum_to_one(lite0: Fitted, photos: list[Path]) -> None:
    (prediction,) = lite0.predict(photos[:1], top_k=1000)
    shares = [share for _, share in prediction.top]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-6)


def test_an_image_gets_the_same_answer_alone_and_among_others(lite0: Fitted, photos: list[Path]) -> None:
    alone = [lite0.predict([path])[0] for path in photos[:4]]
    together = lite0.predict(photos)[:4]
    for one, other in zip(alone, together, strict=True):
        assert [label for label, _ in one.top] == [label for label, _ in other.top]
        assert [share for _, share in one.top] == pytest.approx([share for _, share in other.top], abs=1e-5)


def test_to_torch_gives_the_librarys_own_network(lite0: Fitted) -> None:
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(lite0.to_torch()(images), lite0.backbone.module(images))
