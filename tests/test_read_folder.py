"""What a folder on disk is understood to be."""

import os
import random
import shutil
import unicodedata
from pathlib import Path

import pytest
from image_files import PNG, put, put_classes, tree_hash
from quick import takes_at_most

from regraft.data.folder import list_images, read_folder
from regraft.data.names import display_width
from regraft.data.read import read_evaluation, read_samples
from regraft.errors import DataUnusable, RegraftError, TooFewImages, UnknownClass, UsageError
from regraft.recipe import Data
from regraft.values import Samples


def read(root: Path, **options: object) -> Samples:
    return read_samples(Data(path=root, **options))  # type: ignore[arg-type]


def said(samples: Samples) -> str:
    return "\n".join(samples.notes)


def test_a_folder_per_class(tmp_path: Path) -> None:
    samples = read(put(tmp_path, "dog/1.png", "dog/2.png", "cat/park/old/3.png", "cat/1.png"))
    assert [(s.name, s.labels, s.part) for s in samples.samples] == [
        ("cat/1.png", ("cat",), None),
        ("cat/park/old/3.png", ("cat",), None),
        ("dog/1.png", ("dog",), None),
        ("dog/2.png", ("dog",), None),
    ]
    assert samples.classes == ("cat", "dog")
    assert samples.samples[0].path == tmp_path / "cat/1.png"
    assert (samples.notes, samples.rejected, samples.multi_label) == ((), (), False)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_parts_in_any_case(tmp_path: Path, val: str) -> None:
    for part in ("Train", val, "TEST"):
        put_classes(tmp_path / part, cat=2, dog=2)
    samples = read(tmp_path)
    assert {(s.name.split("/")[0], s.part) for s in samples.samples} == {("Train", "train"), (val, "val"), ("TEST", "test")}
    assert samples.classes == ("cat", "dog")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    samples = read(put_classes(tmp_path, train=2, bus=2))
    assert samples.classes == ("bus", "train")
    assert {s.part for s in samples.samples} == {None}


def test_class_folders_beside_parts_are_refused(tmp_path: Path) -> None:
    put_classes(tmp_path / "train", cat=2, dog=2)
    put_classes(tmp_path, bird=2)
    with pytest.raises(DataUnusable, match=r"train beside bird[\s\S]*move the class folders into train/"):
        read(tmp_path)


def test_a_folder_without_images_beside_parts_is_noted(tmp_path: Path) -> None:
    put_classes(tmp_path / "train", cat=2, dog=2)
    put(tmp_path, "docs/readme.txt")
    assert "folders without images, left out: docs" in read(tmp_path).notes


def test_parts_without_class_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataUnusable, match=r"test, train without class folders[\s\S]*test/cat/"):
        read(put(tmp_path, "train/1.png", "test/2.png"))


def test_unlabelled_test_images_are_noted_and_left_out(tmp_path: Path) -> None:
    put_classes(tmp_path / "train", cat=2, dog=2)
    samples = read(put(tmp_path, "test/1.png"))
    assert {s.part for s in samples.samples} == {"train"}
    assert "1 image in no class folder, left out: test/1.png" in samples.notes


def test_junk_is_never_a_class_nor_an_image(tmp_path: Path) -> None:
    junk = [".ipynb_checkpoints/a.png", "__MACOSX/cat/a.png", "cat/._001.png", "cat/.ipynb_checkpoints/b.png"]
    put(put_classes(tmp_path, cat=2, dog=2), *junk, "dog/Thumbs.db", ".DS_Store", "DESKTOP.INI")
    samples = read(tmp_path)
    assert (samples.classes, len(samples.samples)) == (("cat", "dog"), 4)
    assert samples.notes == ("7 hidden or system entries left out",)


def test_endings_are_case_blind_and_others_counted(tmp_path: Path) -> None:
    endings = ["JPG", "jpeg", "Png", "webp", "BMP", "gif", "tif", "TIFF", "jfif", "jpe"]
    put(tmp_path, *(f"cat/{i}.{ending}" for i, ending in enumerate(endings)), "dog/1.png", "dog/2.png")
    samples = read(put(tmp_path, "cat/a.txt", "dog/b.TXT", "dog/c.heic", "dog/none"))
    assert len(samples.samples) == 12
    assert samples.notes == ("4 files without an image's ending left out: .txt 2, .heic 1, no ending 1",)


