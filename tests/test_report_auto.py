"""What the report and the screen say of `auto`, of phases and rates, and of augmented images."""

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_report_training import make_history
from test_write_report import HOSTILE, make_predictions, make_summary, report

from regraft.cli.curve import WIDEST, curve_lines, sparkline
from regraft.cli.main import main
from regraft.cli.show import fit_fields, print_fit
from regraft.report.compared import auto_verdict, gain_words, judgement, outcome, rule_words
from regraft.report.summary import sentences
from regraft.report.training import curves_figure, phases, share_words
from regraft.values import Augmented, Compared, History, RuleOfThumb, RunSummary

NAN = float("nan")
ROOT = Path(__file__).resolve().parent.parent
RULE = RuleOfThumb(images=320, confidence=0.31, advice="head, or the last stages")


def one(strategy: str, accuracy: float, nll: float, gain: float, error: float, *, kept: bool = False) -> Compared:
    return Compared(
        strategy=strategy, accuracy=accuracy, nll=nll, gain=gain, gain_se=error, seconds=301.0 if gain else 0.0, kept=kept
    )


def left_out(strategy: str, note: str = "77 s for each epoch: fewer than 3 fit") -> Compared:
    return Compared(strategy=strategy, accuracy=NAN, nll=NAN, gain=NAN, gain_se=NAN, seconds=0.0, kept=False, note=note)


HEAD = one("head", 0.64, 1.1, 0.0, 0.0)
KEPT_HEAD = (replace(HEAD, kept=True), one("full", 0.65, 1.09, 0.01, 0.06), left_out("partial:2"))
KEPT_FULL = (HEAD, one("full", 0.72, 0.9, 0.2, 0.06, kept=True), one("partial:2", 0.69, 0.95, 0.15, 0.05))


def plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u2212", "-")


def summary_of(folder: Path, compared: tuple[Compared, ...], history: History | None = None, **changes: Any) -> RunSummary:
    kept = next(item.strategy for item in compared if item.kept)
    test, crossed = make_predictions(100), make_predictions(80, part="train", seed=1)
    return make_summary(
        folder, test, crossed, strategy=kept, compared=compared, rule=RULE, history=history, report=folder, **changes
    )


