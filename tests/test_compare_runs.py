"""Two runs compared: against exact tests and closed forms, what is matched, what is refused, what is said."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

import regraft
from regraft.cli.main import main
from regraft.errors import DataUnusable, RegraftError, SavedModelRefused, UsageError
from regraft.evaluate import score, write_predictions
from regraft.evaluate.paired import mcnemar, paired
from regraft.values import Interval, Predictions

CLASSES = ("cat", "cow", "dog")


def make(right_N: NDArray[np.bool_], *, sure: float = 2.0, classes: tuple[str, ...] = CLASSES) -> Predictions:
    """Predictions that are right where `right_N` says so, and otherwise name the next class."""
    truth = np.arange(len(right_N)) % len(classes)
    answers = np.where(right_N, truth, (truth + 1) % len(classes))
    names = tuple(f"{classes[t]}/{i:04d}.jpg" for i, t in enumerate(truth))
    logits = sure * np.eye(len(classes))[answers]
    return Predictions(names=names, classes=classes, logits_NK=logits, targets=truth.astype(np.int64))


def pattern(both: int, first: int, second: int, neither: int = 0) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of two models is right: `both`, one alone, `neither`, spread over the images."""
    kinds = np.random.default_rng(0).permutation(np.repeat([3, 1, 2, 0], [both, first, second, neither]))
    return (kinds & 1).astype(bool), (kinds & 2).astype(bool)


def take(predictions: Predictions, rows: Any) -> Predictions:
    rows = np.arange(len(predictions.names))[rows]
    assert predictions.targets is not None
    return replace(
        predictions,
        names=tuple(predictions.names[row] for row in rows),
        logits_NK=predictions.logits_NK[rows],
        targets=predictions.targets[rows],
    )


def save(folder: Path, **parts: Predictions) -> Path:
    folder.mkdir(parents=True)
    write_predictions(folder / "predictions.parquet", {name.replace("_", "-"): part for name, part in parts.items()})
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    one, other = pattern(300, 10, 40, 50)
    return save(tmp_path / "a", test=make(one)), save(tmp_path / "b", test=make(other))


# -- the figures


@pytest.mark.parametrize(("one", "other"), [(0, 1), (3, 9), (0, 8), (25, 25), (40, 80), (1, 300)])
def test_the_p_value_is_that_of_the_exact_test(one: int, other: int) -> None:
    wanted = binomtest(one, one + other, 0.5).pvalue
    assert mcnemar(*pattern(50, one, other)) == pytest.approx(wanted, rel=1e-9)
    assert mcnemar(*pattern(50, other, one)) == pytest.approx(wanted, rel=1e-9)


def test_equal_models_do_not_differ() -> None:
    model = make(pattern(80, 10, 10)[0])
    found = paired(model, model)
    assert found.p_value == 1.0
    assert found.better is None
    assert found.right_alone == ((), ())
    assert (found.nll.value, found.nll.low, found.nll.high) == (0, 0, 0)
    assert found.accuracy.value == found.macro_f1.value == 0
    assert (found.macro_f1.low, found.macro_f1.high) == (found.accuracy.low, found.accuracy.high)
    assert found.accuracy.low == pytest.approx(-found.accuracy.high)
    assert 0 < found.accuracy.high < 0.05
    assert "not significant: both are right equally often" in found.verdict


def test_turning_the_runs_around_turns_the_signs() -> None:
    one, other = (make(right) for right in pattern(300, 10, 40, 50))
    there, back = paired(one, other), paired(other, one)
    for name in ("accuracy", "macro_f1", "nll"):
        a, b = getattr(there, name), getattr(back, name)
        # Macro F1 is resampled, and the runs change places in what is drawn.
        close = 0.006 if name == "macro_f1" else 1e-9
        assert a.value == pytest.approx(-b.value)
        assert (a.low, a.high) == pytest.approx((-b.high, -b.low), abs=close)
    assert there.p_value == pytest.approx(back.p_value)
    assert there.right_alone == back.right_alone[::-1]
    assert (there.better, back.better) == ("second", "first")
    assert there.verdict.replace("second", "first") == back.verdict


def test_differences_are_those_of_the_scores() -> None:
    rng = np.random.default_rng(1)
    one = make(rng.random(200) < 0.7)
    other = replace(one, logits_NK=one.logits_NK + rng.normal(0, 1, one.logits_NK.shape))
    found, first, second = paired(one, other), score(one), score(other)
    assert found.accuracy.value == pytest.approx(second.accuracy.value - first.accuracy.value)
    assert found.macro_f1.value == pytest.approx(second.macro_f1 - first.macro_f1)
    assert found.nll.value == pytest.approx(second.nll - first.nll)
    assert repr(found.scores) == repr((first, second))
    for difference in (found.accuracy, found.macro_f1, found.nll):
        assert difference.low < difference.value < difference.high
        assert difference.n == 200