def test_images_in_the_top_folder_are_noted(tmp_path: Path) -> None:
    samples = read(put(put_classes(tmp_path, cat=2, dog=2), "stray.jpg"))
    assert len(samples.samples) == 4
    assert samples.notes == ("1 image in no class folder, left out: stray.jpg",)


def test_links_are_listed_and_not_followed(tmp_path: Path) -> None:
    outside = put_classes(tmp_path / "outside", bird=2)
    root = put_classes(tmp_path / "photos", cat=2, dog=2)
    (root / "bird").symlink_to(outside / "bird")
    (root / "cat/link.png").symlink_to(outside / "bird/000.png")
    (root / "cat/dangling.png").symlink_to(root / "nothing.png")
    (root / "dog/self").symlink_to(root / "dog")
    (root / "dog/up").symlink_to(root)
    os.link(root / "dog/000.png", root / "dog/hard.png")
    samples = read(root)
    assert [s.name for s in samples.samples] == ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png", "dog/hard.png"]
    assert samples.notes == ("5 symbolic links not followed: bird, cat/dangling.png, cat/link.png, dog/self, dog/up",)


def test_a_folder_of_links_only_is_explained(tmp_path: Path) -> None:
    target = put(tmp_path, "one.png") / "one.png"
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").symlink_to(target)
    with pytest.raises(DataUnusable, match=r"cat \(holds 1 symbolic link\)[\s\S]*links are not followed"):
        read(tmp_path / "photos")


