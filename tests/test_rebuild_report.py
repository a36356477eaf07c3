"""The report's twin for programs, and the page drawn again from it: exactly, and from nothing that is damaged or foreign."""

import hashlib
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_write_report import HOSTILE, make_multi_label, make_predictions, make_summary, picture

from regraft.cli.main import main
from regraft.errors import SavedModelRefused, UsageError
from regraft.evaluate import score, wilson, write_predictions
from regraft.findings import Alike, Audit, Copies, Imbalance, Leak, Mixed, Odd, Outlier, Shortcut, Suspect
from regraft.report import Overlays, ReportContent, gather, rebuild_report, write_report
from regraft.report.codec import of_plain, to_plain
from regraft.report.twin import read_twin, twin_of
from regraft.values import (
    AbstainRule,
    Augmented,
    Calibrated,
    Compared,
    Epoch,
    History,
    Member,
    Predictions,
    Rejected,
    RuleOfThumb,
    Scores,
)

NAN = float("nan")


def make_audit(names: tuple[str, ...], without: Scores | None = None) -> Audit:
    """One finding of every kind and more of some, on images of these names."""
    a, b, c = names[:3]
    copies = Copies(names=(a, b), labels=("bag", "boot"), parts=("train", "test"), sameness="altered", change="flipped")
    return Audit(
        images=len(names),
        copies=(
            copies,
            replace(copies, names=(b, c), labels=("bag", "bag"), parts=("train", "train"), sameness="file", change=""),
        ),
        leak=Leak(names=(b,), twins=(a,), scores_without=without),
        suspects=tuple(
            Suspect(name=name, label="bag", suggested=HOSTILE, given=0.01, instead=0.9, part="train") for name in names[:30]
        ),
        mixed=(Mixed(one="bag", other="boot", accuracy=wilson(11, 20)),),
        outliers=(Outlier(name=a, label="bag", distance=3.2),),
        odd=(Odd(name=c, label="bag", code="tiny", reason="3 by 4 pixels"),),
        shortcuts=(Shortcut(what="image size", accuracy=wilson(70, 100), baseline=0.3),),
        imbalance=Imbalance(largest="bag", most=400, smallest="boot", fewest=7),
        kept_together=2,
        seconds=0.25,
    )


def make_content(folder: Path, *, test: bool = True, multi_label: bool = False, **changes: Any) -> ReportContent:
    """A content with every field set, and figures that JSON has no number for."""
    crossed = make_multi_label(90) if multi_label else make_predictions(120, part="train", seed=1)
    judged = (make_multi_label(60) if multi_label else make_predictions(60)) if test else None
    epoch = Epoch(
        number=1, loss=math.inf, accuracy=NAN, validation_loss=-math.inf, validation_accuracy=0.5, tempered_loss=1.0,
        rate=1e-3, seconds=2, lowest_rate=1e-5,
    )  # fmt: skip
    history = History(
        what="everything", train=96, validation=len(crossed.names), start_loss=1.1, start_accuracy=0.4, start_tempered=1.0,
        epochs=(epoch, replace(epoch, number=2, loss=0.1 + 0.2)), chosen=2, accuracy=wilson(70, 90), solved=wilson(60, 90),
        gain=0.1, gain_se=0.03,
    )  # fmt: skip
    left_out = Compared(
        strategy="partial:2", accuracy=NAN, nll=NAN, gain=NAN, gain_se=NAN, seconds=0.0, kept=False, note="no time"
    )
    rule = AbstainRule(
        max_error=None, coverage=0.9, confidence=0.61, distance=None, covered=wilson(50, 60), error_answered=wilson(2, 50),
        error_all=wilson(9, 60), on="test" if test else "cross-validation",
    )  # fmt: skip
    summary = make_summary(
        folder,
        judged,
        crossed,
        history=history,
        compared=(replace(left_out, strategy="full", nll=0.3, gain=0.2, gain_se=0.1, kept=True, note=""), left_out),
        rule=RuleOfThumb(images=320, confidence=NAN, advice="head"),
        calibrated=Calibrated(
            temperature=1.3, nll_before=0.7, nll_after=0.6, ece_before=0.07, ece_after=0.02, images=120, on="test"
        ),
        abstain=rule,
        weights="timm a1_in1k",
        report=folder / "report.html",
        # A file name that is not Unicode, and one that no page may show as it is.
        rejected=(Rejected(path=Path("a\udcff.jpg"), name=f"{HOSTILE}\u202e", code="truncated", reason="ends early"),),
    )
    shown = crossed if judged is None else judged
    whole = {
        "audit": make_audit(shown.names, score(shown)),
        "augmented": Augmented(words="flip", sheet=picture("sheet"), names=(HOSTILE,), versions=5),
        "overlays": Overlays(words="Grad-CAM", pictures={shown.names[0]: picture("")}),
    }
    return gather(summary, test=judged, cross_validation=crossed, thumbnails=picture, **(whole | changes))