def test_a_pair_tells_more_than_two_intervals() -> None:
    """Two models with nearly the same mistakes are told apart where their own intervals overlap widely."""
    one, other = (make(right) for right in pattern(700, 5, 30, 265))
    found = paired(one, other)
    assert found.better == "second"
    assert found.scores[0].accuracy.high > found.scores[1].accuracy.low
    assert found.accuracy.high - found.accuracy.low < 0.5 * (found.scores[0].accuracy.high - found.scores[0].accuracy.low)


def test_images_of_one_group_are_one_draw() -> None:
    one, other = (make(right) for right in pattern(100, 4, 16, 30))
    rows = np.repeat(np.arange(150), 6)
    groups = tuple(f"g{row}" for row in rows)
    copied = [replace(take(side, rows), names=tuple(map(str, range(900))), groups=groups) for side in (one, other)]
    found, plain, single = paired(*copied), paired(*(replace(side, groups=None) for side in copied)), paired(one, other)
    assert found.accuracy.n == 900
    for name in ("accuracy", "macro_f1", "nll"):
        grouped, loose, alone = (getattr(which, name) for which in (found, plain, single))
        width = grouped.high - grouped.low
        assert width == pytest.approx(alone.high - alone.low, rel=0.1)
        assert width > 2 * (loose.high - loose.low)
    assert plain.p_value < 1e-6
    assert single.p_value / 3 < found.p_value < 3 * single.p_value


def test_several_labels_count_as_right_when_all_are() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random((120, 3)) < 0.4
    sides = [
        Predictions(
            names=tuple(map(str, range(120))),
            classes=CLASSES,
            logits_NK=np.where(truth, 1.0, -1.0) + rng.normal(0, spread, truth.shape),
            targets=truth,
            multi_label=True,
        )
        for spread in (1.2, 0.5)
    ]
    found = paired(sides[0], sides[1])
    assert found.accuracy.value == pytest.approx(score(sides[1]).accuracy.value - score(sides[0]).accuracy.value)
    assert found.macro_f1.value == pytest.approx(score(sides[1]).macro_f1 - score(sides[0]).macro_f1)
    assert found.better == "second"
    assert found.macro_f1.low > 0
    assert found.nll.high < 0


# -- runs on disk


def test_the_better_run_is_named_with_its_lead(runs: tuple[Path, Path]) -> None:
    found = regraft.compare(*runs)
    assert isinstance(found, regraft.Comparison)
    assert (found.images, found.alone, found.parts, found.notes) == (400, (0, 0), ("test", "test"), ())
    assert (len(found.right_alone[0]), len(found.right_alone[1])) == (10, 40)
    assert found.accuracy.value == pytest.approx(0.075)
    assert found.verdict.startswith(f"{runs[1]} is better by 7.5 points (95 % interval ")
    again = regraft.compare(str(runs[0]), runs[1] / "predictions.parquet")
    assert repr(again) == repr(found)


def test_a_run_and_itself(runs: tuple[Path, Path]) -> None:
    found = regraft.compare(runs[0], runs[0])
    assert found.better is None
    assert found.accuracy.value == 0
    assert len(set(found.runs)) == 2


def test_images_are_matched_by_name_and_classes_too(tmp_path: Path) -> None:
    one, other = (make(right) for right in pattern(60, 5, 20))
    plain = regraft.compare(save(tmp_path / "a", test=one), save(tmp_path / "b", test=other))
    shuffled = take(other, np.random.default_rng(3).permutation(85))
    order = [2, 0, 1]
    assert shuffled.targets is not None
    turned = replace(
        shuffled,
        classes=tuple(CLASSES[k] for k in order),
        logits_NK=shuffled.logits_NK[:, order],
        targets=np.argsort(order)[shuffled.targets],
    )
    found = regraft.compare(tmp_path / "a", save(tmp_path / "c", test=turned))
    assert repr(replace(found, runs=plain.runs)) == repr(plain)


def test_other_images_are_left_out_and_told(tmp_path: Path) -> None:
    one, other = (make(right) for right in pattern(60, 5, 20))
    found = regraft.compare(
        save(tmp_path / "a", test=take(one, slice(0, 70))), save(tmp_path / "b", test=take(other, slice(20, 85)))
    )
    assert (found.images, found.alone) == (50, (20, 15))
    (note,) = found.notes
    assert "not the same images: 20 only in" in note
    assert "compared on the 50 in both" in note


def test_one_shared_image_says_that_it_tells_nothing(tmp_path: Path) -> None:
    one, other = (make(right) for right in pattern(0, 0, 9))
    found = regraft.compare(save(tmp_path / "a", test=take(one, [0, 1])), save(tmp_path / "b", test=take(other, [1, 2])))
    assert found.images == 1
    assert found.accuracy.value == 1.0
    assert found.accuracy.low < 0
    assert found.p_value == 1.0
    assert found.better is None
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0


