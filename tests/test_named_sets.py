"""Data sets of torchvision by name: from tiny files of the real formats, without a network."""

import gzip
import hashlib
import json
import pickle
import shutil
import struct
import tarfile
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from conftest import paint
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets

import regraft
from regraft.cli.main import main
from regraft.data.materialise import folder_names, kept_sets, materialise, on_disk
from regraft.data.named import NamedSet, named_set
from regraft.data.read import read_evaluation, read_samples
from regraft.data.torchvision_sets import _OTHERS, _parameters, classification_sets
from regraft.errors import DataUnusable, OutOfSpace, RunLocked, UsageError
from regraft.recipe import Data

FAKE = "torchvision:FakeData:size=36,num_classes=3,image_size=(3,16,16)"


def make(spec: str, cache: Path, progress: Any = None) -> Path:
    chosen = named_set(spec)
    assert chosen is not None
    return materialise(chosen, cache, **({"progress": progress} if progress else {}))


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def nothing_counts(cache: Path) -> bool:
    """Whether no folder was made, nor left half made."""
    return not (cache / "datasets").exists() or not [*(cache / "datasets").iterdir()]


class Notes:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.done = 0

    def note(self, text: str) -> None:
        self.said.append(text)

    def task(self, name: str, total: int, unit: str) -> "Notes":
        self.said.append(f"{name}: {total} {unit}")
        return self

    def __enter__(self) -> "Notes":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, count: int = 1) -> None:
        self.done += count


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


# --- names


@pytest.mark.parametrize("path", ["photos", "timm:resnet18", "photos/torchvision:CIFAR10", "torchvision"])
def test_paths_are_no_names(path: str) -> None:
    assert named_set(path) is None


def test_a_name_and_its_options() -> None:
    chosen = named_set("torchvision:FakeData:size=36,image_size=(3,16,16),word=letters")
    assert chosen == NamedSet("FakeData", (("image_size", "(3,16,16)"), ("size", "36"), ("word", "letters")))
    assert chosen.arguments() == {"size": 36, "image_size": (3, 16, 16), "word": "letters"}
    assert chosen.title == "FakeData-3,16,16-36-letters"
    assert chosen.spec == "torchvision:FakeData:image_size=(3,16,16),size=36,word=letters"
    assert named_set(chosen.spec) == chosen


def test_options_in_another_order_are_the_same_set_and_other_options_another() -> None:
    keys = [named_set(f"torchvision:X:{text}").key for text in ("a=1,b=(2)", "b=(2),a=1", "a=1,b=[2]", "a=1")]  # type: ignore[union-attr]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert not [key for key in keys if set(key) & set('/\\:*?"<>|()[] ')]


@pytest.mark.parametrize("bad", ["", "../x", "CIFAR10/train", "CIFAR10:train", "CIFAR10:=1", "CIFAR10:train=", "C:a=1,a=2"])
def test_names_that_cannot_be_meant(bad: str) -> None:
    with pytest.raises(UsageError, match=r"torchvision:NAME[\s\S]*for example torchvision:CIFAR10"):
        named_set(f"torchvision:{bad}")


def test_a_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        for index in range(2):
            paint(Path("torchvision:CIFAR10") / name / f"{index}.png", (20, 90, 160))
    data = on_disk(Data(path=Path("torchvision:CIFAR10")), tmp_path / "cache")
    assert read_samples(data).classes == ("a", "b")
    assert not (tmp_path / "cache").exists()


