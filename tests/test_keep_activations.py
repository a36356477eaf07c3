"""What crosses a boundary, kept: pixels byte for byte, activations as the prefix gives them, nothing of a changed file."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, paint

from regraft.backbone.boundary import boundary_for, cut
from regraft.backbone.features import Normalise
from regraft.backbone.load import load_backbone
from regraft.backbone.model import Backbone
from regraft.cache.extract import extract_boundary
from regraft.cache.store import BYTES, Table, list_tables
from regraft.data.decode import load_pixels
from regraft.errors import DataUnusable, TooManyUnreadable
from regraft.values import Sample


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("torchvision:resnet18", weights="none", size=64)


def samples_in(root: Path) -> tuple[list[Sample], list[bytes]]:
    paths = sorted(root.rglob("*.png"))[::4]
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    return [Sample(path=path, name=path.name) for path in paths], digests


def test_pixels_are_kept_byte_for_byte(backbone: Backbone, photos: Path, tmp_path: Path) -> None:
    samples, digests = samples_in(photos)
    values = extract_boundary(samples, digests, backbone, boundary_for(backbone, "pixels"), cache=tmp_path)
    assert values.shapes == ((64, 64, 3),)
    wanted = np.stack([load_pixels(sample.path, backbone.preprocess) for sample in samples])
    (pixels,) = values[np.arange(len(samples))]
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels.numpy(), wanted)
    (some,) = values.take(np.array([5, 2]))[np.array([1, 0])]
    assert np.array_equal(some.numpy(), wanted[[2, 5]])
    (table,) = list_tables(tmp_path)
    assert table.description == "pixels 64x64 decoded"
    assert table.rows == len(samples)


def test_other_weights_share_decoded_pixels_and_other_sizes_do_not(backbone: Backbone, photos: Path, tmp_path: Path) -> None:
    samples, digests = samples_in(photos)
    other = load_backbone("torchvision:squeezenet1_1", weights="none", size=64)
    larger = load_backbone("torchvision:resnet18", weights="none", size=96)
    for one in (backbone, other, larger):
        extract_boundary(samples, digests, one, boundary_for(one, "pixels"), cache=tmp_path)
    assert len(list_tables(tmp_path)) == 2


def test_activations_are_what_the_prefix_gives(backbone: Backbone, photos: Path, tmp_path: Path) -> None:
    samples, digests = samples_in(photos)
    boundary = boundary_for(backbone, "layer2")
    values = extract_boundary(samples, digests, backbone, boundary, cache=tmp_path, device="cpu")
    assert values.shapes == ((128, 8, 8),)
    pixels = torch.from_numpy(np.stack([load_pixels(sample.path, backbone.preprocess) for sample in samples]))
    with torch.inference_mode():
        (wanted,) = cut(backbone, boundary).prefix(Normalise(backbone.preprocess)(pixels))
    (got,) = values[np.arange(len(samples))]
    # The engine that was fastest may compute in another order, never in another precision than agrees.
    assert torch.nn.functional.cosine_similarity(got.flatten(1), wanted.flatten(1)).min() > 0.9999
    descriptions = [table.description for table in list_tables(tmp_path)]
    assert any("torchvision:resnet18 up to layer2 64x64" in text for text in descriptions)


def test_a_file_that_changed_or_vanished_meanwhile_is_told(backbone: Backbone, photos: Path, tmp_path: Path) -> None:
    samples, digests = samples_in(photos)
    paint(samples[3].path, COLOURS["blue"], side=50)
    with pytest.raises(DataUnusable, match=samples[3].name):
        extract_boundary(samples, digests, backbone, boundary_for(backbone, "pixels"), cache=tmp_path)
    samples[1].path.unlink()
    with pytest.raises(TooManyUnreadable, match=samples[1].name):
        extract_boundary(samples, digests, backbone, boundary_for(backbone, "pixels"), cache=tmp_path)


def test_a_damaged_row_of_pixels_is_no_hit(tmp_path: Path) -> None:
    table = Table.open(tmp_path, {"backbone": "pixels"}, 12, BYTES)
    rows = np.arange(36, dtype=np.uint8).reshape(3, 12)
    assert table.append([b"a", b"b", b"c"], rows) == [0, 1, 2]
    assert np.array_equal(table.rows([2, 0])[:], rows[[2, 0]])
    path = table.folder / "rows.u8"
    data = bytearray(path.read_bytes())
    assert len(data) == 36
    data[13] ^= 1
    path.write_bytes(data)
    assert table.lookup() == {b"a": 0, b"c": 2}
    table.close()