def gradual(length: int = 3, epochs: int = 9) -> History:
    history = make_history(epochs=epochs, chosen=7)
    rows = (
        replace(e, phase=1 + (e.number - 1) // length, rate=3e-4, lowest_rate=3e-4 * 0.8 ** (e.number // length))
        for e in history.epochs
    )
    return replace(history, epochs=tuple(rows), share=0.7)


def test_what_auto_kept_is_said_with_its_grounds(tmp_path: Path) -> None:
    said = plain(auto_verdict(summary_of(tmp_path, KEPT_FULL, make_history())))
    assert said.startswith("Auto keeps full: on validation images its loss is 0.200 nats below that of the solved head")
    assert "(standard error 0.060)" in said
    assert "87.5 % of the 80 validation images right, the solved head 75.0 %" in said
    assert "costs less" not in said


def test_a_head_that_was_kept_is_no_failure(tmp_path: Path) -> None:
    said = plain(auto_verdict(summary_of(tmp_path, KEPT_HEAD)))
    assert said.startswith("Auto keeps the solved head: full was tried and not clearly better")
    assert "full +0.010 ± 0.060" in said
    assert "Not tried: partial:2." in said
    nothing = (replace(HEAD, kept=True), left_out("full"), left_out("partial:2"))
    assert plain(auto_verdict(summary_of(tmp_path, nothing))) == (
        "Auto keeps the solved head, for nothing else was tried. Not tried: full, partial:2."
    )


def test_auto_has_the_word_where_it_was_asked_and_nobody_else(tmp_path: Path) -> None:
    test, crossed = make_predictions(100), make_predictions(80, part="train", seed=1)
    assert judgement(make_summary(tmp_path, test, crossed)) == ""
    trained = make_summary(tmp_path, test, crossed, history=make_history(), strategy="partial:1")
    assert judgement(trained).startswith("Better than the solved linear head")
    assert trained.asked == "partial:1"
    both = summary_of(tmp_path, KEPT_FULL, make_history())
    assert judgement(both).startswith("Auto keeps full")
    assert both.asked == "auto"
    no_test = make_summary(tmp_path, None, crossed, history=make_history(), compared=KEPT_FULL, strategy="full")
    assert "these chose the strategy and the epoch" in plain(" ".join(sentences(no_test, crossed)))


@pytest.mark.parametrize(
    ("compared", "row", "words"),
    [
        (KEPT_HEAD, 0, "kept: nothing was clearly better"),
        (KEPT_HEAD, 1, "not clearly better than the solved head: its gain is within its standard error"),
        (KEPT_HEAD, 2, "left out: 77 s for each epoch: fewer than 3 fit"),
        (KEPT_FULL, 0, "what the others start from"),
        (KEPT_FULL, 1, "kept: clearly better than what costs less"),
        (KEPT_FULL, 2, "better than the solved head, but not as good as full"),
        ((*KEPT_FULL[:2], one("partial:2", 0.7, 0.89, 0.21, 0.05)), 2, "not clearly better than full"),
        ((*KEPT_FULL[:2], one("partial:2", 0.7, 1.2, -0.1, 0.05)), 2, "no better than the solved head"),
    ],
)
def test_every_outcome_has_its_reason(compared: tuple[Compared, ...], row: int, words: str) -> None:
    assert words in outcome(compared[row], compared)


def test_gains_have_their_sign_and_their_error() -> None:
    assert plain(gain_words(KEPT_FULL[1])) == "+0.200 ± 0.060"
    assert plain(gain_words(one("full", 0.5, 1.3, -0.2, 0.06))) == "-0.200 ± 0.060"
    assert gain_words(HEAD) == gain_words(left_out("full")) == "–"


def test_the_rule_of_thumb_says_what_it_goes_by() -> None:
    assert plain(rule_words(RULE)).startswith("320 training images (under 1,000); on average")
    assert "first answer 31.0 %" in plain(rule_words(RULE))
    unknown = rule_words(replace(RULE, images=12_000, confidence=NAN))
    assert "(over 10,000)" in unknown
    assert "is not known" in unknown
    assert "nan" not in unknown


def test_the_report_shows_the_strategies_beside_each_other_and_the_rule(tmp_path: Path) -> None:
    test, crossed = make_predictions(100), make_predictions(80, part="train", seed=1)
    changes = {"compared": KEPT_FULL, "rule": RULE, "strategy": "full", "history": make_history()}
    page = report(tmp_path, test, crossed, **changes)
    for words in (", kept by auto", "What auto tried", "+0.200 ± 0.060", "5 min 01 s", "not as good as full"):
        assert words in page.text
    assert "It advises: head, or the last stages" in page.text
    assert any(link["href"] == "#compared" for link in page.attributes("a"))
    places = {attributes.get("id") for _, attributes in page.tags}
    assert all((link["href"] or "")[1:] in places for link in page.attributes("a"))
    alone = report(tmp_path, test, crossed, compared=KEPT_HEAD, rule=None)
    assert "Auto keeps the solved head" in alone.text
    assert "rule of thumb" not in alone.text
    assert not any(link["href"] == "#training" for link in alone.attributes("a"))


def test_phases_are_shaded_numbered_and_named(tmp_path: Path) -> None:
    history = gradual()
    assert phases(history) == ((1, 1, 3), (2, 4, 6), (3, 7, 9))
    assert phases(make_history()) == ()
    root = ET.fromstring(str(curves_figure(history)))
    words = ["".join(node.itertext()) for node in root.iter("text")]
    assert [word for word in words if word.startswith("phase")] == ["phase 1", "phase 2", "phase 3"]
    assert len([node for node in root.iter("rect") if node.get("class") == "ground"]) == 1
    page = report(tmp_path, make_predictions(100), make_predictions(80, seed=1), history=history, strategy="gradual:3")
    assert "It went in 3 phases" in page.text
    assert "and smallest" in page.text
    assert "70 % of the way from those that the training began with" in page.text
    assert "again on all" not in page.text


def test_a_training_that_was_done_again_on_everything_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = replace(make_history(), refitted=True)
    page = report(tmp_path, make_predictions(100), make_predictions(80, seed=1), history=history, strategy="full")
    assert "done again on all 80 training images" in page.text
    print_fit(make_summary(tmp_path, None, make_predictions(80), history=history, strategy="full"))
    assert "epoch 7 of 12 kept; then the same on all training images" in capsys.readouterr().out


@pytest.mark.parametrize("length", [1, 2, 3, 30, 60])
def test_marks_of_any_number_of_phases_stay_apart_and_in_the_picture(length: int) -> None:
    root = ET.fromstring(str(curves_figure(gradual(length, 60))))
    width, height = map(float, (root.get("viewBox") or "").split()[2:])
    marks = [
        node for node in root.iter("text") if re.fullmatch(r"(phase )?\d+", node.text or "") and float(node.get("y", 0)) < 20
    ]
    places = [float(node.get("x", -1)) for node in marks]
    assert all(later - earlier >= 13 for earlier, later in pairwise(places))
    assert len(marks) == 0 if length == 60 else len(marks) >= 2
    for box in root.iter("rect"):
        assert 0 <= float(box.get("x", -1)) <= float(box.get("x", -1)) + float(box.get("width", -1)) <= width
        assert 0 <= float(box.get("y", -1)) <= float(box.get("y", -1)) + float(box.get("height", -1)) <= height


def test_rates_are_drawn_largest_and_smallest() -> None:
    titles = re.findall(r"<title>([^<]*)</title>", plain(str(curves_figure(gradual()))))
    assert "epoch 9, largest rate: 3 × 10⁻⁴" in titles
    assert "epoch 9, smallest rate: 1.5 × 10⁻⁴" in titles
    # Without a smaller rate there is one line, and odd figures break nothing.
    odd = make_history(epochs=3, chosen=1)
    odd = replace(odd, epochs=tuple(replace(e, rate=0.0 if e.number > 1 else math.inf) for e in odd.epochs))
    figure = str(curves_figure(odd))
    assert "smallest rate" not in figure
    assert "nan" not in figure
    assert "inf" not in figure


def test_a_mixture_is_told_only_where_there_is_one() -> None:
    assert share_words(make_history()) == ""
    assert "85 % of the way" in plain(share_words(replace(make_history(), share=0.85)))


def sheet(width: int = 60) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (width, 40), (90, 120, 150)).save(buffer, "PNG")
    return buffer.getvalue()


