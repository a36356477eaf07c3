"""The report: what it says, that it holds everything itself, that nothing from the data gets in unescaped."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from quick import takes_at_most

from regraft.errors import UsageError
from regraft.evaluate import mistakes, score
from regraft.evaluate.interval import wilson
from regraft.evaluate.metrics import precision_interval, recall_interval
from regraft.evaluate.probability import confidences, decisions, right
from regraft.evidence.mistaken import EVIDENCE_WORDS
from regraft.findings import Audit, Leak
from regraft.report import gather, write_report
from regraft.report import summary as summary_module
from regraft.report.abstention import risk_coverage
from regraft.report.advice import to_fix, to_try
from regraft.report.content import Overlays
from regraft.report.summary import sentences
from regraft.report.text import percent, plain, power, seconds, short
from regraft.values import AbstainRule, Calibrated, EngineTiming, HeadChoice, Predictions, Rejected, RunSummary, Strength

GARMENTS = ("bag", "boot", "coat", "dress", "pullover", "sandal", "shirt", "sneaker", "trouser", "tshirt")
HOSTILE = '<script>alert("1")</script>'


def make_predictions(
    n: int, classes: tuple[str, ...] = GARMENTS, *, part: str = "test", noise: float = 2.0, seed: int = 0
) -> Predictions:
    """Logits that favour the truth; neighbouring classes are confused more."""
    rng, k = np.random.default_rng(seed), len(classes)
    truth = rng.integers(0, k, n)
    near = 4.0 * np.exp(-np.abs(np.arange(k)[:, None] - np.arange(k)[None]) / 1.0)
    logits = near[truth] * 1.6 + rng.normal(0, noise, (n, k))
    names = tuple(f"{part}/{classes[t]}/{i:05d}.jpg" for i, t in enumerate(truth))
    return Predictions(names=names, classes=classes, logits_NK=logits.astype(np.float32), targets=truth)


def make_multi_label(n: int) -> Predictions:
    rng = np.random.default_rng(4)
    truth = rng.random((n, 5)) < 0.35
    logits = (np.where(truth, 2.0, -2.0) + rng.normal(0, 1.4, (n, 5))).astype(np.float32)
    names = tuple(f"photos/{i:04d}.jpg" for i in range(n))
    return Predictions(names=names, classes=GARMENTS[:5], logits_NK=logits, targets=truth, multi_label=True)


def make_head() -> HeadChoice:
    tried = []
    for features, floor, best in (("last", 0.452, -3.0), ("stages", 0.371, -2.0)):
        for exponent in range(-8, 4):
            nll = min(floor + 0.045 * (exponent - best) ** 2 * (1.3 if exponent > best else 0.5), 2.2)
            tried.append(
                Strength(features=features, l2=10.0**exponent, nll=nll, nll_se=0.012 + nll * 0.02, accuracy=0.9 - nll / 10)
            )
    return HeadChoice(
        tried=tuple(tried), features="stages", l2=1e-2, gradient_norm=3.1e-6, iterations=23, folds=5, balanced=False
    )


def make_summary(run: Path, test: Predictions | None, crossed: Predictions, **changes: Any) -> RunSummary:
    tree = "fashion/\n  train/  1,524 images\n    bag      150\n    boot     151\n  test/     381 images"
    summary = RunSummary(
        run=run,
        backbone="efficientnet_lite0",
        strategy="head",
        classes=crossed.classes,
        train=len(crossed.names),
        test=0 if test is None else len(test.names),
        rejected=(
            Rejected(
                path=Path("a.jpg"), name="train/bag/a.jpg", code="truncated", reason="the file ends after 2,048 of 9,120 bytes"
            ),
            Rejected(
                path=Path("b.png"), name="train/boot/b.png", code="not_an_image", reason="HTML, not one of the six formats"
            ),
        ),
        test_scores=None if test is None else score(test),
        cross_validation=score(crossed),
        seconds={"scan": 0.21, "features": 11.42, "head": 3.07, "audit": 0.44, "total": 16.2},
        engine="openvino-bf16",
        engines=(
            EngineTiming(name="torch-fp32", images_per_s=61.0, cosine=1.0, setup_s=0.4, chosen=False),
            EngineTiming(name="torch-bf16", images_per_s=44.0, cosine=0.99982, setup_s=0.1, chosen=False),
            EngineTiming(
                name="openvino-bf16", images_per_s=312.0, cosine=0.99964, setup_s=1.3, chosen=True, note="compiled once"
            ),
        ),
        cache_hits=0,
        cache_misses=1905,
        head=make_head(),
        tree=tree,
        notes=("3 entries ignored: .ipynb_checkpoints, Thumbs.db, notes.txt",),
        split="The data's own test folder is the test set; 5 stratified folds inside the training images choose.",
        command="regraft fit fashion/ --out runs/fashion",
        versions={"regraft": "0.1.0", "torch": "2.10.0", "python": "3.11.9"},
    )
    return replace(summary, **changes)


def picture(name: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (90, 120, 150)).save(buffer, "JPEG")
    return buffer.getvalue()


class Page(HTMLParser):
    """What a browser would make of it: tags in order, their attributes, the visible text, unbalanced tags."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.words: list[str] = []
        self.stack: list[str] = []
        self.feed(text)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.words)).replace("\u00a0", " ")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("style", "title"):
            self.words.append(data)

    def attributes(self, tag: str) -> list[Mapping[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(
    folder: Path,
    test: Predictions | None,
    crossed: Predictions,
    thumbnails: Any = picture,
    audit: Audit | None = None,
    **changes: Any,
) -> Page:
    summary = make_summary(folder / "fashion", test, crossed, **changes)
    content = gather(summary, test=test, cross_validation=crossed, thumbnails=thumbnails, audit=audit)
    page = Page(write_report(content, folder).page.read_text("utf-8"))
    assert page.stack == []
    return page


def test_the_first_words_say_how_good_it_is_on_untouched_images(tmp_path: Path) -> None:
    test, crossed = make_predictions(381), make_predictions(1524, part="train", seed=1)
    page, accuracy = report(tmp_path, test, crossed), score(test).accuracy
    said = f"{accuracy.value * 100:.1f} % right on 381 images that were never used for any choice"
    assert f"{said} (95 % interval {accuracy.low * 100:.1f} to {accuracy.high * 100:.1f} %)." in page.text
    assert f"Cross-validation on the 1,524 training images gave {score(crossed).accuracy.value * 100:.1f} %" in page.text
    for needed in (
        "Confusion matrix",
        "Most confident mistakes",
        "expected calibration error",
        "15 bins of equal width",
        "openvino-bf16",
    ):
        assert needed in page.text
    for needed in (
        "runs/fashion",
        "Thumbs.db",
        "truncated",
        "16.2 s",
        "everything else",
        "0.99964",
        "The data's own test folder",
    ):
        assert needed in page.text


def test_every_figure_stands_beside_its_interval(tmp_path: Path) -> None:
    test = make_predictions(381)
    page, scores = report(tmp_path, test, make_predictions(500, seed=1)), score(test)
    macro_f1, ece, nll = scores.intervals.macro_f1, scores.intervals.ece, scores.intervals.nll
    assert f"{100 * macro_f1.low:.1f} to {100 * macro_f1.high:.1f} %" in page.text
    assert f"{100 * ece.low:.1f} to {100 * ece.high:.1f} %" in page.text
    assert f"{nll.low:.3f} to {nll.high:.3f} nats per image" in page.text
    for row in scores.per_class:
        for interval in (recall_interval(row), precision_interval(row)):
            assert f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %" in page.text


def test_nothing_is_fetched_and_no_script_runs(tmp_path: Path) -> None:
    page = report(tmp_path, make_predictions(381), make_predictions(500, seed=1))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset"):
                assert value is not None
                assert value.startswith(("data:image/", "#")), (tag, value)
    assert "http" not in re.sub(r"http-equiv", "", (tmp_path / "report.html").read_text("utf-8"))


def test_every_link_has_its_place_and_every_picture_its_text(tmp_path: Path) -> None:
    page = report(tmp_path, make_predictions(381), make_predictions(500, seed=1))
    places = {attributes.get("id") for _, attributes in page.tags}
    assert all((link["href"] or "")[1:] in places for link in page.attributes("a"))
    assert all(image["alt"] for image in page.attributes("img"))
    assert all(figure["aria-label"] and figure["role"] == "img" for figure in page.attributes("svg"))
    assert len(page.attributes("h1")) == 1
    assert all(header.get("scope") in ("row", "col") for header in page.attributes("th"))


def test_names_from_the_data_cannot_become_markup(tmp_path: Path) -> None:
    classes = (HOSTILE, 'b" onload="x', "c\u202edne", "d\x07\n", "'><img src=//x>")
    test, crossed = make_predictions(120, classes), make_predictions(120, classes, seed=1)
    hurt = Rejected(path=Path("x"), name=f"{HOSTILE}\udcff.jpg", code=HOSTILE, reason=HOSTILE)
    changes = dict.fromkeys(("backbone", "strategy", "engine", "tree", "split", "command"), HOSTILE)
    page = report(
        tmp_path,
        test,
        crossed,
        rejected=(hurt,),
        notes=(HOSTILE,),
        versions={HOSTILE: HOSTILE},
        **changes,
    )
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in text
    assert "<img src=//" not in text
    assert page.text.count(HOSTILE) >= 12  # every place that shows it, as text
    assert all(letter.isprintable() or letter in "\n\u00a0" for letter in text)
    assert not any("onload" in attributes for _, attributes in page.tags)
    assert "c\\u202edne" in page.text


@pytest.mark.parametrize("k", [2, 16, 17, 100, 101, 400])
def test_any_number_of_classes_gives_a_readable_matrix_or_says_why_not(tmp_path: Path, k: int) -> None:
    classes = tuple(f"class {i:03d}" for i in range(k))
    test, crossed = make_predictions(600, classes, noise=2.6), make_predictions(600, classes, noise=2.6, seed=1)
    page = report(tmp_path, test, crossed)
    matrix = [attributes for attributes in page.attributes("table") if attributes.get("class") == "matrix"]
    figures = [attributes for attributes in page.attributes("svg") if "Confusion matrix" in (attributes["aria-label"] or "")]
    assert (len(matrix), len(figures)) == ((1, 0) if k <= 16 else (0, 1) if k <= 100 else (0, 0))
    assert ("drawn for up to 100 classes" in page.text) == (k > 100)
    assert "Commonest confusions" in page.text
    assert all(name in page.text for name in classes)


def test_every_figure_is_well_formed_and_marks_the_chosen_strength(tmp_path: Path) -> None:
    report(tmp_path, make_predictions(300), make_predictions(300, seed=1))
    figures = re.findall(r"<svg.*?</svg>", (tmp_path / "report.html").read_text("utf-8"), re.DOTALL)
    roots = [ET.fromstring(figure) for figure in figures]
    rings = [node for root in roots for node in root.iter("circle") if "ring" in (node.get("class") or "")]
    assert len(figures) == 3
    assert len(rings) == 1
    assert "stages, l2 10⁻²" in (rings[0].findtext("title") or "")
    for root in roots:
        width, height = map(float, (root.get("viewBox") or "").split()[2:])
        for node in root.iter("circle"):
            assert 0 <= float(node.get("cx", -1)) <= width
            assert 0 <= float(node.get("cy", -1)) <= height


def test_without_a_test_set_cross_validation_takes_the_headline_and_says_so(tmp_path: Path) -> None:
    crossed = make_predictions(400, part="train")
    page = report(tmp_path, None, crossed)
    assert "right in cross-validation on the 400 training images" in page.text
    assert "--test none" in page.text
    assert "never used for any choice" not in page.text


def test_several_labels_per_image_have_scores_per_label_and_no_matrix(tmp_path: Path) -> None:
    test = make_multi_label(200)
    page = report(tmp_path, test, make_multi_label(300))
    assert "Every label, hardest first" in page.text
    assert "of images with every label right" in page.text
    assert "Confusion matrix" not in page.text
    assert "Most often taken for" not in page.text


def test_pictures_are_those_of_the_mistakes_within_the_budget(tmp_path: Path) -> None:
    test, asked = make_predictions(381), []

    def heavy(name: str) -> bytes | None:
        asked.append(name)
        return b"\xff\xd8\xff" + bytes(400_000)

    page = report(tmp_path, test, make_predictions(400, seed=1), thumbnails=heavy)
    assert asked == [mistake.name for mistake in mistakes(test, 24)]
    assert 0 < len(page.attributes("img")) < 24
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
    page = report(
        tmp_path, test, make_predictions(400, seed=1), thumbnails={asked[0]: picture(""), asked[1]: b"<svg onload=x>"}
    )
    assert [image["alt"] for image in page.attributes("img")] == [asked[0]]


def test_a_mistake_stands_with_the_evidence_for_its_answer(tmp_path: Path) -> None:
    test = make_predictions(381)
    first, second = mistakes(test, 2)
    overlays = Overlays(words=EVIDENCE_WORDS, pictures={first.name: picture("evidence"), second.name: b"<svg onload=x>"})
    content = gather(
        make_summary(tmp_path, test, test),
        test=test,
        cross_validation=test,
        thumbnails={first.name: picture(""), second.name: picture("")},
        overlays=overlays,
    )
    page = Page(write_report(content, tmp_path).page.read_text("utf-8"))
    assert [image["alt"] for image in page.attributes("img")] == [
        first.name,
        f"what the answer was made from, of {first.name}",
        second.name,
    ]
    assert "evidence for the wrong answer" in page.text
    assert "evidence" not in report(tmp_path, test, test).text


def test_a_perfect_and_a_useless_result_are_told_as_they_are(tmp_path: Path) -> None:
    perfect, useless = make_predictions(100, noise=0.0), make_predictions(100, noise=200.0)
    told = " ".join(sentences(make_summary(tmp_path, perfect, perfect), perfect))
    assert "100.0\u00a0% right" in told
    assert "no mistake" in told
    assert "two agree within chance" in told
    told = " ".join(sentences(make_summary(tmp_path, useless, perfect), useless))
    assert "not clearly better than always answering the largest class" in told
    assert "more than chance explains" in told
    assert "over-confident" in told
    assert "Most confident mistakes" not in report(tmp_path, perfect, perfect).text


def test_a_strength_given_by_hand_or_at_the_edge_is_told(tmp_path: Path) -> None:
    test, head = make_predictions(50), make_head()
    given = replace(head, tried=tuple(s for s in head.tried if s.l2 == head.l2 and s.features == "stages"))
    assert "Every strength tried" not in report(tmp_path, test, test, head=given).text
    assert "edge of the range" not in report(tmp_path, test, test).text
    assert "edge of the range" in report(tmp_path, test, test, head=replace(head, l2=1e3)).text


def test_absent_classes_and_one_image_are_no_trouble(tmp_path: Path) -> None:
    one = Predictions(names=("a.jpg",), classes=GARMENTS, logits_NK=np.eye(10)[:1], targets=np.array([3]))
    page = report(tmp_path, one, one, engines=(), seconds={}, tree="", notes=(), versions={}, rejected=())
    assert "nan" not in page.text.lower()
    assert "Nothing: every image found could be used." in page.text


def test_the_page_is_quick_and_the_same_every_time(tmp_path: Path) -> None:
    test, crossed = make_predictions(381), make_predictions(1524, seed=1)
    report(tmp_path, test, crossed)
    first = (tmp_path / "report.html").read_bytes()
    takes_at_most(1.0, lambda: report(tmp_path, test, crossed))
    assert (tmp_path / "report.html").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "report.html", "report.json"]


def test_a_folder_that_cannot_be_written_is_an_error_for_a_person(tmp_path: Path) -> None:
    test = make_predictions(30)
    with pytest.raises(UsageError, match="choose another --out"):
        write_report(
            gather(make_summary(tmp_path, test, test), test=test, cross_validation=test, thumbnails={}), tmp_path / "absent"
        )


def test_numbers_are_written_the_same_way_everywhere() -> None:
    assert [percent(x) for x in (0.9237, 1.0, 0.99996, 0.0, 0.0001, float("nan"))] == [
        "92.4\u00a0%",
        "100.0\u00a0%",
        "99.9\u00a0%",
        "0.0\u00a0%",
        "under\u00a00.1\u00a0%",
        "–",
    ]
    assert [power(x) for x in (1e-3, 3.2e-4, 1.0, 0.0)] == ["10⁻³", "3.2\u00a0×\u00a010⁻⁴", "10⁰", "0"]
    assert [seconds(x) for x in (0.421, 18.26, 245.4)] == ["0.42\u00a0s", "18.3\u00a0s", "4\u00a0min 05\u00a0s"]
    assert short("abcdefghij", 6) == "abc…ij"
    assert plain("a\u200db\u202ec\x00é") == "a\u200db\\u202ec\\x00é"


def make_leak(test: Predictions, right: int, n: int) -> Leak:
    without = replace(score(test), accuracy=wilson(right, n), n=n)
    return Leak(names=(test.names[0],), twins=(test.names[1],), scores_without=without)


def test_every_finding_is_in_the_page_with_its_files(tmp_path: Path) -> None:
    from test_rebuild_report import make_audit

    test = make_predictions(60)
    audit = make_audit(test.names, score(test))
    page = report(tmp_path, test, make_predictions(90, seed=1), audit=audit)
    for needed in (
        "Test images known from training",
        "Labels that may be wrong",
        "the same file",
        "altered copies: flipped different labels in training and test",
        "hardly told apart",
        "tiny : 3 by 4 pixels",
        "3.2 times",
        "image size 70.0 %",
        "2 images have a copy. Copies were kept together",
        "bag has 400 images, boot 7",
        "12 more",  # of 30 suspects 18 are drawn
    ):
        assert needed in page.text, needed
    assert all(suspect.name in page.text for suspect in audit.suspects)
    assert HOSTILE in page.text
    assert "<script" not in (tmp_path / "report.html").read_text("utf-8")
    assert all(image["alt"] for image in page.attributes("img"))


def test_an_audit_that_found_nothing_says_what_it_looked_for(tmp_path: Path) -> None:
    test = make_predictions(60)
    page = report(tmp_path, test, test, audit=Audit(images=120))
    assert "Nothing was found. 120 images were searched for copies" in page.text
    assert "What to fix in the data" not in page.text
    assert "searched for copies" not in report(tmp_path, test, test).text


def test_what_to_fix_is_the_gravest_and_at_most_three(tmp_path: Path) -> None:
    from test_rebuild_report import make_audit

    test = make_predictions(60)
    audit = replace(make_audit(test.names), leak=make_leak(test, 40, 59))
    leak, labels, suspects = to_fix(audit, score(test))
    assert leak.replace("\u00a0", " ").startswith(
        "1 test image shows the same as a training image. On the other 59 it is right on"
    )
    assert "under different labels (bag and boot, for one)" in labels
    assert suspects.replace("\u00a0", " ").startswith("30 labels (50.0 %) may be wrong")
    rest = replace(audit, leak=None, copies=audit.copies[1:], suspects=())
    assert [sentence.split("\u00a0")[0][:9] for sentence in to_fix(rest, score(test))] == ["The image", "bag and b", "1"]
    assert to_fix(None, score(test)) == to_fix(Audit(images=60), score(test)) == ()
    nothing_left = replace(audit, leak=Leak(names=test.names, twins=test.names, scores_without=None))
    assert "nothing is left to judge with" in to_fix(nothing_left, score(test))[0]


def tried(folder: Path, test: Predictions | None, crossed: Predictions, **changes: Any) -> str:
    summary = make_summary(folder, test, crossed, **changes)
    content = gather(summary, test=test, cross_validation=crossed, thumbnails={})
    return " ".join(to_try(content)).replace("\u00a0", " ")


def test_what_to_try_follows_from_what_was_measured(tmp_path: Path) -> None:
    test, crossed = make_predictions(381), make_predictions(1524, part="train", seed=1)
    assert "--strategy auto" in tried(tmp_path, test, crossed)
    perfect = make_predictions(3000, noise=0.0)
    assert tried(tmp_path, perfect, perfect) == ""
    assert "about 200 test images would halve that" in tried(tmp_path, make_predictions(50), crossed)
    assert "images of the kind that the test images are" in tried(tmp_path, make_predictions(381, noise=6.0), crossed)
    # One class is answered as its neighbour throughout.
    logits = np.eye(10, dtype=np.float32)[np.where(crossed.targets == 3, 4, crossed.targets)]
    weak = replace(crossed, logits_NK=logits)
    said = tried(tmp_path, None, weak)
    assert "Add images of dress, the weakest class: 0.0 % of its images are found, 100.0 % of the others. It has " in said
    assert f"{int((crossed.targets == 3).sum())} training images." in said


def test_calibration_and_abstention_have_their_place(tmp_path: Path) -> None:
    test = make_predictions(200)
    before = {"nll_before": 0.71, "ece_before": 0.067}
    calibrated = Calibrated(temperature=1.31, **before, nll_after=0.66, ece_after=0.021, images=200, on="test")
    wrong = 200 - round(score(test).accuracy.value * 200)
    rule = AbstainRule(
        max_error=0.05, coverage=None, confidence=0.62, distance=1.84, covered=wilson(188, 200),
        error_answered=wilson(4, 188), error_all=wilson(wrong, 200), on="test",
    )  # fmt: skip
    page = report(tmp_path, test, make_predictions(320, seed=1), calibrated=calibrated, abstain=rule)
    assert "All logits are divided by 1.310, which suits answers for training images" in page.text
    assert "Calibration error (ECE) 6.7 % 2.1 %" in page.text
    said = (
        f'It says "none of these" on 6.0 % of the 200 images of the test, and its error falls from {wrong / 2:.1f} % to 2.1 %'
    )
    assert page.text.count(said) == 2
    assert "set for an error of at most 5.0 % among its answers" in page.text
    assert any("share answered" in (figure["aria-label"] or "") for figure in page.attributes("svg"))
    page = report(tmp_path, test, make_predictions(320, seed=1))
    assert "None of these" not in page.text
    assert "One temperature" not in page.text


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_risk_coverage_curve_is_that_of_every_threshold(multi_label: bool) -> None:
    predictions = make_multi_label(80) if multi_label else make_predictions(80)
    predictions = replace(predictions, logits_NK=predictions.logits_NK.round(1))  # with ties
    sure, wrong = confidences(predictions), ~right(predictions.targets, decisions(predictions))
    expected = [((sure >= t).mean(), wrong[sure >= t].mean()) for t in sorted(set(sure), reverse=True)]
    covered, errors = risk_coverage(predictions)
    np.testing.assert_allclose(np.stack([covered, errors], axis=1), expected, atol=1e-12)
    assert covered[-1] == 1
    assert errors[-1] == pytest.approx(wrong.mean())


def test_the_page_stays_under_five_megabytes_whatever_is_in_it(tmp_path: Path) -> None:
    from test_rebuild_report import make_audit
    from test_report_training import make_history

    names = tuple(f"{i:03d} {'wide' * 62}" for i in range(100))
    rng = np.random.default_rng(0)
    targets = np.repeat(np.arange(100), 51)
    logits = rng.normal(0, 1, (5_100, 100)).astype(np.float32)
    test = Predictions(names=tuple(f"{i}.jpg" for i in range(5_100)), classes=names, logits_NK=logits, targets=targets)
    big = b"\xff\xd8\xff" + bytes(30_000)
    notes = tuple("note " * 400 for _ in range(900))
    history = make_history(epochs=3000, chosen=7)
    page = report(tmp_path, test, test, thumbnails=lambda _: big, audit=make_audit(test.names), notes=notes, history=history)
    size = (tmp_path / "report.html").stat().st_size
    assert 4_900_000 < size <= 5_000_000
    assert len(page.attributes("img")) > 0
    assert "all are in report.json" in page.text


def test_headings_are_in_order_and_tables_say_what_they_are(tmp_path: Path) -> None:
    from test_rebuild_report import make_content

    page = Page(write_report(make_content(tmp_path), tmp_path).page.read_text("utf-8"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.attributes("caption")) == len(page.attributes("table"))
    assert len(page.attributes("main")) == len(page.attributes("header")) == len(page.attributes("footer")) == 1
    assert all("aria-label" in nav for nav in page.attributes("nav"))
    assert page.attributes("html")[0]["lang"] == "en"
    scrolled = [attributes for _, attributes in page.tags if attributes.get("tabindex") == "0"]
    assert all(attributes.get("role") == "region" and attributes.get("aria-label") for attributes in scrolled)
    assert len(page.attributes("summary")) == len(page.attributes("details"))


def luminance(colour: str) -> float:
    """Relative luminance of "#abc", "#aabbcc" or "r g b", as WCAG 2 defines it."""
    digits = colour.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    levels = map(int, colour.split()) if " " in colour else bytes.fromhex(digits)
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (level / 255 for level in levels))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_stands_out_from_its_ground_in_light_dark_and_print() -> None:
    """4.5 to 1, WCAG 2's measure for text."""
    css = (Path(summary_module.__file__).parent / "page.css").read_text()
    schemes = re.findall(r":root \{([^}]*)\}", css)
    assert len(schemes) == 3
    for scheme in schemes:
        colours = {name: value.strip() for name, value in re.findall(r"--([a-z]+): ?([^;]+)", scheme)}
        for ink in ("ink", "soft", "one", "bad"):
            for ground in ("paper", "card"):
                light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground, scheme)
