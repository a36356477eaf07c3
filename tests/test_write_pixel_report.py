"""The report of a run that answers for every pixel: what it says, that it holds everything itself, and comes back as it was."""

import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from test_rebuild_report import same, sealed
from test_score_pixels import counted, pairs
from test_write_card import HOSTILE_CLASSES, rendered
from test_write_report import HOSTILE, Page

from regraft.errors import SavedModelRefused
from regraft.evaluate.calibration import ReliabilityBin
from regraft.evaluate.pixel_scores import image_scores, score_pixels
from regraft.evaluate.pixel_threshold import THRESHOLDS, ThresholdChoice
from regraft.findings import Copies
from regraft.report import PixelPictures, PixelReport, rebuild_report, write_pixel_report
from regraft.report.pixel_content import pixel_twin_of, read_pixel_twin
from regraft.report.pixel_page import pixel_card_of, render_pixels
from regraft.report.pixel_summary import pixel_sentences, pixels_to_fix, pixels_to_try
from regraft.segments import MaskFinding, PixelCalibrated
from regraft.values import Epoch, History, Interval, Rejected

NAN = float("nan")


def png(side: int = 8) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (side, side), (90, 120, 150)).save(buffer, "PNG")
    return buffer.getvalue()


def make_history() -> History:
    epoch = Epoch(
        number=1, loss=math.inf, accuracy=NAN, validation_loss=0.6, validation_accuracy=0.8, tempered_loss=0.6, rate=1e-3,
        seconds=2.0, lowest_rate=1e-5,
    )  # fmt: skip
    accuracy = Interval(value=0.93, low=0.91, high=0.95, n=12)
    return History(
        what="the decoder", train=40, validation=12, start_loss=0.7, start_accuracy=0.7, start_tempered=0.7,
        epochs=(epoch, replace(epoch, number=2, loss=0.1 + 0.2)), chosen=2, accuracy=accuracy,
        solved=replace(accuracy, value=0.9), gain=0.03, gain_se=0.01,
    )  # fmt: skip


def make(run: Path, kind: Any = "semantic", classes: tuple[str, ...] = ("sky", "tree", "road"), **changes: Any) -> PixelReport:
    """A content with every field set."""
    if kind == "saliency":
        classes = ("background", "object")
    counts = replace(counted(pairs(9, len(classes), seed=2), len(classes), kind), classes=classes)
    scores = score_pixels(counts, draws=200)
    copies = Copies(names=("0.png", "7.png"), labels=("", ""), parts=("test", "train"), sameness="altered", change="flipped")
    whole: dict[str, Any] = {
        "probe": Interval(value=0.31, low=0.2, high=0.4, n=9),
        "weights": "timm a1_in1k",
        "validation": replace(scores, iou=replace(scores.iou, value=scores.iou.value + 0.01)),
        "history": make_history(),
        "calibrated": PixelCalibrated(
            temperature=1.3, on="validation", images=12, pixels=24_000, nll_before=0.4, nll_after=0.3, ece_before=0.06,
            ece_after=0.02,
        ),
        "reliability": (
            ReliabilityBin(low=0.4, high=0.46, confidence=0.44, accuracy=Interval(value=0.4, low=0.3, high=0.5, n=1200)),
            ReliabilityBin(low=0.93, high=1.0, confidence=0.97, accuracy=Interval(value=0.95, low=0.9, high=1.0, n=9000)),
        ),
        "threshold": None if kind == "semantic" else ThresholdChoice(
            threshold=THRESHOLDS[150], on="validation", images=12, iou=0.81, iou_at_half=0.78,
            curve=tuple(0.8 * math.sin(math.pi * t) for t in THRESHOLDS),
        ),
        "pictures": tuple(
            PixelPictures(name=f"{i}.png", role=role, iou=0.1 * i, image=png(), truth=png(9), answer=png(10))
            for i, role in enumerate(("best", "median", "worst", "disagrees"))
        ),
        "colours": ("#000000", "#1f6a96", "#ba6a16")[: len(classes)],
        "searched": 60,
        "copies": (copies, replace(copies, names=("1.png", "2.png"), parts=("train", "train"))),
        "masks": (
            MaskFinding(name="3.png", path=Path("masks/3.png"), what="empty", share=1.0),
            MaskFinding(name="4.png", path=Path("masks/4\udcff.png"), what="disagrees", share=0.42),
        ),
        "without_copies": replace(scores, iou=replace(scores.iou, n=8)),
        "rejected": (Rejected(path=Path("a\udcff.jpg"), name="a\udcff.jpg", code="no_mask", reason="no mask of that name"),),
        "notes": ("2 masks have no image",),
        "tree": "photos/\n  60 images",
        "versions": {"regraft": "0.1.0"},
    } | changes  # fmt: skip
    return PixelReport(
        run=run, backbone="timm:resnet18", decoder="unet", strategy="partial:2", loss="ce+dice", train=52, test=9,
        scores=scores, on="test", images=image_scores(counts), mask_map=("0: sky", "255: ignored"),
        split="A tenth of the images is the test set.", command="regraft fit photos/ --masks masks/",
        seconds={"features": 3.0, "total": 5.0}, **whole,
    )  # fmt: skip


