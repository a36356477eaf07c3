"""Tar archives made of folders, tables and other shards, and what others read in them."""

import json
import tarfile
from pathlib import Path

import pytest
from conftest import paint_classes
from image_files import put, tree_hash
from shard_files import as_folder, good, pictures

import regraft
from regraft.cli.main import main
from regraft.data.read import read_samples
from regraft.recipe import Data
from regraft.sharding import _keys, shard

MADE = pictures({"cat": 5, "dog": 3}, ("train", "val", "test"))


def test_webdataset_reads_them(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    made = regraft.shard(as_folder(tmp_path / "photos", MADE), tmp_path / "shards", size=20_000)
    assert made.images == len(MADE)
    assert made.classes == ("cat", "dog")
    assert {name.partition("-")[0] for name in made.shards} == {"train", "val", "test"}
    assert made.bytes == sum((made.folder / name).stat().st_size for name in made.shards)
    classes = json.loads((made.folder / "classes.json").read_text())
    seen = dict[str, bytes]()
    for name in made.shards:
        assert (made.folder / name).stat().st_size <= 20_000
        for sample in webdataset.WebDataset(str(made.folder / name), shardshuffle=False):
            told = json.loads(sample["json"])
            assert classes[int(sample["cls"])] == told["label"] == told["name"].split("/")[1]
            assert told["name"].startswith(name.partition("-")[0])
            seen[told["name"]] = sample["png"]
            assert sample["__key__"] == told["name"].removesuffix(".png")
    assert seen == MADE


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    photos = as_folder(tmp_path / "photos", MADE)
    before = tree_hash(photos)
    one, two = shard(photos, tmp_path / "one", size=20_000), shard(photos, tmp_path / "two", size=20_000)
    again = shard(one.folder, tmp_path / "again", size=20_000)
    for name in (*one.shards, "classes.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes() == (again.folder / name).read_bytes()
    assert tree_hash(photos) == before
    with tarfile.open(one.folder / one.shards[0]) as archive:
        assert {(e.mtime, e.uid, e.gid, e.uname, e.mode) for e in archive} == {(0, 0, 0, "", 0o644)}


def test_tables_keep_groups_and_names(tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "data", pictures({"x": 6}))
    rows = [f"x/{i:03}.png,{'cat' if i % 2 else 'dog'},{'train' if i < 4 else 'test'},p{i // 2}" for i in range(6)]
    (folder / "table.csv").write_text("\n".join(["path,label,split,patient", *rows]))
    data = Data(path=folder / "table.csv", group_column="patient")
    made = shard(data, tmp_path / "shards")
    there = read_samples(Data(path=made.folder)).samples
    expected = read_samples(data).samples
    assert [(s.name, s.labels, s.part, s.group) for s in there] == [(s.name, s.labels, s.part, s.group) for s in expected]


def test_keys() -> None:
    names = ["a/1.jpg", "a/1.png", "a/1-2.gif", "a.b/c.d.jpg", "../up.png", "/top.png", "x\n.png", "ü b.webp", "noend", ".jpg"]
    keys = _keys(names)
    assert keys[:9] == ["a/1", "a/1-3", "a/1-2", "a_b/c_d", "__/up", "top", "x_", "ü_b", "noend"]
    assert len({*keys}) == len(names)
    assert not [key for key in keys if "." in key or key.startswith("/")]
    long = _keys([f"{'deep/' * 60}{i}.jpg" for i in range(3)])
    assert len({*long}) == 3
    assert max(map(len, long)) <= 180


def test_unreadable_images_are_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = as_folder(tmp_path / "photos", pictures({"cat": 12, "dog": 12}))
    put(folder, "cat/bad.jpg", content=b"nothing")
    assert main(["shard", str(folder), str(tmp_path / "shards"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["shards"]) == (24, ["shards-000000.tar"])
    assert [(one["code"], Path(one["path"]).name) for one in told["rejected"]] == [("not_an_image", "bad.jpg")]


def test_nothing_is_left_of_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = as_folder(tmp_path / "photos", MADE)
    before = tree_hash(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("regraft.sharding._synced", full)
        assert main(["shard", str(folder), str(tmp_path / "shards")]) == 6
    assert tree_hash(tmp_path) == before
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("x")
    for arguments, said in {
        (str(folder), str(tmp_path / "taken")): "new or empty",
        (str(folder), "s3://bucket/shards"): "on this machine",
        (str(folder), str(folder / "inner" / "s")): "outside of the images",
        (str(folder), str(tmp_path / "s"), "--size", "5kB"): "10,240 bytes",
        (str(folder), str(tmp_path / "s"), "--size", "big"): "--size as a number of bytes",
        (str(tmp_path / "none"), str(tmp_path / "s")): "nothing at",
    }.items():
        assert main(["shard", *arguments]) in (2, 3)
        assert said in capsys.readouterr().err
    assert not (folder / "inner").exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    (tmp_path / "empty").mkdir()
    assert main(["shard", str(folder), str(tmp_path / "empty"), "--size", "1MB"]) == 0
    assert "24 images in 3 archives" in capsys.readouterr().out


# From here on with a network


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs on the same images from a folder, from archives, from Parquet and from a store, each with a cache of its own."""
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path_factory.mktemp("same")
    photos = paint_classes(root / "photos", {"amber": 10, "blue": 10})
    shard(photos, root / "shards", size=40_000)
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    images = [{"bytes": (photos / name).read_bytes(), "path": name} for name in names]
    table = pa.table({"image": images, "label": [name.split("/")[0] for name in names]})
    pq.write_table(table, root / "photos.parquet", row_group_size=6)
    system = fsspec.filesystem("memory")
    for file in (root / "shards").iterdir():
        system.pipe(f"/same/{file.name}", file.read_bytes())
    sources = {"folder": photos, "tar": root / "shards", "parquet": root / "photos.parquet", "store": "memory://same"}
    for kind, source in sources.items():
        regraft.fit(
            source, out=root / kind, cache=root / f"cache-{kind}", backbone="torchvision:resnet18", weights="none", size=32
        )
    return {kind: root / kind for kind in sources} | {"shards": root / "shards"}


@pytest.mark.parametrize("kind", ["tar", "parquet", "store"])
def test_the_same_head(fitted: dict[str, Path], kind: str) -> None:
    assert (fitted[kind] / "model.safetensors").read_bytes() == (fitted["folder"] / "model.safetensors").read_bytes()
    page = (fitted[kind] / "report.html").read_text()
    assert page.count("data:image/jpeg") == (fitted["folder"] / "report.html").read_text().count("data:image/jpeg")


def test_every_command_takes_shards(fitted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, shards, cache = str(fitted["tar"]), str(fitted["shards"]), str(fitted["tar"].parent / "cache-tar")
    assert main(["evaluate", run, shards, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 20
    assert main(["predict", run, shards, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 20
    assert all(row["path"].startswith(f"{shards}/shards-00000") and row["status"] == "ok" for row in rows)
    assert main(["predict", run, rows[3]["path"], f"{shards}/shards-000000.tar::no.png", "--json"]) == 5
    one, missing = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert one == rows[3]
    assert missing["status"] == "failed"
    assert main(["audit", shards, "--backbone", "torchvision:resnet18", "--weights", "none", "--cache", cache, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 20
    more = shard(paint_classes(tmp_path / "more", {"cyan": 6}), tmp_path / "cyan")
    assert main(["extend", run, str(more.folder), "--out", str(tmp_path / "wider"), "--cache", cache, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["amber", "blue", "cyan"]


def test_what_an_archive_lacks_is_said(fitted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, loose = str(fitted["tar"]), str(paint_classes(tmp_path / "photos", {"amber": 1}) / "amber" / "000.png")
    cut = tmp_path / "cut.tar"
    cut.write_bytes(good(4))  # without an end mark: images may be missing, though each that is there is whole
    options = ["--backbone", "torchvision:resnet18", "--weights", "none", "--size", "32", "--json"]
    options += ["--cache", str(tmp_path / "cache")]
    for command, rows_said in (
        (["predict", run, str(cut), "--json"], 4),
        (["suggest", run, str(cut), "--json"], 1),
        (["features", str(cut), "--out", str(tmp_path / "one.parquet"), *options], 1),
        (["features", str(cut), loose, "--out", str(tmp_path / "two.parquet"), *options], 1),
    ):
        assert main(command) == 5
        said = capsys.readouterr()
        assert len(said.out.splitlines()) == rows_said
        assert "cut.tar has no end mark" in said.err.split("expected archives that are whole")[0]
        assert "cut.tar has no end mark" in said.err.split("expected archives that are whole")[1]
