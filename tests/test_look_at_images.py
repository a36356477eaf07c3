"""One decode gives the network's pixels and the record that an audit works from; the record does not depend on the network."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from drawn_pictures import drawn, encoded
from PIL import Image, ImageFilter

from regraft.data.decode import load_pixels, load_pixels_and_look
from regraft.data.look import FORMATS, GREY_SIDE, LOOK, contrast_and_sharpness, looks_from
from regraft.data.preprocess import Preprocess, with_channels
from regraft.errors import ImageRejected

NETWORK = Preprocess(height=224, width=224, crop_share=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
NETWORKS = {
    "usual": NETWORK,
    "small": replace(NETWORK, height=64, width=64),
    "large": replace(NETWORK, height=480, width=480, fit="squash"),
    "on black": replace(NETWORK, background=(0, 0, 0)),
    "grey": with_channels(NETWORK, 1),
    "alpha": with_channels(NETWORK, 4),
}
SEE_THROUGH = drawn(3).convert("RGBA")
SEE_THROUGH.putalpha(Image.linear_gradient("L").resize(SEE_THROUGH.size))
FILES = {
    "jpeg": encoded(drawn(1, (1000, 900)), "JPEG", quality=90),
    "png": encoded(drawn(2)),
    "see-through": encoded(SEE_THROUGH),
    "grey": encoded(drawn(4).convert("L")),
}


def look(data: bytes, preprocess: Preprocess = NETWORK) -> np.void:
    return load_pixels_and_look(data, preprocess)[1][()]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("file", FILES)
def test_one_decode_gives_the_pixels_of_the_network(file: str, network: str) -> None:
    pixels, _ = load_pixels_and_look(FILES[file], NETWORKS[network])
    assert np.array_equal(pixels, load_pixels(FILES[file], NETWORKS[network]))


@pytest.mark.parametrize("file", FILES)
def test_record_does_not_depend_on_the_network(file: str) -> None:
    assert len({look(FILES[file], network).tobytes() for network in NETWORKS.values()}) == 1


def test_record_does_not_depend_on_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(look, list(FILES.values()) * 8))
    assert len({record.tobytes() for record in records}) == len(FILES)


def test_records_are_kept_as_bytes() -> None:
    records = [look(data) for data in FILES.values()]
    kept = [record.tobytes() for record in records]
    assert {len(record) for record in kept} == {LOOK.itemsize}
    looks = looks_from(kept)
    assert looks.shape == (len(FILES),)
    assert [record.tobytes() for record in looks] == kept
    assert looks_from([]).shape == (0,)


def test_grey_agrees_with_its_colour_form() -> None:
    grey = drawn(5).convert("L")
    one, other = look(encoded(grey)), look(encoded(grey.convert("RGB")))
    assert all(np.array_equal(one[name], other[name]) for name in LOOK.names if name != "bytes")


def test_pixels_are_told_apart_by_size_and_by_one_level() -> None:
    image = drawn(6)
    pixels = np.array(image)
    pixels[7, 9, 1] ^= 1
    across, down = Image.new("RGB", (20, 10)), Image.new("RGB", (10, 20))
    digests = {look(encoded(each))["pixels"].tobytes() for each in (image, Image.fromarray(pixels), across, down)}
    assert len(digests) == 4
    expected = hashlib.sha256(b"%d %d " % image.size + image.tobytes()).digest()
    assert look(encoded(image))["pixels"].tobytes() == expected


def test_says_what_the_file_is() -> None:
    data = encoded(drawn(7, (1200, 950)), "JPEG")
    record = look(data)
    assert (record["width"], record["height"], record["bytes"]) == (1200, 950, len(data))
    assert FORMATS[record["format"]] == "JPEG"
    assert FORMATS[look(FILES["png"])["format"]] == "PNG"


def test_thumbnail_of_a_flipped_image_is_the_flipped_thumbnail() -> None:
    image = drawn(8)
    flipped = look(encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))["grey"]
    assert np.abs(flipped[:, ::-1].astype(int) - look(encoded(image))["grey"]).max() <= 2


def test_border_and_mean_are_those_of_the_picture() -> None:
    framed = Image.new("RGB", (320, 320), (250, 10, 30))
    framed.paste((20, 200, 90), (20, 20, 300, 300))
    record = look(encoded(framed))
    assert np.allclose(record["border"], (250, 10, 30), atol=1)
    share = (280 / 320) ** 2
    assert np.allclose(record["mean"], share * np.array([20, 200, 90]) + (1 - share) * np.array([250, 10, 30]), atol=1)


def test_contrast_is_the_standard_deviation() -> None:
    grey = drawn(9).convert("L")
    assert contrast_and_sharpness(grey)[0] == pytest.approx(np.asarray(grey).std(), rel=1e-9)
    assert look(encoded(grey))["contrast"] == pytest.approx(np.asarray(grey).std(), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_blurring_takes_sharpness_away(seed: int) -> None:
    grey = drawn(seed, (240, 200), shapes=40).convert("L")
    values = [contrast_and_sharpness(grey.filter(ImageFilter.GaussianBlur(radius)))[1] for radius in (0, 1, 2)]
    assert values[0] > 0.18
    assert values[0] > 2 * values[1]
    assert 0.1 > values[1] > values[2]


def test_sharpness_is_not_a_matter_of_contrast() -> None:
    grey = drawn(1, (240, 200)).convert("L")
    faint = grey.point([100 + level // 4 for level in range(256)])
    assert contrast_and_sharpness(faint)[1] == pytest.approx(contrast_and_sharpness(grey)[1], abs=0.02)


def test_sharpness_is_not_a_matter_of_many_pixels() -> None:
    image = drawn(2, (240, 230), shapes=40)
    large = image.resize((1440, 1380), Image.Resampling.BICUBIC)
    assert look(encoded(large))["sharpness"] == pytest.approx(look(encoded(image))["sharpness"], abs=0.06)


def test_a_slope_is_as_smooth_as_can_be() -> None:
    slope = Image.fromarray(np.tile(np.arange(0, 256, 2, dtype=np.uint8), (64, 1)))
    assert contrast_and_sharpness(slope)[1] == pytest.approx((2**2 - 1) / (8**2 - 1), rel=0.05)


def test_nothing_to_see_has_no_sharpness() -> None:
    assert contrast_and_sharpness(Image.new("L", (50, 40), 17)) == (0.0, 0.0)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (2000, 1), (3, 5)])
def test_any_shape_has_a_record(size: tuple[int, int]) -> None:
    record = look(encoded(Image.new("RGB", size, (9, 8, 7))))
    assert record["grey"].shape == (GREY_SIDE, GREY_SIDE)
    assert np.allclose(record["mean"], (9, 8, 7))


def test_what_cannot_be_read_is_rejected() -> None:
    with pytest.raises(ImageRejected) as caught:
        load_pixels_and_look(FILES["jpeg"][:3000], NETWORK, "photo.jpg")
    assert "photo.jpg" in caught.value.got