def test_a_folder_met_twice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a folder is mounted into itself, which a test may not do: two folders with the number of one."""
    put_classes(tmp_path, cat=2, dog=2)
    put(tmp_path, "cat/again/3.png")
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **kw: real(tmp_path if str(path).endswith("again") else path, **kw))
    samples = read(tmp_path)
    assert len(samples.samples) == 4
    assert "cat/again" in said(samples)


def test_a_pipe_with_the_name_of_an_image_does_not_block(tmp_path: Path) -> None:
    put_classes(tmp_path, cat=2, dog=2)
    os.mkfifo(tmp_path / "cat/pipe.png")
    samples = read(tmp_path)
    assert len(samples.samples) == 4
    assert "cat/pipe.png" in said(samples)


@pytest.mark.parametrize(
    "name",
    ["a b.png", "a\nb.png", "🐈.png", "CON.png", "-rf.png", "x" * 251 + ".png", "[bold].png", "c\u0327\u0301.png", "a\\b.png"],
)
def test_odd_file_names_work(tmp_path: Path, name: str) -> None:
    samples = read(put(put_classes(tmp_path, cat=2, dog=2), f"cat/{name}"))
    odd = next(s for s in samples.samples if not s.name.endswith(("000.png", "001.png")))
    assert odd.name == unicodedata.normalize("NFC", f"cat/{name}")
    assert odd.path.read_bytes() == PNG


def test_file_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    put_classes(tmp_path, cat=2, dog=2)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/cat/caf\xe9.png")).write_bytes(PNG)
    samples = read(tmp_path)
    odd = next(s for s in samples.samples if "caf" in s.name)
    assert odd.name == "cat/caf\\xe9.png"
    assert odd.path.read_bytes() == PNG


def test_a_class_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    put_classes(tmp_path, cat=2, dog=2)
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(folder)).mkdir()
    Path(os.fsdecode(folder + b"/1.png")).write_bytes(PNG)
    with pytest.raises(DataUnusable, match=r"caf\\udce9' is not valid UTF-8") as caught:
        read(tmp_path)
    str(caught.value).encode()


@pytest.mark.parametrize("name", ["a\nb", " ", "\x1b[31m", "x\u2028y"])
def test_class_names_that_cannot_be_shown_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataUnusable, match=r"class names of printable text") as caught:
        read(put(put_classes(tmp_path, cat=2, dog=2), f"{name}/1.png"))
    assert "\x1b" not in str(caught.value)


def test_unicode_twins_of_a_class_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    samples = read(put(put_classes(tmp_path, cat=2), f"{composed}/1.png", f"{decomposed}/1.png"))
    assert samples.classes == (composed, "cat")
    twins = [s for s in samples.samples if s.labels == (composed,)]
    assert len({s.name for s in twins}) == 2 == len({s.path for s in twins})
    assert f"spelled in two ways in Unicode and taken as one class each: {composed}" in samples.notes


def test_case_twins_are_two_classes_with_a_note(tmp_path: Path) -> None:
    if put(tmp_path, "Cat/1.png", "Cat/2.png", "cat/1.png", "cat/2.png") and (tmp_path / "CAT").exists():
        pytest.skip("this file system is case-blind")
    samples = read(tmp_path)
    assert samples.classes == ("Cat", "cat")
    assert "Cat/cat" in said(samples)


def test_order_is_by_code_point_whatever_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["Z", "a", "B", "\u00e9", "e\u0301x", "\U0001f408", "10", "9"]
    put(tmp_path, *(f"{name}/{image}.png" for name in names for image in ("b", "A", "\u00e0")))
    expected = read(tmp_path)
    assert list(expected.classes) == sorted(unicodedata.normalize("NFC", name) for name in names)
    assert [s.name for s in expected.samples] == sorted(s.name for s in expected.samples)
    real = os.scandir

    class Shuffled:
        def __init__(self, path: str) -> None:
            self.inner = real(path)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return random.sample(entries := list(self.inner), len(entries))

        def __exit__(self, *error: object) -> None:
            self.inner.close()

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert all(read(tmp_path) == expected for _ in range(5))


def test_nothing_on_disk_is_changed(tmp_path: Path) -> None:
    put(put_classes(tmp_path, cat=30, dog=3), "cat/bad.png", content=b"broken")
    before = tree_hash(tmp_path)
    samples = read(tmp_path)
    assert len(samples.rejected) == 1
    assert tree_hash(tmp_path) == before


LAYOUTS: list[tuple[list[str], list[str], type[RegraftError], str]] = [
    ([], [], DataUnusable, r"no image in a class folder[\s\S]*make a folder for each class[\s\S]*or shards \(\.tar"),
    (["a.png", "b.png"], [], DataUnusable, r"2 images in no class folder, left out: a.png, b.png[\s\S]*make a folder"),
    (["cat/1.png", "cat/2.png"], [], DataUnusable, r"two classes or more[\s\S]*only 'cat'[\s\S]*at least one other class"),
    (["cat/1.png", "cat/2.png"], ["dog"], DataUnusable, r"dog \(holds nothing\)[\s\S]*remove the folder"),
    (["cat/1.png", "dog/a.heic"], [], DataUnusable, r"dog \(holds 1 other file \(.heic 1\)\)"),
    (["cat/1.png", "cat/2.png", "dog/1.png"], [], TooFewImages, r"dog 1[\s\S]*add images"),
    (["set/cat/1.png", "set/dog/1.png"], [], DataUnusable, r"did you mean \S*set, which holds cat, dog\?"),
    (["set/train/cat/1.png", "set/test/cat/1.png"], [], DataUnusable, r"did you mean \S*set, which holds test, train\?"),
    (["val/cat/1.png", "test/dog/1.png"], [], DataUnusable, r"images in test, val only"),
    (
        [f"{part}/{name}/{i}.png" for part in ("train", "test") for name in ("cat", "dog") for i in (1, 2)]
        + ["test/Dog/1.png"],
        [],
        UnknownClass,
        r"only classes that train has[\s\S]*Dog \(as in test/Dog/1.png\); did you mean 'dog'",
    ),
]


@pytest.mark.parametrize(("files", "folders", "error", "message"), LAYOUTS)
def test_each_unusable_layout_has_its_own_message(
    tmp_path: Path, files: list[str], folders: list[str], error: type[RegraftError], message: str
) -> None:
    put(tmp_path, *files)
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(error, match=message) as caught:
        read(tmp_path)
    assert caught.value.exit_code == 3
    assert str(tmp_path) in str(caught.value)


def test_a_class_missing_in_test_is_noted(tmp_path: Path) -> None:
    put_classes(tmp_path / "train", cat=2, dog=2, emu=2)
    put_classes(tmp_path / "test", cat=1, dog=1)
    (tmp_path / "test/emu").mkdir()
    samples = read(tmp_path)
    assert samples.classes == ("cat", "dog", "emu")
    assert "1 class without images in test, not judged there: emu" in samples.notes
    assert "emu (holds nothing)" in said(samples)


def test_what_is_no_folder_is_explained(tmp_path: Path) -> None:
    put(tmp_path, "a.zip", "a.png")
    for name, message in (("nowhere", "nothing at"), ("a.zip", "unpack it"), ("a.png", "a folder for each class")):
        with pytest.raises(DataUnusable, match=message):
            read(tmp_path / name)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_classes(tmp_path, cat=2, dog=2)
    real = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataUnusable, match=r"dog: Permission denied[\s\S]*permissions"):
        read(tmp_path)


def test_a_group_column_needs_a_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--group-pattern"):
        read(put_classes(tmp_path, cat=2, dog=2), group_column="person")


def test_the_tree_shows_parts_and_counts(tmp_path: Path) -> None:
    put_classes(tmp_path / "photos/train", cat=12, dog=2)
    put_classes(tmp_path / "photos/test", dog=3)
    assert read(tmp_path / "photos").tree.splitlines() == [
        "photos/  17 images, 2 classes",
        "  train  14 images",
        "    cat  12",
        "    dog   2",
        "  test  3 images",
        "    dog  3",
    ]


def test_the_tree_of_many_classes_stays_short(tmp_path: Path) -> None:
    put(tmp_path, *(f"{part}/c{k:03}/{i}.png" for part in ("train", "test") for k in range(100) for i in range(2)))
    lines = read(tmp_path).tree.splitlines()
    assert len(lines) <= 31
    assert lines[-1] == "    ... and 88 more classes, 176 in all"


def test_images_without_labels_are_listed(tmp_path: Path) -> None:
    put(tmp_path, "b.JPG", "a/z.png", "a/.hidden.png", "é.png", "e\u0301a.png", "notes.txt", "__MACOSX/b.jpg")
    (tmp_path / "link.png").symlink_to(tmp_path / "b.JPG")
    names = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert names == ["a/z.png", "b.JPG", "é.png", "e\u0301a.png"]
    with pytest.raises(DataUnusable, match="No such file"):
        list_images(tmp_path / "nowhere")


def test_evaluation_matches_classes_by_name(tmp_path: Path) -> None:
    put_classes(tmp_path, dog=1, ant=2)
    samples = read_evaluation(tmp_path, ("dog", "cat", "ant"))
    assert samples.classes == ("dog", "cat", "ant")
    assert [s.labels for s in samples.samples] == [("ant",), ("ant",), ("dog",)]
    assert any("1 class without images" in note and note.endswith(": cat") for note in samples.notes)


def test_evaluation_takes_the_test_part(tmp_path: Path) -> None:
    put_classes(tmp_path / "train", cat=3, dog=3, old=1)
    put_classes(tmp_path / "test", cat=1, dog=1)
    assert {s.part for s in read_evaluation(tmp_path, ("cat", "dog")).samples} == {"test"}
    put_classes(tmp_path / "val", cat=2)
    assert {s.part for s in read_evaluation(tmp_path, ("cat", "dog")).samples} == {"test"}
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "test").rename(tmp_path / "VAL")
    assert {s.part for s in read_evaluation(str(tmp_path), ("cat", "dog")).samples} == {"val"}


def test_evaluation_refuses_an_unknown_class(tmp_path: Path) -> None:
    with pytest.raises(
        UnknownClass, match=r"only classes that the model has[\s\S]*catt \(as in catt/000.png\); did you mean 'cat'"
    ):
        read_evaluation(put_classes(tmp_path, catt=1, dog=1), ("cat", "dog"))


def test_evaluation_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataUnusable, match="labelled images to evaluate on"):
        read_evaluation(tmp_path, ("cat", "dog"))


def test_reading_70000_names_takes_about_a_second(tmp_path: Path) -> None:
    """A tenth of it, with room for a slow machine: a stat for each file or pattern matching would fail."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(3_500):
            (tmp_path / name / f"{index}.png").touch()
    takes_at_most(0.5, lambda: read_folder(tmp_path))
    assert len(read_folder(tmp_path).samples) == 7_000


def test_a_test_set_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    put_classes(tmp_path / "photos", cat=3, dog=3)
    with pytest.raises(DataUnusable, match="nothing at"):
        read_samples(Data(path=tmp_path / "photos", test=tmp_path / "nope"))


def test_the_tree_is_in_columns_whatever_the_letters(tmp_path: Path) -> None:
    put_classes(tmp_path, **{"elephants": 12, "\U0001f418": 3})
    lines = read_samples(Data(path=tmp_path)).tree.splitlines()[1:]
    assert len({display_width(line) for line in lines}) == 1


def test_a_path_may_be_text(tmp_path: Path) -> None:
    put_classes(tmp_path, cat=3, dog=3)
    data = Data(path=str(tmp_path))  # type: ignore[arg-type]
    assert len(read_samples(data).samples) == len(read_evaluation(data, ("cat", "dog")).samples) == 6
