"""Answers for pixels as files: indices and colours stay what they were, names are safe and each image's own."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from regraft.answer_folder import AnswerFolder, PixelRow, Wanted, csv_header, csv_row, json_row
from regraft.errors import UsageError
from regraft.mask_files import label_png, overlaid, overlay_png, probability_png, three_side_by_side, write_probabilities
from regraft.mask_names import MaskNames, roots_of, safe_part
from regraft.palette import UNCOUNTED, palette_of, seen
from regraft.segments import IGNORE, PixelAnswer

CLASSES = ("background", "cat", "dög/\x1b[31m")


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def two_squares(height: int = 40, width: int = 60) -> NDArray[np.uint8]:
    labels = np.zeros((height, width), np.uint8)
    labels[5:20, 5:20] = 1
    labels[20:35, 30:55] = 2
    return labels


# -- palettes


@pytest.mark.parametrize("classes", [1, 2, 8, 9, 21, 60, 255])
def test_a_palette_begins_as_that_of_more_classes_and_no_colour_comes_twice(classes: int) -> None:
    palette = palette_of(classes)
    assert len(palette) == classes
    assert palette == palette_of(255)[:classes]
    assert len({*palette, UNCOUNTED}) == classes + 1


@pytest.mark.parametrize(("classes", "least"), [(8, 0.07), (21, 0.07), (40, 0.045)])
def test_colours_are_told_apart_by_every_eye(classes: int, least: float) -> None:
    """A step of 0.02 in OKLab is one that can just be seen."""
    values = seen(np.array(palette_of(classes), np.uint8))
    apart = np.linalg.norm(values[:, :, np.newaxis] - values[:, np.newaxis], axis=3)
    apart += 9 * np.eye(classes)
    assert apart.min() > least


def test_colours_are_seen_as_their_definition_says() -> None:
    """White and grey have no hue for any eye, and lightness 1 and 0.6; the red of sRGB is at (0.628, 0.225, 0.126)."""
    white, grey, red = np.moveaxis(seen(np.array([(255,) * 3, (128,) * 3, (255, 0, 0)], np.uint8)), 1, 0)
    np.testing.assert_allclose(white, [[1, 0, 0]] * 3, atol=1e-3)
    np.testing.assert_allclose(grey, [[0.6, 0, 0]] * 3, atol=2e-3)
    np.testing.assert_allclose(red[0], [0.628, 0.225, 0.126], atol=1e-3)


# -- pictures


def test_a_mask_of_classes_keeps_its_indices_and_shows_their_colours() -> None:
    labels = two_squares()
    labels[0, :5] = IGNORE
    palette = palette_of(3)
    image = opened(label_png(labels, palette))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), labels)
    colours = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(colours[labels == 2], np.broadcast_to(palette[2], (375, 3)))
    assert tuple(colours[0, 0]) == UNCOUNTED


def test_a_mask_of_an_object_is_black_and_white() -> None:
    labels = np.array([[0, 1], [IGNORE, 1]], np.uint8)
    image = opened(label_png(labels, None))
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 255], [128, 255]]


def test_masks_of_every_number_of_classes_come_back() -> None:
    labels = np.arange(255, dtype=np.uint8).reshape(15, 17)
    np.testing.assert_array_equal(np.asarray(opened(label_png(labels, palette_of(255)))), labels)


@pytest.mark.parametrize(("bits", "most"), [(8, 255), (16, 65535)])
def test_probabilities_are_levels_of_grey(bits: int, most: int) -> None:
    values = np.random.default_rng(0).random((9, 7)).astype(np.float16)
    values[0, :2] = 0, 1
    levels = np.asarray(opened(probability_png(values, bits=bits)))
    assert levels[0, :2].tolist() == [0, most]
    np.testing.assert_allclose(levels / most, values.astype(np.float32), atol=0.51 / most)


def test_probabilities_of_classes_are_kept_with_their_names(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 9, 7)).astype(np.float16)
    write_probabilities(tmp_path / "a.npz", values, CLASSES)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as kept:
        np.testing.assert_array_equal(kept["probabilities"], values)
        assert tuple(kept["classes"]) == CLASSES
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_an_overlay_is_the_image_where_there_is_nothing_and_mixed_where_there_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    labels, palette = two_squares(), palette_of(3)
    shown = np.asarray(overlaid(pixels, labels, CLASSES, palette, 0.5)).astype(int)
    np.testing.assert_array_equal(shown[labels == 0], pixels[labels == 0])
    inside = np.s_[7:18, 7:18]
    mixed = (pixels[inside].astype(int) + np.array(palette[1])) / 2
    np.testing.assert_allclose(shown[inside], mixed, atol=1)
    # The contour is opaque, and lies inside of the area.
    np.testing.assert_array_equal(shown[5, 5:20], np.broadcast_to(palette[1], (15, 3)))


def test_a_first_class_that_is_no_background_is_coloured_too() -> None:
    pixels = np.full((20, 20, 3), 200, np.uint8)
    labels = np.zeros((20, 20), np.uint8)
    shown = np.asarray(overlaid(pixels, labels, ("sky", "sea"), ((0, 100, 0), (9, 9, 9)), 0.5))
    assert (shown == (100, 150, 100)).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_overlay_takes_every_image_and_labels_of_another_size(channels: int) -> None:
    pixels = np.full((80, 120, channels), 90, np.uint8)
    image = opened(overlay_png(pixels, two_squares(), ("background", "object"), palette_of(3)))
    assert image.size == (120, 80)


def test_an_overlay_says_which_colour_is_what() -> None:
    pixels = np.full((40, 60, 3), 90, np.uint8)
    image = opened(overlay_png(pixels, two_squares(), CLASSES, palette_of(3)))
    # Three classes are on it; a fourth has no line.
    assert image.size == (60, 40 + 3 * 20)
    more = opened(overlay_png(pixels, two_squares(), (*CLASSES, "cow"), palette_of(4)))
    assert more.size == image.size
    assert tuple(np.asarray(image)[40 + 30, 10]) == palette_of(3)[2]


def test_three_pictures_stand_side_by_side_and_stay_small() -> None:
    pixels = np.full((600, 900, 3), 90, np.uint8)
    truth, answer = np.zeros((600, 900), np.uint8), np.ones((600, 900), np.uint8)
    content = three_side_by_side(pixels, truth, answer, ("background", "object"), palette_of(2))
    image = opened(content)
    assert image.format == "JPEG"
    assert image.size == (3 * 320 + 8, 213)
    assert len(content) < 60_000
    shown = np.asarray(image).astype(int)
    np.testing.assert_allclose(shown[100, 160], 90, atol=3)
    np.testing.assert_allclose(shown[100, 324 + 160], 90, atol=3)
    assert shown[100, 648 + 160, 0] > 120


# -- names


def test_masks_lie_where_the_images_lie(tmp_path: Path) -> None:
    (tmp_path / "photos/a").mkdir(parents=True)
    photos = str(tmp_path / "photos")
    names = MaskNames(roots_of([photos]))
    assert names.name(f"{photos}/a/x.jpg") == "a/x"
    assert names.name(f"{photos}/x.jpg") == "x"
    assert names.name("elsewhere/y.tar.jpg") == "y.tar"
    assert names.name(f"{photos}/../z.jpg") == "z"


def test_patterns_and_lists_keep_their_folders(tmp_path: Path) -> None:
    names = MaskNames(roots_of([f"{tmp_path}/p/**/*.jpg"]))
    assert names.name(f"{tmp_path}/p/a/b/x.jpg") == "a/b/x"
    listed = MaskNames(roots_of(["-"]))
    assert listed.name("p/a/x.jpg") == "p/a/x"
    assert listed.name("../x.jpg") == "x"


def test_several_folders_keep_their_own_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    roots = [str(tmp_path / "one"), str(tmp_path / "two")]
    names = MaskNames(roots_of(roots))
    assert [names.name(f"{root}/x.jpg") for root in roots] == ["one/x", "two/x"]


def test_images_of_the_same_name_have_masks_of_their_own() -> None:
    names = MaskNames()
    paths = ["a/x.jpg", "b/x.png", "b/X.jpg", "c/x.jpg", "c/overlays/x.jpg"]
    given = [names.name(path) for path in paths]
    assert given[0] == "x"
    assert len({name.casefold() for name in given}) == len(paths)
    assert all(name.casefold().startswith("x-") for name in given[1:4])
    assert [names.name(path) for path in paths] == given


def test_a_mask_is_never_where_an_overlay_would_be() -> None:
    names = MaskNames([Path("p")])
    files = []
    for path in ("p/x.jpg", "p/overlays/x.jpg", "p/probabilities/x.jpg", "p/x.png"):
        name = names.name(path)
        files += [f"{name}.png", f"overlays/{name}.png", f"probabilities/{name}.png"]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize(
    ("part", "safe"),
    [
        ("IMG 12 (1)", "IMG 12 (1)"),
        ("straße", "straße"),
        ("a\u0308", "ä"),
        ("a:b?c", "a_b_c"),
        ("line\nbreak", "line_break"),
        (".hidden", "hidden"),
        ("dot.", "dot"),
        ("con", "image"),
        ("???", "image"),
        ("", "image"),
        ("\udcff", "image"),
        ("x" * 300, "x" * 60),
    ],
)
def test_names_are_taken_by_every_file_system(part: str, safe: str) -> None:
    assert safe_part(part) == safe


# -- folders


def answer(path: Path, labels: NDArray[np.uint8], probabilities: NDArray[np.float16] | None = None) -> PixelAnswer:
    shares = (("background", float((labels == 0).mean())), ("object", float((labels == 1).mean())))
    return PixelAnswer(path=str(path), status="ok", labels_HW=labels, probabilities_CHW=probabilities, shares=shares)


def photo(path: Path, height: int = 40, width: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)
    return path


SALIENCY = Wanted(kind="saliency", classes=("background", "object"), probabilities=True)


def test_a_folder_gets_all_files_of_an_image_and_a_row(tmp_path: Path) -> None:
    image, labels = photo(tmp_path / "p/a/x.png"), (two_squares() == 1).astype(np.uint8)
    shares = np.where(labels, 0.9, 0.2).astype(np.float16)[np.newaxis]
    with AnswerFolder(tmp_path / "out", SALIENCY, MaskNames([tmp_path / "p"])) as folder:
        row = folder.write(answer(image, labels, shares))
        assert folder.differs(row, answer(image, labels)) == 0
        assert folder.differs(row, answer(image, 1 - labels)) == 1
        assert folder.differs(row, answer(image, labels[:5])) == 1
    assert (row.mask, row.overlay, row.probabilities) == ("a/x.png", "overlays/a/x.png", "probabilities/a/x.png")
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written == sorted([row.mask, row.overlay, row.probabilities, "answers.jsonl"])
    with Image.open(tmp_path / "out" / row.mask) as mask:
        np.testing.assert_array_equal(np.asarray(mask), labels * 255)


def test_a_folder_of_classes_says_what_its_indices_are(tmp_path: Path) -> None:
    wanted = Wanted(kind="semantic", classes=("background", "=cat", "dog"), overlays=False, probabilities=True)
    image, shares = photo(tmp_path / "x.png"), np.zeros((3, 40, 60), np.float16)
    with AnswerFolder(tmp_path / "out", wanted, MaskNames()) as folder:
        row = folder.write(answer(image, two_squares(), shares))
    assert (tmp_path / "out/classes.csv").read_text().splitlines()[1:] == [
        "0,background,#000000",
        "1,'=cat,#e69f00",
        "2,dog,#56b4e9",
    ]
    assert row.probabilities == "probabilities/x.npz"
    with Image.open(tmp_path / "out/x.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), two_squares())


def test_an_image_that_is_gone_when_its_overlay_is_drawn_fails_alone(tmp_path: Path) -> None:
    with AnswerFolder(tmp_path / "out", SALIENCY, MaskNames()) as folder:
        row = folder.write(answer(tmp_path / "gone.png", np.zeros((4, 4), np.uint8)))
    assert row.status == "failed"
    assert "no such file" in row.reason
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["answers.jsonl"]


def test_a_folder_goes_on_with_what_is_whole(tmp_path: Path) -> None:
    wanted = Wanted(kind="saliency", classes=("background", "object"))
    images = [photo(tmp_path / f"{folder}/x.png") for folder in "abc"]
    labels = np.ones((40, 60), np.uint8)
    with AnswerFolder(tmp_path / "out", wanted, MaskNames()) as folder:
        rows = [folder.write(answer(image, labels)) for image in images]
        folder.write(PixelAnswer(path="bad.png", status="failed", reason="ends early"))
    (tmp_path / "out" / rows[1].overlay).unlink()
    journal = tmp_path / "out/answers.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"path": "torn')
    names = MaskNames()
    with AnswerFolder(tmp_path / "out", wanted, names, resume=True) as folder:
        assert folder.kept == {row.path: row for row in (rows[0], rows[2])}
        assert folder.write(answer(images[1], labels)) == rows[1]
    assert names.name(str(images[2])) == rows[2].mask.removesuffix(".png")
    again = AnswerFolder(tmp_path / "out", wanted, MaskNames(), resume=True)
    assert set(again.kept) == {str(image) for image in images}


@pytest.mark.parametrize("line", ["[]", '{"path": 3}', "nonsense", '{"path": "a", "status": "ok", "mask": "../../x.png"}'])
def test_a_journal_of_another_kind_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "answers.jsonl").write_text(f"{line}\n")
    with pytest.raises(UsageError, match=r"answers\.jsonl"):
        AnswerFolder(tmp_path, SALIENCY, MaskNames(), resume=True)


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    row = PixelRow(path="a", status="ok", mask="../x.png", shares=(("object", 0.5),))
    (tmp_path / "answers.jsonl").write_bytes(json_row(row))
    with pytest.raises(UsageError, match="line 1"):
        AnswerFolder(tmp_path, SALIENCY, MaskNames(), resume=True)


def test_rows_are_safe_for_spreadsheets_and_keep_every_name() -> None:
    row = PixelRow(path="=a\udcff.jpg", status="ok", mask="a.png", shares=(("cat", 1 / 3),))
    assert json_row(row, Path("out")) == (
        b'{"path": "=a\\udcff.jpg", "status": "ok", "reason": null, "mask": "out/a.png", "overlay": null, '
        b'"probabilities": null, "shares": [{"class": "cat", "share": 0.333333}]}\n'
    )
    assert csv_header(["cat", "dog"]) == b"path,status,reason,mask,overlay,probabilities,share cat,share dog\n"
    assert csv_row(row, ["cat", "dog"]) == b"'=a\\udcff.jpg,ok,,a.png,,,0.333333,\n"
