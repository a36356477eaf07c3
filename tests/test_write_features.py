"""Features of every image as a table: a row for each, in order, with the numbers that a fit would get."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import COLOURS, paint, paint_classes

import regraft
from regraft.backbone.features import later_stages
from regraft.bulk.feature_file import ABOUT, read_about, read_features
from regraft.bulk.models import Frozen
from regraft.cache.extract import extract_features
from regraft.cli.main import main
from regraft.errors import BackboneNotFound, DataUnusable, OutputExists, UsageError
from regraft.values import Sample

SMALL = {"backbone": "torchvision:resnet18", "weights": "none", "size": 32, "device": "cpu"}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Nine pictures in three class folders, one that cannot be read among them, and one beside the folders."""
    folder = paint_classes(tmp_path / "mixed", dict.fromkeys(COLOURS, 3))
    (folder / "blue" / "001.png").write_bytes(b"nothing of an image")
    paint(folder / "loose.png", (9, 9, 9))
    return folder


def test_every_image_has_its_row_in_order_with_the_features_that_the_engine_gives(
    mixed: Path, cache: Path, tmp_path: Path
) -> None:
    found = regraft.features(mixed, out=tmp_path / "f.parquet", all_stages=True, **SMALL)
    table = pq.read_table(found.out)
    assert table.column_names == ["name", "path", "label", "error", "features"]
    names = [f"{colour}/{i:03}.png" for colour in COLOURS for i in range(3)] + ["loose.png"]
    assert table["name"].to_pylist() == list(found.names) == names
    assert table["label"].to_pylist() == [name.split("/")[0] for name in names[:-1]] + [None]
    assert [Path(path) for path in table["path"].to_pylist()] == [mixed / name for name in names]
    bad = names.index("blue/001.png")
    assert [i for i, error in enumerate(table["error"].to_pylist()) if error] == [bad]
    assert [i for i, row in enumerate(table["features"].to_pylist()) if row is None] == [bad]

    network = Frozen(backbone="torchvision:resnet18", weights="none", size=32).load()  # the same random weights again
    assert network.weights_digest == found.weights_digest
    expected = extract_features(
        [Sample(path=mixed / name, name=name) for name in names],
        network,
        later_stages(network),
        cache=tmp_path / "other",
        device="cpu",
    )
    good = [i for i in range(len(names)) if i != bad]
    assert np.array_equal(expected.kept_M, good)
    np.testing.assert_allclose(found.features_ND[good], expected.features[:], rtol=1e-4, atol=1e-4)
    assert np.isnan(found.features_ND[bad]).all()
    np.testing.assert_array_equal(read_features(found.out), found.features_ND)


def test_the_file_says_how_it_was_made(mixed: Path, cache: Path, tmp_path: Path) -> None:
    found = regraft.features(mixed, out=tmp_path / "f.parquet", all_stages=True, **SMALL)
    about = read_about(tmp_path / "f.parquet")
    assert about == json.loads(pq.read_schema(tmp_path / "f.parquet").metadata[ABOUT])
    assert about["backbone"] == "torchvision:resnet18"
    assert about["weights_digest"] == found.weights_digest
    assert about["preprocess"]["height"] == about["preprocess"]["width"] == 32
    assert about["columns"]["last"] == [0, 512]
    spans = list(about["columns"].values())
    assert len(spans) > 1
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]
    assert (
        spans[-1][1] == about["width"] == found.width == pq.read_schema(tmp_path / "f.parquet").field("features").type.list_size
    )


def test_the_second_time_comes_from_the_cache_and_gives_the_same_file(mixed: Path, cache: Path, tmp_path: Path) -> None:
    first = regraft.features(mixed, out=tmp_path / "1.parquet", **SMALL)
    second = regraft.features(mixed, out=tmp_path / "2.parquet", **SMALL)
    assert (first.cached, second.cached) == (0, 9)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_a_table_is_taken_in_its_order_with_rows_that_repeat(mixed: Path, cache: Path, tmp_path: Path) -> None:
    order = ["cyan/002.png", "amber/000.png", "gone.png", "cyan/002.png"]
    rows = [f"{name},{label}" for name, label in zip(order, ["b|a", "a", "", "b"], strict=True)]
    (mixed / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    found = regraft.features(mixed / "list.csv", out=tmp_path / "f.parquet", **SMALL)
    table = pq.read_table(found.out)
    assert table["name"].to_pylist() == order
    assert table["labels"].to_pylist() == [["a", "b"], ["a"], [], ["b"]]
    assert [bool(error) for error in found.errors] == [False, False, True, False]
    np.testing.assert_array_equal(found.features_ND[0], found.features_ND[3])
    (mixed / "plain.csv").write_text("file\n" + "\n".join(order[:2]) + "\n")
    without = regraft.features(regraft.Data(path=mixed / "plain.csv", path_column="file"), out=tmp_path / "g.parquet", **SMALL)
    assert pq.read_table(without.out).column_names == ["name", "path", "error", "features"]
    np.testing.assert_array_equal(without.features_ND, found.features_ND[:2])


def test_the_command_takes_files_says_what_it_did_and_leaves_with_5_for_a_bad_one(
    mixed: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(mixed / "loose.png"), str(mixed / "blue" / "001.png"), str(mixed / "amber")]
    out = tmp_path / "f.parquet"
    options = ["--backbone", "torchvision:resnet18", "--weights", "none", "--size", "32", "--device", "cpu", "--json"]
    assert main(["features", *files, "--out", str(out), *options]) == 5
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["failed"], said["width"], said["out"]) == (5, 1, 512, str(out))
    assert said["images_per_s"] > 0
    assert pq.read_table(out)["path"].to_pylist() == [*files[:2], *(f"{files[2]}/{i:03}.png" for i in range(3))]
    before = out.read_bytes()
    assert main(["features", *files, "--out", str(out), *options]) == 2
    assert "there already" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_a_file_without_any_features_says_why(tmp_path: Path) -> None:
    found = regraft.features([tmp_path / "nothing.png"], out=tmp_path / "f.parquet", cache=tmp_path / "cache", **SMALL)
    assert pq.read_table(tmp_path / "f.parquet")["error"].to_pylist() == list(found.errors)
    assert found.failed == 1
    assert "no such file" in str(found.errors[0])
    assert np.isnan(found.features_ND).all()


def test_what_cannot_be_is_said_before_any_work(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.parquet").touch()
    for error, data, options in (
        (UsageError, mixed, {"out": tmp_path / "f.csv"}),
        (UsageError, mixed, {"out": tmp_path / "no" / "f.parquet"}),
        (OutputExists, mixed, {"out": tmp_path / "there.parquet"}),
        (UsageError, mixed, {"size": 3}),
        (DataUnusable, tmp_path / "empty", {}),
        (BackboneNotFound, mixed, {"backbone": "torchvision:resnet1"}),
        (UsageError, mixed, {"address": "local", "workers": 0}),
    ):
        with pytest.raises(error):
            regraft.features(data, cache=tmp_path / "cache", **(SMALL | options))
    from regraft import needs

    monkeypatch.setattr(needs, "find_spec", lambda name: None if name == "ray" else object())
    with pytest.raises(UsageError, match=r"pip install 'regraft\[ray\]'"):
        regraft.features(mixed, address="local", **SMALL)
    with pytest.raises(UsageError, match=r"pip install 'regraft\[ray\]'"):
        regraft.predict_on_ray("efficientnet_lite0", ["a.png"])
