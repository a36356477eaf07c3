"""Results for people and for programs."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from regraft.data.names import printable

if TYPE_CHECKING:
    from regraft.values import (
        AbstainRule,
        ClassScore,
        Compared,
        Evaluation,
        History,
        Interval,
        Rejected,
        RuleOfThumb,
        RunSummary,
        Scores,
    )


_WIDEST_CELL = 60


def print_json(fields: object) -> None:
    """One line on standard output; figures that are not defined become null."""
    print(json.dumps(defined(fields), allow_nan=False))


def defined(value: object) -> object:
    """`value` as JSON can hold it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [defined(item) for item in value]
    return value


def print_line(text: str = "") -> None:
    """One line on standard output, safe for a terminal."""
    print(printable(text))


def interval_fields(interval: "Interval") -> dict[str, Any]:
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}


def figures(scores: "Scores") -> dict[str, Any]:
    """The main scores as `--json` prints them; those that are no proportion stand beside their intervals as plain numbers."""
    return {
        "accuracy": interval_fields(scores.accuracy),
        "macro_f1": scores.macro_f1,
        "nll": scores.nll,
        "ece": scores.ece,
        "baseline": scores.baseline,
        "intervals": {
            "macro_f1": interval_fields(scores.intervals.macro_f1),
            "nll": interval_fields(scores.intervals.nll),
            "ece": interval_fields(scores.intervals.ece),
        },
    }


def fit_fields(summary: "RunSummary") -> dict[str, Any]:
    """What `regraft fit --json` prints; the names are fixed in docs/cli.md."""
    return {
        "run": str(summary.run),
        "backbone": summary.backbone,
        "strategy": summary.strategy,
        "asked": summary.asked,
        "features": summary.head.features,
        "l2": summary.head.l2,
        "classes": summary.classes,
        "images": {"train": summary.train, "test": summary.test, "rejected": len(summary.rejected)},
        "test": figures(summary.test_scores) if summary.test_scores else None,
        "cross_validation": figures(summary.cross_validation),
        "calibration": asdict(summary.calibrated) if summary.calibrated else None,
        "abstain": abstain_fields(summary.abstain) if summary.abstain else None,
        "training": _training_fields(summary.history) if summary.history else None,
        "compared": [_compared_fields(one) for one in summary.compared] or None,
        "seconds": {name: round(value, 3) for name, value in summary.seconds.items()},
        "engine": summary.engine,
        "cache": {"hits": summary.cache_hits, "misses": summary.cache_misses},
        "report": str(summary.report) if summary.report else None,
    }


def abstain_fields(rule: "AbstainRule") -> dict[str, Any]:
    """A rule for withholding answers, and what it does."""
    return {
        "confidence": rule.confidence,
        "distance": rule.distance,
        "max_error": rule.max_error,
        "asked_coverage": rule.coverage,
        "on": rule.on,
        "covered": interval_fields(rule.covered),
        "error_answered": interval_fields(rule.error_answered),
        "error_all": interval_fields(rule.error_all),
    }


def _training_fields(history: "History") -> dict[str, Any]:
    return {
        "what": history.what,
        "epochs": len(history.epochs),
        "chosen": history.chosen,
        "share": history.share,
        "refitted": history.refitted,
        "gain": history.gain,
        "gain_se": history.gain_se,
        "validation": history.validation,
    }


def _compared_fields(one: "Compared") -> dict[str, Any]:
    return {
        "strategy": one.strategy,
        "accuracy": one.accuracy,
        "nll": one.nll,
        "gain": one.gain,
        "gain_se": one.gain_se,
        "seconds": round(one.seconds, 3),
        "kept": one.kept,
        "note": one.note or None,
    }


def evaluate_fields(evaluation: "Evaluation") -> dict[str, Any]:
    """What `regraft evaluate --json` prints; the names are fixed in docs/cli.md."""
    scores = evaluation.scores
    return {
        "n": scores.n,
        **figures(scores),
        "per_class": [_class_fields(item) for item in scores.per_class],
        "confusion": None if scores.confusion_KK is None else scores.confusion_KK.tolist(),
        "classes": scores.classes,
        "abstain": abstain_fields(evaluation.abstain) if evaluation.abstain else None,
        "rejected": len(evaluation.rejected),
        "rejected_images": [{"path": str(item.path), "code": item.code, "reason": item.reason} for item in evaluation.rejected],
    }


