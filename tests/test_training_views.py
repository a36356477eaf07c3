"""Augmented views through the frozen part: the same on every run, the plain one as it is, computed once and only if need be."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COLOURS, paint_classes
from numpy.typing import NDArray
from torch import Tensor
from training_problems import Notes

from regraft.backbone.boundary import boundary_for, cut
from regraft.backbone.features import Normalise
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone, Boundary
from regraft.cache import engines
from regraft.cache.extract import Activations, extract_boundary
from regraft.cache.store import list_tables
from regraft.cache.views import Views, forget_own, views_of, views_that_fit
from regraft.data.augment import augmentation
from regraft.errors import OutOfSpace
from regraft.train.chance import view_of
from regraft.train.learning import reading_views
from regraft.values import Sample

COUNT = 9


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("torchvision:resnet18", weights="none", size=32)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    root = paint_classes(tmp_path_factory.mktemp("photos"), dict.fromkeys(COLOURS, COUNT // 3))
    return [Sample(path=path, name=path.name) for path in sorted(root.rglob("*.png"))]


def digests_of(samples: list[Sample]) -> list[bytes]:
    return [hashlib.sha256(sample.path.read_bytes()).digest() for sample in samples]


def pixels_of(samples: list[Sample], backbone: Backbone, cache: Path) -> Activations:
    return extract_boundary(samples, digests_of(samples), backbone, boundary_for(backbone, "pixels"), cache=cache)


def make(
    samples: list[Sample], backbone: Backbone, cache: Path, *, views: int = 3, seed: int = 0, augment: Any = "light"
) -> Views:
    return views_of(
        samples,
        digests_of(samples),
        pixels_of(samples, backbone, cache),
        backbone,
        boundary(backbone),
        views=views,
        augment=augment,
        seed=seed,
        cache=cache,
        device="cpu",
    )


def boundary(backbone: Backbone) -> Boundary:
    return boundary_for(backbone, "layer3")


def rows(count: int = COUNT) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64)


def every(views: Views, count: int = COUNT) -> list[Tensor]:
    return [views.read(rows(count), np.full(count, view, np.int64))[0] for view in range(len(views))]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through an engine; those that were timed apart."""
    passed: list[int] = []
    stream = engines.TorchEngine.stream

    def counting(self: Any, batches: Iterator[Any]) -> Iterator[Any]:
        for one in stream(self, batches):
            passed.append(len(one))
            yield one

    monkeypatch.setattr(engines.TorchEngine, "stream", counting)
    # The fewest images for which another engine is made are more than there are here.
    return passed


def test_views_are_the_same_again_and_differ_from_each_other(backbone: Backbone, samples: list[Sample], tmp_path: Path) -> None:
    first = every(make(samples, backbone, tmp_path / "one"))
    # The choice of an engine is kept: another cache may find another one faster.
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "engines").rename(tmp_path / "two" / "engines")
    torch.rand(5)
    second = every(make(samples, backbone, tmp_path / "two"))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    for view in (1, 2):
        same = (first[view] == first[0]).flatten(1).all(1)
        assert not same.any()
    assert not torch.equal(first[1], first[2])
    assert not torch.equal(every(make(samples, backbone, tmp_path / "two", seed=1))[1], first[1])
    assert torch.equal(every(make(samples, backbone, tmp_path / "two", seed=1))[0], first[0])


