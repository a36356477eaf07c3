"""What tar archives, Parquet and Arrow files with images inside are understood to be, here and in other stores."""

import io
import json
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_files import as_folder, picture, pictures, tar_of

from regraft.data.decode import check_header, decode_image, read_image, read_upright_size
from regraft.data.read import read_evaluation, read_samples
from regraft.data.shards import containers, ranges
from regraft.data.shards.places import expand, find_shards, part_of, title_of
from regraft.data.split import split_samples
from regraft.errors import DataUnusable, ImageRejected, TooManyUnreadable, UnknownClass, UsageError
from regraft.inputs import checked_paths, expand_inputs
from regraft.recipe import Data, located
from regraft.sharding import shard
from regraft.values import Member, Samples

MADE = pictures({"cat": 4, "dog": 4}, ("train", "test"))


def read(source: str | Path, **options: object) -> Samples:
    return read_samples(Data(path=source, **options))  # type: ignore[arg-type]


def known(samples: Samples) -> list[tuple[object, ...]]:
    return [(s.name, s.labels, s.part, s.group, read_image(s.path, s.name)) for s in samples.samples]


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def labels_of(samples: Samples) -> dict[str, tuple[str, ...]]:
    return {sample.name: sample.labels for sample in samples.samples}


def with_cls(label_of: dict[str, str | int]) -> dict[str, bytes]:
    files = dict[str, bytes]()
    for index, (key, label) in enumerate(label_of.items()):
        files |= {f"{key}.cls": str(label).encode(), f"{key}.jpg": picture(index, form="JPEG")}
    return files


def parquet_of(path: Path, made: dict[str, bytes], **columns: object) -> Path:
    images = [{"bytes": data, "path": name} for name, data in made.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=3)
    return path


def classes_and_parts(made: dict[str, bytes]) -> dict[str, object]:
    return {"label": [name.split("/")[-2] for name in made], "split": [name.split("/")[0] for name in made]}


def test_shards_say_what_their_folder_says(tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "photos", MADE)
    shard(folder, tmp_path / "shards", size=12_000)
    assert len([*(tmp_path / "shards").glob("*.tar")]) > 2
    expected = known(read(folder))
    assert known(read(tmp_path / "shards")) == expected
    assert known(read(f"{tmp_path}/shards/t*.tar")) == expected
    assert known(read(parquet_of(tmp_path / "all.parquet", MADE, **classes_and_parts(MADE)))) == expected
    assert read(tmp_path / "shards").classes == ("cat", "dog")


def test_parts_are_read_from_names_and_folders(tmp_path: Path) -> None:
    for place, part in {
        "train-000.tar": "train", "a/train/000.tar": "train", "Valid_3.tar": "val", "validation-00000-of-00002.parquet": "val",
        "x/test/data-00000-of-00001.arrow": "test", "trainer-0.tar": None, "shards-000.tar": None, "train/data/0.tar": "train",
    }.items():  # fmt: skip
        assert part_of(place) == part, place
    for name, label in (("train/0.tar", "cat"), ("train/1.tar", "dog"), ("test/0.tar", "cat")):
        write(tmp_path / name, tar_of(with_cls({f"{i}": label for i in range(3)})))
    samples = read(tmp_path)
    assert [s.part for s in samples.samples].count("test") == 3
    # The keys are the same in every archive; the shard tells them apart.
    assert {s.name for s in samples.samples} >= {"train/0/0.jpg", "train/1/0.jpg", "test/0/0.jpg"}


@pytest.mark.parametrize("listed", [None, '["cat", "dog"]', '{"cat": 0, "dog": 1}', "cat\ndog\n"])
def test_numbers_in_cls(tmp_path: Path, listed: str | None) -> None:
    write(tmp_path / "shards-0.tar", tar_of(with_cls({"a": 0, "b": 0, "c": 1, "d": 1})))
    if listed is not None:
        (tmp_path / ("classes.json" if listed[0] in "[{" else "classes.txt")).write_text(listed)
    assert read(tmp_path).classes == (("0", "1") if listed is None else ("cat", "dog"))


