"""Resizing and cropping at once gives what torchvision's two steps give; grey, RGB and RGBA images give as many channels."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from regraft.artifact import PreprocessRecord
from regraft.backbone.features import Normalise
from regraft.data.preprocess import Fit, Interpolation, Preprocess, crop_box, to_input_size, with_channels
from regraft.errors import UsageError

FITS: tuple[Fit, ...] = ("crop", "squash", "pad")
IMAGENET = Preprocess(height=64, width=64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
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


def see_through(width: int, height: int) -> Image.Image:
    """A picture with a slope of opacity, fully transparent at its left."""
    image = picture(width, height)
    image.putalpha(Image.fromarray(np.linspace(0, 255, width).astype(np.uint8)[np.newaxis].repeat(height, axis=0)))
    return image


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_mode_gives_the_channels_that_are_asked_for(channels: int, mode: str, fit: Fit) -> None:
    image = picture(50, 30) if mode in ("L", "RGB") else see_through(50, 30)
    pixels = to_input_size(image.convert(mode), replace(with_channels(IMAGENET, channels), fit=fit))
    assert (pixels.shape, pixels.dtype) == ((64, 64, channels), np.uint8)
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("fit", FITS)
def test_one_channel_is_the_luminance(fit: Fit) -> None:
    colour, one = picture(300, 200), with_channels(replace(IMAGENET, fit=fit, background=(200, 30, 90)), 1)
    grey = to_input_size(colour.convert("L"), one)
    assert np.array_equal(to_input_size(colour, one), grey)
    of_colour = Image.fromarray(to_input_size(colour, replace(IMAGENET, fit=fit, background=(200, 30, 90)))).convert("L")
    assert np.abs(np.asarray(of_colour).astype(int) - grey[:, :, 0]).max() <= 1


@pytest.mark.parametrize("fit", FITS)
def test_alpha_is_a_channel_like_the_others(fit: Fit) -> None:
    image, three = see_through(300, 200), replace(IMAGENET, fit=fit)
    pixels = to_input_size(image, with_channels(three, 4))
    # Pillow, asked to resize RGBA, would lose the colours of what is fully transparent.
    assert np.array_equal(pixels[:, :, :3], to_input_size(image.convert("RGB"), three))
    assert np.array_equal(pixels[:, :, 3], to_input_size(image.getchannel("A"), replace(three, background=(0, 0, 0)))[:, :, 0])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_without_alpha_an_image_is_opaque_and_its_surroundings_are_not(mode: str) -> None:
    image = picture(80, 40).convert(mode)
    four = Preprocess(height=40, width=40, fit="pad", background=(1, 2, 3), mean=(0.5,) * 4, std=(0.5,) * 4)
    pixels = to_input_size(image, four)
    assert (pixels[10:30, :, 3] == 255).all()
    assert (np.delete(pixels, slice(10, 30), axis=0) == (1, 2, 3, 0)).all()
    assert (to_input_size(image, replace(four, fit="crop"))[:, :, 3] == 255).all()


def test_grey_is_normalised_to_the_mean_of_its_three_channels() -> None:
    grey = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    three = Normalise(IMAGENET)(grey.expand(-1, -1, -1, 3))
    one = Normalise(with_channels(IMAGENET, 1))(grey)
    assert one.shape == (1, 1, 16, 16)
    assert torch.allclose(one[:, 0], three.mean(1), atol=1e-6)
    alike = Preprocess(height=8, width=8, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    one = with_channels(alike, 1)
    assert (one.mean, one.std) == (pytest.approx((127 / 255,)), pytest.approx((128 / 255,)))


def test_every_channel_has_statistics_of_its_own() -> None:
    four = with_channels(IMAGENET, 4)
    assert (four.channels, four.mean[:3], four.std[:3]) == (4, IMAGENET.mean, IMAGENET.std)
    image = torch.randint(0, 256, (2, 5, 7, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = (image / 255 - torch.tensor(four.mean)) / torch.tensor(four.std)
    assert torch.allclose(Normalise(four)(image), expected.permute(0, 3, 1, 2), atol=1e-6)
    assert Normalise(four)(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1).expand(-1, -1, -1, 4))[0, 3].tolist() == [
        [-1, 1]
    ]


def test_channels_come_and_go() -> None:
    assert with_channels(IMAGENET, 3) is IMAGENET
    assert with_channels(with_channels(IMAGENET, 4), 3) == IMAGENET
    assert with_channels(with_channels(IMAGENET, 4), 1) == with_channels(IMAGENET, 1)
    one = with_channels(IMAGENET, 1)
    assert with_channels(one, 3).mean == one.mean * 3
    assert with_channels(one, 4).std == (*one.std * 3, 0.5)


@pytest.mark.parametrize("channels", [0, 2, 5])
def test_images_have_one_three_or_four_channels(channels: int) -> None:
    with pytest.raises(UsageError, match=rf"1 channel \(grey\), 3 \(RGB\) or 4[^$]*got {channels} channels[^$]*adapt_stem"):
        Preprocess(height=8, width=8, mean=(0.5,) * channels, std=(0.5,) * channels)
    with pytest.raises(UsageError, match=f"got {channels} channels"):
        with_channels(IMAGENET, channels)


def test_means_and_deviations_belong_together() -> None:
    with pytest.raises(UsageError, match="got 3 and 4"):
        Preprocess(height=8, width=8, mean=(0.5,) * 4, std=(0.5,) * 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_saved_model_keeps_the_channels(channels: int) -> None:
    preprocess = with_channels(IMAGENET, channels)
    record = PreprocessRecord.model_validate_json(PreprocessRecord(**asdict(preprocess)).model_dump_json())
    assert Preprocess(**record.model_dump()) == preprocess


@pytest.mark.parametrize(("means", "deviations"), [(0, 0), (2, 2), (3, 4), (4, 3), (5, 5)])
def test_a_saved_model_of_other_channels_is_refused(means: int, deviations: int) -> None:
    record = PreprocessRecord(**asdict(IMAGENET)).model_dump()
    with pytest.raises(ValueError, match=r"channels|at most 4"):
        PreprocessRecord(**record | {"mean": (0.5,) * means, "std": (0.5,) * deviations})
