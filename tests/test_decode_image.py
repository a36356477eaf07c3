"""Every image gives the pixels that were meant, or a refusal that names it; nothing else ever comes out."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from faults.hostile_images import Hostile, hostile, many_frames
from faults.image_bytes import exif
from faults.mkimages import ORIENTED, Case, blocks, encode, encode_oriented, greys, over, stored, valid
from faults.mutate_images import mutate
from numpy.typing import NDArray
from PIL import Image
from quick import takes_at_most

from regraft.data.decode import check_header, decode_image, load_pixels, read_orientation
from regraft.data.preprocess import Preprocess, with_channels
from regraft.errors import ImageRejected

# pytest undoes the filter that `decode` sets when it is imported; a test below runs without pytest.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
VALID, HOSTILE = valid(), hostile()
INPUT = Preprocess(height=24, width=20, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def code_of(source: Path | bytes) -> str:
    with pytest.raises(ImageRejected) as caught:
        decode_image(source)
    return caught.value.code


def outcome(source: Path | bytes) -> str:
    """The code of the refusal, or "ok" and nothing else: any other exception fails the test."""
    try:
        decode_image(source)
    except ImageRejected as rejected:
        return rejected.code
    return "ok"


def levels(source: Path | bytes, **options: int) -> NDArray[np.float64]:
    return np.asarray(decode_image(source, **options).pixels.convert("RGB")).astype(float)


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.name)
def test_pixels_are_those_that_were_meant(case: Case) -> None:
    decoded = decode_image(case.data)
    assert decoded.pixels.mode in ("RGB", "L")
    seen = np.asarray(decoded.pixels.convert("RGB")).astype(float)
    assert seen.shape == case.expected.shape
    assert decoded.size_on_disk == (seen.shape[1], seen.shape[0])
    assert np.abs(seen - case.expected).max() <= case.tolerance


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.name)
def test_alpha_can_be_kept_and_composited_later(case: Case) -> None:
    decoded = decode_image(case.data, background=None)
    assert decoded.pixels.mode in ("L", "RGB", "LA", "RGBA")
    four = np.asarray(decoded.pixels.convert("RGBA"))
    assert np.abs(over(four[:, :, :3], four[:, :, 3]) - case.expected).max() <= case.tolerance


def test_alpha_is_kept_where_there_is_some() -> None:
    opacity = Image.fromarray(np.full((32, 48), 100, np.uint8))
    for pixels, mode in ((greys(), "LA"), (blocks(), "RGBA")):
        image = Image.fromarray(pixels)
        assert decode_image(encode(image, "PNG"), background=None).pixels.mode == mode.removesuffix("A")
        image.putalpha(opacity)
        kept = decode_image(encode(image, "PNG"), background=None).pixels
        assert np.array_equal(np.asarray(kept), np.asarray(image))
        assert kept.mode == mode


@pytest.mark.parametrize("bad", HOSTILE, ids=lambda bad: bad.name)
def test_hostile_files_are_refused_quickly_with_a_reason(bad: Hostile, tmp_path: Path) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(bad.data)
    takes_at_most(0.05, lambda: code_of(path), clock=time.thread_time)
    with pytest.raises(ImageRejected) as caught:
        decode_image(path)
    assert caught.value.code == bad.code
    assert "holiday.jpg" in caught.value.got
    assert caught.value.fix


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    me = psutil.Process()
    paths = []
    for index, bad in enumerate(HOSTILE):
        paths.append(tmp_path / str(index))
        paths[-1].write_bytes(bad.data)
    before = me.memory_info().rss
    for path in paths:
        code_of(path)
    assert me.memory_info().rss - before < 20e6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated_files_are_refused_wherever_they_end(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    for options in ({}, {"progressive": True}) if kind == "JPEG" else ({},):
        data = encode(Image.fromarray(noise), kind, **options)
        for end in np.linspace(0, len(data) - 1, 200).astype(int):
            code = outcome(data[:end])
            # What Pillow writes after the pixels of a TIFF are tags with nothing to lose.
            allowed = ("ok",) if kind == "TIFF" and end > noise.size else ()
            assert code in ("empty", "not_an_image", "truncated", "damaged", *allowed), (code, end)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_bytes_after_the_end_do_no_harm(kind: str) -> None:
    data = encode(Image.fromarray(blocks()), kind)
    for extra in (b"\0" * 10, b"trailer" * 30_000):
        assert np.array_equal(levels(data + extra), levels(data))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_only_the_first_of_ten_thousand_frames_is_read(kind: str) -> None:
    if kind == "WEBP":
        rest = [Image.new("RGB", (48, 32), (index % 256, index // 256, 0)) for index in range(10_000)]
        data = encode(Image.fromarray(blocks()), kind, save_all=True, append_images=rest, lossless=True, method=0)
    else:
        data = many_frames(kind)
    takes_at_most(0.05, lambda: levels(data), clock=time.thread_time)
    assert np.abs(levels(data) - blocks()).max() <= 2


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encode(Image.fromarray(blocks()), "JPEG"))
    assert decode_image(path).format == "JPEG"


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (10, 120, 250)])
def test_transparency_shows_the_background(background: tuple[int, int, int]) -> None:
    colour, grey = blocks(), greys()
    opacity = np.full(grey.shape, 100, np.uint8)
    for shown, bands in ((colour, [*np.moveaxis(colour, -1, 0), opacity]), (np.stack([grey] * 3, -1), [grey, opacity])):
        image = Image.merge(
            "RGBA" if len(bands) == 4 else "LA", [Image.fromarray(np.ascontiguousarray(band)) for band in bands]
        )
        pixels = decode_image(encode(image, "PNG"), background=background).pixels.convert("RGB")
        assert np.abs(np.asarray(pixels) - over(shown, opacity, background)).max() <= 2


def test_grey_stays_grey() -> None:
    assert decode_image(encode(Image.fromarray(greys()), "PNG")).pixels.mode == "L"
    assert decode_image(encode(Image.fromarray(greys()), "JPEG")).pixels.mode == "L"
    assert decode_image(encode(Image.fromarray(blocks()), "PNG")).pixels.mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_scale_and_orientation_go_together(orientation: int) -> None:
    upright = blocks().repeat(8, axis=0).repeat(8, axis=1)
    data = encode_oriented(Image.fromarray(stored(upright, orientation)), "JPEG", orientation)
    decoded = decode_image(data, smallest_side=64)
    assert decoded.size_on_disk == (384, 256)
    assert decoded.pixels.size == (96, 64)
    assert np.abs(np.asarray(decoded.pixels).astype(float) - upright[2::4, 2::4]).max() <= 3


@pytest.mark.parametrize(
    ("side", "smallest", "expected"), [(511, 256, 511), (512, 256, 256), (1023, 256, 512), (2049, 256, 257)]
)
def test_reduced_scale_never_goes_below_the_smallest_side(side: int, smallest: int, expected: int) -> None:
    data = encode(Image.new("L", (side, side + 9)), "JPEG")
    assert min(decode_image(data, smallest_side=smallest).pixels.size) == expected


@pytest.mark.parametrize("kind", [kind for kind in ORIENTED if kind != "TIFF"])
@pytest.mark.parametrize("block", [exif(9), exif(0), exif(6)[:20], b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_malformed_exif_is_ignored_with_a_note(kind: str, block: bytes) -> None:
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}[kind]
    decoded = decode_image(encode(Image.fromarray(blocks()), kind, exif=block, **options))
    assert decoded.notes == ("malformed EXIF ignored",)
    assert np.abs(np.asarray(decoded.pixels).astype(float) - blocks()).max() <= 2


def test_orientation_is_read_in_both_byte_orders() -> None:
    assert [read_orientation(exif(value, order=order)) for value in range(1, 9) for order in "<>"] == [
        v for v in range(1, 9) for _ in "<>"
    ]


def test_an_unusable_profile_is_ignored_with_a_note() -> None:
    data = encode(Image.fromarray(blocks()), "PNG", icc_profile=b"not a profile" * 20)
    assert decode_image(data).notes == ("unusable colour profile ignored",)


def test_what_is_not_a_file_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    locked = tmp_path / "huge"
    with locked.open("wb") as file:
        file.truncate(600 * 2**20)
    sources = [(tmp_path, "not_a_file"), (fifo, "not_a_file"), (Path("/dev/zero"), "not_a_file"), (locked, "file_too_large")]
    for source, code in [*sources, (tmp_path / "no.jpg", "missing"), (tmp_path / "nul\0.jpg", "unreadable")]:
        assert code_of(source) == code
        found = check_header(source)
        assert found is not None
        assert found.code == code


def test_a_sparse_file_that_claims_much_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.write(next(bad.data for bad in HOSTILE if bad.name == "60000x60000.PNG"))
        file.truncate(400 * 2**20)
    before = psutil.Process().memory_info().rss
    assert code_of(path) == "too_many_pixels"
    assert psutil.Process().memory_info().rss - before < 20e6


def assert_names(rejected: ImageRejected, name: str) -> None:
    assert name in rejected.got
    assert rejected.code.isidentifier()


def corpus() -> list[bytes]:
    return [case.data for case in VALID if len(case.data) < 20_000]


@pytest.mark.parametrize("part", range(4))
def test_mutated_files_give_a_valid_array_or_a_refusal(part: int, tmp_path: Path) -> None:
    files, path = corpus(), tmp_path / "mutant.jpg"
    kept = 0
    for seed in range(part * 600, part * 600 + 600):
        path.write_bytes(mutate(files[seed % len(files)], files[seed * 7 % len(files)], seed))
        channels = (3, 3, 1, 4)[seed % 4]
        try:
            pixels = load_pixels(path, with_channels(INPUT, channels))
        except ImageRejected as rejected:
            assert_names(rejected, "mutant.jpg")
            continue
        kept += 1
        assert (pixels.shape, pixels.dtype) == ((24, 20, channels), np.uint8), seed
        assert check_header(path) is None, seed
    assert 60 < kept < 540


def test_odd_files_give_no_python_warnings(tmp_path: Path) -> None:
    files = corpus()
    for seed in range(400):
        (tmp_path / f"{seed}.jpg").write_bytes(mutate(files[seed % len(files)], files[0], seed))
    for index, bad in enumerate(HOSTILE):
        (tmp_path / f"hostile-{index}.jpg").write_bytes(bad.data)
    code = """