def test_an_unknown_name_gets_a_guess_and_the_list(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean torchvision:CIFAR10\?[\s\S]*CIFAR100, .*FashionMNIST"):
        make("torchvision:cifar10", tmp_path)
    assert nothing_counts(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"), [("VOCDetection", "boxes"), ("Cityscapes", "masks"), ("Kinetics", "videos"), ("LFWPairs", "pairs")]
)
def test_what_is_not_for_classification_is_refused_before_any_download(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"{kind}[\s\S]*choose one of CIFAR10, ") as caught:
        make(f"torchvision:{name}", tmp_path)
    assert name not in caught.value.fix


def test_every_data_set_of_torchvision_is_one_or_the_other() -> None:
    others = [name for names in _OTHERS.values() for name in names.split()]
    assert len(others) == len(set(others))
    assert set(others) < set(datasets.__all__), "misspelled, or gone from torchvision"
    assert {"CIFAR10", "CIFAR100", "MNIST", "ImageNet", "EMNIST", "Food101", "FakeData"} <= set(classification_sets())
    for name in classification_sets():
        takes = _parameters(getattr(datasets, name))
        assert name == "FakeData" or "root" in takes


def test_arguments_of_the_class_above_count() -> None:
    assert {"root", "split", "train", "download"} <= set(_parameters(datasets.EMNIST))
    assert {"root", "split", "loader"} <= set(_parameters(datasets.ImageNet))


def test_unknown_options_and_values_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"image_size, num_classes, random_offset, size[\s\S]*got sides"):
        make("torchvision:FakeData:sides=3", tmp_path)
    with pytest.raises(UsageError, match=r"split of EMNIST, one of 'byclass', .*[\s\S]*torchvision:EMNIST:split=VALUE"):
        make("torchvision:EMNIST", tmp_path)
    with pytest.raises(UsageError, match=r"Unknown value 'x' for argument split. Valid values are {'byclass'"):
        make("torchvision:EMNIST:split=x", tmp_path)
    assert nothing_counts(tmp_path)


# --- formats


def write_idx(path: Path, array_N: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = struct.pack(f">{array_N.ndim}I", *array_N.shape)
    path.write_bytes(bytes([0, 0, 8, array_N.ndim]) + sizes + array_N.tobytes())


def put_fashion(cache: Path, *, train: int = 30, test: int = 10, seed: int = 0) -> dict[str, tuple[Any, Any]]:
    """Pictures of FashionMNIST's first five classes, told apart by their brightness, where a person would put the files."""
    noise, made = np.random.default_rng(seed), {}
    raw = cache / "downloads/FashionMNIST/FashionMNIST/raw"
    for part, prefix, count in (("train", "train", train), ("test", "t10k", test)):
        labels_N = np.arange(count, dtype=np.uint8) % 5
        images_NHW = (labels_N[:, None, None] * 45 + noise.integers(0, 30, (count, 28, 28))).astype(np.uint8)
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images_NHW)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels_N)
        made[part] = images_NHW, labels_N
    return made


def test_arrays_become_files_that_lose_nothing(tmp_path: Path) -> None:
    made, notes = put_fashion(tmp_path), Notes()
    root = make("torchvision:FashionMNIST", tmp_path, notes)
    assert root == tmp_path / "datasets/FashionMNIST/FashionMNIST"
    folders = ["T-shirt-top", "Trouser", "Pullover", "Dress", "Coat"]
    for part, (images_NHW, labels_N) in made.items():
        assert len(files(root / part)) == len(labels_N)
        for index, (image_HW, label) in enumerate(zip(images_NHW, labels_N, strict=True)):
            with Image.open(root / part / folders[label] / f"{index:06}.png") as image:
                assert (image.mode, image.format) == ("L", "PNG")
                np.testing.assert_array_equal(np.asarray(image), image_HW)
    assert notes.done == 40
    assert "unpacking FashionMNIST: 40 images" in notes.said
    assert "classes called otherwise, to be folders: T-shirt/top (T-shirt-top)" in notes.said
    about = json.loads((root.parent / "about.json").read_text())
    assert about["data"] == "torchvision:FashionMNIST"
    assert about["images"] == {"train": 30, "test": 10}


def test_what_was_made_is_not_made_again(tmp_path: Path) -> None:
    put_fashion(tmp_path)
    root = make("torchvision:FashionMNIST", tmp_path)
    shutil.rmtree(tmp_path / "downloads")
    notes = Notes()
    assert make("torchvision:FashionMNIST", tmp_path, notes) == root
    assert notes.said == []