def test_what_is_not_a_test_is_told(tmp_path: Path) -> None:
    one, other = (make(right) for right in pattern(60, 5, 20))
    a, b = save(tmp_path / "a", test=one, cross_validation=other), save(tmp_path / "b", validation=other)
    found = regraft.compare(a, b)
    assert found.parts == ("test", "validation")
    assert any("its validation images" in note for note in found.notes)
    assert regraft.compare(a, b, part="validation").parts == ("cross-validation", "validation")
    with pytest.raises(UsageError, match=r"part test in .*b"):
        regraft.compare(a, b, part="test")
    with pytest.raises(UsageError, match="got test, cross-validation"):
        regraft.compare(a, b, part="holdout")


def test_groups_are_read_from_the_table(tmp_path: Path) -> None:
    one, other = (make(right) for right in pattern(60, 5, 20))
    groups = tuple(f"patient {i // 5}" for i in range(85))
    found = regraft.compare(
        save(tmp_path / "a", test=replace(one, groups=groups)), save(tmp_path / "b", test=replace(other, groups=groups))
    )
    assert found.notes == ("images of one group count as one draw: 17 groups",)
    assert found.accuracy.high - found.accuracy.low != pytest.approx(
        paired(one, other).accuracy.high - paired(one, other).accuracy.low
    )


def refused(tmp_path: Path, first: Predictions, second: Predictions) -> RegraftError:
    with pytest.raises(DataUnusable) as caught:
        regraft.compare(save(tmp_path / "a", test=first), save(tmp_path / "b", test=second))
    return caught.value


def test_runs_without_a_shared_image_are_refused(tmp_path: Path) -> None:
    model = make(pattern(20, 0, 0)[0])
    error = refused(tmp_path, take(model, slice(0, 10)), take(model, slice(10, 20)))
    assert "none of 10 and 10: cat/0000.jpg" in error.got


def test_runs_of_other_classes_are_refused(tmp_path: Path) -> None:
    model = make(pattern(20, 0, 0)[0])
    error = refused(tmp_path, model, replace(model, classes=("cat", "cow", "horse")))
    assert "dog" in error.got
    assert "horse" in error.got


def test_other_labels_of_the_same_images_are_refused(tmp_path: Path) -> None:
    model = make(pattern(20, 0, 0)[0])
    assert model.targets is not None
    targets = model.targets.copy()
    targets[7] = 2
    error = refused(tmp_path, model, replace(model, targets=targets))
    assert "1 of 20 differ: cow/0007.jpg is cow in" in error.got
    assert "dog in" in error.got


def test_one_and_several_labels_are_refused(tmp_path: Path) -> None:
    model = make(pattern(20, 0, 0)[0])
    error = refused(tmp_path, model, replace(model, targets=np.eye(3, dtype=bool)[model.targets], multi_label=True))
    assert "several labels" in error.got


def test_what_is_no_run_is_refused(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        regraft.compare(runs[0], tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no file"):
        regraft.compare(runs[0], tmp_path / "empty")
    (tmp_path / "empty/predictions.parquet").write_bytes(b"no table")
    with pytest.raises(SavedModelRefused):
        regraft.compare(runs[0], tmp_path / "empty")


# -- the command


def test_the_command_ends_with_the_verdict(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, runs)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith("verdict")
    assert f"{runs[1]} is better by 7.5 points" in out.splitlines()[-1]
    assert "40 images: " in out
    assert " and 35 more" in out


def test_the_command_prints_its_fields(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, runs), str(runs[0]), "--json"]) == 0
    printed = capsys.readouterr()
    first, second = json.loads(printed.out)["comparisons"]
    assert set(first) == {
        "runs", "parts", "images", "alone", "scores", "difference", "p_value", "better", "verdict", "right_alone", "notes"
    }  # fmt: skip
    assert first["runs"] == [str(run) for run in runs]
    assert first["better"] == str(runs[1])
    assert second["better"] is None
    assert set(first["difference"]) == {"accuracy", "macro_f1", "nll"}
    assert Interval(**first["difference"]["accuracy"]) == regraft.compare(*runs).accuracy
    assert [len(names) for names in first["right_alone"]] == [10, 40]
    assert "2 comparisons" in printed.err


def test_the_command_refuses_with_a_cure(tmp_path: Path, runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for words, code in (([str(runs[0])], 2), ([str(runs[0]), str(tmp_path / "absent")], 2)):
        assert main(["compare", *words]) == code
        printed = capsys.readouterr()
        assert not printed.out
        assert printed.err.splitlines()[-1].lstrip().startswith("fix ")


def test_comparing_imports_no_torch(runs: tuple[Path, Path]) -> None:
    code = (
        "import sys; from regraft.cli.main import main; main(sys.argv[1:]); "
        "print([m for m in ('torch', 'torchvision', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, "compare", *map(str, runs)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
    done = subprocess.run(
        [sys.executable, "-c", code.replace("'torch', ", "'numpy', 'pyarrow', "), "compare", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