import sys
from pathlib import Path
from regraft.data.decode import decode_image
from regraft.errors import ImageRejected
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode_image(path)
    except ImageRejected:
        pass
"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
    # libtiff has an error handler of its own in C, which Pillow leaves on; all else has to be silent.
    assert not [
        line for line in result.stderr.splitlines() if ".py" in line or "Warning" in line or "samples per pixel" in line
    ]


def test_the_header_check_agrees_on_sound_and_hostile_files(tmp_path: Path) -> None:
    path = tmp_path / "image"
    for case in VALID:
        path.write_bytes(case.data)
        assert check_header(path) is None, case.name
    found = 0
    for bad in HOSTILE:
        path.write_bytes(bad.data)
        found += check_header(path) is not None
    assert found > 0.8 * len(HOSTILE)


def test_the_header_check_reads_little_of_a_large_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3)).astype(np.uint8)
    path = tmp_path / "large.jpg"
    data = encode(Image.fromarray(noise), "JPEG", quality=95)
    path.write_bytes(data)
    before = psutil.Process().io_counters().read_chars
    assert check_header(path) is None
    assert psutil.Process().io_counters().read_chars - before < 200_000 < len(data)
    path.write_bytes(data[:-2000])
    found = check_header(path, "large")
    assert found is not None
    assert (found.code, found.name, found.path) == ("truncated", "large", path)