def test_files_put_there_are_left_alone(tmp_path: Path) -> None:
    put_fashion(tmp_path)
    raw = tmp_path / "downloads/FashionMNIST/FashionMNIST/raw"
    packed = raw / "t10k-labels-idx1-ubyte"
    Path(f"{packed}.gz").write_bytes(gzip.compress(packed.read_bytes()))
    before = {name: (raw / name).read_bytes() for name in files(raw)}
    make("torchvision:FashionMNIST", tmp_path)
    assert {name: (raw / name).read_bytes() for name in files(raw)} == before


def put_cifar(cache: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """Two batches of CIFAR-10 in its own format, packed, with their checksums; the test images."""
    folder = cache / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)

    def put(name: str, content: object) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    pixels = {name: noise.integers(0, 256, (20, 3072)).astype(np.uint8) for name in ("data_batch_1", "test_batch")}
    sums = {name: put(name, {"data": data, "labels": [i % 10 for i in range(20)]}) for name, data in pixels.items()}
    words = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = {"filename": "batches.meta", "key": "label_names", "md5": put("batches.meta", {"label_names": words})}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    archive = cache / "downloads/CIFAR10/cifar-10-python.tar.gz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, folder.name)
    shutil.rmtree(folder)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return pixels["test_batch"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def test_cifar10_has_its_names_its_colours_and_its_test_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_NHWC = put_cifar(tmp_path, monkeypatch)
    root = make("torchvision:CIFAR10", tmp_path)
    with Image.open(root / "test/cat/000013.png") as image:
        np.testing.assert_array_equal(np.asarray(image), test_NHWC[13])
    samples = read_samples(Data(path=root))
    assert samples.classes[:3] == ("airplane", "automobile", "bird")
    assert samples.tree.startswith("CIFAR10/")
    assert len(read_evaluation(Data(path=root), samples.classes).samples) == 20
    assert files(tmp_path / "downloads") == ["CIFAR10/cifar-10-python.tar.gz"], "unpacked elsewhere"


def test_files_stay_as_they_were_published(tmp_path: Path) -> None:
    base = tmp_path / "downloads/RenderedSST2/rendered-sst2"
    for part in ("train", "valid", "test"):
        for name in ("negative", "positive"):
            for index in range(2):
                paint(base / part / name / f"{index}.png", (90, 20, 20))
    root = make("torchvision:RenderedSST2", tmp_path)
    assert {path.partition("/")[0] for path in files(root)} == {"train", "val", "test"}
    assert (root / "val/positive/000002.png").read_bytes() == (base / "valid/positive/0.png").read_bytes()


def test_a_data_set_without_parts_that_opens_its_own_files(tmp_path: Path) -> None:
    base = tmp_path / "downloads/Caltech101/caltech101/101_ObjectCategories"
    for name in ("BACKGROUND_Google", "ant", "crab"):
        for index in (1, 2):
            paint(base / name / f"image_{index:04}.jpg", (20, 90, 90))
    root = make("torchvision:Caltech101", tmp_path)
    assert files(root) == ["ant/000000.jpg", "ant/000001.jpg", "crab/000002.jpg", "crab/000003.jpg"]
    assert (root / "crab/000003.jpg").read_bytes() == (base / "crab/image_0002.jpg").read_bytes()


def test_trainval_trains_where_there_is_no_train(tmp_path: Path) -> None:
    base = tmp_path / "downloads/OxfordIIITPet/oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for part in ("trainval", "test"):
        rows = [f"{name}_{part}{i} {label} 1 1" for label, name in enumerate(("great_dane", "pug"), 1) for i in range(2)]
        (base / f"annotations/{part}.txt").write_text("\n".join(rows))
        for row in rows:
            paint(base / "images" / f"{row.split()[0]}.jpg", (20, 90, 90))
    root = make("torchvision:OxfordIIITPet", tmp_path)
    assert files(root)[:2] == ["test/Great Dane/000000.png", "test/Great Dane/000001.png"]
    assert len(files(root / "train")) == 4


def test_a_part_can_be_named(tmp_path: Path) -> None:
    put_fashion(tmp_path)
    root = make("torchvision:FashionMNIST:train=False", tmp_path)
    assert root.name == "FashionMNIST-False"
    assert len(files(root)) == 10
    assert "Coat/000004.png" in files(root)


def test_folder_names_are_safe_and_differ() -> None:
    names = ["A", "a", "b/c", "b:c", ".hidden", " ", "x.", "crane", "crane", "Thumbs.db", "é" * 300, "e\u0301"]
    found = folder_names(names)
    assert found[:4] == ["A (0)", "a (1)", "b-c (2)", "b-c (3)"]
    assert found[4:10] == ["_.hidden", "5", "x", "crane (7)", "crane (8)", "_Thumbs.db"]
    assert len(found[10].encode()) <= 200
    assert found[11] == "é"


# --- what goes wrong


class Toy:
    """A data set as a later torchvision may bring one."""

    items: tuple[tuple[Any, Any], ...] = ()
    classes = ("a", "b")

    def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"Unknown value '{split}' for argument split. Valid values are {{'train', 'test'}}.")
        self.split, self.root = split, Path(root)
        if not download and not (self.root / "whole").exists():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        if download:
            (self.root / "half").touch()
            self.fetch()
            (self.root / "whole").touch()

    def fetch(self) -> None:
        pass

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.items[index]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    class Fresh(Toy):
        items = tuple((Image.new("RGB", (8, 8), (index, 0, 0)), index % 2) for index in range(8))

    monkeypatch.setattr(datasets, "Toy", Fresh, raising=False)
    monkeypatch.setattr(datasets, "__all__", (*datasets.__all__, "Toy"))
    return Fresh