@pytest.mark.parametrize("field", ["label", "cls", "class"])
def test_labels_in_json(tmp_path: Path, field: str) -> None:
    files = dict[str, bytes]()
    for index in range(4):
        told = {field: ("cat", "dog")[index % 2], "name": f"zoo/{index}.png", "group": f"g{index // 2}"}
        # The number in .cls is not asked where the JSON says it in words.
        files |= {f"k{index}.cls": b"7", f"k{index}.json": json.dumps(told).encode(), f"k{index}.png": picture(index)}
    samples = read(write(tmp_path / "a.tar", tar_of(files)))
    assert labels_of(samples) == {f"zoo/{i}.png": (("cat", "dog")[i % 2],) for i in range(4)}
    assert [s.group for s in samples.samples] == ["g0", "g0", "g1", "g1"]
    assert samples.samples[1].path == Member(**{f: getattr(samples.samples[1].path, f) for f in Member.__slots__})
    assert str(samples.samples[1].path) == f"{tmp_path}/a.tar::k1.png"


def test_several_labels(tmp_path: Path) -> None:
    labels: list[list[str]] = [["cat", "dog"], ["dog"], ["cat"], []]
    files = dict[str, bytes]()
    for index, label in enumerate(labels):
        files |= {f"{index}.json": json.dumps({"label": label}).encode(), f"{index}.png": picture(index)}
    samples = read(write(tmp_path / "a.tar", tar_of(files)))
    assert samples.multi_label
    assert [s.labels for s in samples.samples] == [("cat", "dog"), ("dog",), ("cat",), ()]
    again = shard(tmp_path / "a.tar", tmp_path / "again")
    assert labels_of(read(again.folder)) == labels_of(samples)
    with tarfile.open(again.folder / "shards-000000.tar") as archive:
        assert not [name for name in archive.getnames() if name.endswith(".cls")]


def test_what_is_no_image_of_a_sample(tmp_path: Path) -> None:
    files = with_cls({"a": "cat", "b": "cat", "c": "dog", "d": "dog"})
    files |= {"a.seg.png": picture(90), "a.txt": b"a cat", "e.jpg": picture(91, form="JPEG"), "._a.jpg": b"leftover"}
    samples = read(write(tmp_path / "a.tar", tar_of(files)))
    assert [*labels_of(samples)] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    notes = "; ".join(samples.notes)
    assert "3 other files left out: .jpg 1, .png 1, .txt 1" in notes
    assert "1 image without a label, left out: e.jpg" in notes


def test_old_and_long_names(tmp_path: Path) -> None:
    deep = "d" * 90 + "/" + "e" * 90
    files = with_cls({"a": "cat", "b": "cat", f"{deep}/c": "dog", "über/d": "dog"})
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        samples = read(write(tmp_path / "a.tar", tar_of({f"./{k}": v for k, v in files.items()}, form)))
        assert [*labels_of(samples)] == ["a.jpg", "b.jpg", f"{deep}/c.jpg", "über/d.jpg"]
        assert [read_image(s.path) for s in samples.samples] == [v for k, v in files.items() if k.endswith("jpg")]


def test_members_from_many_threads_and_after_a_copy(tmp_path: Path) -> None:
    shard(as_folder(tmp_path / "photos", MADE), tmp_path / "shards", size=12_000)
    samples = read(tmp_path / "shards").samples
    copies = [pickle.loads(pickle.dumps(sample.path)) for sample in samples]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert [*pool.map(read_image, copies)] == [MADE[sample.name] for sample in samples]
    assert all(decode_image(path).pixels.size == read_upright_size(path) == (24, 24) for path in copies)


def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MOST_OPEN", 2)
    for index in range(5):
        write(tmp_path / f"{index}.tar", tar_of(with_cls({f"{index}a": "cat", f"{index}b": "dog"})))
    samples = read(tmp_path).samples
    here = Path("/proc/self/fd")
    before = len([*here.iterdir()]) if here.exists() else 0
    assert len({read_image(sample.path) for sample in samples for _ in range(3)}) == 2
    assert not before or len([*here.iterdir()]) <= before + 2