def test_a_view_follows_from_the_image_and_not_from_its_place(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    whole = every(make(samples, backbone, tmp_path))
    some = [samples[i] for i in (7, 2, 2)]
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (tmp_path / "engines").rename(fresh / "engines")
    found = every(make(some, backbone, fresh), 3)
    for one, other in zip(found, whole, strict=True):
        # Another batch adds up in another order.
        assert torch.allclose(one, other[[7, 2, 2]], rtol=0.02, atol=0.02 * float(other.abs().max()))
        assert torch.equal(one[1], one[2])


def test_views_are_what_the_prefix_makes_of_changed_pixels_to_bf16_rounding(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    views = make(samples, backbone, tmp_path)
    digests = digests_of(samples)
    plain = extract_boundary(samples, digests, backbone, boundary(backbone), cache=tmp_path, device="cpu")
    (wanted,) = plain[rows()]
    found = every(views)
    # The plain view is judged, and kept as it is; of the others eight bits of a number's digits are.
    assert torch.allclose(found[0], wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
    assert torch.equal(found[1].bfloat16().float(), found[1])
    (pixels,) = pixels_of(samples, backbone, tmp_path)[rows()]
    prefix, normalise = cut(backbone, boundary(backbone)).prefix, Normalise(backbone.preprocess)
    seeds = [(0, 6, 2, int.from_bytes(d[:4], "little"), int.from_bytes(d[4:8], "little")) for d in digests]
    with torch.inference_mode():
        (changed,) = prefix(normalise(augmentation("light")(pixels, seeds)))
    assert torch.nn.functional.cosine_similarity(found[2].flatten(1), changed.flatten(1)).min() > 0.999


def test_nothing_is_computed_twice(backbone: Backbone, samples: list[Sample], tmp_path: Path, runs: list[int]) -> None:
    make(samples, backbone, tmp_path)  # measures the engines
    runs.clear()
    views = make(samples, backbone, tmp_path)
    assert not runs
    views.ensure(rows(4), None)
    assert sum(runs) == 4
    views.ensure(rows(4), np.array([1, 1, 0, 2]))
    assert sum(runs) == 7
    first = every(views)
    assert sum(runs) == 3 * COUNT
    every(views)
    again = every(make(samples, backbone, tmp_path))
    assert sum(runs) == 3 * COUNT
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    # One view more costs one view.
    every(make(samples, backbone, tmp_path, views=4))
    assert sum(runs) == 4 * COUNT
    # Another augmentation shares the plain view alone.
    every(make(samples, backbone, tmp_path, augment="flip", views=2))
    assert sum(runs) == 5 * COUNT


def test_what_is_read_is_what_was_asked_for_in_any_order(backbone: Backbone, samples: list[Sample], tmp_path: Path) -> None:
    views = make(samples, backbone, tmp_path)
    each = every(views)
    draw = np.random.default_rng(0)
    for _ in range(5):
        some, which = draw.permutation(COUNT)[:6], draw.integers(0, 3, 6)
        (found,) = views.read(some, which)
        for value, row, view in zip(found, some, which, strict=True):
            assert torch.equal(value, each[view][row])
    assert torch.equal(views.read(np.array([3, 3, 1]), None)[0], each[0][[3, 3, 1]])


def test_an_epoch_shows_one_view_of_each_image_and_all_in_turn(
    backbone: Backbone, samples: list[Sample], tmp_path: Path, runs: list[int]
) -> None:
    views, train = make(samples, backbone, tmp_path), rows(6)
    each = every(views)
    notes = Notes()
    read = reading_views(make(samples, backbone, tmp_path), train, 5, notes)
    for epoch in range(1, 5):
        (found,) = read(train[[4, 1]], epoch)
        which = view_of(train, 3, 5, epoch)[[4, 1]]
        assert torch.equal(found, torch.stack([each[which[0]][4], each[which[1]][1]]))
    shown = np.stack([view_of(train, 3, 5, epoch) for epoch in range(1, 4)])
    assert (np.sort(shown, axis=0) == np.arange(3)[:, None]).all()
    (plain,) = read(rows(), None)
    assert torch.equal(plain, each[0])
    assert plain.is_contiguous(memory_format=torch.channels_last)


def test_what_is_computed_for_an_epoch_is_computed_in_one_go(
    backbone: Backbone, samples: list[Sample], tmp_path: Path, runs: list[int]
) -> None:
    make(samples, backbone, tmp_path)
    read = reading_views(make(samples, backbone, tmp_path), rows(6), 0)
    runs.clear()
    read(rows(2), 1)
    assert sum(runs) == 6
    read(np.array([5, 3]), 1)
    assert sum(runs) == 6
    read(rows(2), 2)
    assert sum(runs) == 12


class Darker:
    """A transform of one's own."""

    def __call__(self, image: Tensor) -> Tensor:
        return (image.float() * 0.5).to(torch.uint8)


def test_what_a_function_of_ones_own_made_is_not_found_again(
    backbone: Backbone, samples: list[Sample], tmp_path: Path, runs: list[int]
) -> None:
    one = every(make(samples, backbone, tmp_path, views=2, augment=Darker()))
    runs.clear()
    other = every(make(samples, backbone, tmp_path, views=2, augment=lambda image: image))
    assert sum(runs) == COUNT
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])
    before = len(list_tables(tmp_path))
    forget_own(tmp_path)
    assert len(list_tables(tmp_path)) == before - 2
    assert torch.equal(every(make(samples, backbone, tmp_path, views=1))[0], one[0])


@pytest.mark.parametrize(("limit", "count"), [(1.99, None), (2.0, 1), (3.99, 2), (5.0, 4), (100.0, 4)])
def test_no_more_views_are_kept_than_fit(backbone: Backbone, limit: float, count: int | None) -> None:
    place = boundary(backbone)
    each = 1000 * 2 * int(np.prod(place.shapes[0]))
    assert place.shapes[0][0] == 256
    if count is None:
        with pytest.raises(OutOfSpace, match="--cache-size") as caught:
            views_that_fit(4, 1000, place, int(limit * each))
        assert "1,000 images" in caught.value.expected
        assert "one view of each" in caught.value.got
    else:
        assert views_that_fit(4, 1000, place, int(limit * each)) == count