def test_augmented_images_are_in_the_page_and_their_names_no_markup(tmp_path: Path) -> None:
    from regraft.report import gather, write_report

    test, crossed = make_predictions(100), make_predictions(80, part="train", seed=1)
    augmented = Augmented(words=f"flip: {HOSTILE}", sheet=sheet(), names=(f"{HOSTILE}.png", "b\u202e.png"), versions=5)
    summary = make_summary(tmp_path, test, crossed)
    content = gather(summary, test=test, cross_validation=crossed, thumbnails={}, augmented=augmented)
    text = write_report(content, tmp_path).page.read_text("utf-8")
    assert "<script" not in text
    assert "\u202e" not in text
    assert text.count("data:image/png;base64,") == 1
    assert "Is every picture still of its class?" in text


def test_the_screen_shows_the_comparison_and_the_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_fit(summary_of(tmp_path, KEPT_HEAD))
    said = capsys.readouterr().out
    assert re.search(r"^\* head +64\.0 % +1\.100 +- +-$", said, re.MULTILINE)
    assert re.search(r"^  full +65\.0 % +1\.090 +\+0\.010 ± 0\.060 +5 min 01 s$", said, re.MULTILINE)
    assert "partial:2: left out: 77 s for each epoch" in said
    assert "rule of thumb" in said
    assert "head, or the last stages (320 training images, the network's own classifier 31.0 % sure of them)" in said
    assert "\u00a0" not in said
    print_fit(summary_of(tmp_path, KEPT_FULL, replace(make_history(), share=0.7)))
    said = capsys.readouterr().out
    assert "epoch 7 of 12 kept, 70 % of the way from the start" in said
    assert "loss   training    2.000 to 0.167" in said
    print_fit(make_summary(tmp_path, None, make_predictions(80), history=make_history(chosen=0)))
    assert "each of 12 epochs was no better than the start" in capsys.readouterr().out