def test_a_data_set_that_is_not_known_is_tried(toy: type[Toy], tmp_path: Path) -> None:
    root = make("torchvision:Toy", tmp_path)
    assert len(files(root)) == 16
    assert files(root)[0] == "test/a/000000.png"
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize("unlabelled", [None, -1])
def test_images_without_a_class_are_left_out_and_told(unlabelled: object, toy: type[Toy], tmp_path: Path) -> None:
    toy.__getitem__ = lambda self, i: (self.items[i][0], unlabelled if self.split == "test" else i % 2)  # type: ignore[method-assign]
    notes = Notes()
    root = make("torchvision:Toy", tmp_path, notes)
    assert {path.partition("/")[0] for path in files(root)} == {"train"}
    assert "8 images of test without a class, left out" in notes.said


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ((Image.new("L", (8, 8)), [0, 1]), "a list as the class"),
        ((Image.new("L", (8, 8)), 0.5), "a float as the class"),
        ((np.zeros((8, 8)), 0), "a ndarray"),
        ((Image.new("L", (8, 8)), 0, 1), "a tuple"),
        ((Image.new("L", (8, 8)), None), "no image with a class"),
    ],
)
def test_what_gives_no_image_with_one_class_is_refused(item: Any, words: str, toy: type[Toy], tmp_path: Path) -> None:
    toy.items = (item,)
    with pytest.raises(UsageError, match=words):
        make("torchvision:Toy", tmp_path)
    assert nothing_counts(tmp_path)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_download_leaves_nothing(stop: type[BaseException], toy: type[Toy], tmp_path: Path) -> None:
    def fetch(self: Toy) -> None:
        raise stop

    working, toy.fetch = toy.fetch, fetch  # type: ignore[method-assign]
    with pytest.raises(stop):
        make("torchvision:Toy", tmp_path)
    assert nothing_counts(tmp_path)
    assert not (tmp_path / "downloads").exists()
    toy.fetch = working  # type: ignore[method-assign]
    assert len(files(make("torchvision:Toy", tmp_path))) == 16


def test_interrupted_while_unpacking_the_download_is_kept(toy: type[Toy], tmp_path: Path) -> None:
    class Stops(Notes):
        def advance(self, count: int = 1) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make("torchvision:Toy", tmp_path, Stops())
    assert nothing_counts(tmp_path)
    assert files(tmp_path / "downloads/Toy") == ["half", "whole"]
    toy.fetch = lambda self: pytest.fail("fetched again")  # type: ignore[method-assign]
    assert len(files(make("torchvision:Toy", tmp_path))) == 16