def page_of(content: PixelReport) -> Page:
    page = Page(render_pixels(content))
    assert page.stack == []
    return page


@pytest.mark.parametrize("kind", ["saliency", "semantic"])
def test_it_says_how_good_how_sure_and_what_is_wrong(tmp_path: Path, kind: str) -> None:
    content = make(tmp_path / "stamps", kind)
    iou, page = content.scores.iou, page_of(content)
    said = f"{100 * iou.value:.1f} % on 9 images that were never used for any choice"
    assert f"{said} (95 % interval {100 * iou.low:.1f} to {100 * iou.high:.1f} %)." in page.text
    assert f"The best fixed answer, one class for every pixel, would have {100 * content.scores.baseline:.1f} %" in page.text
    for needed in (
        "which training began with, has 31.0 % on the same images: training brought",
        "the two agree within chance",
        "1 test image shows the same as a training image. On the other 8",
        "1 far from the answer of a model that had not seen it, 1 nothing but background",
        "Training did better than the solved per-pixel probe: pixels right 93.0 % against 90.0 %",
        "58.0 %",
        "255: ignored",
        "the loss ce+dice",
        "no mask of that name",
        "divided by 1.300",
        "regraft fit photos/ --masks masks/",
        "2 masks have no image",
        "a\\udcff.jpg",
    ):
        assert needed in page.text, needed
    assert all(image.name in page.text for image in content.images)
    for row in content.scores.per_class:
        assert f"{100 * row.iou.low:.1f} to {100 * row.iou.high:.1f} %" in page.text
    assert ("called the object from a probability of 0.590" in page.text) == (kind == "saliency")
    assert ("Mean absolute error" in page.text) == (content.scores.mae is not None)


def test_without_a_test_it_claims_none_and_says_what_chose(tmp_path: Path) -> None:
    whole = make(tmp_path, "saliency", validation=None, copies=(), masks=(), without_copies=None)
    content = replace(whole, on="validation")
    page = page_of(content)
    assert "never used for any choice" not in page.text
    assert "these chose the epoch and the threshold" in page.text
    assert "no test images" in page.text
    assert "Nothing was found." in page.text
    assert "never used for any choice" not in pixel_card_of(content)
    bare = replace(content, searched=0, history=None, calibrated=None, reliability=(), threshold=None, pictures=(), probe=None)
    page = page_of(bare)
    assert "were not searched" in page.text
    assert not {"Training", "Calibration", "Threshold", "Best and worst"} & set(page.words)


def test_a_poor_result_is_told_as_such(tmp_path: Path) -> None:
    content = make(tmp_path)
    scores = replace(content.scores, iou=Interval(value=0.2, low=0.1, high=0.3, n=9), baseline=0.15)
    poor = replace(content, scores=scores, strategy="head", history=replace(make_history(), gain=-0.05, gain_se=0.01))
    told = " ".join(pixel_sentences(poor))
    assert "not clearly better than the best fixed answer" in told
    assert "Training did worse" in page_of(poor).text
    tried = " ".join(pixels_to_try(poor))
    assert "--strategy partial:2" in tried
    assert "about 36\u00a0test images" in tried or "about 36 test images" in tried
    assert len(pixels_to_fix(poor)) == 3
    assert "not clearly better" in pixel_card_of(poor)


def test_nothing_is_fetched_and_every_picture_has_its_text(tmp_path: Path) -> None:
    for kind in ("saliency", "semantic"):
        content = make(tmp_path, kind)
        page = page_of(content)
        assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
        for tag, attributes in page.tags:
            for name, value in attributes.items():
                assert not name.startswith("on"), (tag, name)
                if name in ("src", "href", "xlink:href", "srcset"):
                    assert (value or "").startswith(("data:image/", "#")), (tag, value)
        assert "http" not in re.sub("http-equiv", "", render_pixels(content))
        places = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(places) == len(set(places))
        assert all((link["href"] or "")[1:] in places for link in page.attributes("a"))
        images = page.attributes("img")
        assert len(images) == 12
        assert images[0]["alt"] == "the image: 2.png"
        assert all(figure["aria-label"] and figure["role"] == "img" for figure in page.attributes("svg"))
        assert len(page.attributes("h1")) == 1
        assert all(header.get("scope") in ("row", "col") for header in page.attributes("th"))


def test_figures_are_well_formed_and_stay_inside(tmp_path: Path) -> None:
    figures = re.findall(r"<svg.*?</svg>", render_pixels(make(tmp_path, "saliency")), re.DOTALL)
    assert len(figures) == 5  # intervals, spread, reliability, threshold, curves
    for root in map(ET.fromstring, figures):
        width, height = map(float, (root.get("viewBox") or "").split()[2:])
        for node in root.iter("circle"):
            assert 0 <= float(node.get("cx", -1)) <= width
            assert 0 <= float(node.get("cy", -1)) <= height
        for node in root.iter("rect"):
            assert float(node.get("height", -1)) >= 0


