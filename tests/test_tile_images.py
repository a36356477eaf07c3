"""Images of any size: tiles cover everything, weigh 1 at every pixel, come in strips, and change no answer of a pixel alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from regraft.data.preprocess import Preprocess, padded_box, to_input_size
from regraft.resizing import resized_rows
from regraft.tiling import (
    answer_image,
    answer_strips,
    asking,
    blend_weights,
    decide,
    logits_of_image,
    tile_scale,
)

SIDE = 32
RGB = Preprocess(height=SIDE, width=SIDE, fit="pad", interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3)
WEIGHTS = {channels: np.random.default_rng(channels).normal(size=(3, channels)).astype(np.float32) for channels in (1, 3, 4)}
SIZES = [(1, 1), (1, 5000), (5000, 1), (7, 33), (32, 32), (33, 31), (57, 101), (64, 40), (131, 97)]


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def shown(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def per_pixel(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a 1 x 1 convolution makes of windows (N, h, w, channels): 3 logits of each pixel from that pixel alone."""
    values = windows.astype(np.float32) / 255
    return np.einsum("nhwc,kc->nkhw", values, WEIGHTS[windows.shape[3]]).astype(np.float32)


def interpolated(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    """By torch, in double precision."""
    value = torch.from_numpy(logits.astype(np.float64))[np.newaxis]
    return np.asarray(F.interpolate(value, size=size, mode="bilinear", align_corners=False)[0])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tiles_at_the_image_s_own_scale_give_the_answer_of_each_pixel(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    np.testing.assert_allclose(
        logits_of_image(shown(pixels), per_pixel, RGB, scale=1.0), per_pixel(pixels[np.newaxis])[0], atol=1e-4
    )


@pytest.mark.parametrize("scale", [0.21, 0.5, 1.7])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (57, 101), (131, 97)], ids=str)
def test_tiles_at_another_scale_give_the_answer_of_the_resized_image(size: tuple[int, int], scale: float) -> None:
    pixels = noise(*size)
    small = tuple(max(1, round(side * scale)) for side in size)
    resized = np.asarray(Image.fromarray(pixels).resize((small[1], small[0]), Image.Resampling.BILINEAR))
    expected = interpolated(per_pixel(resized[np.newaxis])[0], size)
    got = logits_of_image(shown(pixels), per_pixel, RGB, scale=scale)
    # Pillow rounds to whole levels; where a value lies in the middle of two it may take either.
    level = np.abs(WEIGHTS[3]).sum(axis=1).max() / 255
    np.testing.assert_allclose(got, expected, atol=level + 1e-4)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("of_image", [1, 3, 4])
def test_tiles_have_the_channels_of_the_network(channels: int, of_image: int) -> None:
    preprocess = Preprocess(
        height=SIDE, width=SIDE, fit="pad", mean=(0.5,) * channels, std=(0.2,) * channels, background=(10, 200, 30)
    )
    seen: list[NDArray[np.uint8]] = []

    def watched(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.extend(windows)
        return per_pixel(windows)

    pixels = noise(20, SIDE, of_image)
    logits_of_image(shown(pixels), watched, preprocess, scale=1.0)
    as_in_training = to_input_size(shown(pixels), preprocess)
    np.testing.assert_array_equal(seen[0], as_in_training)


@pytest.mark.parametrize("size", [(1, 1), (5, 90), (90, 5), (64, 64), (101, 57), (40, 20)], ids=str)
def test_an_image_shown_whole_is_the_window_of_training_without_its_padding(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    window = to_input_size(Image.fromarray(pixels), RGB)
    left, top, width, height = padded_box(size[::-1], RGB)
    right, bottom = left + width, top + height
    expected = interpolated(per_pixel(window[np.newaxis])[0][:, top:bottom, left:right], size)
    got = logits_of_image(shown(pixels), per_pixel, RGB, scale=None)
    assert got.shape == (3, *size)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (5, 90), (90, 5), (64, 64), (101, 57), (3, 4000)], ids=str)