def _class_fields(item: "ClassScore") -> dict[str, Any]:
    from regraft.evaluate.metrics import precision_interval, recall_interval

    precision, recall = precision_interval(item), recall_interval(item)
    return {
        "class": item.name,
        "precision": item.precision,
        "recall": item.recall,
        "f1": item.f1,
        "support": item.support,
        "predicted": item.predicted,
        "intervals": {"precision": interval_fields(precision), "recall": interval_fields(recall)},
    }


def percent(share: float) -> str:
    """'94.2 %', or 'undefined'."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else "undefined"


def size_text(count: int) -> str:
    """'12.3 MB', in powers of ten as disks are sold."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{count:,} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"


def interval_text(interval: "Interval") -> str:
    """'94.2 % (95 % interval 91.0 to 96.3 %)'; without the interval where there is none."""
    if not math.isfinite(interval.low + interval.high):
        return percent(interval.value)
    low, high = f"{100 * interval.low:.1f}", f"{100 * interval.high:.1f}"
    return f"{percent(interval.value)} (95 % interval {low} to {high} %)"


def _nats(interval: "Interval") -> str:
    return f"{interval.value:.3f} (95 % interval {interval.low:.3f} to {interval.high:.3f})"


def print_fit(summary: "RunSummary") -> None:
    """The outcome of a fit; the score, the time and the report come last, where the eye is."""
    from regraft.report.compared import judgement

    if summary.compared:
        _print_compared(summary)
    if summary.history:
        _print_curve(summary.history)
    cross, test = summary.cross_validation, summary.test_scores
    steps = ", ".join(f"{name} {value:.1f}" for name, value in summary.seconds.items() if name != "total")
    rows = [("images", f"{summary.train:,} train, {summary.test:,} test, {len(summary.rejected):,} set aside")]
    rows += [("features", f"{summary.head.features}, of {summary.backbone} with {summary.engine}")]
    if summary.history:
        rows += [("trained", f"{summary.history.what}; {_kept_text(summary.history)}")]
    if summary.history or summary.compared:
        rows += [("verdict", on_screen(judgement(summary)))]
    if summary.rule:
        rows += [("rule of thumb", f"{on_screen(summary.rule.advice)} ({_likeness(summary.rule)})")]
    rows += [("cache", f"{summary.cache_hits:,} images known, {summary.cache_misses:,} new")]
    right = "" if cross.confusion_KK is not None else ", every label right"
    rows += [("baseline", _baseline_text(test or cross))]
    judged, images = ("validated", "validation") if summary.history else ("cross-validated", "training")
    rows += [(judged, f"{interval_text(cross.accuracy)} on {cross.n:,} {images} images{right}")]
    if test:
        rows += [("macro F1", interval_text(test.intervals.macro_f1))]
        rows += [("accuracy", f"{interval_text(test.accuracy)} on {test.n:,} test images{right}")]
    if summary.abstain:
        rows += [("none of these", abstain_words(summary.abstain))]
    rows += [("time", f"{summary.seconds.get('total', 0.0):.1f} s ({steps})")]
    rows += [("report", str(summary.report or summary.run))]
    print_pairs(rows)


def abstain_words(rule: "AbstainRule") -> str:
    """'withheld for 6.0 % of the test images; 3.1 % of the other answers are wrong, 9.0 % of all'."""
    withheld = percent(1 - rule.covered.value)
    if not rule.error_answered.n:
        return f"withheld for all {rule.covered.n:,} {rule.on} images: nothing is sure enough for what was asked"
    errors = f"{percent(rule.error_answered.value)} of the other answers are wrong, {percent(rule.error_all.value)} of all"
    return f"withheld for {withheld} of the {rule.on} images; {errors}"


