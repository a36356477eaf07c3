"""The whole job on small folders: honest, repeatable, and nothing of the user's touched."""

import base64
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from conftest import COLOURS, paint, paint_classes
from image_files import tree_hash

import regraft
from regraft.errors import TooFewImages, TooManyUnreadable, UnknownClass, UsageError
from regraft.evaluate import Mistake
from regraft.evaluate.table import read_predictions
from regraft.recipe import Data
from regraft.strategies import Head


def fit(data: Path | Data, out: Path, **options: object) -> regraft.Fitted:
    return regraft.fit(data, out=out, size=64, device="cpu", overwrite=True, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("cache")
def test_colours_are_told_apart_and_the_folder_left_alone(photos: Path, tmp_path: Path) -> None:
    before = tree_hash(photos)
    run = fit(photos, tmp_path / "run")
    assert tree_hash(photos) == before
    assert run.summary is not None
    assert run.summary.test_scores is not None
    assert run.summary.test_scores.accuracy.value == 1.0
    assert (run.summary.train, run.summary.test) == (30, 6)
    assert run.summary.head.gradient_norm <= 1e-5


@pytest.mark.usefixtures("cache")
def test_two_fits_give_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    first, second = fit(photos, tmp_path / "one"), fit(photos, tmp_path / "two")
    for name in ("model.safetensors", "config.json", "predictions.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert first.summary is not None
    assert second.summary is not None
    assert (first.summary.cache_misses, second.summary.cache_misses) == (36, 0)


def test_the_same_head_is_solved_once_and_a_damaged_copy_again(
    photos: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regraft import prepare

    solved: list[int] = []
    real = prepare.fit_head

    def counting(*args: object, **options: object) -> object:
        solved.append(1)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "fit_head", counting)
    first, second = fit(photos, tmp_path / "one"), fit(photos, tmp_path / "two")
    assert len(solved) == 1
    (kept,) = (cache / "heads").iterdir()
    data = bytearray(kept.read_bytes())
    data[-5] ^= 1
    kept.write_bytes(data)
    third = fit(photos, tmp_path / "three")
    assert len(solved) == 2
    fit(photos, tmp_path / "four", strategy=Head(features="last"))
    fit(photos, tmp_path / "five", seed=1)
    paint(photos / "blue" / "new.png", COLOURS["blue"])
    fit(photos, tmp_path / "six")
    assert len(solved) == 5
    for one in (second, third):
        assert one.summary is not None
        assert first.summary is not None
        assert one.summary.head == first.summary.head
        assert (tmp_path / "one" / "model.safetensors").read_bytes() == (one.folder / "model.safetensors").read_bytes()  # type: ignore[operator]


@pytest.mark.usefixtures("cache")
def test_evidence_is_drawn_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, ...]] = []
    picture = (photos / "cyan" / "001.png").read_bytes()

    def draw(_: object, found: tuple[Mistake, ...], *__: object, **___: object) -> dict[str, bytes]:
        drawn.append(tuple(one.name for one in found))
        return {one.name: picture for one in found}

    monkeypatch.setattr("regraft.pipeline.mistake_overlays", draw)
    wrong = photos / "blue" / "001.png"
    wrong.rename(photos / "cyan" / "of blue.png")
    for out in ("one", "two"):
        fit(Data(path=photos, test="none"), tmp_path / out)
        assert base64.b64encode(picture) in (tmp_path / out / "report.html").read_bytes()
    assert drawn == [("cyan/of blue.png",)]
    (photos / "cyan" / "of blue.png").rename(photos / "cyan" / "another name.png")
    fit(Data(path=photos, test="none"), tmp_path / "three")
    assert drawn[1:] == [("cyan/another name.png",)]


@pytest.mark.usefixtures("cache")
def test_test_images_decide_nothing(photos: Path, tmp_path: Path) -> None:
    """Wrong labels in the test part change its score, and not one bit of the model."""
    split = paint_classes(tmp_path / "split" / "train", dict.fromkeys(COLOURS, 8)).parent
    paint_classes(split / "test", dict.fromkeys(COLOURS, 3))
    honest = fit(split, tmp_path / "honest")
    (split / "test" / "amber").rename(split / "test" / "swap")
    (split / "test" / "blue").rename(split / "test" / "amber")
    (split / "test" / "swap").rename(split / "test" / "blue")
    fooled = fit(split, tmp_path / "fooled")
    assert honest.head is not None
    assert fooled.head is not None
    assert np.array_equal(honest.head.weight_KD, fooled.head.weight_KD)
    assert honest.summary is not None
    assert honest.summary.test_scores is not None
    assert fooled.summary is not None
    assert fooled.summary.test_scores is not None
    assert honest.summary.test_scores.accuracy.value == 1.0
    assert fooled.summary.test_scores.accuracy.value == pytest.approx(1 / 3)


