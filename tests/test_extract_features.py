"""The one pass: decoded once, in order, from the cache where it can be, the same rows from every engine."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, paint

from regraft.backbone.features import Features, FromPixels, later_stages, pooled, pooling_for
from regraft.backbone.graph import quarter_means
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.cache import choose, stream
from regraft.cache.engines import Network, OpenVinoEngine, TorchEngine, candidates, pick_device
from regraft.cache.extract import Extracted, extract_features
from regraft.data.decode import load_pixels
from regraft.errors import TooManyUnreadable, UsageError
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

    with_looks = stream.load_pixels_and_look

    def counting_both(data: bytes, *rest: object) -> object:
        seen.append(data)
        return with_looks(data, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stream, "load_pixels", counting)
    monkeypatch.setattr(stream, "load_pixels_and_look", counting_both)
    return seen


def test_rows_are_what_the_network_gives_in_the_order_of_the_samples(photos: Path, backbone: Backbone, cache: Path) -> None:
    found = extract(photos, backbone, cache)
    network = FromPixels(Features(backbone, later_stages(backbone)), backbone.preprocess)
    pixels = np.stack([load_pixels(sample.path, backbone.preprocess) for sample in samples(photos)])
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels)).numpy()
    assert found.features.shape == expected.shape
    assert choose.smallest_cosine(found.features[:], expected, 1280) >= choose.AGREES
    # Each row is nearest to its own image's: no two were swapped.
    distance = np.linalg.norm(found.features[:][:, None] - expected[None], axis=2)
    assert np.array_equal(distance.argmin(axis=1), np.arange(len(expected)))


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 3, 5, 7), (2, 3, 2, 3)])
def test_quarters_are_what_adaptive_pooling_averages(shape: tuple[int, ...]) -> None:
    value = torch.randn(shape)
    expected = torch.nn.functional.adaptive_avg_pool2d(value, 2).flatten(2).permute(2, 0, 1)
    assert torch.allclose(torch.stack(quarter_means(value)), expected, atol=1e-6)
    assert pooled(value, "quarters").shape == (2, 18)
    assert torch.equal(pooled(value, "quarters")[:, :6], pooled(value, "whole"))


def test_only_maps_have_quarters() -> None:
    channels_last = torch.randn(2, 4, 4, 3)
    assert torch.allclose(quarter_means(channels_last)[1], channels_last[:, :2, 2:].mean(dim=(1, 2)))
    for value in (torch.randn(2, 10, 3), torch.randn(2, 3), torch.randn(2, 3, 1, 5)):
        assert quarter_means(value) == ()
        if value.dim() > 2:
            assert torch.equal(pooled(value, "quarters"), pooled(value, "whole"))


def test_quarters_are_for_few_images(backbone: Backbone) -> None:
    few, many = pooling_for(backbone, 10_000), pooling_for(backbone, 100_000)
    assert (few.pooling, many.pooling) == ("quarters", "whole")
    widths = [Features(one, later_stages(one)).columns.width for one in (few, many)]
    assert widths[0] - 1280 == 3 * (widths[1] - 1280)
    assert later_stages(few) == later_stages(many)


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
        if candidate.precision == "fp32":
            assert choose.smallest_cosine(rows, reference, 1280) >= 0.9999, candidate.name
        else:
            # Half precision keeps 8 bits of the fraction: right on most images, too far off on the worst to be chosen here.
            each = [
                choose.smallest_cosine(rows[[i]] - reference.mean(0), reference[[i]] - reference.mean(0), 1280)
                for i in range(6)
            ]
            assert np.median(each) >= 0.95, candidate.name


def test_agreement_is_judged_for_the_head_input_apart() -> None:
    rng = np.random.default_rng(0)
    a_ND = np.concatenate([rng.normal(size=(3, 4)), 100 * rng.normal(size=(3, 8))], axis=1).astype(np.float32)
    b_ND = a_ND.copy()
    b_ND[1, :4] *= -1
    assert choose.smallest_cosine(a_ND, b_ND, 0) > 0.99
    assert choose.smallest_cosine(a_ND, b_ND, 4) < 0.5
    shared = a_ND + 1e4
    assert choose.smallest_cosine(shared, shared[::-1], 0) < 0.5, "what all images share must not count"
    assert choose.smallest_cosine(a_ND, a_ND, 4) == pytest.approx(1)
    assert choose.smallest_cosine(0 * a_ND, 0 * a_ND, 4) == 1


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


def test_changed_weights_of_a_kept_network_are_noticed(backbone: Backbone, tmp_path: Path) -> None:
    """OpenVINO itself reads them without complaint."""
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    network = Network(FromPixels(Features(backbone, ()), backbone.preprocess).eval(), "test", tmp_path)
    (first,) = OpenVinoEngine(network, pixels, "fp32").stream(iter([pixels]))
    (kept,) = (tmp_path / "engines").glob("*.bin")
    data = bytearray(kept.read_bytes())
    data[100_000:104_096] = bytes(4096)
    kept.write_bytes(data)
    (again,) = OpenVinoEngine(network, pixels, "fp32").stream(iter([pixels]))
    assert np.allclose(first, again, atol=1e-4)


def test_a_precision_that_is_too_coarse_is_not_tried_twice(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(FromPixels(Features(backbone, ()), backbone.preprocess).eval(), "test", None)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    reference = candidates(network, "cpu", pixels)[0]
    tried: list[str] = []

    def make(name: str) -> _Doubling:
        tried.append(name)
        return _Doubling()

    others = [choose.Candidate(name, lambda name=name: make(name), "bf16") for name in ("one", "two")]  # type: ignore[misc]
    monkeypatch.setattr(choose, "candidates", lambda *_: [reference, *others])
    timings, _ = choose.measure(network, pixels, images=100, device="cpu")
    assert tried == ["one"]
    assert "bf16" in next(timing.note for timing in timings if timing.name == "two")


def test_an_engine_that_cannot_run_the_network_is_left_out(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no such operation")

    network = Network(FromPixels(Features(backbone, ()), backbone.preprocess).eval(), "test", None)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    reference = candidates(network, "cpu", pixels)[0]
    monkeypatch.setattr(choose, "candidates", lambda *_: [reference, choose.Candidate("broken", broken)])  # type: ignore[arg-type]
    timings, engine = choose.measure(network, pixels, images=100, device="cpu")
    assert engine.name == reference.name
    assert [(timing.name, timing.chosen) for timing in timings] == [(reference.name, True), ("broken", False)]
    assert "no such operation" in timings[1].note


def test_a_remembered_engine_that_fails_is_forgotten(
    photos: Path, backbone: Backbone, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(photos, backbone, cache)
    paint(photos / "blue" / "new.png", COLOURS["blue"])

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("gone")

    with monkeypatch.context() as patch:
        patch.setattr("regraft.cache.engines.TorchEngine", broken)
        patch.setattr("regraft.cache.engines.OpenVinoEngine", broken)
        with pytest.raises(UsageError, match="measured anew"):
            extract(photos, backbone, cache)
    assert extract(photos, backbone, cache).features.shape[0] == 37


def test_networks_that_hold_tensors_of_five_dimensions_run(tmp_path: Path) -> None:
    swin = load_backbone("timm:swin_tiny_patch4_window7_224", weights="none")
    network = FromPixels(Features(swin, ()), swin.preprocess).eval()
    pixels = np.zeros((1, 224, 224, 3), np.uint8)
    assert TorchEngine(network, device="cpu", dtype=torch.float32).run(pixels).shape == (1, 768)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="cpu on this machine"):
        pick_device("cuda")


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
