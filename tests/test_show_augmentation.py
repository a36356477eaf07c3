"""The contact sheet of a report: images of all classes, shown as training shows them, and no reason to lose a fit."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, paint
from PIL import Image
from torch import Tensor

import regraft
from regraft.data.augment import augmentation
from regraft.data.contact import GAP, SIDE, contact_sheet
from regraft.data.decode import load_pixels
from regraft.data.preprocess import Preprocess
from regraft.strategies import Auto, Full, Gradual, Head, Norm, Partial, Scratch, Training
from regraft.train.chance import augment_seeds
from regraft.train.sheet import IMAGES, VERSIONS, augment_of, augmented_images, spread
from regraft.values import Sample

PRE = Preprocess(height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)


def samples(folder: Path, classes: int, each: int) -> list[Sample]:
    colours = list(COLOURS.values())
    return [
        Sample(path=paint(folder / f"c{k:02}" / f"{i}.png", colours[k % 3]), name=f"c{k:02}/{i}.png", labels=(f"c{k:02}",))
        for k in range(classes)
        for i in range(each)
    ]


@pytest.mark.parametrize(
    ("classes", "each", "labels"),
    [
        (1, 10, ["c00"] * 6),
        (2, 10, ["c00"] * 3 + ["c01"] * 3),
        (6, 1, ["c00", "c01", "c02", "c03", "c04", "c05"]),
        (11, 2, ["c00", "c02", "c04", "c06", "c08", "c10"]),
        (2, 1, ["c00", "c01"]),
    ],
)
def test_images_are_spread_over_the_classes(tmp_path: Path, classes: int, each: int, labels: list[str]) -> None:
    found = samples(tmp_path, classes, each)
    assert [found[row].labels[0] for row in spread(found, IMAGES)] == labels
    assert spread([], IMAGES) == []


def test_several_labels_are_a_class_of_their_own() -> None:
    found = [Sample(path=Path("x"), name=str(i), labels=labels) for i, labels in enumerate([("a",), ("a", "b"), (), ("a",)])]
    assert spread(found, 3) == [0, 1, 2]


def test_every_strategy_says_how_it_augments() -> None:
    assert augment_of(Head()) == augment_of(Head(module=torch.nn.Identity, training=Training())) == "none"
    for kind in (Partial, Full, Norm, Gradual, Scratch):
        assert augment_of(kind(augment="rotate")) == "rotate"
    assert augment_of(Auto(training=Training(augment="flip"))) == "flip"


def test_the_sheet_has_the_pictures_that_training_shows(tmp_path: Path) -> None:
    found = samples(tmp_path, 3, 2)
    augmented = augmented_images(Full(augment="light"), found, PRE, 7)
    assert augmented is not None
    assert augmented.words.startswith("light: mirrored")
    assert augmented.names == tuple(sample.name for sample in found)
    rows = []
    for row, sample in enumerate(found):
        pixels = load_pixels(sample.path, PRE)
        seen = [
            augmentation("light")(torch.from_numpy(pixels)[None], augment_seeds(np.array([row]), 7, epoch))[0].numpy()
            for epoch in range(1, VERSIONS + 1)
        ]
        rows.append([pixels, *seen])
    assert augmented.sheet == contact_sheet(rows)
    with Image.open(BytesIO(augmented.sheet)) as image:
        assert image.size == ((VERSIONS + 1) * (SIDE + GAP) - GAP, IMAGES * (SIDE + GAP) - GAP)


def test_without_augmentation_there_is_no_sheet(tmp_path: Path) -> None:
    found = samples(tmp_path, 2, 2)
    assert augmented_images(Head(), found, PRE, 0) is None
    assert augmented_images(Scratch(), found, PRE, 0) is None


def test_images_that_went_missing_are_left_out(tmp_path: Path) -> None:
    found = samples(tmp_path, 2, 2)
    found[0].path.unlink()
    augmented = augmented_images(Full(augment="flip"), found, PRE, 0)
    assert augmented is not None
    assert augmented.names == tuple(sample.name for sample in found[1:])
    for sample in found[1:]:
        sample.path.unlink()
    assert augmented_images(Full(augment="flip"), found, PRE, 0) is None


def turned(image: Tensor) -> Tensor:
    return image.flip(1)


def broken(image: Tensor) -> Tensor:
    raise RuntimeError("no")


def test_a_transform_of_ones_own_is_shown_and_one_that_fails_spoils_nothing(tmp_path: Path) -> None:
    found = samples(tmp_path, 2, 2)
    augmented = augmented_images(Full(augment=turned), found, PRE, 0)
    assert augmented is not None
    assert augmented.words == "turned: a transform of your own"
    assert augmented_images(Auto(training=Training(augment=broken)), found, PRE, 0) is None


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_are_shown_too(tmp_path: Path, channels: int) -> None:
    pre = Preprocess(height=32, width=32, mean=(0.5,) * channels, std=(0.5,) * channels)
    assert augmented_images(Full(augment="strong"), samples(tmp_path, 2, 2), pre, 0) is not None


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=4)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(images)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def test_a_trained_run_has_it_in_its_report_and_a_solved_one_has_not(photos: Path, cache: Path, tmp_path: Path) -> None:
    own = regraft.Own(module=Tiny(), input_shape=(3, 32, 32))
    for strategy, there in ((Full(epochs=2, augment=turned), True), (Head(), False)):
        run = regraft.fit(photos, out=tmp_path / strategy.name, backbone=own, strategy=strategy, device="cpu")
        page = (run.folder / "report.html").read_text("utf-8")
        assert ('id="augmentation"' in page) is there
        assert ("turned: a transform of your own" in page) is there