def test_threads_see_what_one_thread_sees() -> None:
    cases = VALID * 4
    alone = [levels(case.data) for case in VALID]
    barrier = threading.Barrier(8)

    def run(_: int) -> list[NDArray[np.float64]]:
        barrier.wait()
        return [levels(case.data) for case in cases]

    with ThreadPoolExecutor(8) as pool:
        for seen in pool.map(run, range(8)):
            assert all(np.array_equal(pixels, alone[index % len(alone)]) for index, pixels in enumerate(seen))


def test_bytes_without_a_name_are_refused_in_words() -> None:
    with pytest.raises(ImageRejected, match="bytes"):
        decode_image(b"cat")
    with pytest.raises(ImageRejected, match=r"expected a JPEG.*\n.*uploads/7: .*a web page"):
        decode_image(b"<html></html>", name="uploads/7")


def test_pixels_have_the_channels_that_are_asked_for() -> None:
    image = Image.fromarray(blocks())
    image.putalpha(Image.fromarray(np.full((32, 48), 100, np.uint8)))
    data = encode(image, "PNG")
    squash = Preprocess(height=32, width=48, fit="squash", mean=(0.5,) * 3, std=(0.5,) * 3, background=(10, 120, 250))
    seen = over(blocks(), np.full((32, 48), 100, np.uint8), squash.background)
    three, one, four = (load_pixels(data, with_channels(squash, channels)) for channels in (3, 1, 4))
    assert np.abs(three - seen).max() <= 2
    assert np.abs(one[:, :, 0] - seen @ (0.299, 0.587, 0.114)).max() <= 2
    assert np.array_equal(four[:, :, :3], blocks())
    assert (four[:, :, 3] == 100).all()
