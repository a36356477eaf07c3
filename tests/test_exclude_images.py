"""The list of what an audit found, edited and handed to a fit."""

import csv
from pathlib import Path

import pytest
from conftest import COLOURS, paint
from image_files import tree_hash
from PIL import Image

import regraft
from regraft.auditing import audit, write_fix_list
from regraft.data.excluded import read_excluded
from regraft.data.read import read_samples
from regraft.errors import UsageError
from regraft.recipe import Data, Recipe


def listed(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ((("path",), ("a/1.png",), ("a/2.png",)), {"a/1.png", "a/2.png"}),
        ((("path", "action"), ("a/1.png", "exclude"), ("a/2.png", "keep"), ("a/3.png", "")), {"a/1.png"}),
        ((("action", "path"), (" Exclude ", "=b.png")), {"=b.png"}),
        ((("path", "action"),), set()),
    ],
)
def test_the_rows_to_leave_out(rows: tuple[tuple[str, ...], ...], names: set[str], tmp_path: Path) -> None:
    assert read_excluded(listed(tmp_path / "fix.csv", *rows)) == names


@pytest.mark.parametrize(
    ("rows", "word"), [((("file",), ("a",)), "column"), ((("path", "action"), ("a/1.png", "delete")), "'delete'")]
)
def test_other_tables_are_refused(rows: tuple[tuple[str, ...], ...], word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=word):
        read_excluded(listed(tmp_path / "fix.csv", *rows))


def test_a_missing_list_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--exclude"):
        regraft.fit(tmp_path, exclude=tmp_path / "none.csv")


def test_images_are_left_out_by_name_and_stay_on_disk(photos: Path, tmp_path: Path) -> None:
    before = tree_hash(photos)
    fix = listed(tmp_path / "fix.csv", ("path",), ("blue/000.png",), ("cyan/003.png",), ("gone.png",))
    samples = read_samples(Data(path=photos, exclude=fix))
    assert len(samples.samples) == 34
    assert not {"blue/000.png", "cyan/003.png"} & {sample.name for sample in samples.samples}
    assert any("2 images left out" in note for note in samples.notes)
    assert any("gone.png" in note for note in samples.notes)
    assert tree_hash(photos) == before


def test_a_list_of_other_data_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none of its 1 image"):
        read_samples(Data(path=photos, exclude=listed(tmp_path / "fix.csv", ("path",), ("other.png",))))


def test_an_audit_writes_a_list_that_a_fit_honours(photos: Path, tmp_path: Path, cache: Path) -> None:
    (photos / "blue" / "again.png").write_bytes((photos / "blue" / "000.png").read_bytes())
    (photos / "cyan" / "stolen.png").write_bytes((photos / "amber" / "001.png").read_bytes())
    Image.new("RGB", (50, 50), "white").save(photos / "cyan" / "=blank.png")
    (photos / "cyan" / "broken.png").write_bytes(b"no image")
    before = tree_hash(photos)
    recipe = Recipe(data=Data(path=photos, skip_bad=True), size=64, cache=cache, device="cpu")
    found, rejected = audit(recipe)
    assert tree_hash(photos) == before
    assert [item.name for item in rejected] == ["cyan/broken.png"]
    assert [group.names for group in found.copies] == [("amber/001.png", "cyan/stolen.png"), ("blue/000.png", "blue/again.png")]
    assert found.copies[0].across_classes
    assert [(odd.name, odd.code) for odd in found.odd] == [("cyan/=blank.png", "blank")]
    fix = tmp_path / "fix.csv"
    assert write_fix_list(found, fix) == len(fix.read_text().splitlines()) - 1
    # Only the second of two equal files under one label goes without being asked.
    assert read_excluded(fix) == {"blue/again.png"}
    paint(tmp_path / "unused.png", COLOURS["blue"])
    assert len(read_samples(Data(path=photos, exclude=fix, skip_bad=True)).samples) == 38