def test_the_padded_box_is_where_training_puts_the_image(size: tuple[int, int]) -> None:
    black = Image.new("RGB", (size[1], size[0]), (0, 0, 0))
    dark = (to_input_size(black, RGB) < 128).all(axis=2)
    left, top, width, height = padded_box(size[::-1], RGB)
    right, bottom = left + width, top + height
    assert dark.sum() == (right - left) * (bottom - top)
    assert dark[top:bottom, left:right].all()


def test_large_images_are_tiled_at_the_scale_of_training_and_others_are_shown_whole() -> None:
    assert tile_scale(400, 300, usual_side=200, window=224) is None
    assert tile_scale(300, 401, usual_side=200, window=224) == pytest.approx(1.12)
    assert tile_scale(3000, 4000, usual_side=1000, window=224) == pytest.approx(0.224)
    assert tile_scale(3000, 4000, usual_side=1000, window=224, whole=True) is None


@pytest.mark.parametrize("window", [1, 4, 7, 32, 224])
@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 57, 224, 225, 1000])
def test_tiles_cover_everything_with_weights_that_add_up_to_one(length: int, window: int) -> None:
    starts, weights = blend_weights(length, window)
    total = np.zeros(max(length, window))
    for start, weight in zip(starts, weights, strict=True):
        assert (weight > 0).all()
        if length >= window:
            total[start : start + window] += weight
    if length >= window:
        assert starts[0] == 0
        assert starts[-1] == length - window
        np.testing.assert_allclose(total, 1, atol=1e-5)
        assert (np.diff(starts) <= window - window // 4).all()
    else:
        assert -starts[0] == (window - length) // 2


def test_weights_fall_to_the_borders_and_change_slowly() -> None:
    starts, weights = blend_weights(1000, 224)
    inner = weights[1]
    half = int(starts[2] - starts[1])
    assert inner[0] < 0.01
    assert np.abs(np.diff(inner)).max() < 0.05
    # In the middle of what two tiles share, they count alike.
    middle = (half + 224) // 2
    assert inner[middle] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (16, 16), (50, 7)], ids=str)
