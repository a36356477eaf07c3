"""The one pass: decoded once, in order, from the cache where it can be, the same rows from every engine."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, paint

from regraft.backbone.features import Features, FromPixels, later_stages
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.cache import choose, stream
from regraft.cache.engines import Network, OpenVinoEngine, TorchEngine, candidates
from regraft.cache.extract import Extracted, extract_features
from regraft.data.decode import load_pixels
from regraft.errors import TooManyUnreadable
from regraft.values import Sample


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("efficientnet_lite0", size=64)


def samples(folder: Path) -> list[Sample]:
    return [Sample(path=path, name=path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*.*"))]


def extract(folder: Path, backbone: Backbone, cache: Path, **options: int) -> Extracted:
    return extract_features(samples(folder), backbone, later_stages(backbone), cache=cache, device="cpu", **options)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The files whose pixels were decoded, filled as it happens."""
    seen: list[bytes] = []
    real = stream.load_pixels

    def counting(data: bytes, *rest: object) -> object:
        seen.append(data)
        return real(data, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stream, "load_pixels", counting)
    return seen


def test_rows_are_what_the_network_gives_in_the_order_of_the_samples(photos: Path, backbone: Backbone, cache: Path) -> None:
    found = extract(photos, backbone, cache)
    network = FromPixels(Features(backbone, later_stages(backbone)), backbone.preprocess)
    pixels = np.stack([load_pixels(sample.path, backbone.preprocess) for sample in samples(photos)])
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels)).numpy()
    assert found.features.shape == expected.shape
    assert choose.mean_cosine(found.features[:], expected) >= choose.AGREES
    # Each row is nearest to its own image's: no two were swapped.
    distance = np.linalg.norm(found.features[:][:, None] - expected[None], axis=2)
    assert np.array_equal(distance.argmin(axis=1), np.arange(len(expected)))


def test_each_image_is_decoded_once_and_never_again(
    photos: Path, backbone: Backbone, cache: Path, decoded: list[bytes]
) -> None:
    first = extract(photos, backbone, cache)
    assert (len(decoded), first.misses, first.hits) == (36, 36, 0)
    again = extract(photos, backbone, cache)
    assert (len(decoded), again.misses, again.hits) == (36, 0, 36)
    assert np.array_equal(first.features[:], again.features[:])


def test_only_new_and_changed_images_are_work(photos: Path, backbone: Backbone, cache: Path, decoded: list[bytes]) -> None:
    extract(photos, backbone, cache)
    decoded.clear()
    new = paint(photos / "blue" / "new.png", COLOURS["blue"])
    changed = paint(photos / "cyan" / "003.png", COLOURS["amber"], side=41)
    (photos / "amber" / "000.png").rename(photos / "amber" / "renamed.png")
    shutil.copy(photos / "amber" / "001.png", photos / "blue" / "copy.png")
    found = extract(photos, backbone, cache)
    assert sorted(decoded) == sorted([new.read_bytes(), changed.read_bytes()])
    assert (found.misses, found.hits) == (2, 36)


def test_unreadable_images_are_set_aside_and_the_others_keep_their_places(
    photos: Path, backbone: Backbone, cache: Path
) -> None:
    whole = extract(photos, backbone, cache)
    (photos / "blue" / "002.png").write_bytes(b"not an image")
    found = extract(photos, backbone, cache)
    names = [sample.name for sample in samples(photos)]
    assert [(item.name, item.code) for item in found.rejected] == [("blue/002.png", "not_an_image")]
    assert [names[i] for i in found.kept_M] == [name for name in names if name != "blue/002.png"]
    assert np.array_equal(found.features[:], np.delete(whole.features[:], names.index("blue/002.png"), axis=0))


def test_too_many_unreadable_images_stop_the_pass(photos: Path, backbone: Backbone, cache: Path) -> None:
    for path in sorted(photos.rglob("*.png"))[:3]:
        path.write_bytes(b"")
    assert len(extract(photos, backbone, cache, most_rejected=3).rejected) == 3
    with pytest.raises(TooManyUnreadable, match=r"amber/000\.png"):
        extract(photos, backbone, cache, most_rejected=2)


def test_other_preprocessing_is_other_features(photos: Path, backbone: Backbone, cache: Path) -> None:
    extract(photos, backbone, cache)
    assert extract(photos, load_backbone("efficientnet_lite0", size=64, whole_image=True), cache).misses == 36


def test_every_engine_of_this_machine_agrees_with_fp32(photos: Path, backbone: Backbone) -> None:
    pixels = np.stack([load_pixels(sample.path, backbone.preprocess) for sample in samples(photos)[:6]])
    network = Network(FromPixels(Features(backbone, later_stages(backbone)), backbone.preprocess).eval(), "test", None)
    found = candidates(network, "cpu", pixels)
    assert len(found) >= 2, "OpenVINO belongs to the development requirements"
    reference = None
    for candidate in found:
        rows = np.concatenate(list(candidate.make().stream(iter([pixels[:4], pixels[4:]]))))
        reference = rows if reference is None else reference
        assert choose.mean_cosine(rows, reference) >= choose.AGREES, candidate.name


def test_converted_network_is_kept_and_a_damaged_copy_replaced(backbone: Backbone, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    network = Network(FromPixels(Features(backbone, ()), backbone.preprocess).eval(), "test", tmp_path)
    (first,) = OpenVinoEngine(network, pixels, "fp32").stream(iter([pixels]))
    (kept,) = (tmp_path / "engines").glob("*.xml")
    (again,) = OpenVinoEngine(network, pixels, "fp32").stream(iter([pixels]))
    kept.write_text("<broken")
    (repaired,) = OpenVinoEngine(network, pixels, "fp32").stream(iter([pixels]))
    assert np.array_equal(first, again)
    assert np.allclose(first, repaired, atol=1e-4)
    assert kept.read_text() != "<broken"


class _Doubling:
    """An engine whose features are wrong."""

    name = "wrong"

    def stream(self, batches: Iterable["np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"]) -> Iterable[object]:
        for batch in batches:
            yield np.random.default_rng(len(batch)).normal(size=(len(batch), 1280)).astype(np.float32)


def test_a_fast_engine_with_other_features_is_not_used(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(FromPixels(Features(backbone, ()), backbone.preprocess).eval(), "test", None)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    reference = candidates(network, "cpu", pixels)[0]
    wrong = choose.Candidate("wrong", _Doubling)
    monkeypatch.setattr(choose, "candidates", lambda *_: [reference, wrong])
    timings, engine = choose.measure(network, pixels, images=100, device="cpu")
    assert isinstance(engine, TorchEngine)
    assert [timing.chosen for timing in timings] == [True, False]
    assert "differ" in timings[1].note


def test_order_is_kept_when_some_images_are_known_some_bad(photos: Path, backbone: Backbone) -> None:
    items = [(sample.path, sample.name) for sample in samples(photos)]
    items[5] = (photos / "missing.png", "missing.png")
    known = {stream.load_image(*items[i], backbone.preprocess, ()).digest for i in (0, 3, 35)}  # type: ignore[union-attr]
    network = FromPixels(Features(backbone, ()), backbone.preprocess).eval()
    engine = TorchEngine(network, device="cpu", dtype=torch.float32)
    rows = list(stream.run_images(stream.load_images(items, backbone.preprocess, known), lambda: engine))
    assert len(rows) == 36
    assert [i for i, row in enumerate(rows) if isinstance(row, stream.Rejected)] == [5]
    assert [i for i, row in enumerate(rows) if isinstance(row, stream.Row) and row.features is None] == [0, 3, 35]