def test_what_a_killed_process_left_does_not_count(toy: type[Toy], tmp_path: Path) -> None:
    left = tmp_path / "datasets/.Toy/made/Toy/train/a/000009.png"
    left.parent.mkdir(parents=True)
    left.touch()
    unfinished = tmp_path / "datasets/Toy/Toy/train/a/000009.png"
    unfinished.parent.mkdir(parents=True)
    unfinished.touch()
    assert len(files(make("torchvision:Toy", tmp_path))) == 16
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == ["Toy"]


def test_a_full_disk_is_told(toy: type[Toy], tmp_path: Path) -> None:
    def fetch(self: Toy) -> None:
        raise OSError(28, "No space left on device")

    toy.fetch = fetch  # type: ignore[method-assign]
    with pytest.raises(OutOfSpace, match=r"torchvision:Toy[\s\S]*No space left"):
        make("torchvision:Toy", tmp_path)


def test_two_processes_do_not_make_the_same(toy: type[Toy], tmp_path: Path) -> None:
    def fetch(self: Toy) -> None:
        with pytest.raises(RunLocked, match=r"torchvision:Toy[\s\S]*fix wait until it ends$"):
            make("torchvision:Toy", tmp_path)

    toy.fetch = fetch  # type: ignore[method-assign]
    make("torchvision:Toy", tmp_path)


def test_a_damaged_image_is_told(toy: type[Toy], tmp_path: Path) -> None:
    def item(self: Toy, index: int) -> Any:
        raise OSError("image file is truncated")

    toy.__getitem__ = item  # type: ignore[method-assign]
    with pytest.raises(DataUnusable, match=r"image 0 of torchvision:Toy[\s\S]*truncated[\s\S]*downloads/Toy"):
        make("torchvision:Toy", tmp_path)


@pytest.mark.parametrize(
    ("name", "url", "place"),
    [
        ("CIFAR10", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "CIFAR10/cifar-10-python.tar.gz"),
        ("MNIST", "/train-images-idx3-ubyte.gz", "MNIST/MNIST/raw/train-images-idx3-ubyte.gz"),
        ("Food101", "/food-101.tar.gz", "Food101/food-101.tar.gz"),
    ],
)
def test_without_a_network_the_file_and_its_place_are_named(name: str, url: str, place: str, tmp_path: Path) -> None:
    with pytest.raises(DataUnusable) as caught:
        make(f"torchvision:{name}", tmp_path)
    assert f"{url} elsewhere and put it at {tmp_path / 'downloads' / place}" in caught.value.fix
    assert nothing_counts(tmp_path)


def test_what_cannot_be_downloaded_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataUnusable, match=rf"train.csv[\s\S]*looked for in {tmp_path}/downloads/FER2013"):
        make("torchvision:FER2013", tmp_path)


# --- the whole way


def test_fit_evaluate_and_rank_take_a_name(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    put_fashion(cache)
    name = "torchvision:FashionMNIST"
    fast = ["--size", "32", "--device", "cpu"]
    assert main(["fit", name, *fast, "--json"]) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert Path(fitted["run"]) == Path("runs/FashionMNIST")
    assert (fitted["images"]["train"], fitted["images"]["test"]) == (30, 10)
    assert main(["evaluate", "runs/FashionMNIST", name, "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert (evaluated["n"], evaluated["accuracy"]) == (10, fitted["test"]["accuracy"])
    assert main(["rank", name, "--backbones", "efficientnet_lite0", *fast, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 30
    assert [(kept.name, kept.images) for kept in kept_sets(cache)] == [(name, 40)]
    assert main(["cache", "list"]) == 0
    assert "torchvision:FashionMNIST" in capsys.readouterr().out
    assert main(["cache", "clear"]) == 0
    assert kept_sets(cache) == []
    assert (cache / "downloads").exists(), "what a person put there stays"


def test_a_name_as_the_test_set_and_as_a_text_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = regraft.fit(FAKE, size=32, device="cpu", cache="kept", test=f"{FAKE},random_offset=1000")
    assert run.folder == Path("runs/FakeData-3,16,16-3-36")
    assert run.summary is not None
    assert (run.summary.train, run.summary.test) == (36, 36)
    assert len(kept_sets(Path("kept"))) == 2
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "kept"))
    assert run.evaluate(FAKE, device="cpu").scores.accuracy.n == 36