def test_an_archive_that_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", tar_of(with_cls({"a": "cat", "b": "cat", "c": "dog", "d": "dog"})))
    last = read(path).samples[-1]
    read_image(last.path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ImageRejected, match="its archive has become shorter") as caught:
        read_image(last.path, last.name)
    assert caught.value.code == "truncated"
    path.unlink()
    with pytest.raises(ImageRejected) as caught:
        read_image(last.path, last.name)
    assert caught.value.code in ("unreadable", "missing")


# Parquet and Arrow


def test_rows_with_class_names_in_the_schema(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    by_part = {}
    for part in ("train", "test"):
        own = {name: data for name, data in MADE.items() if name.startswith(part)}
        rows = {"image": [{"bytes": d, "path": n} for n, d in own.items()], "label": [int("dog" in n) for n in own]}
        by_part[part] = datasets.Dataset.from_dict(rows, features=features)
        by_part[part].to_parquet(tmp_path / "hub" / "data" / f"{part}-00000-of-00001.parquet")
    datasets.DatasetDict(by_part).save_to_disk(tmp_path / "saved")
    expected = known(read(as_folder(tmp_path / "photos", MADE)))
    assert known(read(tmp_path / "hub")) == expected
    # Saved, datasets keep no more than the last part of a path.
    assert sorted(row[1:] for row in known(read(tmp_path / "saved"))) == sorted(row[1:] for row in expected)
    inside = [str(sample.path) for sample in read(tmp_path / "saved").samples]
    assert len({*inside}) == len(MADE)
    assert sorted(read_image(place) for place, _ in checked_paths(inside)) == sorted(MADE.values())
    by_part["train"].save_to_disk(tmp_path / "one")
    assert len(read(tmp_path / "one").samples) == 8


def test_plain_columns(tmp_path: Path) -> None:
    made = pictures({"a": 6})
    columns = {"img": [*made.values()], "species": [1.0, 1.0, 1.0, 2.0, 2.0, 2.0], "site": ["x", "x", "y", "y", "z", None]}
    path = tmp_path / "birds.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=4)
    samples = read(path, label_column="species", group_column="site")
    assert [s.name for s in samples.samples] == [
        f"birds/{group}-{at:06}" for group, at in ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1))
    ]
    assert [(s.labels, s.group) for s in samples.samples][3:] == [(("2",), "y"), (("2",), "z"), (("2",), None)]
    assert [read_image(s.path) for s in samples.samples] == [*made.values()]
    with pytest.raises(DataUnusable, match="name yours with --label-column"):
        read(path)


def test_arrow_files_of_both_kinds(tmp_path: Path) -> None:
    made = pictures({"cat": 3, "dog": 3})
    table = pa.table({"jpg": [*made.values()], "name": [*made], "label": ["cat"] * 3 + ["dog"] * 3})
    for kind, new in (("stream", pa.ipc.new_stream), ("file", pa.ipc.new_file)):
        with new(tmp_path / f"{kind}.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
        assert {s.name: read_image(s.path) for s in read(tmp_path / f"{kind}.arrow").samples} == made


def test_lists_of_labels_and_rows_without_any(tmp_path: Path) -> None:
    made = pictures({"x": 5})
    samples = read(parquet_of(tmp_path / "a.parquet", made, label=[["cat"], ["cat", "dog"], ["dog"], [], None]))
    assert samples.multi_label
    assert [s.labels for s in samples.samples] == [("cat",), ("cat", "dog"), ("dog",), (), ()]
    single = read(parquet_of(tmp_path / "b.parquet", made, label=["cat", "cat", "dog", "dog", None]))
    assert len(single.samples) == 4
    assert any("1 image without a label" in note for note in single.notes)


def test_a_row_without_bytes_is_set_aside(tmp_path: Path) -> None:
    made = pictures({"cat": 12, "dog": 12})
    images: list[object] = [{"bytes": data, "path": name} for name, data in made.items()]
    images[3] = {"bytes": None, "path": "elsewhere.png"}
    pq.write_table(pa.table({"image": images, "label": [name[:3] for name in made]}), tmp_path / "a.parquet")
    samples = read(tmp_path / "a.parquet")
    assert [(one.name, one.code) for one in samples.rejected] == [("elsewhere.png", "empty")]


def test_a_table_of_paths_stays_one(tmp_path: Path) -> None:
    as_folder(tmp_path, MADE)
    pq.write_table(
        pa.table({"path": [*MADE], "label": [n.split("/")[1] for n in MADE], "hash": [b"x"] * len(MADE)}),
        tmp_path / "t.parquet",
    )
    assert all(isinstance(sample.path, Path) for sample in read(tmp_path / "t.parquet").samples)


def test_a_table_without_images_or_paths_is_told_of_both(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2], "label": ["cat", "dog"]}), tmp_path / "t.parquet")
    with pytest.raises(DataUnusable, match=r"a column of images \(struct \{bytes, path\} or binary\), or a column 'path'"):
        read(tmp_path / "t.parquet")


