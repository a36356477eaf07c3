"""Images and masks are paired by their paths or a table; whatever has no partner, or another's, is named."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.image_bytes import exif
from image_files import tree_hash
from mask_files import half, save, save_image

from regraft.data.masked import read_masked, read_masked_evaluation
from regraft.data.masks import read_labels
from regraft.data.settle import settle_masks, settle_test
from regraft.data.split import keep_together, split_samples
from regraft.errors import DataUnusable, RegraftError, TooFewImages, TooManyUnreadable, UsageError
from regraft.recipe import Data
from regraft.segments import MaskMap
from regraft.values import Samples

MASK = half(0, 255)


def data(path: Path, **options: Any) -> Data:
    return Data(path=path, **{"task": "saliency"} | options)


def put_pairs(images: Path, masks: Path, *names: str) -> None:
    for name in names:
        save_image(images / f"{name}.jpg")
        save(masks / f"{name}.png", MASK)


def pairs_of(samples: Samples) -> dict[str, str]:
    return {s.name: s.mask.relative_to(samples.root.parent).as_posix() for s in samples.samples if s.mask}


def both(given: Data) -> tuple[Samples, MaskMap]:
    return settle_masks(read_masked(given), given)


def test_two_folders_are_paired_by_relative_path(tmp_path: Path) -> None:
    put_pairs(tmp_path / "photos", tmp_path / "masks", "b/1", "a/1", "2")
    (tmp_path / "photos/.hidden.jpg").write_bytes(b"")
    (tmp_path / "masks/Thumbs.db").write_bytes(b"")
    before = tree_hash(tmp_path)
    samples = read_masked(data(tmp_path / "photos", masks=tmp_path / "masks"))
    assert pairs_of(samples) == {"2.jpg": "masks/2.png", "a/1.jpg": "masks/a/1.png", "b/1.jpg": "masks/b/1.png"}
    assert all((s.labels, s.part, s.group) == ((), None, None) for s in samples.samples)
    assert samples.tree == "photos/  3 images with masks"
    assert tree_hash(tmp_path) == before


@pytest.mark.parametrize("parts", [("train", "val", "test"), ("Train", "Valid", "TEST")])
def test_parts_on_both_sides(tmp_path: Path, parts: tuple[str, ...]) -> None:
    put_pairs(tmp_path / "photos", tmp_path / "masks", *(f"{part}/{i}" for part in parts for i in range(2)))
    samples = read_masked(data(tmp_path / "photos", masks=tmp_path / "masks"))
    assert sorted({(s.name.split("/")[0], s.part) for s in samples.samples}) == sorted(
        zip(parts, ("train", "val", "test"), strict=True)
    )
    assert samples.tree.splitlines()[1:] == ["  train  2 images", "  val  2 images", "  test  2 images"]


@pytest.mark.parametrize("inside", ["", "train/", "x"])
def test_folders_side_by_side(tmp_path: Path, inside: str) -> None:
    """The layout of many data sets: images/ and masks/, perhaps in each part, perhaps the parts in them."""
    root = tmp_path / "data"
    if inside == "x":
        put_pairs(root / "images", root / "masks", "train/1", "train/2", "test/3")
        expected = {"images/train/1.jpg": "train", "images/train/2.jpg": "train", "images/test/3.jpg": "test"}
    else:
        put_pairs(root / f"{inside}images", root / f"{inside}masks", "1", "2")
        expected = {f"{inside}images/{i}.jpg": "train" if inside else None for i in (1, 2)}
    assert {s.name: s.part for s in read_masked(data(root)).samples} == expected


@pytest.mark.parametrize("inside", ["", "train/"])
def test_a_folder_of_masks_by_name(tmp_path: Path, inside: str) -> None:
    root = tmp_path / "data"
    put_pairs(root / f"{inside}images", root / f"{inside}masks-semantic", "1", "2")
    put_pairs(root / f"{inside}images", root / f"{inside}masks", "1", "2")
    samples = read_masked(data(root, masks=Path("masks-semantic")))
    assert {s.mask.parent.name for s in samples.samples if s.mask} == {"masks-semantic"}
    if not inside:
        assert read_masked(data(root, masks=root / "masks-semantic")) == samples


@pytest.mark.parametrize("ending", ["_mask", "-mask", "_label", "_labels", "_gt", "_seg"])
def test_usual_endings_of_the_stem(tmp_path: Path, ending: str) -> None:
    for i in range(2):
        save_image(tmp_path / f"images/{i}.jpg")
        save(tmp_path / f"masks/{i}{ending}.png", MASK)
    assert pairs_of(read_masked(data(tmp_path)))["images/1.jpg"].endswith(f"masks/1{ending}.png")


def test_two_spellings_of_a_name_are_one(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / unicodedata.normalize("NFD", "é.jpg"))
    save(tmp_path / "masks" / unicodedata.normalize("NFC", "é.png"), MASK)
    put_pairs(tmp_path / "images", tmp_path / "masks", "z")
    assert list(pairs_of(read_masked(data(tmp_path)))) == ["images/z.jpg", unicodedata.normalize("NFC", "images/é.jpg")]


def troubled(root: Path) -> Path:
    put_pairs(root / "images", root / "masks", *map(str, range(9)))
    for i in range(7):
        save_image(root / f"images/bare{i}.jpg")
    save(root / "masks/lone.png", MASK)
    save(root / "masks/3.bmp", MASK)
    save_image(root / "images/4.webp")
    return root


def test_whatever_has_no_partner_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataUnusable) as caught:
        read_masked(data(troubled(tmp_path)))
    message = str(caught.value)
    assert "7 images without a mask in" in message
    assert "bare0.jpg, bare1.jpg, bare2.jpg, bare3.jpg, bare4.jpg and 2 more" in message
    assert "3 images with no one mask of their own in" in message
    assert "3.jpg: the masks 3.bmp, 3.png" in message
    assert "1 mask without an image in" in message
    assert "lone.png" in message


def test_skip_bad_sets_aside_what_has_no_partner(tmp_path: Path) -> None:
    samples = read_masked(data(troubled(tmp_path), skip_bad=True))
    assert len(samples.samples) == 7
    assert {r.code for r in samples.rejected} == {"no_mask"}
    assert [r.name.removeprefix("images/") for r in samples.rejected if "bare" not in r.name] == ["3.jpg", "4.jpg", "4.webp"]
    assert "1 mask without an image left out: lone.png" in samples.notes
    assert "10 images set aside: no mask 10" in samples.notes


def test_layouts_that_cannot_be_told(tmp_path: Path) -> None:
    put_pairs(tmp_path / "p", tmp_path / "m", "1", "2")
    put_pairs(tmp_path / "mixed", tmp_path / "m", "train/1", "2")
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays/1.npy").write_bytes(b"x")
    cases: list[tuple[Path, str | Path | None, str]] = [
        (tmp_path / "gone", None, "nothing at"),
        (tmp_path / "p/1.jpg", None, "the file"),
        (tmp_path / "p", None, "without images/ and masks/ side by side"),
        (tmp_path / "p", "nowhere", "without images/ and nowhere/ side by side"),
        (tmp_path / "p", tmp_path / "no/where", "nothing at"),
        (tmp_path / "p", tmp_path / "p", "the same folder"),
        (tmp_path / "p", tmp_path / "m/1.png", "the file"),
        (tmp_path / "p", tmp_path / "arrays", r"no image file[\s\S]*\.npy"),
        (tmp_path / "mixed", tmp_path / "m", "either all in train/"),
    ]
    for path, masks, message in cases:
        with pytest.raises(DataUnusable, match=message):
            read_masked(data(path, masks=masks))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataUnusable, match="images with masks"):
        read_masked(data(tmp_path / "empty", masks=tmp_path / "m", skip_bad=True))


def test_one_image_is_too_few(tmp_path: Path) -> None:
    put_pairs(tmp_path / "images", tmp_path / "masks", "1")
    with pytest.raises(TooFewImages, match="at least 2 usable training images"):
        read_masked(data(tmp_path))


def test_a_table_with_masks(tmp_path: Path) -> None:
    put_pairs(tmp_path / "i", tmp_path / "m", "1", "2", "3")
    rows = "i/2.jpg,m/2.png,train,x\ni/1.jpg,m/1.png,train,x\ni/3.jpg,m/3.png,test,\n"
    (tmp_path / "t.csv").write_text("path,mask,split,who\n" + rows)
    samples = read_masked(data(tmp_path / "t.csv", group_column="who"))
    assert [(s.name, s.part, s.group) for s in samples.samples] == [
        ("i/1.jpg", "train", "x"),
        ("i/2.jpg", "train", "x"),
        ("i/3.jpg", "test", None),
    ]
    assert all(s.mask and s.mask.is_file() and s.mask.stem == s.path.stem for s in samples.samples)
    assert samples.root == tmp_path


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("i/1.jpg,m/1.png\ni/1.jpg,m/2.png\n", "has two masks: m/1.png, m/2.png"),
        ("i/1.jpg,m/1.png\ni/2.jpg,m/1.png\n", "the mask m/1.png in rows 2 and 3, of different images"),
        ("i/1.jpg,m/1.png\ni/2.jpg,\n", "1 image without a mask: i/2.jpg"),
        ("i/1.jpg,i/1.jpg\n", "as its own mask"),
        ("", "no rows"),
    ],
)
def test_tables_that_contradict_themselves(tmp_path: Path, rows: str, message: str) -> None:
    put_pairs(tmp_path / "i", tmp_path / "m", "1", "2")
    (tmp_path / "t.csv").write_text("path,mask\n" + rows)
    with pytest.raises(DataUnusable, match=message):
        read_masked(data(tmp_path / "t.csv"))


def test_a_table_and_a_folder_of_masks_is_one_too_many(tmp_path: Path) -> None:
    put_pairs(tmp_path / "i", tmp_path / "m", "1", "2")
    (tmp_path / "t.csv").write_text("path,mask\ni/1.jpg,m/1.png\n")
    with pytest.raises(UsageError, match="either --masks or a table"):
        read_masked(data(tmp_path / "t.csv", masks=tmp_path / "m"))


def test_a_missing_column_is_explained(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,masks\na,b\n")
    with pytest.raises(DataUnusable, match=r"a column 'mask'[\s\S]*did you mean 'masks'[\s\S]*--mask-column"):
        read_masked(data(tmp_path / "t.csv"))


def test_sizes_that_differ_name_both_files(tmp_path: Path) -> None:
    put_pairs(tmp_path / "images", tmp_path / "masks", "1", "2", "3")
    save_image(tmp_path / "images/2.jpg", 9, 4)
    with pytest.raises(DataUnusable, match=r"masks/2\.png has 6 x 4 pixels, the image images/2\.jpg 9 x 4"):
        both(data(tmp_path))
    samples, _ = both(data(tmp_path, skip_bad=True))
    assert [(r.name, r.code) for r in samples.rejected] == [("images/2.jpg", "mask_size")]
    assert len(samples.samples) == 2


def test_the_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    put_pairs(tmp_path / "images", tmp_path / "masks", "1", "2")
    save_image(tmp_path / "images/1.jpg", 4, 6, exif=exif(6))
    assert len(both(data(tmp_path))[0].samples) == 2
    save_image(tmp_path / "images/1.jpg", 6, 4, exif=exif(6))
    with pytest.raises(
        DataUnusable, match=r"has 6 x 4 pixels, the image \S+ 4 x 6; it is as the image is stored, before its EXIF"
    ):
        both(data(tmp_path))


def test_masks_of_nothing_that_counts_are_named(tmp_path: Path) -> None:
    put_pairs(tmp_path / "images", tmp_path / "masks", "1", "2", "3")
    for i, mask in enumerate((half(0, 1), half(255, 255), half(1, 2)), 1):
        save(tmp_path / f"masks/{i}.png", mask)
    with pytest.raises(DataUnusable, match=r"1 mask that cannot be used:\s+masks/2\.png: every pixel is ignored"):
        both(data(tmp_path, task="semantic"))
    samples, found = both(data(tmp_path, task="semantic", skip_bad=True))
    assert [r.code for r in samples.rejected] == ["mask_ignored"]
    assert samples.classes == found.classes == ("class 0", "class 1", "class 2")
    assert "pixels in masks: class 0 25.0 %, class 1 50.0 %, class 2 25.0 %" in samples.notes


def test_values_beyond_the_classes_stop_or_are_set_aside(tmp_path: Path) -> None:
    put_pairs(tmp_path / "images", tmp_path / "masks", "1", "2", "3")
    for i in (1, 2, 3):
        save(tmp_path / f"masks/{i}.png", half(0, 1) if i < 3 else half(3, 7))
    (tmp_path / "classes.txt").write_text("sky\nbird\n")
    given = data(tmp_path, task="semantic", class_list=tmp_path / "classes.txt")
    with pytest.raises(DataUnusable, match=r"masks/3\.png: values 3, 7"):
        both(given)
    samples, _ = both(data(tmp_path, task="semantic", class_list=tmp_path / "classes.txt", skip_bad=True))
    assert [(r.name, r.code) for r in samples.rejected] == [("images/3.jpg", "mask_values")]


def test_unreadable_masks_are_treated_as_unreadable_images(tmp_path: Path) -> None:
    put_pairs(tmp_path / "images", tmp_path / "masks", *map(str, range(20)))
    for i in (3, 4):
        mask = tmp_path / f"masks/{i}.png"
        mask.write_bytes(mask.read_bytes()[:-20])
    samples, _ = both(data(tmp_path))
    assert [(r.name, r.code, r.path.name) for r in samples.rejected] == [
        ("images/3.jpg", "truncated", "3.png"),
        ("images/4.jpg", "truncated", "4.png"),
    ]
    assert "2 images set aside: truncated 2" in samples.notes
    (tmp_path / "masks/5.png").write_bytes(b"")
    with pytest.raises(TooManyUnreadable, match=r"images/5\.jpg: masks/5\.png: an empty file"):
        both(data(tmp_path))


def test_upside_down_masks_show_in_the_shares(tmp_path: Path) -> None:
    put_pairs(tmp_path / "images", tmp_path / "masks", "1", "2")
    samples, _ = both(data(tmp_path))
    assert samples.notes == ("pixels in masks: background 50.0 %, object 50.0 %",)


def test_a_separate_test_set(tmp_path: Path) -> None:
    put_pairs(tmp_path / "photos", tmp_path / "masks", *map(str, range(6)))
    put_pairs(tmp_path / "more", tmp_path / "more-masks", "7", "8")
    given = data(tmp_path / "photos", masks=tmp_path / "masks", test=tmp_path / "more", test_masks=tmp_path / "more-masks")
    samples, found = both(given)
    split = split_samples(samples, given, 0, read_test=read_masked_evaluation)
    assert [(s.name, s.mask and s.mask.parent.name) for s in split.test] == [("7.jpg", "more-masks"), ("8.jpg", "more-masks")]
    assert (len(split.train), split.classes, split.notes) == (6, found.classes, ())
    save(tmp_path / "more-masks/7.png", half(0, 1))
    settled, of_test = settle_test(split, given, found)
    assert of_test.words == ("0 -> background", "1 -> object", "255 -> object")
    assert settled.notes == ("test: pixels in masks: background 50.0 %, object 50.0 %",)
    save(tmp_path / "more-masks/7.png", half(0, 1, width=8))
    with pytest.raises(DataUnusable, match=r"7\.png has 8 x 4 pixels, the image 7\.jpg 6 x 4"):
        settle_test(split, given, found)
    own = data(tmp_path / "photos", masks=tmp_path / "masks")
    assert settle_test(split, own, found) == (split, found)


def test_the_name_of_a_folder_serves_for_the_test_set_too(tmp_path: Path) -> None:
    for root in ("a", "b"):
        put_pairs(tmp_path / root / "images", tmp_path / root / "gt", "1", f"{root}2")
    given = data(tmp_path / "a", masks=Path("gt"), test=tmp_path / "b")
    split = split_samples(read_masked(given), given, 0, read_test=read_masked_evaluation)
    assert [s.mask and s.mask.as_posix().endswith(f"b/gt/{s.path.stem}.png") for s in split.test] == [True, True]


def test_held_out_images_groups_and_copies(tmp_path: Path) -> None:
    put_pairs(tmp_path / "images", tmp_path / "masks", *(f"{who}_{i}" for who in "abcdefgh" for i in range(3)))
    given = data(tmp_path, group_pattern=r"(\w)_\d")
    samples, _ = both(given)
    split = split_samples(samples, given, 0, read_test=read_masked_evaluation)
    assert 3 <= len(split.test) <= 6
    assert not {s.group for s in split.train} & {s.group for s in split.test}
    assert keep_together(split, given, 0, np.full(24, -1)) is split


def test_masks_that_judge_may_have_another_coding(tmp_path: Path) -> None:
    put_pairs(tmp_path / "a/images", tmp_path / "a/masks", "1", "2")
    put_pairs(tmp_path / "b/images", tmp_path / "b/masks", "1", "2")
    for i in (1, 2):
        save(tmp_path / f"b/masks/{i}.png", half(0, 1))
    _, trained = both(data(tmp_path / "a"))
    given = data(tmp_path / "b")
    samples, found = settle_masks(read_masked_evaluation(given, trained.classes), given, like=trained)
    assert found.words == ("0 -> background", "1 -> object")
    assert np.array_equal(read_labels(samples.samples[0].mask or Path(), found), half(0, 1))


def test_classes_that_judge_go_by_name(tmp_path: Path) -> None:
    put_pairs(tmp_path / "images", tmp_path / "masks", "1", "2")
    for i in (1, 2):
        save(tmp_path / f"masks/{i}.png", half(0, 1))
    (tmp_path / "a.txt").write_text("sky\nbird\n")
    (tmp_path / "b.txt").write_text("bird\nsky\n")
    (tmp_path / "c.txt").write_text("brid\nsky\n")
    trained = both(data(tmp_path, task="semantic", class_list=tmp_path / "a.txt"))[1]
    other = data(tmp_path, task="semantic", class_list=tmp_path / "b.txt")
    samples, found = settle_masks(read_masked_evaluation(other), other, like=trained)
    assert (samples.classes, dict(found.values)[0]) == (("sky", "bird"), 1)
    other = data(tmp_path, task="semantic", class_list=tmp_path / "c.txt")
    with pytest.raises(DataUnusable, match=r"brid; did you mean 'bird'"):
        settle_masks(read_masked_evaluation(other), other, like=trained)


def test_only_the_test_part_judges(tmp_path: Path) -> None:
    put_pairs(tmp_path / "images", tmp_path / "masks", "train/1", "test/2")
    assert [s.name for s in read_masked_evaluation(data(tmp_path)).samples] == ["images/test/2.jpg"]


def test_images_can_be_excluded(tmp_path: Path) -> None:
    put_pairs(tmp_path / "images", tmp_path / "masks", "1", "2", "3")
    (tmp_path / "out.csv").write_text("path\nimages/2.jpg\n")
    samples = read_masked(data(tmp_path, exclude=tmp_path / "out.csv"))
    assert list(pairs_of(samples)) == ["images/1.jpg", "images/3.jpg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "segmentation"}, "--task to be one of classification, saliency, semantic"),
        ({"task": "classification", "masks": Path("m"), "ignore": 3}, "--masks and --ignore with a task"),
        ({"test_masks": Path("m")}, "--test-masks with --test"),
        ({"ignore": 65536}, "from 0 to 65535"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RegraftError, match=message) as caught:
        data(Path("x"), **options)
    assert caught.value.exit_code == 2