def test_test_files_are_not_opened_before_the_head_is_chosen_by_training_images(
    photos: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the test images replaced by noise, cross-validation says the same to the last digit."""
    split = paint_classes(tmp_path / "split" / "train", dict.fromkeys(COLOURS, 8)).parent
    paint_classes(split / "test", dict.fromkeys(COLOURS, 3))
    first = fit(split, tmp_path / "one")
    for path in (split / "test").rglob("*.png"):
        paint(path, (128, 128, 128), side=50)
    second = fit(split, tmp_path / "two")
    assert first.summary is not None
    assert second.summary is not None
    assert first.summary.head.tried == second.summary.head.tried


@pytest.mark.usefixtures("cache")
def test_without_a_test_set_cross_validation_is_all_there_is(photos: Path, tmp_path: Path) -> None:
    run = fit(photos, tmp_path / "run", test="none")
    assert run.summary is not None
    assert run.summary.test_scores is None
    assert (run.summary.train, run.summary.test) == (36, 0)
    assert list(read_predictions(tmp_path / "run" / "predictions.parquet")) == ["cross-validation"]


@pytest.mark.usefixtures("cache")
def test_a_separate_test_folder_is_matched_by_name(photos: Path, tmp_path: Path) -> None:
    judged = paint_classes(tmp_path / "judge", {"cyan": 4, "amber": 2})
    run = fit(photos, tmp_path / "run", test=judged)
    assert run.summary is not None
    assert run.summary.test_scores is not None
    assert (run.summary.train, run.summary.test) == (36, 6)
    assert run.summary.test_scores.accuracy.value == 1.0


@pytest.fixture
def run(photos: Path, tmp_path: Path, cache: Path) -> regraft.Fitted:
    return fit(photos, tmp_path / "run")


def test_evaluating_without_one_class_leaves_the_others_scores_as_they_were(run: regraft.Fitted, tmp_path: Path) -> None:
    judged = paint_classes(tmp_path / "judge", dict.fromkeys(COLOURS, 4))
    for index in range(2):
        paint(judged / "cyan" / f"blue{index}.png", COLOURS["blue"])
    whole = {row.name: row for row in run.evaluate(judged, device="cpu").scores.per_class}
    for path in sorted((judged / "amber").iterdir()):
        path.unlink()
    (judged / "amber").rmdir()
    part = run.evaluate(judged, device="cpu")
    assert part.scores.confusion_KK is not None
    assert part.scores.confusion_KK.shape == (3, 3)
    for row in part.scores.per_class:
        if row.name != "amber":
            assert (row.recall, row.support) == (whole[row.name].recall, whole[row.name].support)
    assert whole["cyan"].recall == pytest.approx(4 / 6)


def test_a_class_the_model_does_not_know_is_named(run: regraft.Fitted, tmp_path: Path) -> None:
    judged = paint_classes(tmp_path / "judge", {"amber": 2, "magenta": 2})
    with pytest.raises(UnknownClass, match="magenta"):
        run.evaluate(judged)


def test_predict_accounts_for_every_path_in_order(run: regraft.Fitted, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes((photos / "blue" / "000.png").read_bytes()[:60])
    paths = [photos / "cyan" / "001.png", tmp_path / "broken.png", tmp_path / "missing.png", photos / "amber" / "001.png"]
    rows = run.predict(paths, top_k=1)
    assert [row.path for row in rows] == [str(path) for path in paths]
    assert [row.status for row in rows] == ["ok", "failed", "failed", "ok"]
    assert [row.top[0][0] for row in rows if row.top] == ["cyan", "amber"]
    assert all(row.reason for row in rows if row.status == "failed")


@pytest.mark.parametrize("paths", ["one.png", Path("one.png"), 5, [5], [None]])
def test_predict_says_what_it_takes(run: regraft.Fitted, paths: object) -> None:
    with pytest.raises(UsageError, match="path"):
        run.predict(paths)  # type: ignore[arg-type]


@pytest.mark.parametrize("top_k", [0, -1, "3", 1.5])
def test_top_k_is_checked(run: regraft.Fitted, photos: Path, top_k: object) -> None:
    with pytest.raises(UsageError, match="top_k"):
        run.predict([photos / "blue" / "000.png"], top_k=top_k)  # type: ignore[arg-type]


def test_a_rotated_photo_with_its_orientation_tag_gets_the_same_answer(
    run: regraft.Fitted, photos: Path, tmp_path: Path
) -> None:
    from PIL import Image

    upright = Image.open(photos / "blue" / "003.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    one, other = run.predict([photos / "blue" / "003.png", tmp_path / "turned.png"])
    assert one.top == other.top


def test_unreadable_images_are_told_and_more_than_a_tenth_stop_the_fit(photos: Path, tmp_path: Path, cache: Path) -> None:
    (photos / "blue" / "000.png").write_bytes(b"")
    run = fit(photos, tmp_path / "run")
    assert run.summary is not None
    assert [item.name for item in run.summary.rejected] == ["blue/000.png"]
    for index in range(1, 6):
        (photos / "blue" / f"00{index}.png").write_text("<html>")
    with pytest.raises(TooManyUnreadable, match=r"blue/00"):
        fit(photos, tmp_path / "run2")
    skipped = fit(Data(path=photos, skip_bad=True), tmp_path / "run3")
    assert skipped.summary is not None
    assert len(skipped.summary.rejected) == 6


def test_a_class_whose_images_break_while_decoding_is_an_error(photos: Path, tmp_path: Path, cache: Path) -> None:
    """Headers are whole, so only the pass itself can find out."""
    for path in (photos / "blue").iterdir():
        data = bytearray(path.read_bytes())
        start = data.index(b"IDAT") + 8
        data[start : start + 200] = bytes(200)
        path.write_bytes(data)
    with pytest.raises((TooManyUnreadable, TooFewImages)):
        fit(Data(path=photos, skip_bad=True), tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("backbone", "make"),
    [
        ("torchvision:resnet18", lambda: torchvision.models.resnet18(num_classes=3)),
        ("timm:resnet18", lambda: timm.create_model("resnet18", num_classes=3)),
    ],
)
def test_state_dict_loads_into_the_librarys_own_model(photos: Path, tmp_path: Path, backbone: str, make: object) -> None:
    run = fit(photos, tmp_path / "run", backbone=backbone, weights="none", strategy=Head(features="last"))
    plain = make()  # type: ignore[operator]
    plain.load_state_dict(run.to_torch().state_dict())
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(plain.eval()(images), run.to_torch()(images))


def test_loading_and_predicting_never_unpickles(run: regraft.Fitted, photos: Path, tmp_path: Path) -> None:
    found: list[str] = []
    active = True

    def watch(event: str, args: tuple[object, ...]) -> None:
        if active and event == "pickle.find_class":
            found.append(str(args))

    sys.addaudithook(watch)
    again = regraft.load(tmp_path / "run")
    again.predict([photos / "blue" / "001.png"])
    active = False
    assert found == []


def test_balance_weighs_classes_equally(tmp_path: Path, cache: Path) -> None:
    root = paint_classes(tmp_path / "photos", {"amber": 40, "blue": 4})
    for index in range(4):
        paint(root / "amber" / f"odd{index}.png", COLOURS["blue"])
    shares = {}
    for balance in ("none", "auto"):
        run = fit(root, tmp_path / balance, test="none", strategy=Head(balance=balance, l2=10.0))  # type: ignore[arg-type]
        (row,) = run.predict([paint(tmp_path / "between.png", (130, 110, 110))])
        shares[balance] = dict(row.top)["blue"]
    # So strong a penalty leaves little but the frequencies of the classes: 1 in 12 as they are, even when balanced.
    assert shares["none"] < 0.25
    assert shares["auto"] > 2 * shares["none"]


@pytest.mark.parametrize(
    "wrong",
    [{"data": 5}, {"data": None}, {"test": None}, {"size": "224"}, {"seed": 1.5}, {"seed": True}, {"strategy": "head"},
     {"backbone": None}, {"out": 3}],
)  # fmt: skip
def test_arguments_of_another_kind_are_refused_before_any_work(tmp_path: Path, wrong: dict[str, object]) -> None:
    given: dict[str, object] = {"data": tmp_path, "out": tmp_path / "run", **wrong}
    with pytest.raises(UsageError, match=next(iter(wrong))):
        regraft.fit(**given)  # type: ignore[arg-type]