def test_the_curve_is_as_wide_as_there_are_epochs_and_marks_the_one_that_was_kept() -> None:
    lines = curve_lines(make_history(), blocks=True)
    assert len(lines) == 5
    assert lines[0].startswith("loss   training    █")
    assert lines[0].endswith("  2.000 to 0.167")
    assert lines[1].index("▁") == lines[4].index("^") == 19 + 6
    assert lines[4].endswith("^ kept: epoch 7")
    assert curve_lines(make_history(epochs=1, chosen=1), blocks=True) == []
    assert curve_lines(make_history(chosen=0), blocks=True)[4:] == [""]
    long = curve_lines(make_history(epochs=500, chosen=500), blocks=True)
    assert len(long[0].split("  ")[2].strip()) <= WIDEST
    assert all(line.isascii() for line in curve_lines(make_history(), blocks=False))


def test_a_curve_of_odd_figures_is_drawn_all_the_same() -> None:
    assert sparkline([1.0, math.nan, 3.0, math.inf]) == "▁ █ "
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([math.nan]) == " "
    assert len(sparkline(np.arange(61.0).tolist())) == WIDEST


def test_the_fields_of_json_are_there_whatever_was_fitted(tmp_path: Path) -> None:
    test, crossed = make_predictions(100), make_predictions(80, part="train", seed=1)
    plain_head = fit_fields(make_summary(tmp_path, test, crossed))
    assert plain_head["training"] is plain_head["compared"] is None
    assert plain_head["asked"] == plain_head["strategy"] == "head"
    fields = fit_fields(summary_of(tmp_path, KEPT_FULL, replace(make_history(), share=0.7)))
    assert (fields["asked"], fields["strategy"]) == ("auto", "full")
    assert set(fields["training"]) == {*("what", "epochs", "chosen", "share", "refitted", "gain", "gain_se", "validation")}
    assert [fields["training"][name] for name in ("epochs", "chosen", "share", "validation")] == [12, 7, 0.7, 80]
    names = {"strategy", "accuracy", "nll", "gain", "gain_se", "seconds", "kept", "note"}
    assert all(set(row) == names for row in fields["compared"])
    assert fit_fields(summary_of(tmp_path, KEPT_HEAD))["compared"][2]["note"].startswith("77 s")


def test_json_fields_are_those_of_the_documentation(tmp_path: Path) -> None:
    text = (ROOT / "docs/cli.md").read_text()
    entry = text[text.index("- `fit`:") : text.index("- `evaluate`:")]
    fields = fit_fields(summary_of(tmp_path, KEPT_FULL, make_history()))
    named = set(re.findall(r"`(\w+)`", entry))
    assert {*fields, *fields["training"], *fields["compared"][0]} <= named


def test_auto_from_the_command_line_to_the_report(
    photos: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    fit = ["fit", str(photos), "--size", "32", "--device", "cpu", "--json", "--out", str(tmp_path / "run")]
    fit += ["--backbone", "module:examples.own_nets:small_network", "--strategy", "auto", "--minutes", "0.05"]
    assert main(fit) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["asked"] == "auto"
    names = [row["strategy"] for row in fields["compared"]]
    assert (names[0], names[-1]) == ("head", "full")
    assert [row["strategy"] for row in fields["compared"] if row["kept"]] == [fields["strategy"]]
    page = (tmp_path / "run/report.html").read_text("utf-8")
    assert "What auto tried" in page
    assert "light: mirrored" in page


def test_what_is_asked_of_auto_is_asked_of_all_that_it_tries() -> None:
    from regraft.cli.strategy import TrainingOptions, strategy_of
    from regraft.train.auto import strategies_of

    auto = strategy_of("auto", balance="auto", training=TrainingOptions(augment="none", lr=0.01))
    tried = strategies_of(4, auto)
    assert [one.name for one in tried] == ["partial:2", "full"]
    # "none" is the default of a plain Training, and no reason to fall back on that of a strategy.
    assert {(one.augment, one.lr, one.balance, one.mixup) for one in tried} == {("none", 0.01, "auto", 0.4)}
    assert [one.name for one in strategies_of(2, auto)] == ["full"]
