"""The page, the model card and report.json of a run whose answer is a class for every pixel: like the page of any other run."""

import math
from typing import Any

from regraft.report.card import OWN_CODE, base_model, card_environment, sealed_card, title_of
from regraft.report.figures import intervals_figure, reliability_figure
from regraft.report.html import CLASS_ROWS, EPOCH_ROWS, NOTES, REJECTED_ROWS, TREE_LETTERS, fitted, page_environment, stages
from regraft.report.pictures import Album
from regraft.report.pixel_content import ROLES, PixelReport, Role, colour
from regraft.report.pixel_figures import spread_figure, threshold_figure
from regraft.report.pixel_summary import (
    WHAT,
    leaked_words,
    limits_of,
    mask_words,
    pixel_sentences,
    pixels_to_fix,
    pixels_to_try,
    training_verdict,
)
from regraft.report.text import lines, short
from regraft.report.training import curves_figure, kept, phases, several_rates, share_words
from regraft.segments import BACKGROUND, PixelClassScore, PixelScores
from regraft.values import Interval

IMAGE_ROWS = 200
FINDING_ROWS = 100
CARD_ROWS, CARD_CLASSES = 30, 100


def render_pixels(content: PixelReport) -> str:
    """The page as text, of at most 5 MB: where the rest needs more room, there are fewer pictures."""
    return fitted(lambda letters: _drawn(content, letters))


def pixel_card_of(content: PixelReport) -> str:
    """The model card as Markdown, sealed like every card."""
    return sealed_card(
        card_environment()
        .get_template("pixel_card.md")
        .render(
            content=content,
            scores=content.scores,
            rows=_rows(content.scores),
            sentences=pixel_sentences(content),
            faults=pixels_to_fix(content),
            limits=limits_of(content),
            per_class=_hardest_first(content.scores)[:CARD_ROWS],
            classes=content.scores.classes[:CARD_CLASSES],
            title=title_of(content.run, "A model that answers for every pixel"),
            base_model=base_model(content.backbone, content.weights),
            own_code=content.backbone.startswith(OWN_CODE),
        )
    )


def _drawn(content: PixelReport, letters: int) -> str:
    album = Album({}, letters)
    return (
        page_environment()
        .get_template("pixel_page.html")
        .render(
            content=content,
            scores=content.scores,
            salient=content.scores.kind == "saliency",
            judged="test image" if content.on == "test" else "validation image",
            sentences=pixel_sentences(content),
            to_fix=pixels_to_fix(content),
            to_try=pixels_to_try(content),
            rows=_rows(content.scores),
            intervals=intervals_figure(_ious(content), content.scores.baseline, "Mean IoU"),
            spread=spread_figure(content.images),
            per_class=_hardest_first(content.scores)[:CLASS_ROWS],
            pixels=sum(row.pixels for row in content.scores.per_class),
            images=sorted(content.images, key=lambda image: (math.isnan(image.iou), image.iou, image.name))[:IMAGE_ROWS],
            galleries=_galleries(content, album),
            legend=_legend(content),
            **_audit(content, album),
            **_training(content),
            reliability=reliability_figure(content.reliability, "pixel") if content.reliability else "",
            threshold_figure=threshold_figure(content.threshold) if content.threshold else "",
            stages=stages(content.seconds),
            rejected=content.rejected[:REJECTED_ROWS],
            notes=content.notes[:NOTES],
            tree=short(lines(content.tree), TREE_LETTERS),
        )
    )


def _ious(content: PixelReport) -> tuple[tuple[str, Interval], ...]:
    rows: list[tuple[str, Interval]] = [(content.on, content.scores.iou)]
    if content.validation is not None and content.on == "test":
        rows.append(("validation", content.validation.iou))
    if content.probe is not None:
        rows.append(("probe alone", content.probe))
    return tuple(row for row in rows if not math.isnan(row[1].value))


def _rows(scores: PixelScores) -> tuple[tuple[str, Interval, str], ...]:
    """Every score of the whole with its interval and what it means."""
    salient = scores.kind == "saliency"
    over = "images" if salient else "classes"
    rows = [
        ("Mean IoU", scores.iou, f"shared pixels of those of either, mean over {over}"),
        ("Mean Dice", scores.dice, f"twice the shared pixels over those of both, mean over {over}"),
        ("Boundary F", scores.boundary_f, f"agreement of outlines, mean over {over}"),
        ("Pixel accuracy", scores.pixel_accuracy, "share of all pixels that are right"),
        ("Pooled IoU", scores.pooled_iou, "over all pixels of all images" + (", of the object" if salient else " and classes")),
    ]
    if scores.f_measure is not None:
        rows.append(("F-measure", scores.f_measure, "precision and recall of the object, beta squared 0.3"))
    if scores.mae is not None:
        rows.append(("Mean absolute error", scores.mae, "of the probabilities; smaller is better"))
    return tuple(rows)


def _hardest_first(scores: PixelScores) -> list[PixelClassScore]:
    return sorted(scores.per_class, key=lambda row: (math.isnan(row.iou.value), row.iou.value, row.name))


def _galleries(content: PixelReport, album: Album) -> list[tuple[str, list[Any]]]:
    """The worst, the middle and the best images with their pictures, where there are any."""
    shown: list[tuple[str, list[Any]]] = [(ROLES[role], _sets(content, role, album)) for role in ROLES if role != "disagrees"]
    return [(title, sets) for title, sets in shown if sets]


def _sets(content: PixelReport, role: Role, album: Album) -> list[Any]:
    """Each set of pictures as data URIs, whole or not at all."""
    found = []
    for one in content.pictures:
        if one.role == role:
            sources = [album.drawn(part) for part in (one.image, one.truth, one.answer)]
            if all(sources):
                found.append((one, sources))
    return found


def _legend(content: PixelReport) -> list[tuple[str, str]]:
    """Names and colours of the classes on the pictures; a first class "background" stays there as the image shows it."""
    if len(content.colours) != len(content.scores.classes):
        return []
    pairs = list(zip(content.scores.classes, map(colour, content.colours), strict=True))
    pairs = pairs[1:] if pairs and pairs[0][0].casefold() == BACKGROUND else pairs
    return [(name, shade) for name, shade in pairs if shade]


def _audit(content: PixelReport, album: Album) -> dict[str, Any]:
    return {
        "leak_words": leaked_words(content),
        "across": [one for one in content.copies if one.across_parts][:FINDING_ROWS],
        "twice": [one for one in content.copies if not one.across_parts][:FINDING_ROWS],
        "twice_all": sum(not one.across_parts for one in content.copies),
        "odd_masks": [one for one in content.masks if one.what != "disagrees"][:FINDING_ROWS],
        "far_masks": [one for one in content.masks if one.what == "disagrees"][:FINDING_ROWS],
        "mask_words": mask_words(content),
        "far_sets": _sets(content, "disagrees", album),
        "what": WHAT,
    }


def _training(content: PixelReport) -> dict[str, Any]:
    history = content.history
    if history is None:
        return {"history": None}
    return {
        "history": history,
        "curves": curves_figure(history, content.measure),
        "epochs": history.epochs[-EPOCH_ROWS:],
        "kept": kept,
        "verdict": training_verdict(history, content.measure),
        "share_words": share_words(history),
        "phases": phases(history),
        "several_rates": several_rates(history),
    }