def test_names_from_the_data_cannot_become_markup(tmp_path: Path) -> None:
    content = make(tmp_path, classes=(*HOSTILE_CLASSES[:2], HOSTILE_CLASSES[7]))
    everywhere = dict.fromkeys(("backbone", "decoder", "strategy", "loss", "split", "command", "tree", "measure"), HOSTILE)
    hurt = replace(
        content,
        **everywhere,
        mask_map=(HOSTILE,),
        notes=(HOSTILE,),
        versions={HOSTILE: HOSTILE},
        rejected=(Rejected(path=Path("x"), name=HOSTILE, code=HOSTILE, reason=HOSTILE),),
        colours=("#1f6a96;} body{display:none", "#1f6a96", "url(//x)"),
        images=tuple(replace(image, name=f"{HOSTILE}{image.name}") for image in content.images),
        masks=tuple(replace(mask, name=HOSTILE, what=HOSTILE) for mask in content.masks),
        copies=tuple(replace(one, names=(HOSTILE, "b\u202e")) for one in content.copies),
        pictures=(*content.pictures, replace(content.pictures[0], name=HOSTILE, image=b"<svg onload=x>")),
        calibrated=replace(content.calibrated, on=HOSTILE) if content.calibrated else None,
    )
    text = render_pixels(hurt)
    page = Page(text)
    assert "<script" not in text
    assert "\u202e" not in text
    assert "display:none" not in text.replace("details:not([open]) { display: none", "")
    assert "url(" not in text
    assert page.text.count(HOSTILE) >= 20
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    card = pixel_card_of(hurt)
    assert set(re.findall(r"<(\w+)", rendered(card))) <= {
        "h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "pre", "code"
    }  # fmt: skip
    assert yaml.safe_load(card.split("\n---\n", 1)[0].removeprefix("---\n"))["pipeline_tag"] == "image-segmentation"


def test_hubs_can_read_the_cards_metadata(tmp_path: Path) -> None:
    content = make(tmp_path / "stamps")
    data = ModelCard(pixel_card_of(content)).data
    assert (data.library_name, data.pipeline_tag, data.base_model) == ("regraft", "image-segmentation", "timm/resnet18.a1_in1k")
    assert [(one.metric_type, one.metric_value) for one in data.eval_results or ()] == [("mean_iou", content.scores.iou.value)]


@pytest.mark.parametrize("kind", ["saliency", "semantic"])
def test_the_page_drawn_again_is_the_same_byte_for_byte(tmp_path: Path, kind: str) -> None:
    content = make(tmp_path, kind)
    write_pixel_report(content, tmp_path)
    assert same(read_pixel_twin(tmp_path / "report.json"), content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"README.md", "report.html", "report.json"}
    (tmp_path / "report.html").unlink()
    assert rebuild_report(tmp_path).notes == ()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    mine = before["README.md"].replace(b"license: unknown", b"license: mit")
    (tmp_path / "README.md").write_bytes(mine)
    assert "changed by hand" in rebuild_report(tmp_path).notes[0]
    assert (tmp_path / "README.md").read_bytes() == mine


def test_it_is_drawn_again_without_torch(tmp_path: Path) -> None:
    write_pixel_report(make(tmp_path), tmp_path)
    code = (
        "import sys\nfrom regraft.cli.main import main\ncode = main(['report', sys.argv[1]])\n"
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules), 'torch'\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_damage_and_foreign_contents_are_refused(tmp_path: Path) -> None:
    content, path = make(tmp_path), tmp_path / "report.json"
    whole = pixel_twin_of(content)
    for at in np.random.default_rng(0).integers(40, len(whole), 20):
        for text in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(text)
            with pytest.raises(SavedModelRefused):
                rebuild_report(tmp_path)
    for change, match in (
        (lambda d: d.update(version=2), "version 2"),
        (lambda d: d.update(more=1), "unknown part"),
        (lambda d: d["report"].update(more=1), "unknown field"),
        (lambda d: d["report"].pop("scores"), "no field 'scores'"),
        (lambda d: d["report"].update(on="train"), r"report\.on"),
        (lambda d: d["report"]["scores"].update(classes=["a"]), "same classes"),
        (lambda d: d["report"]["pictures"][0].update(image="no base64!"), "base64"),
    ):
        described = json.loads(whole)
        change(described)
        path.write_bytes(sealed(described))
        with pytest.raises(SavedModelRefused, match=match):
            rebuild_report(tmp_path)


def test_it_never_grows_beyond_five_megabytes(tmp_path: Path) -> None:
    heavy = b"\x89PNG\r\n\x1a\n" + bytes(180_000)
    pictures = tuple(
        PixelPictures(name=f"{i}.png", role="best", iou=0.5, image=heavy, truth=heavy, answer=heavy) for i in range(12)
    )
    content = replace(make(tmp_path), pictures=pictures)
    files = write_pixel_report(content, tmp_path)
    page = Page(files.page.read_text("utf-8"))
    assert files.page.stat().st_size < 5_000_000
    assert len(page.attributes("img")) == 15  # five whole sets of three
    assert files.twin.stat().st_size < 5_000_000
