"""What the report of a run is drawn from where every pixel has an answer: one frozen value, and report.json that holds it."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from regraft.artifact.files import open_regular, refusal
from regraft.errors import SavedModelRefused
from regraft.evaluate.calibration import ReliabilityBin
from regraft.evaluate.pixel_scores import ImageScore
from regraft.evaluate.pixel_threshold import ThresholdChoice
from regraft.findings import Copies
from regraft.report.codec import of_plain, to_plain
from regraft.report.pictures import PICTURE_BYTES, is_picture
from regraft.report.twin import AGAIN, read_sealed, sealed
from regraft.segments import MaskFinding, PixelCalibrated, PixelScores
from regraft.values import History, Interval, Rejected

FORMAT, VERSION = "regraft-pixel-report", 1
_START = b'{"format":"' + FORMAT.encode() + b'"'
Role = Literal["best", "median", "worst", "disagrees"]
ROLES: dict[Role, str] = {"worst": "Worst", "median": "In the middle", "best": "Best", "disagrees": "Disagree"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelPictures:
    """An image, its mask and the answer for it, side by side: three PNG (JPEG, GIF, WebP) pictures of one size.

    `role` says why it is shown: "best", "median" and "worst" of the images of the headline; "disagrees": an image whose mask
    is far from the answer of a model that had not seen it.
    """

    name: str
    role: Role
    iou: float
    image: bytes
    truth: bytes
    answer: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelReport:
    """All that the page shows.

    `scores` are of the headline: of test images, or of validation images `on` which something was chosen where none were held
    out; `images` the scores of each of these, in any order. `validation` are those of the validation images beside a test.
    `probe` is the IoU of the solved per-pixel probe alone on the images of the headline. `measure` names the share that
    `history` has as accuracy ("mean IoU"). `mask_map` are the lines that say how files of masks were read. `colours`
    ("#1f6a96") are those of the classes in the pictures. `searched` images were searched for `copies`, `masks` are those to
    look at; `without_copies` scores the test images that show nothing known from training. `reliability` is of the headline's
    pixels.
    """

    run: Path
    backbone: str
    decoder: str
    strategy: str
    loss: str
    train: int
    test: int
    scores: PixelScores
    on: Literal["test", "validation"]
    images: tuple[ImageScore, ...]
    mask_map: tuple[str, ...]
    split: str
    command: str
    seconds: dict[str, float]
    versions: dict[str, str] = field(default_factory=dict)
    weights: str = ""
    validation: PixelScores | None = None
    probe: Interval | None = None
    history: History | None = None
    measure: str = "pixels right"
    calibrated: PixelCalibrated | None = None
    reliability: tuple[ReliabilityBin, ...] = ()
    threshold: ThresholdChoice | None = None
    pictures: tuple[PixelPictures, ...] = ()
    colours: tuple[str, ...] = ()
    searched: int = 0
    copies: tuple[Copies, ...] = ()
    masks: tuple[MaskFinding, ...] = ()
    without_copies: PixelScores | None = None
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()
    tree: str = ""


def within_budget(content: PixelReport) -> PixelReport:
    """The same with as many of its pictures, from the first on, as a report holds; only whole sets of real pictures."""
    kept, left = [], PICTURE_BYTES
    for one in content.pictures:
        parts = (one.image, one.truth, one.answer)
        size = sum(map(len, parts))
        if size <= left and all(map(is_picture, parts)):
            kept.append(one)
            left -= size
    return replace(content, pictures=tuple(kept))


def colour(text: str) -> str:
    """A colour as a page may have it, else empty."""
    return text if re.fullmatch(r"#[0-9a-fA-F]{6}", text) else ""


def pixel_twin_of(content: PixelReport) -> bytes:
    """The bytes of report.json."""
    return sealed({"format": FORMAT, "version": VERSION, "report": to_plain(content)})


def is_pixel_twin(path: Path) -> bool:
    """Whether a report.json begins as one of these; False where it is damaged, which reading it will tell."""
    try:
        with open_regular(path, "report.json") as file:
            return file.read(min(file.size, len(_START))) == _START
    except SavedModelRefused:
        return False


def read_pixel_twin(path: Path) -> PixelReport:
    """What `pixel_twin_of` wrote. Raises SavedModelRefused where it is missing, damaged, or of another version."""
    described = read_sealed(path, FORMAT, VERSION)
    if unknown := sorted(described.keys() - {"format", "version", "checksum", "report"}):
        raise refusal(path, expected=f"version {VERSION} of {FORMAT}", got=f"the unknown part {unknown[0][:40]!r}", fix=AGAIN)
    try:
        content = of_plain(PixelReport, described["report"], "report")
    except (ValueError, KeyError) as error:
        raise refusal(path, expected="a report written by regraft", got=f"a damaged one: {error}", fix=AGAIN) from None
    assert isinstance(content, PixelReport)
    _check_classes(path, content)
    return content


def _check_classes(path: Path, content: PixelReport) -> None:
    every = [scores for scores in (content.scores, content.validation, content.without_copies) if scores is not None]
    named = [tuple(row.name for row in scores.per_class) for scores in every]
    if {scores.classes for scores in every} | set(named) != {content.scores.classes}:
        raise refusal(path, expected="scores of the same classes throughout", got="scores of others", fix=AGAIN)