def test_damaged_tables(tmp_path: Path) -> None:
    good = parquet_of(tmp_path / "a.parquet", pictures({"cat": 4, "dog": 4}), label=["cat"] * 4 + ["dog"] * 4).read_bytes()
    samples = read(tmp_path / "a.parquet").samples
    for at in range(4, len(good) - 8, 331):
        (tmp_path / "a.parquet").write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
        for sample in samples[::3]:
            try:
                read_image(sample.path)
            except ImageRejected as error:
                assert error.code in ("unreadable", "truncated", "damaged", "not_an_image")  # noqa: PT017


# Elsewhere


@pytest.fixture
def store() -> str:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.store.clear()
    return "memory://bucket/shards"


def upload(folder: Path, url: str) -> None:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    system.makedirs(path, exist_ok=True)
    for file in folder.rglob("*"):
        if file.is_file():
            system.pipe(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def test_a_store_of_objects(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "WINDOW", 5000)
    shard(as_folder(tmp_path / "photos", MADE), tmp_path / "shards", size=12_000)
    upload(tmp_path / "shards", store)
    expected = known(read(tmp_path / "photos"))
    assert known(read(store)) == expected
    assert known(read(f"{store}/*.tar")) == expected
    assert str(read(store).samples[0].path).startswith("memory://bucket/shards/test-000000.tar::test/cat/")
    one = read_evaluation(f"{store}/test-{{000000..000001}}.tar", ("cat", "dog"))
    assert {s.part for s in one.samples} == {"test"}
    parquet_of(tmp_path / "rows" / "train-0.parquet", MADE, **classes_and_parts(MADE))
    upload(tmp_path / "rows", "memory://bucket/rows")
    assert known(read("memory://bucket/rows")) == expected


def test_a_test_set_of_its_own(tmp_path: Path, store: str) -> None:
    shard(as_folder(tmp_path / "photos", MADE), tmp_path / "shards")
    upload(tmp_path / "shards", store)
    train = tmp_path / "shards/train-000000.tar"
    for test in (tmp_path / "shards/test-000000.tar", f"{store}/test-*.tar"):
        data = Data(path=train, test=test)
        split = split_samples(read_samples(data), data, 0)
        assert (len(split.train), len(split.test), str(test) in split.how) == (8, 8, True)
    data = Data(path=train, test=str(train))
    with pytest.raises(DataUnusable, match="training images that are not in the test set"):
        split_samples(read_samples(data), data, 0)
    with pytest.raises(DataUnusable, match="nothing at"):
        read_samples(Data(path=train, test="gone.tar"))


def test_windows_are_fetched_once_in_order(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(ranges, "WINDOW", 4096)
    shard(as_folder(tmp_path / "photos", MADE), tmp_path / "shards")
    upload(tmp_path / "shards", store)
    samples = read(f"{store}/train-000000.tar").samples
    fetched = list[int]()
    original = MemoryFileSystem.cat_file
    containers.opened(f"{store}/train-000000.tar", anew=True)

    def counting(
        self: MemoryFileSystem, path: str, start: int | None = None, end: int | None = None, **options: object
    ) -> bytes:
        fetched.append(start or 0)
        return bytes(original(self, path, start=start, end=end, **options))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counting)
    assert [read_image(s.path) for s in samples] == [MADE[s.name] for s in samples]
    assert len(fetched) == len(set(fetched)) > 2


def test_an_s3_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    s3fs = pytest.importorskip("s3fs")
    server = server_of(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("photos")
        shard(as_folder(tmp_path / "photos", MADE), tmp_path / "shards", size=20_000)
        upload(tmp_path / "shards", "s3://photos/v1")
        expected = known(read(tmp_path / "photos"))
        assert known(read("s3://photos/v1")) == expected
        assert known(read("s3://photos/v1/{train,test}-*.tar")) == expected
        with pytest.raises(DataUnusable, match=r"nothing at s3://photos/v2/0\.tar"):
            read("s3://photos/v2/0.tar")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


class Ranged(BaseHTTPRequestHandler):
    """A plain web server of one folder; `ranges`: it can send a part of a file."""

    folder, ranges = Path(), True

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return b""
        data, code = path.read_bytes(), 200
        if self.ranges and (asked := self.headers.get("Range")):
            first, last = asked.removeprefix("bytes=").split("-")
            data, code = data[int(first) : int(last) + 1], 206
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return data

    def log_message(self, *_: object) -> None:
        pass


def test_a_web_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(ranges, "WINDOW", 5000)
    shard(as_folder(tmp_path / "photos", MADE), tmp_path / "shards", size=12_000)
    monkeypatch.setattr(Ranged, "folder", tmp_path / "shards")
    with ThreadingHTTPServer(("127.0.0.1", 0), Ranged) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        last = max(path.stem for path in (tmp_path / "shards").glob("train-*.tar")).removeprefix("train-")
        url = f"http://127.0.0.1:{server.server_port}/train-{{000000..{last}}}.tar"
        here = read(f"{tmp_path}/shards/train-*.tar", test="none")
        assert known(read(url, test="none")) == known(here)
        monkeypatch.setattr(Ranged, "ranges", False)
        with pytest.raises(DataUnusable, match="a server has to serve ranges"):
            read(url, test="none")
        with pytest.raises(DataUnusable, match="nothing at http"):
            read(url.replace("train", "gone"))
        server.shutdown()


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("memory://nowhere", DataUnusable, "memory://nowhere"),
        ("memory://nowhere/a.tar", DataUnusable, "nothing at memory://nowhere/a.tar"),
        ("ftp://host/a.tar", UsageError, "a URL of s3://"),
        ("simplecache::s3://a/b.tar", DataUnusable, "nothing at"),
        ("missing-{0..3}.tar", DataUnusable, "not there: missing-0.tar"),
        ("missing-*.tar", DataUnusable, "nothing at"),
        ("missing.tar", DataUnusable, "nothing at missing.tar"),
    ],
)
def test_nothing_there(store: str, source: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        read(source)
    assert said in str(caught.value)


def test_urls_stay_whole() -> None:
    assert Data(path="s3://bucket/a//b.tar").path == "s3://bucket/a//b.tar"
    assert Data(path="photos").path == Path("photos")
    assert located("file:///a%20b/c.tar") == Path("/a b/c.tar")
    with pytest.raises(DataUnusable, match="give a URL as text"):
        read(Path("s3://bucket/shards"))
    with pytest.raises(UsageError, match="the URL s3://bucket"):
        assert Data(path="s3://bucket").local


def test_patterns(tmp_path: Path) -> None:
    assert expand("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand("{x,y}/{1..0}.tar") == ["x/1.tar", "x/0.tar", "y/1.tar", "y/0.tar"]
    assert expand("plain{}.tar") == ["plain{}.tar"]
    with pytest.raises(UsageError, match="at most 100,000 files"):
        expand("{0..999}{0..999}{0..9}.tar")
    for index in range(2):
        write(tmp_path / f"some-{index}.tar", tar_of(with_cls({"a": "cat"})))
    with pytest.raises(DataUnusable, match=r"2 of 4 not there: \S*some-2\.tar[\s\S]*narrower range, or \S*some-\*\.tar"):
        find_shards(f"{tmp_path}/some-{{0..3}}.tar")
    with pytest.raises(DataUnusable, match=r"2 of 2 not there[\s\S]*check the path"):
        find_shards(f"{tmp_path}/some-{{2..3}}.tar")
    titles = {"s3://b/shards-{000..9}.tar": "shards", "s3://bucket/cats/": "cats", "a/*.tar": "a", "x/train-*.tar": "train"}
    assert {source: title_of(source) for source in titles} == titles


# What else a folder may be


def test_folders_that_hold_no_shards(tmp_path: Path) -> None:
    as_folder(tmp_path / "photos", MADE)
    write(tmp_path / "photos/train/backup.tar", tar_of({"x.txt": b""}))
    assert find_shards(tmp_path / "photos") == ()
    assert len(read(tmp_path / "photos").samples) == len(MADE)
    write(write(tmp_path / "loose/a.tar", tar_of(with_cls({"a": "cat"}))).parent / "b.png", picture(0))
    assert find_shards(tmp_path / "loose") == ()
    assert [*expand_inputs([str(tmp_path / "loose")]).paths] == [str(tmp_path / "loose/b.png")]
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "a.tar").symlink_to(write(tmp_path / "a.tar", tar_of(with_cls({"a": "cat"}))))
    assert find_shards(tmp_path / "link") == ()


def test_masks_are_not_read_from_shards(tmp_path: Path) -> None:
    from regraft.data.masked import read_masked

    path = write(tmp_path / "a.tar", tar_of(with_cls({"a": "cat", "b": "dog"})))
    with pytest.raises(UsageError, match="shards at"):
        read_masked(Data(path=path, task="saliency"))
    with pytest.raises(UsageError, match=r"write .*group"):
        read(path, group_column="patient")


def test_a_class_that_is_only_tested(tmp_path: Path) -> None:
    write(tmp_path / "train-0.tar", tar_of(with_cls({"a": "cat", "b": "dog", "c": "cat", "d": "dog"})))
    write(tmp_path / "test-0.tar", tar_of(with_cls({"a": "cow"})))
    with pytest.raises(UnknownClass, match="cow"):
        read(tmp_path)


def test_bad_images_are_counted(tmp_path: Path) -> None:
    files = with_cls({str(i): ("cat", "dog")[i % 2] for i in range(20)})
    files["3.jpg"] = files["3.jpg"][:200]
    samples = read(write(tmp_path / "a.tar", tar_of(files)))
    assert [(r.name, r.code) for r in samples.rejected] == [("3.jpg", "truncated")]
    for index in range(5):
        files[f"{index}.jpg"] = b"<html>"
    with pytest.raises(TooManyUnreadable):
        read(write(tmp_path / "a.tar", tar_of(files)))
    assert len(read(tmp_path / "a.tar", skip_bad=True).samples) == 15


def test_images_to_predict(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", tar_of(with_cls({"b": "cat", "a": "dog"})))
    paths = [*expand_inputs([str(path), "loose.png"]).paths]
    assert paths == [f"{path}::b.jpg", f"{path}::a.jpg", "loose.png"]
    where = [place for place, _ in checked_paths([*paths, f"{path}::none.jpg", "gone.tar::a.jpg"])]
    assert [check_header(place) is None for place in where] == [True, True, False, False, False]
    assert [read_image(place) for place in where[:2]] == [picture(0, form="JPEG"), picture(1, form="JPEG")]
    assert not expand_inputs([str(path)]).cut
    cut = path.read_bytes().rstrip(b"\0")
    inputs = expand_inputs([str(write(tmp_path / "b.tar", cut + bytes(-len(cut) % 512)))])
    assert len([*inputs.paths]) == 2
    assert inputs.cut == inputs.notes == (f"{tmp_path}/b.tar has no end mark: it may have been cut short",)
    reasons = [check_header(place) for place in where[2:]]
    assert [one.code for one in reasons if one] == ["missing"] * 3


def test_a_stretch_is_a_file() -> None:
    data = bytes(range(200))
    file = ranges.Stretch(lambda offset, count: data[offset : offset + count], 50, 100)
    with io.BufferedReader(file) as buffered:
        assert buffered.read(3) == data[100:103]
        assert buffered.seek(-2, io.SEEK_END) == 48
        assert buffered.read() == data[148:150]
