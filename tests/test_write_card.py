"""The model card: metadata that hubs can read, figures that are those of the report, and no name that becomes Markdown."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from test_rebuild_report import make_audit, make_content
from test_write_report import HOSTILE, make_multi_label, make_predictions, make_summary

from regraft.evaluate import score
from regraft.report import gather
from regraft.report.card import base_model, card_of, is_edited, markdown
from regraft.values import Predictions

HOSTILE_CLASSES = (
    HOSTILE,
    "a|b",
    "**bold**",
    "[x](//evil.example)",
    "www.evil.example",
    "# head",
    "`code`",
    "c\u202edne",
    "--- ",
)


def card(folder: Path, test: Predictions | None, crossed: Predictions, audit: Any = None, **changes: Any) -> str:
    summary = make_summary(folder / "fashion", test, crossed, **changes)
    return card_of(gather(summary, test=test, cross_validation=crossed, thumbnails={}, audit=audit))


def rendered(text: str) -> str:
    """HTML as GitHub and the Hugging Face hub make it: tables, bare addresses as links, HTML let through."""
    body = text.split("\n---\n", 1)[1]
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body)


def test_hubs_can_read_its_metadata(tmp_path: Path) -> None:
    test = make_predictions(200)
    text = card(tmp_path, test, make_predictions(300, seed=1), backbone="timm:resnet18", weights="timm a1_in1k")
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("regraft", "image-classification")
    assert (data.license, data.base_model) == ("unknown", "timm/resnet18.a1_in1k")
    assert data.metrics == ["accuracy", "f1"]
    found = {one.metric_type: one.metric_value for one in data.eval_results or ()}
    assert found == {"accuracy": score(test).accuracy.value, "f1": score(test).macro_f1}


def test_it_says_how_good_how_sure_and_on_what(tmp_path: Path) -> None:
    test = make_predictions(200)
    accuracy, text = score(test).accuracy, card(tmp_path, test, make_predictions(300, seed=1))
    said = f"{100 * accuracy.value:.1f} % right on 200 images that were never used for any choice"
    assert f"- {said} (95 % interval {100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} %)." in text
    assert f"| accuracy | {100 * accuracy.value:.1f} % | {100 * accuracy.low:.1f} to {100 * accuracy.high:.1f} % |" in text
    assert "300 training images" in text
    assert 'regraft.load("path/to/this/folder")' in text
    assert "\u00a0" not in text


def test_without_a_test_set_it_claims_none(tmp_path: Path) -> None:
    text = card(tmp_path, None, make_predictions(300, part="train"))
    assert "training images, in cross\\-validation" in text or "training images, in cross-validation" in text
    assert "never used for any choice" not in text
    assert "held-out answers" in text


def test_names_from_the_data_cannot_become_markdown(tmp_path: Path) -> None:
    test, crossed = make_predictions(160, HOSTILE_CLASSES), make_predictions(160, HOSTILE_CLASSES, seed=1)
    audit = make_audit(tuple(f"{name}/{i}.png" for i, name in enumerate(HOSTILE_CLASSES)))
    changes = dict.fromkeys(("backbone", "strategy", "split"), HOSTILE)
    text = card(tmp_path, test, crossed, audit, **changes)
    html = rendered(text)
    tags = set(re.findall(r"<(\w+)", html))
    assert tags <= {"h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "pre", "code"}
    assert html.count("<h1>") == 1
    assert html.count("<code>") == 3  # the three files, and no class
    assert all(row.count("<td") == 5 for row in re.findall(r"<tr>.*?</tr>", html, re.DOTALL)[8:])
    assert "\u202e" not in text
    # A bare address is a link to some readers, unless its stop or colon is escaped.
    assert not re.search(r"www\.evil|https?://", text)
    assert yaml.safe_load(text.split("\n---\n", 1)[0].removeprefix("---\n"))["library_name"] == "regraft"


def test_what_is_escaped_is_shown_as_it_was() -> None:
    words = "".join(map(chr, range(33, 127)))
    html = MarkdownIt("commonmark").render(f"a {markdown(words)} z")
    assert (
        html
        == f"<p>a {words.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;').replace(chr(34), '&quot;')} z</p>\n"
    )


@pytest.mark.parametrize(
    ("backbone", "weights", "expected"),
    [
        ("timm:resnet18", "timm a1_in1k", "timm/resnet18.a1_in1k"),
        ("timm:resnet18", "timm default", ""),
        ("timm:resnet18", "none", ""),
        ("timm:resnet18", "mine.safetensors", ""),
        ("torchvision:resnet18", "IMAGENET1K_V1", ""),
        ("efficientnet_lite0", "embedded ImageNet-1k", ""),
        ("timm:x\ny", "timm a", ""),
    ],
)
def test_the_base_model_is_named_where_the_hub_has_it(tmp_path: Path, backbone: str, weights: str, expected: str) -> None:
    test = make_predictions(30)
    summary = make_summary(tmp_path, test, test, backbone=backbone, weights=weights)
    assert base_model(summary.backbone, summary.weights) == expected
    assert ("base_model:" in card(tmp_path, test, test, backbone=backbone, weights=weights)) == bool(expected)


def test_limits_are_those_that_were_measured(tmp_path: Path) -> None:
    test, useless = make_predictions(200), make_predictions(200, noise=200.0)
    plain = card(tmp_path, test, test)
    assert "no answer for other things" in plain
    assert "were not searched for copies" in plain
    assert "not clearly better" in card(tmp_path, useless, useless)
    audited = card(tmp_path, test, test, make_audit(test.names, score(test)))
    assert "image size of files alone gives the class in 70.0 %" in audited
    assert "1 test image shows the same as a training image" in audited
    whole = card_of(make_content(tmp_path / "run"))
    assert 'It says "none of these" on 16.7 % of the 60 images of the test' in whole


def test_several_labels_and_many_classes_are_told_in_few_lines(tmp_path: Path) -> None:
    text = card(tmp_path, make_multi_label(100), make_multi_label(100))
    assert "of which an image may have several" in text
    assert "| accuracy, every label right |" in text
    many = make_predictions(900, tuple(f"class {i:03d}" for i in range(300)))
    text = card(tmp_path, many, many)
    assert "and 200 more" in text
    assert "The 30 hardest of 300 classes" in text
    assert len(text) < 12_000


def test_a_change_by_hand_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    assert not is_edited(path)
    path.write_text(card(tmp_path, make_predictions(30), make_predictions(30)), "utf-8")
    assert not is_edited(path)
    path.write_text(path.read_text("utf-8").replace("license: unknown", "license: mit"), "utf-8")
    assert is_edited(path)
    path.write_text("my own notes\n", "utf-8")
    assert is_edited(path)


def test_undefined_figures_are_left_out_of_the_metadata(tmp_path: Path) -> None:
    test = make_predictions(30)
    summary = make_summary(tmp_path, test, test)
    undefined = replace(score(test), macro_f1=float("nan"), nll=float("nan"))
    content = gather(replace(summary, test_scores=undefined), test=test, cross_validation=test, thumbnails={})
    text = card_of(content)
    assert "nan" not in json.dumps(yaml.safe_load(text.split("\n---\n", 1)[0].removeprefix("---\n"))).lower()
    assert "| negative log-likelihood, nats | – | |" in text
