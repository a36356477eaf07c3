"""What values in masks mean is found from the files, printed, and what fits nothing is refused with the file and the values."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.hostile_images import Hostile, hostile
from faults.image_bytes import png
from faults.mkimages import ORIENTED, blocks, encode, encode_oriented, stored, valid
from mask_files import half, save, save_palette
from PIL import Image

from regraft.data.class_list import read_class_list
from regraft.data.decode import decode_image, decode_mask, read_upright_size
from regraft.data.label_input import from_input, labels_to_input
from regraft.data.mask_map import find_mask_map
from regraft.data.masks import look_at_mask, read_labels
from regraft.data.preprocess import Preprocess, padded_box, to_input_size
from regraft.errors import DataUnusable, ImageRejected, UsageError
from regraft.segments import IGNORE

VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
HALF = half(0, 1).astype(np.uint8)


def saved(folder: Path, *masks: Any, ending: str = "png", dtype: type = np.uint8) -> list[Path]:
    return [save(folder / f"{number}.{ending}", mask, dtype) for number, mask in enumerate(masks)]


def soft(width: int = 60) -> np.ndarray[Any, Any]:
    """A disc with an edge four pixels wide."""
    y, x = np.mgrid[:width, :width] - width / 2 + 0.5
    return (np.clip((width / 3 - np.hypot(x, y)) / 4 + 0.5, 0, 1) * 255).round()


@pytest.mark.parametrize(
    ("mask", "dtype", "high"),
    [(half(0, 255), np.uint8, 255), (half(0, 1), np.uint8, 1), (half(0, 1), np.bool_, 255), (half(0, 65535), np.uint16, 65535)],
    ids=["0/255", "0/1", "1 bit", "16 bits"],
)
def test_saliency_in_every_coding_is_background_and_object(tmp_path: Path, mask: Any, dtype: type, high: int) -> None:
    """0/255 taken for indices, or 0/1 for levels, is the most common mistake with masks."""
    paths = saved(tmp_path, mask, dtype=dtype)
    found = find_mask_map(paths, "saliency")
    assert found.words == ("0 -> background", f"{high} -> object")
    assert (found.classes, found.channels) == (("background", "object"), 1)
    assert np.array_equal(read_labels(paths[0], found), HALF)


def test_files_in_different_codings_say_the_same(tmp_path: Path) -> None:
    paths = [*saved(tmp_path, half(0, 255), half(0, 1)), save(tmp_path / "bits.png", half(0, 1), np.bool_)]
    found = find_mask_map(paths, "saliency")
    assert all(np.array_equal(read_labels(path, found), HALF) for path in paths)


def test_grey_saved_as_colours_or_as_a_palette_is_grey(tmp_path: Path) -> None:
    rgb = save(tmp_path / "rgb.png", half(0, 255)[..., None].repeat(3, -1))
    opaque = save(tmp_path / "rgba.png", np.dstack([half(0, 255)] * 3 + [np.full((4, 6), 255)]))
    white_first = save_palette(tmp_path / "p.png", half(1, 0), [(255, 255, 255), (0, 0, 0)])
    found = find_mask_map([rgb, opaque, white_first], "saliency")
    assert found.words == ("0 -> background", "255 -> object")
    assert all(np.array_equal(read_labels(path, found), HALF) for path in (rgb, opaque, white_first))


def test_one_colour_on_black_is_an_object_wherever_the_palette_has_it(tmp_path: Path) -> None:
    rgb = save(tmp_path / "rgb.png", half(0, 1)[..., None] * np.array([200, 0, 0]))
    red_first = save_palette(tmp_path / "p.png", half(1, 0), [(200, 0, 0), (0, 0, 0)])
    found = find_mask_map([rgb, red_first], "saliency")
    assert found.words == ("(0, 0, 0) -> background", "(200, 0, 0) -> object")
    assert all(np.array_equal(read_labels(path, found), HALF) for path in (rgb, red_first))


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_soft_edges_are_cut_at_the_middle_and_that_is_said(tmp_path: Path, ending: str) -> None:
    paths = saved(tmp_path, soft(), np.zeros((9, 9)), ending=ending)
    found = find_mask_map(paths, "saliency")
    assert found.words == ("0..127 -> background", "128..255 -> object (the edges are soft: cut at 128)")
    wrong = read_labels(paths[0], found) != (soft() >= 128)
    assert wrong.mean() < (0.02 if ending == "jpg" else 1e-9)
    assert not read_labels(paths[1], found).any()


@pytest.mark.parametrize(
    "mask",
    [
        np.array([[0, 1, 2, 0]]),
        np.array([[0] * 9 + [128] + [255] * 9]),
        np.array([[*([0] * 60), 1, 1, 15, 255]]),
        np.arange(256).reshape(16, 16),
        np.array([[*([0] * 200), *range(1, 21), 255, 255]]),
    ],
    ids=["three classes", "trimap", "few of VOC", "a ramp", "all of VOC"],
)
def test_classes_are_not_taken_for_soft_edges(tmp_path: Path, mask: Any) -> None:
    with pytest.raises(DataUnusable, match=r"0\.png: the values 0, 1[\s\S]*--task semantic[\s\S]*--ignore"):
        find_mask_map(saved(tmp_path, mask), "saliency")


def test_a_mask_of_ones_among_soft_ones_is_not_taken_for_empty(tmp_path: Path) -> None:
    paths = saved(tmp_path, soft(), half(0, 1))
    with pytest.raises(DataUnusable, match=r"1\.png: values up to 1 only"):
        find_mask_map(paths, "saliency")


def test_a_value_to_ignore_makes_a_trimap_of_use(tmp_path: Path) -> None:
    paths = saved(tmp_path, np.array([[0, 128, 255]]))
    found = find_mask_map(paths, "saliency", ignore=128)
    assert found.words == ("0 -> background", "128 -> ignored", "255 -> object")
    assert read_labels(paths[0], found).tolist() == [[0, IGNORE, 1]]


def test_masks_without_an_object_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataUnusable, match="two classes or more"):
        find_mask_map(saved(tmp_path, np.zeros((3, 3))), "saliency")


def test_semantic_values_are_indices_and_255_is_ignored(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 3, 255]])
    paths = saved(tmp_path, mask, np.array([[2, 0, 0, 0]]))
    found = find_mask_map(paths, "semantic")
    assert found.classes == ("class 0", "class 1", "class 2", "class 3")
    assert found.words[-1] == "255 -> ignored"
    assert np.array_equal(read_labels(paths[0], found), mask)


@pytest.mark.parametrize("names", [None, "sky\nbird\n"])
def test_semantic_0_and_255_are_two_classes(tmp_path: Path, names: str | None) -> None:
    paths, listed = saved(tmp_path, half(0, 255)), None
    if names:
        listed = tmp_path / "classes.txt"
        listed.write_text(names)
    found = find_mask_map(paths, "semantic", class_list=listed)
    assert found.classes == (tuple(names.split()) if names else ("class 0", "class 1"))
    assert np.array_equal(read_labels(paths[0], found), HALF)


def test_a_palette_keeps_its_indices(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 2, 3, 255]])
    path = save_palette(tmp_path / "voc.png", indices, VOC + [(0, 0, 0)] * 251 + [(224, 224, 192)])
    found = find_mask_map([path], "semantic")
    assert np.array_equal(read_labels(path, found), indices)
    assert decode_mask(path).pixels.mode == "P"


def test_16_bit_values_are_indices_too(tmp_path: Path) -> None:
    paths = saved(tmp_path, np.array([[0, 1, 2, 1000]]), dtype=np.uint16)
    found = find_mask_map(paths, "semantic", ignore=1000)
    assert read_labels(paths[0], found).tolist() == [[0, 1, 2, IGNORE]]
    tiff = save(tmp_path / "deep.tif", np.array([[0, 1, 2, 1000]]), np.int32)
    assert read_labels(tiff, found).tolist() == [[0, 1, 2, IGNORE]]


def test_levels_far_apart_are_named_after_themselves(tmp_path: Path) -> None:
    paths = saved(tmp_path, np.array([[0, 80, 160, 240]]))
    found = find_mask_map(paths, "semantic")
    assert found.classes == ("class 0", "class 80", "class 160", "class 240")
    assert read_labels(paths[0], found).tolist() == [[0, 1, 2, 3]]


def test_values_beyond_the_classes_name_the_files(tmp_path: Path) -> None:
    listed = tmp_path / "classes.txt"
    listed.write_text("sky\nbird\n")
    paths = saved(tmp_path, HALF, np.array([[0, 1, 7, 9]]))
    with pytest.raises(DataUnusable, match=r"1 mask with others:\s+\S*1\.png: values 7, 9") as caught:
        find_mask_map(paths, "semantic", class_list=listed)
    assert "0 -> sky; 1 -> bird; 255 -> ignored" in str(caught.value)
    assert caught.value.exit_code == 3
    found = find_mask_map(paths[:1], "semantic", class_list=listed)
    with pytest.raises(ImageRejected, match=r"b\.png: values 7, 9") as refused:
        read_labels(paths[1], found, "b.png")
    assert refused.value.code == "mask_values"


def test_colours_need_a_table_and_the_message_has_one_to_paste(tmp_path: Path) -> None:
    path = save(tmp_path / "rgb.png", np.array(VOC)[[[0, 1, 2]]])
    with pytest.raises(DataUnusable, match=r"rgb\.png; 3 colours: \(0, 0, 0\), \(0, 128, 0\), \(128, 0, 0\)") as caught:
        find_mask_map([path], "semantic")
    pasted = [line.strip() for line in str(caught.value).splitlines() if line.strip().startswith("name-")]
    table = tmp_path / "classes.txt"
    table.write_text("\n".join(pasted))
    found = find_mask_map([path], "semantic", class_list=table)
    assert found.classes == ("name-0", "name-1", "name-2")
    assert read_labels(path, found).tolist() == [[0, 2, 1]]


def test_a_table_of_colours_serves_palettes_and_refuses_what_it_does_not_list(tmp_path: Path) -> None:
    table = tmp_path / "classes.txt"
    table.write_text("sky 0 0 0\nbird 128 0 0\nignore 0 128 0\n")
    palette = save_palette(tmp_path / "p.png", [[2, 1, 0]], VOC)
    found = find_mask_map([palette], "semantic", class_list=table)
    assert read_labels(palette, found).tolist() == [[IGNORE, 1, 0]]
    other = save(tmp_path / "o.png", np.array([[(0, 0, 0), (1, 2, 3)]]))
    with pytest.raises(DataUnusable, match=r"o\.png: colour \(1, 2, 3\)"):
        find_mask_map([palette, other], "semantic", class_list=table)


def test_too_many_colours_are_a_photograph(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3))
    path = save(tmp_path / "photo.png", noise)
    for kind in ("saliency", "semantic"):
        with pytest.raises(DataUnusable, match=r"photo\.png"):
            find_mask_map([path], kind)


def test_jpegs_are_refused_for_classes_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DataUnusable, match=r"1 JPEG, such as \S*0\.jpg: compression smears"):
        find_mask_map(saved(tmp_path, half(0, 1), ending="jpg"), "semantic")


def test_pixels_that_say_no_number_are_refused(tmp_path: Path) -> None:
    see_through = save(tmp_path / "a.png", np.dstack([half(0, 255)] * 4))
    deep = tmp_path / "b.png"
    deep.write_bytes(png(1, 1, 16, 2, [bytes([0, 3] * 3)]))
    floats = save(tmp_path / "c.tif", half(0, 1), np.float32)
    for path, got in ((see_through, "not opaque"), (deep, "colours of 16 bits"), (floats, "type F")):
        with pytest.raises(ImageRejected, match=got) as caught:
            look_at_mask(path)
        assert caught.value.code == "pixel_type"


@pytest.mark.parametrize(
    ("text", "classes", "mapped"),
    [
        ("sky\n2 wheeler\n\n# a comment\ncar\n", ("sky", "2 wheeler", "car"), ((0, 0), (1, 1), (2, 2))),
        ("3 car\n1 sky\n2 car\n0 ignore\n", ("car", "sky"), ((3, 0), (1, 1), (2, 0), (0, IGNORE))),
        ("big sky 0 0 0\ncar 1 2 3\n", ("big sky", "car"), (((0, 0, 0), 0), ((1, 2, 3), 1))),
        ("name,r,g,b\nsky,0,0,0\ncar,1,2,3\n", ("sky", "car"), (((0, 0, 0), 0), ((1, 2, 3), 1))),
        ("0 0 0\tsky\n1 2 3\tcar\n", ("sky", "car"), (((0, 0, 0), 0), ((1, 2, 3), 1))),
        ("128 #000000\ncar #0102fF\n", ("128", "car"), (((0, 0, 0), 0), ((1, 2, 255), 1))),
    ],
    ids=["names", "values", "colours", "comma", "colour first", "hex"],
)
def test_class_lists_in_every_form(tmp_path: Path, text: str, classes: tuple[str, ...], mapped: tuple[Any, ...]) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    found = read_class_list(path)
    assert found.classes == classes
    assert (found.values or found.colours) == mapped


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line with a name"),
        ("sky\n", "1 class"),
        ("sky\ncar\nsky\n", "1 name on two lines: sky"),
        ("0 sky\n0 car\n", "listed twice: 0"),
        ("sky 0 0 0\ncar 0 0\n", "line 2, 'car 0 0', has no colour"),
        ("sky 0 0 0\ncar 0 0 256\n", "line 2: the colour"),
        ("0 sky\n1 car\nbird\n", "line 3, 'bird', has no value"),
        ("\n".join(f"c{i}" for i in range(256)), "256 classes"),
        ("x" * 2000, "line 1 of more than"),
    ],
)
def test_class_lists_that_cannot_be_meant(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(DataUnusable, match=message):
        read_class_list(path)


def test_a_listed_value_cannot_be_ignored(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("sky\nbird\n")
    with pytest.raises(DataUnusable, match=r"value of --ignore, 0[\s\S]*with 0 for sky"):
        find_mask_map(saved(tmp_path, HALF), "semantic", class_list=path, ignore=0)


def test_saliency_by_a_list_of_values(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("2 object\n1 object\n7 background\n0 ignore\n")
    masks = saved(tmp_path, np.array([[0, 1, 2, 7]]))
    found = find_mask_map(masks, "saliency", class_list=path)
    assert found.classes == ("background", "object")
    assert read_labels(masks[0], found).tolist() == [[IGNORE, 1, 1, 0]]


# No image has a white there, but a mask's numbers need none.
WHOLE_NUMBERS = ("whole.TIFF", "signed-16.TIFF")


@pytest.mark.parametrize("bad", [bad for bad in hostile() if bad.name not in WHOLE_NUMBERS], ids=lambda bad: bad.name)
def test_hostile_masks_are_refused_as_images_are(bad: Hostile, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(bad.data)
    for read in (decode_mask, look_at_mask):
        with pytest.raises(ImageRejected, match=r"mask\.png") as caught:
            read(path)
        assert caught.value.code == bad.code


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_are_turned_as_images_are(orientation: int, tmp_path: Path) -> None:
    labels = (blocks()[..., 0] > 100).astype(np.uint8)
    image = Image.fromarray(stored(labels, orientation))
    for kind in ("PNG", "TIFF"):
        path = tmp_path / f"m.{kind}"
        path.write_bytes(encode_oriented(image, kind, orientation))
        assert np.array_equal(read_labels(path, find_mask_map([path], "semantic")), labels)


@pytest.mark.parametrize("case", valid(), ids=lambda case: case.name)
def test_the_upright_size_is_told_without_decoding(case: Any, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(case.data)
    assert read_upright_size(path) == decode_image(path).size_on_disk


def test_the_upright_size_of_every_orientation(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        for kind in ORIENTED:
            path = tmp_path / f"{orientation}.{kind}"
            path.write_bytes(encode_oriented(Image.fromarray(stored(blocks(), orientation)), kind, orientation))
            assert read_upright_size(path) == (48, 32)
    path.write_bytes(encode(Image.fromarray(blocks()), "PNG")[:-30])
    with pytest.raises(ImageRejected):
        read_upright_size(path)


def preprocess(fit: Any, height: int = 20, width: int = 24) -> Preprocess:
    return Preprocess(
        height=height, width=width, fit=fit, interpolation="nearest", mean=(0.5,), std=(0.5,), background=(255,) * 3
    )


@pytest.mark.parametrize("size", [(7, 5), (60, 41), (1, 9), (300, 2), (24, 20)])
@pytest.mark.parametrize("fit", ["pad", "squash", "crop"])
def test_labels_lie_in_the_input_where_the_image_does(fit: Any, size: tuple[int, int]) -> None:
    """Labels shown as an image, and resized as one by nearest pixels, give the same."""
    labels = np.random.default_rng(0).integers(0, 4, size[::-1]).astype(np.uint8)
    as_image = to_input_size(Image.fromarray(labels), preprocess(fit))[..., 0]
    assert np.array_equal(labels_to_input(labels, preprocess(fit)), as_image)


@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_values_come_back_from_the_input(fit: Any) -> None:
    size = (61, 40)
    x, y = np.meshgrid((np.arange(61) + 0.5) / 61, (np.arange(40) + 0.5) / 40)
    left, top, width, height = padded_box(size, preprocess(fit, 200, 200))
    planes = np.full((2, 200, 200), 1e6, np.float32)
    planes[0, top : top + height, left : left + width] = (np.arange(width) + 0.5) / width
    planes[1, top : top + height, left : left + width] = ((np.arange(height) + 0.5) / height)[:, None]
    back = from_input(planes, size, preprocess(fit, 200, 200))
    assert np.abs(back - np.stack([x, y])).max() < 0.01


def test_a_crop_has_no_way_back() -> None:
    with pytest.raises(UsageError, match="shows the whole image"):
        from_input(np.zeros((1, 20, 24), np.float32), (5, 5), preprocess("crop"))


def test_colours_of_a_large_mask_are_looked_up(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (40, 30)).repeat(20, 0).repeat(20, 1)
    table = tmp_path / "classes.txt"
    table.write_text("\n".join(f"c{i} {' '.join(map(str, colour))}" for i, colour in enumerate(VOC)))
    path = save(tmp_path / "large.png", np.array(VOC)[labels])
    assert np.array_equal(read_labels(path, find_mask_map([path], "semantic", class_list=table)), labels)
