"""Writes a run's report: the page, its machine-readable twin, the model card; and draws them again from what is in the run."""

from dataclasses import dataclass
from pathlib import Path

from regraft.errors import SavedModelRefused, UsageError
from regraft.evaluate.table import read_predictions
from regraft.replacing import replacing
from regraft.report.card import card_of, is_edited
from regraft.report.content import ReportContent
from regraft.report.html import render
from regraft.report.pixel_content import PixelReport, is_pixel_twin, pixel_twin_of, read_pixel_twin, within_budget
from regraft.report.pixel_page import pixel_card_of, render_pixels
from regraft.report.twin import AGAIN, read_twin, twin_of

PAGE, TWIN, CARD, TABLE = "report.html", "report.json", "README.md", "predictions.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFiles:
    """What was written: the page, its twin and the model card. `notes` are things a person should know of it."""

    page: Path
    twin: Path
    card: Path
    notes: tuple[str, ...] = ()


def write_report(content: ReportContent, folder: Path) -> ReportFiles:
    """Write report.json, report.html and README.md to `folder`, each to a temporary name that is then renamed.

    Raises OutOfSpace or UsageError where a file cannot be written.
    """
    _replace(folder / TWIN, twin_of(content))
    _replace(folder / PAGE, _encoded(render(content)))
    _replace(folder / CARD, _encoded(card_of(content)))
    return ReportFiles(page=folder / PAGE, twin=folder / TWIN, card=folder / CARD)


def write_pixel_report(content: PixelReport, folder: Path) -> ReportFiles:
    """`write_report` for a run whose answer is a class for every pixel; pictures beyond the budget are left out.

    Raises OutOfSpace or UsageError where a file cannot be written.
    """
    content = within_budget(content)
    _replace(folder / TWIN, pixel_twin_of(content))
    _replace(folder / PAGE, _encoded(render_pixels(content)))
    _replace(folder / CARD, _encoded(pixel_card_of(content)))
    return ReportFiles(page=folder / PAGE, twin=folder / TWIN, card=folder / CARD)


def rebuild_report(run: str | Path) -> ReportFiles:
    """Draw report.html and README.md of the run folder `run` again, from its report.json and, of labels, predictions.parquet.

    Nothing else is needed: neither the model, nor the images, nor torch. A model card that was changed by hand is left as it
    is, with a note. Raises UsageError where there is no such folder or a file cannot be written, SavedModelRefused where the
    run is of a version that wrote no report.json, or damaged.
    """
    folder = Path(run)
    if not folder.is_dir():
        fix = "give the folder of a run, such as runs/photos"
        raise UsageError(expected="the folder of a run", got=f"{folder}: no such folder", fix=fix)
    page, card = _drawn_again(folder)
    _replace(folder / PAGE, _encoded(page))
    files = ReportFiles(page=folder / PAGE, twin=folder / TWIN, card=folder / CARD)
    if is_edited(folder / CARD):
        note = f"{folder / CARD} was changed by hand and is left as it is; to have it written anew, delete it first"
        return ReportFiles(page=files.page, twin=files.twin, card=files.card, notes=(note,))
    _replace(folder / CARD, _encoded(card))
    return files


def _drawn_again(folder: Path) -> tuple[str, str]:
    """The page and the card, by what report.json says that it is of."""
    if is_pixel_twin(folder / TWIN):
        of_pixels = read_pixel_twin(folder / TWIN)
        return render_pixels(of_pixels), pixel_card_of(of_pixels)
    content = _content_of(folder)
    return render(content), card_of(content)


def _content_of(folder: Path) -> ReportContent:
    if not (folder / TWIN).exists():
        raise SavedModelRefused(
            expected=f"{TWIN} in {folder}, from which a report is drawn again",
            got="no such file: the run is of an earlier version, or its fit was interrupted",
            fix=AGAIN,
        )
    parts = read_predictions(folder / TABLE)
    test = parts.pop("test", None)
    if len(parts) != 1:
        raise SavedModelRefused(
            expected="the predictions of a run, with one part that is no test",
            got=f"{folder / TABLE}: {len(parts)} such parts",
            fix="copy the whole run folder again from where it was made, or fit again",
        )
    (cross_validation,) = parts.values()
    return read_twin(folder / TWIN, test=test, cross_validation=cross_validation)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