def _kept_text(history: "History") -> str:
    if not history.chosen:
        tried = "the one epoch" if len(history.epochs) == 1 else f"each of {len(history.epochs)} epochs"
        return f"{tried} was no better than the start, which was kept"
    mixed = "" if history.share == 1 else f", {100 * history.share:.0f} % of the way from the start"
    again = "; then the same on all training images" if history.refitted else ""
    return f"epoch {history.chosen} of {len(history.epochs)} kept{mixed}{again}"


def _likeness(rule: "RuleOfThumb") -> str:
    alike = "" if math.isnan(rule.confidence) else f", the network's own classifier {percent(rule.confidence)} sure of them"
    return f"{rule.images:,} training images{alike}"


def on_screen(text: str) -> str:
    """The report's words with plain blanks and signs."""
    return text.replace("\u00a0", " ").replace("\u2212", "-")


def _print_compared(summary: "RunSummary") -> None:
    """The strategies that `auto` looked at, side by side."""
    from regraft.report.compared import gain_words, outcome, spent

    print_table(
        ("strategy", "right", "loss, nats", "gain, nats", "time"),
        [
            (
                f"{'* ' if one.kept else '  '}{one.strategy}",
                percent(one.accuracy) if math.isfinite(one.accuracy) else "-",
                f"{one.nll:.3f}" if math.isfinite(one.nll) else "-",
                on_screen(gain_words(one)).replace("\u2013", "-"),
                on_screen(spent(one)).replace("\u2013", "-"),
            )
            for one in summary.compared
        ],
    )
    for one in summary.compared:
        if not one.kept:
            print_line(f"{one.strategy}: {on_screen(outcome(one, summary.compared))}")
    print_line()


def _print_curve(history: "History") -> None:
    from regraft.cli.curve import curve_lines

    lines = curve_lines(history)
    for line in lines:
        print_line(line)
    if lines:
        print_line()


def _baseline_text(scores: "Scores") -> str:
    # Several labels per image have no confusion matrix, and no largest class but a commonest set.
    rule = "naming the largest class" if scores.confusion_KK is not None else "giving the commonest set of labels"
    return f"{percent(scores.baseline)} by always {rule}"


def print_pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print_line(f"{name:<{width}}  {value}")


def print_evaluation(evaluation: "Evaluation") -> None:
    """The scores of an evaluation: each class, then the whole."""
    scores = evaluation.scores
    right = "" if scores.confusion_KK is not None else ", every label right"
    print_table(
        ("class", "precision", "recall", "F1", "images", "predicted"),
        [
            (c.name, percent(c.precision), percent(c.recall), percent(c.f1), f"{c.support:,}", f"{c.predicted:,}")
            for c in scores.per_class
        ],
    )
    print_line()
    print_pairs(
        [
            ("baseline", _baseline_text(scores)),
            ("macro F1", interval_text(scores.intervals.macro_f1)),
            ("neg. log-likelihood", _nats(scores.intervals.nll)),
            ("calibration error", interval_text(scores.intervals.ece)),
            *([("none of these", abstain_words(evaluation.abstain))] if evaluation.abstain else []),
            ("accuracy", f"{interval_text(scores.accuracy)} on {scores.n:,} images{right}"),
        ]
    )


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, gap: int = 3) -> None:
    """A table on standard output: the first column as text, the others as numbers, `gap` blanks (2 or 3) between them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, gap - 2))
    for number, name in enumerate(header):
        table.add_column(
            name, justify="right" if number else "left", no_wrap=number > 0, overflow="fold", max_width=_WIDEST_CELL
        )
    for row in rows:
        # Text, not str: a class may be called "[bold]".
        table.add_row(*(Text(printable(cell)) for cell in row))
    # As wide as it needs to be: a narrow terminal breaks long lines, where rich would leave out names and digits.
    console = Console(file=sys.stdout, highlight=False, markup=False, width=_WIDEST_CELL * len(header))
    with console.capture() as printed:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())


def rejected_lines(rejected: Sequence["Rejected"], limit: int = 20) -> list[str]:
    """The images set aside, with the reasons."""
    lines = [f"set aside: {item.name}: {item.reason}" for item in rejected[:limit]]
    return [*lines, f"and {len(rejected) - limit:,} more"] if len(rejected) > limit else lines
