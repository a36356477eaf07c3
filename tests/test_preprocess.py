"""Resizing and cropping at once gives what torchvision's Resize and CenterCrop give one after the other."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from regraft.data.preprocess import Fit, Interpolation, Preprocess, crop_box, to_input_size

STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
SIZES = [(500, 375), (375, 500), (64, 64), (28, 28), (57, 333), (1000, 701), (225, 1999)]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise upon waves: both detail and slopes."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 13)], -1) * 90 + 128
    noise = np.random.default_rng(seed).normal(0, 20, (height, width, 3))
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


def by_torchvision(image: Image.Image, resize: int, crop: int, interpolation: Interpolation) -> NDArray[np.uint8]:
    mode = InterpolationMode(interpolation)
    done = v2.CenterCrop(crop)(v2.Resize(resize, interpolation=mode)(image))
    return np.asarray(done)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (224, 224), (97, 64)])
def test_crop_equals_torchvision(interpolation: Interpolation, resize: int, crop: int) -> None:
    preprocess = Preprocess(height=crop, width=crop, crop_share=crop / resize, interpolation=interpolation, **STATISTICS)
    assert preprocess.smallest_useful_side() == resize
    for size in SIZES:
        image = picture(*size)
        ours = to_input_size(image, preprocess).astype(float)
        apart = np.abs(ours - by_torchvision(image, resize, crop, interpolation))
        if interpolation == "nearest":  # a sample on the border between two pixels may fall on either side
            assert (apart > 0).mean() < 0.1, size
        else:  # Pillow resizes very long images in another order of axes, with other rounding in between
            assert apart.mean() < (0.1 if max(size) < 4 * min(size) else 0.4), size
            assert np.percentile(apart, 99) <= 1, size


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (640, 480)])
def test_any_size_gives_the_declared_shape(fit: Fit, mode: str, size: tuple[int, int]) -> None:
    preprocess = Preprocess(height=30, width=40, fit=fit, background=(100, 100, 100), **STATISTICS)
    pixels = to_input_size(Image.new(mode, size, 100 if mode == "L" else (100, 100, 100)), preprocess)
    assert (pixels.shape, pixels.dtype) == ((30, 40, 3), np.uint8)
    assert (pixels == 100).all()
    assert pixels.flags.writeable
    assert torch.from_numpy(pixels).shape == (30, 40, 3)


def test_grey_equals_the_same_grey_in_colour() -> None:
    grey = picture(300, 200).convert("L")
    for fit in ("crop", "squash", "pad"):
        preprocess = Preprocess(height=64, width=64, fit=fit, **STATISTICS)  # type: ignore[arg-type]
        assert np.array_equal(to_input_size(grey, preprocess), to_input_size(grey.convert("RGB"), preprocess))


def test_squash_shows_the_whole_image() -> None:
    image = picture(90, 40)
    preprocess = Preprocess(height=20, width=30, fit="squash", interpolation="bilinear", **STATISTICS)
    assert np.array_equal(to_input_size(image, preprocess), np.asarray(image.resize((30, 20), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((80, 40), slice(10, 30), slice(0, 40)), ((40, 80), slice(0, 40), slice(10, 30))]
)
def test_pad_shows_the_whole_image_on_the_background(size: tuple[int, int], rows: slice, columns: slice) -> None:
    preprocess = Preprocess(height=40, width=40, fit="pad", background=(1, 2, 3), **STATISTICS)
    pixels = to_input_size(Image.new("RGB", size, (200, 100, 50)), preprocess)
    expected = np.full((40, 40, 3), (1, 2, 3), np.uint8)
    expected[rows, columns] = (200, 100, 50)
    assert np.array_equal(pixels, expected)


def test_an_oblong_crop_is_central_and_keeps_proportions() -> None:
    preprocess = Preprocess(height=100, width=200, crop_share=1.0, **STATISTICS)
    assert crop_box((400, 400), preprocess) == (0, 100, 400, 300)
    assert crop_box((600, 200), preprocess) == (100, 0, 500, 200)
    left, top, right, bottom = crop_box((1000, 500), Preprocess(height=100, width=200, crop_share=0.5, **STATISTICS))
    assert (left, top, right, bottom) == (250, 125, 750, 375)


def test_the_box_lies_inside_the_image_for_every_size() -> None:
    preprocess = Preprocess(height=224, width=224, crop_share=1.0, **STATISTICS)
    for width in range(1, 400, 7):
        for height in range(1, 400, 7):
            left, top, right, bottom = crop_box((width, height), preprocess)
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
