"""The report: one HTML file with everything in it. It fetches nothing, runs no script, and holds no name unescaped."""

import os
import uuid
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from regraft.evaluate import ECE_BINS, mistakes, reliability
from regraft.evaluate.calibration import chance_calibration_error
from regraft.evaluate.metrics import precision_interval, recall_interval
from regraft.evaluate.table import cannot_write
from regraft.report import text
from regraft.report.compared import auto_verdict, gain_words, judgement, outcome, rule_words, spent
from regraft.report.confusion import MAP_CLASSES, confusion_map, confusion_rows
from regraft.report.figures import SERIES, intervals_figure, reliability_figure
from regraft.report.pictures import BUDGET, Thumbnails, data_uri, pictured
from regraft.report.regularisation import at_edge, feature_sets, is_chosen, regularisation_figure
from regraft.report.summary import Confusion, confusions, sentences
from regraft.report.training import curves_figure, kept, phases, several_rates, share_words
from regraft.values import Augmented, ClassScore, Predictions, RunSummary, Scores

PICTURES = 24
CONFUSIONS = 12
REJECTED_ROWS = 200
TREE_LETTERS = 20_000


def write_report(
    summary: RunSummary,
    *,
    test: Predictions | None,
    cross_validation: Predictions,
    thumbnails: Thumbnails,
    out: Path,
    augmented: Augmented | None = None,
) -> Path:
    """Write the page to `out` (to a temporary name, then renamed) and return it.

    The headline is on `test`, or on `cross_validation` where that is None; both must carry their targets. `thumbnails` gives
    the PNG, JPEG, GIF or WebP bytes for an image's name, as a mapping or a function; it is asked for the shown mistakes only.
    `augmented` is what augmentation made of a few images. Raises OutOfSpace or UsageError where the file cannot be written.
    """
    shown = cross_validation if test is None else test
    page = render(summary, shown=shown, thumbnails=thumbnails, augmented=augmented)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(page.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        raise cannot_write(out, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return out


def render(summary: RunSummary, *, shown: Predictions, thumbnails: Thumbnails, augmented: Augmented | None = None) -> str:
    """The page as text; `shown` are the predictions of the headline."""
    scores = summary.test_scores or summary.cross_validation
    return (
        _environment()
        .get_template("page.html")
        .render(
            summary=summary,
            scores=scores,
            multi_label=shown.multi_label,
            grouped=shown.groups is not None,
            sentences=sentences(summary, shown),
            **_mistakes(scores, shown, thumbnails, BUDGET - (len(augmented.sheet) if augmented else 0)),
            **_calibration(shown),
            **_regularisation(summary),
            **_training(summary, augmented),
            **_compared(summary),
            intervals=intervals_figure(_accuracies(summary), scores.baseline),
            stages=_stages(summary.seconds),
            rejected=summary.rejected[:REJECTED_ROWS],
            tree=text.short(text.lines(summary.tree), TREE_LETTERS),
        )
    )


def _environment() -> Environment:
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


def _mistakes(scores: Scores, shown: Predictions, thumbnails: Thumbnails, budget: int) -> dict[str, Any]:
    taken_for: dict[str, Confusion] = {}
    for confusion in confusions(scores, len(scores.classes) ** 2):
        taken_for.setdefault(confusion.truth, confusion)
    pictures = pictured(mistakes(shown, PICTURES), thumbnails, budget)
    return {
        "mistakes": pictures,
        "any_picture": any(row.source for row in pictures),
        "wrong": scores.n - round(scores.accuracy.value * scores.n),
        "confusion_rows": confusion_rows(scores),
        "confusion_map": confusion_map(scores),
        "map_classes": MAP_CLASSES,
        "confusions": confusions(scores, CONFUSIONS),
        "per_class": sorted(scores.per_class, key=_hardest_first),
        "recall_interval": recall_interval,
        "precision_interval": precision_interval,
        "taken_for": taken_for,
    }


def _hardest_first(row: ClassScore) -> tuple[bool, float, str]:
    return (row.f1 != row.f1, row.f1, row.name)


def _calibration(shown: Predictions) -> dict[str, Any]:
    bins = reliability(shown)
    return {
        "bins": bins,
        "ece_bins": ECE_BINS,
        "chance_ece": chance_calibration_error(shown),
        "reliability": reliability_figure(bins, shown.multi_label),
    }


def _regularisation(summary: RunSummary) -> dict[str, Any]:
    head = summary.head
    return {
        "regularisation": regularisation_figure(head),
        "series": list(zip(feature_sets(head), SERIES * len(head.tried), strict=False)),
        "at_edge": at_edge(head),
        "is_chosen": is_chosen,
    }


def _training(summary: RunSummary, augmented: Augmented | None) -> dict[str, Any]:
    history = summary.history
    sheet = {"augmented": augmented, "sheet": data_uri(augmented.sheet) if augmented else "", "history": history}
    if history is None:
        return sheet
    return sheet | {
        "curves": curves_figure(history),
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


def _stages(seconds: dict[str, float]) -> list[tuple[str, float, float]]:
    """Name, seconds and share of the longest for each stage; what the stages leave of the total is a stage of its own."""
    named = [(name, value) for name, value in seconds.items() if name != "total"]
    rest = seconds.get("total", 0.0) - sum(value for _, value in named)
    if named and rest > 0.01 * seconds["total"]:
        named.append(("everything else", rest))
    longest = max((value for _, value in named), default=0.0) or 1.0
    return [(name, value, value / longest) for name, value in named]