def make_run(folder: Path, content: ReportContent) -> Path:
    """A run folder with what the report needs of it."""
    folder.mkdir(exist_ok=True)
    parts = {"test": content.test} if content.test else {}
    write_predictions(folder / "predictions.parquet", {**parts, content.summary.judged_by: content.cross_validation})
    write_report(content, folder)
    return folder


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, in values and types: NaN equals itself, 1 is not 1.0, arrays have their dtype."""
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return [*one] == [*other] and all(same(one[key], other[key]) for key in one)
    if isinstance(one, float):
        both = math.isnan(one) and math.isnan(other)
        return both or (one == other and math.copysign(1, one) == math.copysign(1, other))
    return bool(one == other)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("test", [True, False])
def test_all_values_come_back_as_they_were(tmp_path: Path, test: bool, multi_label: bool) -> None:
    content = make_content(tmp_path, test=test, multi_label=multi_label)
    (tmp_path / "report.json").write_bytes(twin_of(content))
    back = read_twin(tmp_path / "report.json", test=content.test, cross_validation=content.cross_validation)
    assert same(back, content)
    assert twin_of(back) == twin_of(content)


def test_what_is_absent_comes_back_as_absent(tmp_path: Path) -> None:
    content = make_content(tmp_path, audit=None, augmented=None, overlays=None)
    (tmp_path / "report.json").write_bytes(twin_of(content))
    back = read_twin(tmp_path / "report.json", test=content.test, cross_validation=content.cross_validation)
    assert same(back, content)
    assert (back.audit, back.augmented, back.overlays) == (None, None, None)


def test_any_program_can_read_it(tmp_path: Path) -> None:
    content = make_content(tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    described = json.loads(twin_of(content), parse_constant=refuse)
    assert (described["format"], described["version"]) == ("regraft-report", 1)
    assert described["summary"]["test_scores"]["accuracy"]["value"] == score(content.headline).accuracy.value
    assert described["summary"]["compared"][1]["nll"] is None
    assert len(described["audit"]["suspects"]) == 30
    confusion = described["summary"]["test_scores"]["confusion_KK"]
    assert confusion["shape"] == [10, 10]
    assert sum(images for _, _, images in confusion["cells"]) == 60


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("test", [True, False])
def test_the_page_drawn_again_is_the_same_byte_for_byte(tmp_path: Path, test: bool, multi_label: bool) -> None:
    run = make_run(tmp_path / "run", make_content(tmp_path / "run", test=test, multi_label=multi_label))
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    (run / "report.html").unlink()
    (run / "README.md").unlink()
    files = rebuild_report(run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert (files.page, files.notes) == (run / "report.html", ())


def test_hostile_class_names_come_back_too(tmp_path: Path) -> None:
    classes = (HOSTILE, 'b" onload="x', "ä\u0301𝄞", "'><img src=//x>", "\\u0041\\")
    test, crossed = make_predictions(60, classes), make_predictions(80, classes, seed=1)
    content = gather(make_summary(tmp_path, test, crossed), test=test, cross_validation=crossed, thumbnails=picture)
    run = make_run(tmp_path / "run", content)
    before = (run / "report.html").read_bytes()
    rebuild_report(run)
    assert (run / "report.html").read_bytes() == before
    assert b"<script" not in before


def test_neither_torch_nor_the_images_are_needed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_content(tmp_path / "run"))
    code = (
        "import sys\nfrom regraft.cli.main import main\ncode = main(['report', sys.argv[1]])\n"
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules), 'torch'\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["report", str(run / "report.html")]


def test_the_command_says_where_things_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", make_content(tmp_path / "run"))
    assert main(["report", str(run), "--json"]) == 0
    names = {"report": "report.html", "json": "report.json", "card": "README.md"}
    assert json.loads(capsys.readouterr().out) == {"run": str(run)} | {key: str(run / name) for key, name in names.items()}


def test_a_card_changed_by_hand_is_left_alone_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", make_content(tmp_path / "run"))
    mine = (run / "README.md").read_text("utf-8").replace("license: unknown", "license: mit")
    (run / "README.md").write_text(mine, "utf-8")
    assert main(["report", str(run)]) == 0
    assert (run / "README.md").read_text("utf-8") == mine
    assert "changed by hand" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_told_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", make_content(tmp_path / "run"))
    before = (run / "report.html").read_bytes()
    (run / "report.json").unlink()
    assert main(["report", str(run)]) == 4
    said = capsys.readouterr().err
    assert "earlier version" in said
    assert "fit again" in said
    assert (run / "report.html").read_bytes() == before
    with pytest.raises(UsageError, match="no such folder"):
        rebuild_report(tmp_path / "absent")


def sealed(described: dict[str, Any]) -> bytes:
    """A file with a right checksum, whatever it says."""
    text = json.dumps({key: value for key, value in described.items() if key != "checksum"}, separators=(",", ":")).encode()[
        :-1
    ]
    return text + f',"checksum":"{hashlib.sha256(text).hexdigest()}"}}\n'.encode()


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *way, last = path.split(".")

    def change(described: dict[str, Any]) -> None:
        for step in way:
            described = described[step]
        described[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (put("version", 2), "version 2"),
        (put("format", "other"), "'other'"),
        (put("more", 1), "unknown part"),
        (put("summary.more", 1), "unknown field 'more'"),
        (put("summary.train", "12"), "summary.train"),
        (put("summary.train", True), "summary.train"),
        (put("summary.train", 1.5), "summary.train"),
        (put("summary.seconds.total", "1"), r"summary\.seconds\.total"),
        (put("summary.head.balanced", 0), r"summary\.head\.balanced"),
        (put("summary.classes", "abc"), "summary.classes"),
        (put("summary.run", None), "summary.run"),
        (put("summary.test_scores.confusion_KK.shape", [10**6, 10**6]), "matrix"),
        (put("summary.test_scores.confusion_KK.shape", [99, 99]), "other images or classes"),
        (put("summary.test_scores.confusion_KK.cells", [[10, 0, 1]]), "cell"),
        (put("summary.test_scores.confusion_KK.cells", [[-1, 0, 1]]), "cell"),
        (put("summary.test_scores.n", 61), "other images or classes"),
        (put("summary.test_scores", None), "other images or classes"),
        (put("augmented.sheet", "no base64!"), "base64"),
        (put("thumbnails.x", 5), "thumbnails.x"),
        (lambda described: described["audit"]["copies"][0].update(sameness="alike"), "sameness"),
        (lambda described: described["audit"]["copies"][0].pop("names"), "no field 'names'"),
        (lambda described: described.pop("audit"), "audit"),
    ],
)
def test_a_file_with_a_right_checksum_and_wrong_contents_is_refused(tmp_path: Path, change: Any, match: str) -> None:
    content = make_content(tmp_path)
    described = json.loads(twin_of(content))
    change(described)
    (tmp_path / "report.json").write_bytes(sealed(described))
    with pytest.raises(SavedModelRefused, match=match):
        read_twin(tmp_path / "report.json", test=content.test, cross_validation=content.cross_validation)


def test_every_kind_of_damage_is_found(tmp_path: Path) -> None:
    content = make_content(tmp_path)
    whole, path = twin_of(content), tmp_path / "report.json"
    places = np.random.default_rng(0).integers(0, len(whole), 60)
    damaged = [whole[:at] for at in places] + [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    for text in (*damaged, b"", b"{}", b"\x80\x04pickle", whole + b"\n", whole.replace(b',"version":1', b',"version":NaN')):
        path.write_bytes(text)
        with pytest.raises(SavedModelRefused):
            read_twin(path, test=content.test, cross_validation=content.cross_validation)
    path.unlink()
    path.mkdir()
    with pytest.raises(SavedModelRefused):
        read_twin(path, test=content.test, cross_validation=content.cross_validation)


def test_the_twin_of_another_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_content(tmp_path / "run"))
    other = make_run(tmp_path / "other", make_content(tmp_path / "other", multi_label=True))
    shutil.copy(other / "report.json", run / "report.json")
    with pytest.raises(SavedModelRefused, match="other images or classes"):
        rebuild_report(run)


def test_a_field_that_came_later_takes_its_default(tmp_path: Path) -> None:
    content = make_content(tmp_path)
    described = json.loads(twin_of(content))
    del described["summary"]["weights"]
    (tmp_path / "report.json").write_bytes(sealed(described))
    back = read_twin(tmp_path / "report.json", test=content.test, cross_validation=content.cross_validation)
    assert same(back, replace(content, summary=replace(content.summary, weights="")))


def test_numbers_survive_to_the_last_bit() -> None:
    rng = np.random.default_rng(1)
    numbers = rng.integers(0, 2**64, 2000, dtype=np.uint64).view(np.float64)
    values = (*map(float, numbers), -0.0, 5e-324, 1.7976931348623157e308, NAN, math.inf, -math.inf, 0.1 + 0.2)
    back = of_plain(tuple[float, ...], json.loads(json.dumps(to_plain(values), allow_nan=False)), "values")
    assert same(back, values)


def test_a_value_without_a_plain_form_is_a_bug_and_not_guessed() -> None:
    with pytest.raises(TypeError):
        to_plain(np.float32(1))
    with pytest.raises(TypeError):
        to_plain({1, 2})
    with pytest.raises(TypeError):
        of_plain(set[int], [1], "x")
    pair = Alike(one="a", other="b", sameness="file", change="", similarity=1.0)
    assert of_plain(Alike, to_plain(pair), "pair") == pair


def test_predictions_are_left_to_their_table(tmp_path: Path) -> None:
    content = make_content(tmp_path)
    assert isinstance(content.headline, Predictions)
    assert not {"test", "cross_validation"} & json.loads(twin_of(content)).keys()


@pytest.mark.parametrize(
    "path",
    [
        Path("photos/cat/1.jpg"),
        Member(container="shards/0.tar", inner="cat/1.jpg", offset=512, size=9, trouble=("link", "a link")),
    ],
)
def test_wherever_an_image_was_comes_back(path: Path | Member) -> None:
    rejected = Rejected(path=path, name="cat/1.jpg", code="link", reason="a link")
    assert of_plain(Rejected, json.loads(json.dumps(to_plain(rejected))), "rejected") == rejected
