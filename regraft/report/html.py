"""The page: one HTML text with everything in it. It fetches nothing, runs no script, and holds no name unescaped."""

import re
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from regraft.evaluate import ECE_BINS, Mistake, mistakes, reliability
from regraft.evaluate.calibration import chance_calibration_error
from regraft.evaluate.metrics import precision_interval, recall_interval
from regraft.report import text
from regraft.report.abstention import abstain_words, answers_where, asked_words, coverage_figure
from regraft.report.advice import to_fix, to_try
from regraft.report.audited import audit_context
from regraft.report.compared import auto_verdict, gain_words, judgement, outcome, rule_words, spent
from regraft.report.confusion import MAP_CLASSES, confusion_map, confusion_rows
from regraft.report.content import MISTAKES, ReportContent
from regraft.report.figures import SERIES, intervals_figure, reliability_figure
from regraft.report.learning import learning_curve_figure, learning_curve_words
from regraft.report.pictures import Album
from regraft.report.regularisation import at_edge, feature_sets, is_chosen, regularisation_figure
from regraft.report.summary import Confusion, confusions, sentences
from regraft.report.training import curves_figure, kept, phases, several_rates, share_words
from regraft.values import ClassScore, Predictions, RunSummary

PAGE_BYTES = 5_000_000  # at most: it goes by mail, and opens at once on a telephone
ALBUM_LETTERS = 4_200_000  # of pictures, where the rest of the page leaves room
CONFUSIONS = 12
CLASS_ROWS = 1000
REJECTED_ROWS = 200
NOTES = 200
EPOCH_ROWS = 1000
TREE_LETTERS = 20_000


def render(content: ReportContent) -> str:
    """The page as text, of at most 5 MB: where the rest needs more room, there are fewer pictures."""
    return fitted(lambda letters: _drawn(content, letters))


def fitted(drawn: Callable[[int], str]) -> str:
    """What `drawn` makes with so many letters of pictures that it is no page of more than 5 MB."""
    page = drawn(ALBUM_LETTERS)
    excess = len(page.encode("utf-8", "backslashreplace")) - PAGE_BYTES
    return page if excess <= 0 else drawn(max(0, _letters_of_pictures(page) - excess))


def _letters_of_pictures(page: str) -> int:
    return sum(len(source) for source in re.findall(r'src="(data:[^"]*)"', page))


def _drawn(content: ReportContent, letters: int) -> str:
    summary, shown, scores = content.summary, content.headline, content.scores
    album = Album(content.thumbnails, letters)
    return (
        page_environment()
        .get_template("page.html")
        .render(
            summary=summary,
            scores=scores,
            multi_label=shown.multi_label,
            grouped=shown.groups is not None,
            sentences=sentences(summary, shown),
            to_fix=to_fix(content.audit, summary.test_scores),
            to_try=to_try(content),
            **_training(content, album),
            **_mistakes(content, album),
            **audit_context(content, album),
            **_calibration(shown),
            **_abstention(content),
            **_learning(summary),
            **_regularisation(summary),
            **_compared(summary),
            intervals=intervals_figure(_accuracies(summary), scores.baseline),
            stages=stages(summary.seconds),
            rejected=summary.rejected[:REJECTED_ROWS],
            notes=summary.notes[:NOTES],
            tree=text.short(text.lines(summary.tree), TREE_LETTERS),
        )
    )


