"""Planted copies are found, and nothing else: in pictures, noise, drawings that share an outline, and blank pages."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from drawn_pictures import drawn, encoded
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from regraft.audits.align import align, inverse, move, smooth, turn
from regraft.audits.candidates import UNIT, cosines_of, nearest_pairs, spectra_of, ways_of
from regraft.audits.copies import copies_of, find_copies, groups_of
from regraft.data.decode import load_pixels_and_look
from regraft.data.look import LOOK, Looks
from regraft.data.preprocess import Preprocess
from regraft.findings import Alike

INPUT = Preprocess(height=224, width=224, crop_share=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
FLIP, DOWN, QUARTER = Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_90
HALF = Image.Transpose.ROTATE_180
PICTURES = [encoded(drawn(seed)) for seed in range(60)]


def looks_of(files: Sequence[bytes]) -> Looks:
    return np.stack([load_pixels_and_look(data, INPUT)[1] for data in files]) if files else np.zeros(0, LOOK)


LOOKS = looks_of(PICTURES)


def search(files: Sequence[bytes], names: Sequence[str] | None = None, looks: Looks | None = None) -> tuple[Alike, ...]:
    names = names or [f"{index:03}.png" for index in range(len(files))]
    return find_copies(looks_of(files) if looks is None else looks, [hashlib.sha256(data).digest() for data in files], names)


def beside_the_pictures(data: bytes) -> tuple[Alike, ...]:
    """What is found when one more file is put among the pictures."""
    return search([*PICTURES, data], looks=np.concatenate([LOOKS, looks_of([data])]))


def crop(image: Image.Image, left: float, top: float, share: float = 0.95) -> Image.Image:
    width, height = image.size
    x, y = round(left * width), round(top * height)
    return image.crop((x, y, x + round(share * width), y + round(share * height)))


def resize(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


ORIGINAL = drawn(17)
COPIES = {
    "quality 40": (encoded(ORIGINAL, "JPEG", quality=40), "encoded anew"),
    "quality 95": (encoded(ORIGINAL, "JPEG", quality=95), "encoded anew"),
    "half as large": (encoded(resize(ORIGINAL, 0.5)), "resized"),
    "twice as large": (encoded(resize(ORIGINAL, 2)), "resized"),
    "flipped": (encoded(ORIGINAL.transpose(FLIP)), "flipped"),
    "upside down": (encoded(ORIGINAL.transpose(DOWN)), "flipped upside down"),
    "quarter turn": (encoded(ORIGINAL.transpose(QUARTER)), "turned by a quarter"),
    "half turn": (encoded(ORIGINAL.transpose(HALF)), "turned by a half"),
    "cropped in the middle": (encoded(crop(ORIGINAL, 0.025, 0.025)), "cropped"),
    "cropped at the left": (encoded(crop(ORIGINAL, 0.05, 0.02)), "cropped"),
    "cropped at a corner": (encoded(crop(ORIGINAL, 0, 0)), "cropped"),
    "cropped and encoded": (encoded(crop(ORIGINAL, 0.05, 0.05), "JPEG", quality=50), "cropped"),
    "flipped, resized, encoded": (encoded(resize(ORIGINAL.transpose(FLIP), 0.6), "JPEG", quality=70), "flipped, resized"),
    "turned and cropped": (encoded(crop(ORIGINAL.transpose(QUARTER), 0.03, 0.01)), "turned by a quarter, cropped"),
}


@pytest.mark.parametrize("kind", COPIES)
def test_finds_an_altered_copy_and_nothing_else(kind: str) -> None:
    data, change = COPIES[kind]
    (pair,) = beside_the_pictures(data)
    assert (pair.one, pair.other) == ("017.png", "060.png")
    assert (pair.sameness, pair.change) == ("altered", change)
    assert 0.97 < pair.similarity <= 1


def test_finds_equal_files_and_equal_pixels() -> None:
    (same,) = beside_the_pictures(PICTURES[5])
    assert (same.one, same.other, same.sameness, same.change) == ("005.png", "060.png", "file", "the same file")
    again = encoded(drawn(5), compress_level=1)
    assert again != PICTURES[5]
    (pixels,) = beside_the_pictures(again)
    assert (pixels.one, pixels.other, pixels.sameness, pixels.change) == ("005.png", "060.png", "pixels", "the same pixels")


def test_most_copies_of_small_pictures_are_found() -> None:
    small = [drawn(seed, (28, 28), shapes=5).convert("L") for seed in range(40)]
    files = [encoded(image) for image in small]
    for index, image in enumerate(small):
        flipped = image.transpose(FLIP)
        files.append(encoded(flipped, "JPEG", quality=60) if index % 2 else encoded(flipped))
    found = {(pair.one, pair.other) for pair in search(files)}
    right = {(f"{index:03}.png", f"{index + 40:03}.png") for index in range(40)}
    assert found <= right
    assert len(found) >= 36


def test_noise_is_not_alike() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (28, 28), dtype=np.uint8) for _ in range(60)]
    clouds = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).resize((100, 100), Image.Resampling.BICUBIC))
        for _ in range(60)
    ]
    assert not search([encoded(Image.fromarray(pixels)) for pixels in [*noise, *clouds]])


def test_blank_pages_are_not_alike_unless_equal() -> None:
    rng = np.random.default_rng(1)
    faint = [np.clip(250 + rng.normal(0, 2, (80, 80)), 0, 255).astype(np.uint8) for _ in range(6)]
    pages = [np.full((80, 80), level, np.uint8) for level in (255, 254, 0)]
    files = [encoded(Image.fromarray(page)) for page in [*faint, *pages]]
    assert not search(files)
    files.append(encoded(Image.fromarray(pages[0]).convert("RGB")))
    (pair,) = search(files)
    assert (pair.one, pair.other, pair.sameness) == ("006.png", "009.png", "pixels")


def garment(seed: int) -> Image.Image:
    """A cut-out on black, all of one outline, each with a pattern of its own."""
    rng = np.random.default_rng(seed)
    inner = Image.fromarray(rng.integers(150, 256, (10, 8), dtype=np.uint8)).resize((28, 28), Image.Resampling.BILINEAR)
    mask = Image.new("L", (280, 280))
    ImageDraw.Draw(mask).polygon([(40, 40), (240, 40), (200, 110), (205, 260), (75, 260), (80, 110)], fill=255)
    out = Image.new("L", (28, 28))
    out.paste(inner, mask=mask.resize((28, 28)))
    return out


def line_drawing(seed: int, mark: tuple[int, int]) -> Image.Image:
    """The same face with something else in it."""
    image = Image.new("RGB", (200, 200), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((20, 20, 180, 180), outline="black", width=4)
    pen.ellipse((60, 70, 80, 90), fill="black")
    pen.ellipse((120, 70, 140, 90), fill="black")
    pen.arc((60, 90, 140, 150), *mark, fill="black", width=6)
    return image


def test_pictures_of_one_outline_are_not_alike() -> None:
    assert not search([encoded(garment(seed)) for seed in range(60)])
    faces = [line_drawing(0, mark) for mark in ((0, 180), (180, 360), (0, 90), (45, 300))]
    assert not search([encoded(face) for face in faces])


def test_other_colours_are_another_picture() -> None:
    red, green, blue = ORIGINAL.split()
    recoloured = Image.merge("RGB", (blue, red, green))
    assert not beside_the_pictures(encoded(recoloured))
    assert not beside_the_pictures(encoded(ImageEnhance.Brightness(ORIGINAL).enhance(0.6)))


def test_order_does_not_matter() -> None:
    files = [*PICTURES[:20], *(data for data, _ in COPIES.values()), *PICTURES[10:25]]
    names = [f"{index:03}" for index in range(len(files))]
    looks = looks_of(files)
    found = search(files, names, looks)
    assert len(found) >= 24
    order = np.random.default_rng(2).permutation(len(files))
    shuffled = search([files[i] for i in order], [names[i] for i in order], looks[order])
    assert [(pair.one, pair.other, pair.sameness, pair.change) for pair in shuffled] == [
        (pair.one, pair.other, pair.sameness, pair.change) for pair in found
    ]
    assert np.allclose([pair.similarity for pair in shuffled], [pair.similarity for pair in found], atol=2e-4)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images_are_no_trouble(count: int) -> None:
    assert search(PICTURES[:count]) == ()


def pair_of(one: str, other: str, sameness: str = "altered", change: str = "cropped") -> Alike:
    return Alike(one=one, other=other, sameness=sameness, change=change, similarity=1.0)  # type: ignore[arg-type]


def test_groups_are_the_components_of_the_pairs() -> None:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(3)
    ends = rng.integers(0, 80, (60, 2))
    ends = ends[ends[:, 0] != ends[:, 1]]
    groups = groups_of([pair_of(f"{one:02}", f"{other:02}") for one, other in ends])
    _, component_N = connected_components(coo_matrix((np.ones(len(ends)), ends.T), shape=(80, 80)), directed=False)
    assert set(groups) == {f"{index:02}" for index in ends.ravel()}
    for name, key in groups.items():
        tied = [f"{i:02}" for i in np.flatnonzero(component_N == component_N[int(name)])]
        assert key == min(tied)


def test_copies_are_told_worst_first() -> None:
    names = ["a", "b", "c", "d", "e", "f", "g"]
    labels = ["cat", "cat", "cat", "dog", "cat", "cat", "cat"]
    parts = ["train", "train", "train", "train", "test", "train", "train"]
    alike = [
        pair_of("a", "b", "file", "the same file"),
        pair_of("c", "d", "pixels", "the same pixels"),
        pair_of("e", "f", "file", "the same file"),
        pair_of("e", "g", "altered", "flipped"),
    ]
    across, classes, inside = copies_of(alike, names, labels, parts)
    assert across.names == ("e", "f", "g")
    assert (across.sameness, across.change, across.across_parts) == ("altered", "flipped", True)
    assert across.parts == ("test", "train", "train")
    assert (classes.names, classes.labels, classes.across_classes) == (("c", "d"), ("cat", "dog"), True)
    assert (inside.names, inside.sameness, inside.across_classes) == (("a", "b"), "file", False)
    assert copies_of([], names, labels, parts) == ()


def thumbnails(count: int) -> NDArray[np.uint8]:
    return np.concatenate([LOOKS["grey"]] * (-(-count // len(LOOKS))))[:count]


def test_descriptions_count_exactly() -> None:
    for described in (spectra_of(LOOKS["grey"]), cosines_of(LOOKS["grey"])):
        flat = described.reshape(len(described), -1)
        assert np.array_equal(flat, np.rint(flat))
        assert np.array_equal(flat @ flat.T, (flat.astype(np.int64) @ flat.astype(np.int64).T))
        assert np.allclose(np.linalg.norm(flat, axis=1), UNIT, rtol=1e-3)


@pytest.mark.parametrize("count", [7, 400])
def test_nearest_pairs_are_those_of_a_full_table(count: int) -> None:
    rng = np.random.default_rng(4)
    spectra = rng.integers(0, 300, (count, 2, 6, 6)).astype(np.float32)
    table = np.max(
        [
            spectra.reshape(count, -1) @ variant.reshape(count, -1).T
            for turned in (spectra, spectra.transpose(0, 1, 3, 2))
            for variant in (turned, turned[:, ::-1])
        ],
        axis=0,
    )
    np.fill_diagonal(table, -1)
    last = np.sort(table, axis=1)[:, -3]
    expected = {tuple(sorted((int(i), int(j)))) for i, j in zip(*np.nonzero(table >= last[:, None]), strict=True)}
    assert {
        tuple(pair) for pair in nearest_pairs(spectra, np.zeros(len(spectra)), nearest=3, least=0.0, apart=0).tolist()
    } == expected
    assert len(nearest_pairs(spectra, np.zeros(len(spectra)), nearest=3, least=1e9, apart=0)) == 0


@pytest.mark.parametrize("way", range(8))
def test_ways_undo_what_was_done(way: int) -> None:
    grey = LOOKS["grey"][:12]
    ways = np.full(len(grey), way)
    turned = turn(grey, ways)
    pairs = np.stack([np.arange(12), np.arange(12) + 12], axis=1)
    alike = ways_of(cosines_of(np.concatenate([turned, grey])), pairs)
    assert (alike.argmax(axis=1) == way).all()
    assert np.allclose(alike.max(axis=1), 1, atol=2e-3)
    assert np.abs(spectra_of(turned)).sum() == pytest.approx(np.abs(spectra_of(grey)).sum(), rel=1e-3)


def test_align_finds_shift_and_stretch() -> None:
    images = smooth(LOOKS["grey"][:20].astype(np.float32), 2)
    rng = np.random.default_rng(5)
    shifts = rng.uniform(-0.025, 0.025, (20, 4)).astype(np.float32)
    found = align(move(images, shifts), images, steps=4)
    assert np.abs(found - shifts).max() < 0.004
    back = align(images, move(images, shifts), steps=4)
    assert np.abs(back - inverse(shifts)).max() < 0.004


def test_nothing_moved_is_left_as_it_is() -> None:
    images = LOOKS["grey"][:5].astype(np.float32)
    assert np.allclose(move(images, np.zeros((5, 4), np.float32)), images, atol=1e-3)
    assert np.abs(align(images, images, steps=2)).max() == 0


def test_only_images_of_like_brightness_are_compared() -> None:
    random = np.random.default_rng(0)
    spectra, brightness = spectra_of(random.integers(0, 256, (300, 32, 32)).astype(np.uint8)), random.uniform(0, 255, 300)
    everything = nearest_pairs(spectra, np.zeros(300), nearest=300, least=0.0, apart=0)
    some = nearest_pairs(spectra, brightness, nearest=300, least=0.0, apart=24)
    near = everything[np.abs(np.diff(brightness[everything], axis=1)[:, 0]) <= 24]
    assert {tuple(pair) for pair in near.tolist()} <= {tuple(pair) for pair in some.tolist()}