@pytest.mark.parametrize("wanted", [(1, 1), (5, 3), (16, 16), (400, 31), (7, 900)], ids=str)
def test_rows_are_resized_as_torch_does(
    size: tuple[int, int], wanted: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(1).normal(size=(2, *size)).astype(np.float32)
    monkeypatch.setattr("regraft.resizing._STRIP", 500)
    parts = [values[:, start : start + 3].copy() for start in range(0, size[0], 3)]
    strips = list(resized_rows(parts, size, wanted))
    np.testing.assert_allclose(np.concatenate(strips, axis=1), interpolated(values, wanted), atol=1e-5)
    assert max(strip.size for strip in strips) <= max(500, 2 * wanted[1])


@pytest.mark.parametrize("scale", [None, 0.4, 1.3])
def test_small_strips_are_the_answer_all_at_once(scale: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(90, 130)
    at_once = logits_of_image(shown(pixels), per_pixel, RGB, scale=scale)
    monkeypatch.setattr("regraft.resizing._STRIP", 1000)
    strips = list(answer_strips(shown(pixels), per_pixel, RGB, scale=scale, batch=3))
    assert len(strips) > 10
    np.testing.assert_array_equal(np.concatenate(strips, axis=1), at_once)


def test_a_network_that_sees_its_neighbourhood_has_no_seams() -> None:
    """A wide blur on zero padding answers wrongly at borders of windows; where tiles blend, hardly anything of that is left."""
    torch.manual_seed(0)
    kernel = torch.ones(3, 3, 9, 9) / 243

    def blur(windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        values = torch.from_numpy(windows).permute(0, 3, 1, 2).float() / 255
        return np.asarray(F.conv2d(values, kernel, padding=4))

    preprocess = Preprocess(height=64, width=64, fit="pad", mean=(0.5,) * 3, std=(0.25,) * 3)
    pixels = np.full((200, 300, 3), 180, np.uint8)
    got = logits_of_image(shown(pixels), blur, preprocess, scale=1.0)[:, 8:-8, 8:-8]
    # Half of the value is lost in the very corner of a window, 44 % at its border.
    assert np.abs(got - 180 / 255).max() < 0.1 * 180 / 255
    assert np.abs(np.diff(got, axis=2)).max() < 0.03


def test_labels_and_probabilities_are_decided_strip_by_strip() -> None:
    logits = np.random.default_rng(3).normal(0, 3, (4, 40, 30)).astype(np.float32)
    strips = [logits[:, :17], logits[:, 17:18], logits[:, 18:]]
    answer = decide(strips, (40, 30), probabilities=True)
    np.testing.assert_array_equal(answer.labels_HW, logits.argmax(axis=0))
    assert answer.probabilities_CHW is not None
    np.testing.assert_allclose(answer.probabilities_CHW, torch.softmax(torch.from_numpy(logits), dim=0), atol=1e-3)
    assert decide(strips, (40, 30)).probabilities_CHW is None


def test_an_object_is_where_its_probability_reaches_the_threshold() -> None:
    logits = np.random.default_rng(4).normal(0, 3, (1, 40, 30)).astype(np.float32)
    answer = decide([logits], (40, 30), threshold=0.7, probabilities=True)
    expected = torch.sigmoid(torch.from_numpy(logits)).numpy()
    np.testing.assert_array_equal(answer.labels_HW, (expected[0] >= 0.7).astype(np.uint8))
    assert answer.probabilities_CHW is not None
    np.testing.assert_allclose(answer.probabilities_CHW, expected, atol=1e-3)
    np.testing.assert_array_equal(decide([logits], (40, 30)).labels_HW, logits[0] >= 0)


@pytest.mark.parametrize("usual_side", [None, 20, 500])
def test_a_network_answers_an_image_as_its_pixels_say(usual_side: int | None) -> None:
    """A module sees normalised windows: a 1 x 1 convolution that finds red pixels finds them at any size."""
    module = torch.nn.Conv2d(3, 1, 1)
    module.weight.data[:] = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)
    module.bias.data.zero_()
    pixels = np.zeros((90, 60, 3), np.uint8)
    pixels[30:60, 20:40, 0] = 255
    pixels[60:, :, 1] = 255
    answer = answer_image(
        shown(pixels), asking(module.eval(), RGB), RGB, usual_side=usual_side, threshold=0.6, probabilities=True
    )
    assert answer.labels_HW.shape == (90, 60)
    assert (answer.labels_HW != (pixels[..., 0] == 255)).mean() < 0.05
    assert answer.probabilities_CHW is not None
    # Normalised, red is at 2 and nothing at -2.
    assert answer.probabilities_CHW[0, 45, 30] == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-3)


MEMORY = """
import sys
import numpy as np, torch, torchvision, timm, segmentation_models_pytorch
from PIL import Image
from regraft.data.preprocess import Preprocess
from regraft.tiling import answer_image, asking
channels = int(sys.argv[1])
preprocess = Preprocess(height=224, width=224, fit="pad", mean=(0.5,) * 3, std=(0.25,) * 3)
image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), np.uint8))
module = torch.nn.Conv2d(3, channels, 1).eval()
answer = answer_image(image, asking(module, preprocess), preprocess, usual_side=200, probabilities=channels == 1)
assert answer.labels_HW.size == 12_000_000
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one process is read from /proc")
@pytest.mark.parametrize("channels", [1, 12])
def test_a_photo_of_12_megapixels_takes_less_than_one_and_a_half_gigabytes(channels: int) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY, str(channels)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1e6 < 1.5
