"""What the report and the command line say of a training: the curve, the epoch that was kept, and whether it paid."""

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from test_write_report import make_head, make_predictions, make_summary, report

from regraft.evaluate import score
from regraft.evaluate.interval import wilson
from regraft.report.summary import sentences
from regraft.report.training import curves_figure, verdict
from regraft.train.curves import Curves
from regraft.values import Epoch, History, Predictions


def make_history(right: int = 70, solved: int = 60, *, se: float = 0.03, epochs: int = 12, chosen: int = 7) -> History:
    rows = tuple(
        Epoch(
            number=number,
            loss=2.0 / number,
            accuracy=1 - 0.5 / number,
            validation_loss=1.0 + abs(number - chosen) / 10,
            validation_accuracy=0.7 - abs(number - chosen) / 100,
            tempered_loss=0.9 + abs(number - chosen) / 10,
            rate=1e-3 * (epochs - number + 1) / epochs,
            seconds=1.5,
        )
        for number in range(1, epochs + 1)
    )
    return History(
        what="layer4 and the head, from the solved head",
        train=320,
        validation=80,
        start_loss=1.9,
        start_accuracy=0.6,
        start_tempered=1.8,
        epochs=rows,
        chosen=chosen,
        accuracy=wilson(right, 80),
        solved=wilson(solved, 80),
        gain=(right - solved) / 80,
        gain_se=se,
    )


def trained(folder: Path, history: History, test: Predictions | None) -> tuple[Predictions, object]:
    crossed = make_predictions(80, part="train", seed=1)
    return crossed, make_summary(folder, test, crossed, history=history, strategy="partial:1")


@pytest.mark.parametrize(
    ("right", "solved", "se", "start", "also"),
    [
        (70, 60, 0.03, "Better than the solved linear head: ", "more than chance explains"),
        (62, 60, 0.03, "Better than the solved linear head, but within chance: ", "--strategy head costs less"),
        (60, 60, 0.0, "As good as the solved linear head: ", "--strategy head costs less"),
        (58, 60, 0.03, "Worse than the solved linear head: ", "though chance can explain it"),
        (50, 60, 0.03, "Worse than the solved linear head: ", "more than chance explains. Plain --strategy head"),
        (50, 60, math.nan, "Worse than the solved linear head: ", "though chance can explain it"),
    ],
)
def test_the_verdict_is_plain(right: int, solved: int, se: float, start: str, also: str) -> None:
    said = verdict(make_history(right, solved, se=se)).replace("\u00a0", " ")
    assert said.startswith(start)
    assert also in said
    assert f"{100 * right / 80:.1f} % right against {100 * solved / 80:.1f} % on the same 80 validation images" in said


def test_the_report_shows_every_epoch_and_marks_the_one_that_was_kept(tmp_path: Path) -> None:
    test, history = make_predictions(100), make_history()
    crossed = make_predictions(80, part="train", seed=1)
    page = report(tmp_path, test, crossed, history=history, strategy="partial:1", head=make_head())
    assert "Trained was layer4 and the head, from the solved head, on 320 images." in page.text
    assert "they chose epoch 7 of 12, by the smallest tempered loss" in page.text
    assert "7 (kept)" in page.text
    assert "The solved head, which it has to beat" in page.text
    assert "Better than the solved linear head" in page.text
    assert "The validation images gave" in page.text
    assert "Cross-validation on" not in page.text
    assert any(link["href"] == "#training" for link in page.attributes("a"))
    figures = re.findall(r"<svg.*?</svg>", (tmp_path / "report.html").read_text("utf-8"), re.DOTALL)
    rings = [
        node.findtext("title") or ""
        for figure in figures
        for node in ET.fromstring(figure).iter("circle")
        if "ring" in (node.get("class") or "")
    ]
    assert sum(title.startswith("kept: epoch 7, validation") for title in rings) == 2


def test_without_a_test_set_the_headline_says_that_its_images_chose_the_epoch(tmp_path: Path) -> None:
    crossed, summary = trained(tmp_path, make_history(), None)
    told = " ".join(sentences(summary, crossed)).replace("\u00a0", " ")  # type: ignore[arg-type]
    assert f"{100 * score(crossed).accuracy.value:.1f} % right on the 80 validation images" in told
    assert "these chose the epoch" in told
    page = report(tmp_path, None, crossed, history=make_history(chosen=0))
    assert "no epoch had a smaller tempered loss" in page.text
    assert "right on 80 validation images" in page.text


@pytest.mark.parametrize("epochs", [1, 2, 300])
def test_curves_stay_in_their_picture(epochs: int) -> None:
    history = make_history(epochs=epochs, chosen=1)
    odd = replace(history.epochs[0], validation_loss=math.inf, loss=math.nan)
    figure = str(curves_figure(replace(history, epochs=(odd, *history.epochs[1:]))))
    root = ET.fromstring(figure)
    width, height = map(float, (root.get("viewBox") or "").split()[2:])
    circles = list(root.iter("circle"))
    assert circles
    assert all(0 <= float(c.get("cx", -1)) <= width and 0 <= float(c.get("cy", -1)) <= height for c in circles)
    assert "nan" not in figure
    assert "inf" not in figure


def test_metrics_are_lines_of_json_as_epochs_end_and_removed_where_nothing_was_trained(tmp_path: Path) -> None:
    run, history = tmp_path / "run", make_history(epochs=3, chosen=1)
    path = run / "metrics.jsonl"
    first = replace(history.epochs[0], validation_loss=math.inf)
    with Curves(run) as told:
        assert not run.exists(), "a run folder appears with the first epoch"
        for count, epoch in enumerate((first, *history.epochs[1:]), 1):
            told(epoch)
            assert len(path.read_text().splitlines()) == count
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["number"] for row in rows] == [1, 2, 3]
    assert rows[0]["validation_loss"] is None
    assert np.isclose(rows[1]["rate"], history.epochs[1].rate)
    assert {field.name for field in fields(Epoch)} == set(rows[0])
    assert [entry.name for entry in run.iterdir()] == ["metrics.jsonl"]
    with Curves(run):
        pass
    assert not path.exists()
