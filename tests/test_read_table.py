"""What a CSV or Parquet table of images is understood to be."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import put

from regraft.data.read import read_evaluation, read_samples
from regraft.errors import DataUnusable, TooManyUnreadable, UnknownClass
from regraft.recipe import Data
from regraft.values import Samples

FILES = ("a.png", "b.png", "sub/c.png", "sub/d.png")
PLAIN = "path,label\na.png,cat\nb.png,cat\nsub/c.png,dog\nsub/d.png,dog\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return put(tmp_path / "data", *FILES)


def table(folder: Path, text: str, *, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def parquet(folder: Path, **columns: object) -> Path:
    path = folder / "labels.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def read(path: Path, **options: object) -> Samples:
    return read_samples(Data(path=path, **options))  # type: ignore[arg-type]


def labels_of(samples: Samples) -> dict[str, tuple[str, ...]]:
    return {sample.name: sample.labels for sample in samples.samples}


EXPECTED = {"a.png": ("cat",), "b.png": ("cat",), "sub/c.png": ("dog",), "sub/d.png": ("dog",)}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (PLAIN, "utf-8"),
        (PLAIN, "utf-8-sig"),
        (PLAIN, "utf-16"),
        (PLAIN.replace(",", ";"), "utf-8"),
        (PLAIN.replace(",", "\t"), "utf-8"),
        (PLAIN.replace("\n", "\r\n"), "utf-8"),
        (PLAIN.rstrip("\n"), "utf-8"),
        (PLAIN.replace(",", " , ") + "\n\n", "utf-8"),
        ("\n".join(f'"note, of; it",{line}' for line in PLAIN.replace("path", '"path"').splitlines()), "utf-8"),
        ("\n".join(",".join(reversed(line.split(","))) for line in PLAIN.splitlines()), "utf-8"),
        (PLAIN.replace("a.png", "./sub/../a.png"), "utf-8"),
        (PLAIN.replace("sub/", "sub\\"), "utf-8"),
    ],
)
def test_csv_in_every_dress(folder: Path, text: str, encoding: str) -> None:
    samples = read(table(folder, text, encoding=encoding))
    assert labels_of(samples) == EXPECTED
    assert samples.classes == ("cat", "dog")
    assert samples.root == folder
    assert all(sample.path.is_file() for sample in samples.samples)
    assert (samples.notes, samples.multi_label) == ((), False)


def test_parquet(folder: Path) -> None:
    samples = read(parquet(folder, path=list(EXPECTED), label=pa.array(["cat", "cat", "dog", "dog"]).dictionary_encode()))
    assert labels_of(samples) == EXPECTED


def test_a_missing_file_is_rejected_and_named(folder: Path) -> None:
    put(folder, *(f"more/{i}.png" for i in range(10)))
    rows = "".join(f"more/{i}.png,cat\n" for i in range(10))
    samples = read(table(folder, f"{PLAIN}{rows}gone.png,dog\n"))
    assert [(r.name, r.code) for r in samples.rejected] == [("gone.png", "missing")]
    assert len(samples.samples) == 14
    assert "1 unreadable image set aside: missing 1" in samples.notes


def test_paths_that_are_all_wrong_are_explained(folder: Path) -> None:
    with pytest.raises(DataUnusable, match=r"4 of 4 \(100 %\)[\s\S]*relative to the table's own folder"):
        read(table(folder, PLAIN.replace("\n", "\nimages/").removesuffix("images/")))
    with pytest.raises(TooManyUnreadable, match="relative to the table's own folder"):
        read(table(folder, PLAIN + "gone.png,dog\n"))


def test_images_outside_of_the_folder_and_links(folder: Path) -> None:
    put(folder.parent, "other/e.png")
    (folder / "link.png").symlink_to(folder.parent / "other/e.png")
    text = f"{PLAIN}../other/e.png,cat\n{folder / 'sub' / '..' / 'f.png'},cat\nlink.png,dog\n"
    put(folder, "f.png")
    samples = read(table(folder, text))
    assert sorted(set(labels_of(samples)) - set(EXPECTED)) == ["../other/e.png", "f.png", "link.png"]
    assert samples.notes == ("1 image read through symbolic links: link.png",)


def test_columns_have_the_names_they_were_given(folder: Path) -> None:
    text = "file,kind,fold,who\na.png,cat,Train,x\nb.png,cat,TRAIN,x\nsub/c.png,dog,train,y\nsub/d.png,dog,train,\n"
    text += "sub/e.png,dog,test,y\n"
    put(folder, "sub/e.png")
    names = {"path_column": "file", "label_column": "kind", "split_column": "fold", "group_column": "who"}
    samples = read(table(folder, text), **names)
    assert [s.part for s in samples.samples] == ["train"] * 4 + ["test"]
    assert [s.group for s in samples.samples] == ["x", "x", "y", None, "y"]


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("paths,label", {}, r"a column 'path' in \S*labels.csv[\s\S]*paths, label; did you mean 'paths'\?[\s\S]*--path-column"),
        ("path,species", {}, r"a column 'label'[\s\S]*the columns path, species\n[\s\S]*--label-column"),
        ("path,label", {"group_column": "person"}, r"a column 'person'[\s\S]*--group"),
        ("path,label", {"split_column": "fold"}, r"a column 'fold'[\s\S]*--split-column"),
        ("path|label", {}, r"a column 'path'[\s\S]*the columns path\|label"),
    ],
)
def test_a_missing_column_lists_those_there_are(folder: Path, header: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(DataUnusable, match=message):
        read(table(folder, PLAIN.replace("path,label", header)), **options)


REFUSED = [
    (PLAIN + "e.png,\n", r"labels.csv: 1 row without a label: 6"),
    (PLAIN + "a.png,dog\n", r"a.png in rows 2 and 6 has two labels: cat, dog[\s\S]*'cat\|dog'"),
    (PLAIN + ",dog\n", r"row 6 has no path"),
    (PLAIN + "e.png\n", r"line 6: 1 cells under 2 columns"),
    (PLAIN + "e.png,cat,dog\n", r"line 6: 3 cells under 2 columns"),
    (PLAIN + 'e.png,"cat\n', r"line 6: unexpected end of data[\s\S]*quotes"),
    (PLAIN.replace("path,label", "path,label,label"), r"2 columns called 'label'"),
    (
        PLAIN.replace("label\n", "label,split\n").replace("g,cat", "g,cat,train").replace("g,dog", "g,dog,dev"),
        r"'dev' in row 4",
    ),
    (PLAIN.replace("dog", "cat"), r"two classes or more"),
    ("path,label\n", r"no rows"),
    ("", r"an empty file"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_a_table_that_cannot_be_meant_is_refused(folder: Path, text: str, message: str) -> None:
    with pytest.raises(DataUnusable, match=message) as caught:
        read(table(folder, text))
    assert "labels.csv" in str(caught.value)


def test_text_in_another_encoding_is_refused(folder: Path) -> None:
    with pytest.raises(DataUnusable, match=r"not utf-8 text, first in line 2[\s\S]*UTF-8"):
        read(table(folder, PLAIN.replace("cat", "café"), encoding="latin-1"))


def test_damaged_parquet_is_refused(folder: Path) -> None:
    path = parquet(folder, path=list(EXPECTED), label=["x"] * 4)
    sound = path.read_bytes()
    for data in (b"", b"PAR1", sound[: len(sound) // 2], sound[:-20] + b"\xff" * 12 + sound[-8:]):
        path.write_bytes(data)
        with pytest.raises(DataUnusable, match=r"labels.parquet"):
            read(path)


def test_numbers_and_booleans_as_labels_are_text(folder: Path) -> None:
    for labels in ([1, 1, 2, 2], [1.0, 1.0, 2.0, 2.0], ["1", "1", "2", "2"]):
        assert read(parquet(folder, path=list(EXPECTED), label=labels)).classes == ("1", "2")
    assert read(parquet(folder, path=list(EXPECTED), label=[True, True, False, False])).classes == ("False", "True")
    assert read(table(folder, PLAIN.replace("cat", "01").replace("dog", "1"))).classes == ("01", "1")


@pytest.mark.parametrize(
    "labels", [[b"cat"] * 4, ["cat", "dog", None, "dog"], ["cat", "dog", "", "dog"], [1.0, 2.0, None, 2.0]]
)
def test_labels_that_are_none_are_refused(folder: Path, labels: list[object]) -> None:
    with pytest.raises(DataUnusable, match=r"label"):
        read(parquet(folder, path=list(EXPECTED), label=labels))


@pytest.mark.parametrize(
    "cells", [("cat|dog", "cat", "dog", ""), ("cat ; dog", "cat;", "|dog", ""), ("dog|cat|dog", "cat", "dog", "")]
)
def test_several_labels_in_a_cell(folder: Path, cells: tuple[str, ...]) -> None:
    put(folder, "e.png")
    text = "".join(f"{path},{cell}\n" for path, cell in zip((*FILES, "e.png"), (*cells, "cat"), strict=True))
    samples = read(table(folder, f"path,label\n{text}b.png,\na.png,cat\nsub/c.png,cat\n"))
    assert samples.multi_label
    assert labels_of(samples) == {
        "a.png": ("cat", "dog"),
        "b.png": ("cat",),
        "e.png": ("cat",),
        "sub/c.png": ("cat", "dog"),
        "sub/d.png": (),
    }
    assert samples.classes == ("cat", "dog")
    assert "1 image of none of the classes" in samples.notes


def test_lists_of_labels_in_parquet(folder: Path) -> None:
    samples = read(parquet(folder, path=list(EXPECTED), label=[["x", "y"], ["y"], [], ["x"]]))
    assert samples.multi_label
    assert labels_of(samples) == {"a.png": ("x", "y"), "b.png": ("y",), "sub/c.png": (), "sub/d.png": ("x",)}


def test_repeated_rows_are_joined_and_noted(folder: Path) -> None:
    samples = read(table(folder, PLAIN + "./a.png,cat\na.png,cat\n"))
    assert labels_of(samples) == EXPECTED
    assert samples.notes == ("2 rows about an image that another row has, joined",)


def test_an_image_in_two_parts_stays_out_of_training(folder: Path) -> None:
    text = PLAIN.replace("label\n", "label,split\n").replace("g,cat", "g,cat,train").replace("g,dog", "g,dog,train")
    put(folder, "e.png", "f.png")
    samples = read(table(folder, f"{text}e.png,cat,test\ne.png,cat,train\nf.png,dog,train\nf.png,dog,val\n"))
    assert {s.name: s.part for s in samples.samples if s.part != "train"} == {"e.png": "test", "f.png": "val"}
    assert "2 images listed in several parts, kept in the last of train, val, test: e.png, f.png" in samples.notes


def test_two_groups_of_one_image_are_refused(folder: Path) -> None:
    text = PLAIN.replace("label\n", "label,who\n").replace("g,cat", "g,cat,x").replace("g,dog", "g,dog,y") + "a.png,cat,z\n"
    with pytest.raises(DataUnusable, match=r"a.png in rows 2 and 6 has two groups: x and z"):
        read(table(folder, text), group_column="who")


def test_the_same_names_wherever_the_table_lies(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(folder, PLAIN.replace("a.png", str(folder / "a.png")))
    there = read(path)
    monkeypatch.chdir(folder)
    here = read(Path("labels.csv"))
    assert labels_of(here) == labels_of(there) == EXPECTED
    assert here.tree == there.tree
    assert here.tree.startswith("labels.csv  4 images, 2 classes")


def test_a_table_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(folder, PLAIN)

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataUnusable, match=r"labels.csv: Permission denied"):
        read(path)


def test_evaluation_of_a_table(folder: Path) -> None:
    path = table(folder, PLAIN)
    assert read_evaluation(path, ("dog", "emu", "cat")).classes == ("dog", "emu", "cat")
    with pytest.raises(UnknownClass, match=r"dog \(as in sub/c.png\)"):
        read_evaluation(path, ("cat", "emu"))
    several = table(folder, PLAIN.replace("a.png,cat", "a.png,cat|dog"), name="several.tsv")
    assert read_evaluation(several, ("cat", "dog"), multi_label=True).multi_label
    with pytest.raises(DataUnusable, match="one label for each image"):
        read_evaluation(several, ("cat", "dog"))


def test_an_empty_file_is_called_empty(folder: Path) -> None:
    (folder / "none.csv").write_text("\n")
    with pytest.raises(DataUnusable, match="an empty file"):
        read_samples(Data(path=folder / "none.csv"))
