"""A whole audit: of a folder by itself, and as a part of every fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, paint, paint_classes
from image_files import tree_hash
from PIL import Image

import regraft
from regraft.cli.main import main
from regraft.evaluate.table import read_predictions
from regraft.kept import read_images


def copy_of(path: Path, to: Path) -> Path:
    """A flipped copy in another format."""
    with Image.open(path) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(to)
    return to


def scene(path: Path, seed: int) -> Path:
    """A picture with parts, so that a copy of it can be told from another one."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (96, 80), tuple(random.integers(0, 255, 3)))
    for _ in range(14):
        left, top = random.integers(0, 80, 2)
        colour = tuple(int(value) for value in random.integers(0, 255, 3))
        image.paste(colour, (int(left), int(top), int(left + random.integers(6, 40)), int(top + random.integers(6, 40))))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """24 scenes in 2 classes, and a flipped copy of each third."""
    root = tmp_path / "scenes"
    for number in range(24):
        path = scene(root / "ab"[number % 2] / f"{number:02}.png", number)
        if number % 3 == 0:
            copy_of(path, path.with_name(f"{number:02}-copy.bmp"))
    return root


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_an_image_stay_on_one_side_of_a_fit(scenes: Path, tmp_path: Path, cache: Path, seed: int) -> None:
    run = regraft.fit(scenes, out=tmp_path / "run", size=64, seed=seed, device="cpu", cache=cache)
    assert run.audit is not None
    assert len(run.audit.copies) == 8
    assert not any(group.across_parts for group in run.audit.copies)
    assert run.audit.kept_together == 16
    assert run.audit.leak is None
    kept = read_images(tmp_path / "run")
    test = {sample.name[:4] for sample in kept.test}
    assert not test & {sample.name[:4] for sample in kept.train}


def test_a_leak_in_a_given_test_set_is_told_with_the_score_without_it(scenes: Path, tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "split"
    for number in range(30):
        scene(root / ("test" if number % 5 == 0 else "train") / "ab"[number % 2] / f"{number:02}.png", 100 + number)
    copy_of(root / "train/b/11.png", root / "test/b/leaked.bmp")
    before = tree_hash(root)
    run = regraft.fit(root, out=tmp_path / "run", size=64, device="cpu", cache=cache)
    assert tree_hash(root) == before
    assert run.audit is not None
    assert run.audit.leak is not None
    assert (run.audit.leak.names, run.audit.leak.twins) == (("test/b/leaked.bmp",), ("train/b/11.png",))
    assert run.audit.leak.scores_without is not None
    assert run.audit.leak.scores_without.n == 6
    # The score of the fit counts every image that the test set has.
    assert len(read_predictions(tmp_path / "run" / "predictions.parquet")["test"].names) == 7
    page = (tmp_path / "run" / "report.html").read_text()
    assert "1 test image shows the same as a training image" in page.replace("\u00a0", " ")


def test_the_command_names_everything_and_touches_nothing(
    photos: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "blue" / "again.png").write_bytes((photos / "blue" / "000.png").read_bytes())
    Image.new("RGB", (60, 60), "white").save(photos / "cyan" / "blank.png")
    (photos / "amber" / "broken.png").write_bytes(b"\x89PNG")
    before = tree_hash(photos)
    assert main(["audit", str(photos), "--fix-list", str(tmp_path / "fix.csv"), "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert tree_hash(photos) == before
    assert found["images"] == 38
    assert [one["names"] for one in found["copies"]] == [["blue/000.png", "blue/again.png"]]
    assert [one["name"] for one in found["odd"]] == ["cyan/blank.png"]
    assert [Path(one["path"]).name for one in found["unreadable"]] == ["broken.png"]
    assert (tmp_path / "fix.csv").read_text().startswith("path,action,finding,detail\n")


def test_the_same_in_python(tmp_path: Path, cache: Path) -> None:
    photos = paint_classes(tmp_path / "photos", dict.fromkeys(COLOURS, 8))
    paint(photos / "amber" / "000.png", COLOURS["amber"])
    found = regraft.audit(photos, cache=cache, device="cpu")
    assert isinstance(found, regraft.Audit)
    assert found.images == 24
    assert found.copies == ()