def page_environment() -> Environment:
    """Templates of pages: what they are given is escaped, and a name that nobody gave is an error."""
    environment = Environment(
        loader=PackageLoader("regraft.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    names = ("percent", "span", "count", "counted", "seconds", "figure", "power", "plain", "lines", "short", "ends")
    environment.filters.update({name: getattr(text, name) for name in names})
    return environment


def _accuracies(summary: RunSummary) -> tuple[tuple[str, Any], ...]:
    crossed = (summary.judged_by, summary.cross_validation.accuracy)
    return (crossed,) if summary.test_scores is None else (("test", summary.test_scores.accuracy), crossed)


def _mistakes(content: ReportContent, album: Album) -> dict[str, Any]:
    scores, taken_for = content.scores, dict[str, Confusion]()
    for confusion in confusions(scores, len(scores.classes) ** 2):
        taken_for.setdefault(confusion.truth, confusion)
    rows = [_mistake_row(mistake, content, album) for mistake in mistakes(content.headline, MISTAKES)]
    hardest = sorted(scores.per_class, key=_hardest_first)
    return {
        "mistakes": rows,
        "any_picture": any(source for _, source, _ in rows),
        "overlay_words": content.overlays.words if content.overlays and any(overlay for _, _, overlay in rows) else "",
        "wrong": scores.n - round(scores.accuracy.value * scores.n),
        "confusion_rows": confusion_rows(scores),
        "confusion_map": confusion_map(scores),
        "map_classes": MAP_CLASSES,
        "confusions": confusions(scores, CONFUSIONS),
        "per_class": hardest[:CLASS_ROWS],
        "recall_interval": recall_interval,
        "precision_interval": precision_interval,
        "taken_for": taken_for,
    }


def _mistake_row(mistake: Mistake, content: ReportContent, album: Album) -> tuple[Mistake, str, str]:
    """The mistake, its picture and what the answer was made from; either may be empty."""
    overlay = content.overlays.pictures.get(mistake.name) if content.overlays else None
    return mistake, album.take(mistake.name), album.drawn(overlay)


def _hardest_first(row: ClassScore) -> tuple[bool, float, str]:
    return (row.f1 != row.f1, row.f1, row.name)


def _calibration(shown: Predictions) -> dict[str, Any]:
    bins = reliability(shown)
    return {
        "bins": bins,
        "ece_bins": ECE_BINS,
        "chance_ece": chance_calibration_error(shown),
        "reliability": reliability_figure(bins, "label" if shown.multi_label else "answer"),
    }


def _abstention(content: ReportContent) -> dict[str, Any]:
    rule = content.summary.abstain
    if rule is None:
        return {"rule": None}
    on = content.test if rule.on == "test" and content.test else content.cross_validation
    figure = coverage_figure(rule, on)
    return {"rule": rule, "abstain_words": abstain_words(rule), "asked_words": asked_words(rule), "coverage": figure} | {
        "answers_where": answers_where(rule)
    }


def _learning(summary: RunSummary) -> dict[str, Any]:
    curve = summary.learning
    if curve is None:
        return {"learning_words": "", "learning_curve": None}
    return {"learning_words": learning_curve_words(curve), "learning_curve": learning_curve_figure(curve)}


def _regularisation(summary: RunSummary) -> dict[str, Any]:
    head = summary.head
    return {
        "regularisation": regularisation_figure(head),
        "series": list(zip(feature_sets(head), SERIES * len(head.tried), strict=False)),
        "at_edge": at_edge(head),
        "is_chosen": is_chosen,
    }


def _training(content: ReportContent, album: Album) -> dict[str, Any]:
    summary, history, augmented = content.summary, content.summary.history, content.augmented
    sheet = {"augmented": augmented, "sheet": album.drawn(augmented.sheet) if augmented else "", "history": history}
    if history is None:
        return sheet
    return sheet | {
        "curves": curves_figure(history),
        "epochs": history.epochs[-EPOCH_ROWS:],
        "kept": kept,
        "judgement": judgement(summary),
        "share_words": share_words(history),
        "phases": phases(history),
        "several_rates": several_rates(history),
    }


def _compared(summary: RunSummary) -> dict[str, Any]:
    return {
        "auto_verdict": auto_verdict(summary),
        "gain_words": gain_words,
        "outcome": outcome,
        "rule_words": rule_words(summary.rule) if summary.rule else "",
        "spent": spent,
    }


def stages(seconds: dict[str, float]) -> list[tuple[str, float, float]]:
    """Name, seconds and share of the longest for each stage; what the stages leave of the total is a stage of its own."""
    named = [(name, value) for name, value in seconds.items() if name != "total"]
    rest = seconds.get("total", 0.0) - sum(value for _, value in named)
    if named and rest > 0.01 * seconds["total"]:
        named.append(("everything else", rest))
    longest = max((value for _, value in named), default=0.0) or 1.0
    return [(name, value, value / longest) for name, value in named]
