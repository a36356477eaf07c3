"""Answers for pixels, and their scores, for people and for programs."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from regraft.cli.show import (
    interval_fields,
    interval_text,
    percent,
    print_json,
    print_line,
    print_pairs,
    print_table,
    rejected_lines,
)
from regraft.data.names import count_of, display_width, padded, printable

if TYPE_CHECKING:
    from regraft.answer_folder import PixelRow
    from regraft.progress import Progress
    from regraft.segments import PixelClassScore, PixelEvaluation, PixelScores, PixelSummary
    from regraft.values import History, Interval

_PATH_WIDTH, _MOST_FINDINGS = 60, 10
_OF_PIXELS = "over all pixels"


def score_fields(scores: "PixelScores") -> dict[str, Any]:
    """The scores as `--json` prints them; `mae`, `f_measure` and `threshold` are null where there is no single object."""
    return {
        "iou": interval_fields(scores.iou),
        "dice": interval_fields(scores.dice),
        "pixel_accuracy": interval_fields(scores.pixel_accuracy),
        "boundary_f": interval_fields(scores.boundary_f),
        "pooled_iou": interval_fields(scores.pooled_iou),
        "mae": _optional(scores.mae),
        "f_measure": _optional(scores.f_measure),
        "threshold": scores.threshold,
        "baseline": scores.baseline,
        "per_class": [_class_fields(one) for one in scores.per_class],
    }


def _optional(interval: "Interval | None") -> dict[str, Any] | None:
    return None if interval is None else interval_fields(interval)


def _class_fields(one: "PixelClassScore") -> dict[str, Any]:
    return {
        "class": one.name,
        "iou": interval_fields(one.iou),
        "dice": one.dice,
        "precision": one.precision,
        "recall": one.recall,
        "boundary_f": one.boundary_f,
        "pixels": one.pixels,
        "images": one.images,
    }


def evaluate_fields(evaluation: "PixelEvaluation") -> dict[str, Any]:
    """What `regraft evaluate --json` prints; the names are fixed in docs/cli.md."""
    scores, rejected = evaluation.scores, evaluation.rejected
    return {
        "n": scores.n,
        "task": scores.kind,
        **score_fields(scores),
        "classes": scores.classes,
        "rejected": len(rejected),
        "rejected_images": [{"path": str(item.path), "code": item.code, "reason": item.reason} for item in rejected],
    }


def show_evaluation(evaluation: "PixelEvaluation", watch: "Progress", *, as_json: bool) -> None:
    """Notes on standard error, scores on standard output."""
    for line in (*evaluation.notes, *rejected_lines(evaluation.rejected)):
        watch.note(line)
    print_json(evaluate_fields(evaluation)) if as_json else print_scores(evaluation.scores)


def print_scores(scores: "PixelScores") -> None:
    """Each class, then the whole; the score that a task is known by comes last, where the eye is."""
    _print_classes(scores)
    print_line()
    print_pairs(score_rows(scores))


def _print_classes(scores: "PixelScores") -> None:
    print_table(
        ("class", "IoU", "Dice", "precision", "recall", "boundary F", "images"),
        [
            (
                one.name,
                *(percent(value) for value in (one.iou.value, one.dice, one.precision, one.recall, one.boundary_f)),
                f"{one.images:,}",
            )
            for one in scores.per_class
        ],
    )


def score_rows(scores: "PixelScores") -> list[tuple[str, str]]:
    """Names and values of the scores of all classes together."""
    saliency = scores.kind == "saliency"
    rows = [("baseline", f"{percent(scores.baseline)} IoU by the best answer that is the same for every pixel")]
    if scores.threshold is not None:
        rows += [("threshold", f"object from a probability of {scores.threshold:.2f}")]
    if scores.mae is not None:
        rows += [("mean abs. error", interval_text(scores.mae))]
    if scores.f_measure is not None:
        rows += [("F-measure", interval_text(scores.f_measure))]
    rows += [("boundary F", interval_text(scores.boundary_f)), ("pixel accuracy", interval_text(scores.pixel_accuracy))]
    if saliency:
        rows += [("pooled IoU", f"{interval_text(scores.pooled_iou)} {_OF_PIXELS}")]
    rows += [("Dice" if saliency else "mean Dice", interval_text(scores.dice))]
    return [*rows, (_name(scores), f"{interval_text(scores.iou)} on {count_of(scores.n, 'image')}")]


def _name(scores: "PixelScores") -> str:
    return "IoU" if scores.kind == "saliency" else "mean IoU"


# -- fits


def fit_fields(summary: "PixelSummary") -> dict[str, Any]:
    """What `regraft fit --json` prints for a task whose every pixel has an answer."""
    return {
        "run": str(summary.run),
        "task": summary.kind,
        "backbone": summary.backbone,
        "strategy": summary.strategy,
        "decoder": summary.decoder,
        "loss": summary.loss,
        "classes": summary.classes,
        "images": {"train": summary.train, "test": summary.test, "rejected": len(summary.rejected)},
        "window": summary.window,
        "usual_side": summary.usual_side,
        "masks": summary.mask_words,
        "test": _scored(summary.test_scores) if summary.test_scores else None,
        "judged": _scored(summary.judged),
        "judged_by": summary.judged_by,
        "probe": _scored(summary.probe),
        "threshold": summary.threshold,
        "calibration": asdict(summary.calibrated),
        "training": _training_fields(summary.history) if summary.history else None,
        "findings": [{"path": str(one.path), "what": one.what, "share": one.share} for one in summary.findings],
        "seconds": {name: round(value, 3) for name, value in summary.seconds.items()},
        "cache": {"hits": summary.cache_hits, "misses": summary.cache_misses},
        "report": str(summary.report) if summary.report else None,
    }


def _scored(scores: "PixelScores") -> dict[str, Any]:
    return {"n": scores.n, **score_fields(scores)}


def _training_fields(history: "History") -> dict[str, Any]:
    return {
        "what": history.what,
        "epochs": len(history.epochs),
        "chosen": history.chosen,
        "share": history.share,
        "refitted": history.refitted,
        "validation": history.validation,
    }


def print_fit(summary: "PixelSummary") -> None:
    """The outcome of a fit; the score, the time and the report come last, where the eye is."""
    scores = summary.test_scores or summary.judged
    _print_classes(scores)
    print_line()
    steps = ", ".join(f"{name} {value:.1f}" for name, value in summary.seconds.items() if name != "total")
    rows = [("images", f"{summary.train:,} train, {summary.test:,} test, {len(summary.rejected):,} set aside")]
    rows += [("network", f"{summary.backbone}, decoder {summary.decoder}, in windows of {summary.window} pixels")]
    if summary.history:
        rows += [("trained", _trained(summary.history))]
    rows += [("to look at", f"{one.what}: {one.path}") for one in summary.findings[:_MOST_FINDINGS]]
    rows += [("probe", f"{interval_text(summary.probe.iou)} {_name(scores)}, solved for single pixels")]
    rows += [("judged", f"{interval_text(summary.judged.iou)} {_name(scores)} on {summary.judged_by}")]
    rows += score_rows(scores)
    rows += [("time", f"{summary.seconds.get('total', 0.0):.1f} s ({steps})")]
    print_pairs([*rows, ("report", str(summary.report or summary.run))])


def _trained(history: "History") -> str:
    kept = f"epoch {history.chosen} of {len(history.epochs)} kept" if history.chosen else "the start was kept"
    return f"{history.what}; {kept}{'; then on all training images' if history.refitted else ''}"


# -- predictions


class PixelLines:
    """One line for each image: its path and what part of it each class takes, at most `most` classes, the largest first."""

    def __init__(self, longest_path: int, most: int) -> None:
        self._width, self._most = min(_PATH_WIDTH, longest_path), most

    def encode(self, row: "PixelRow") -> bytes:
        path = padded(printable(row.path), self._width)
        if row.status == "failed":
            return f"{path}  failed: {printable(row.reason)}\n".encode()
        shown = [(name, share) for name, share in row.shares if math.isfinite(share) and share > 0]
        largest = sorted(shown, key=lambda item: -item[1])[: self._most]
        return f"{path}  {'  '.join(f'{percent(share):>7} {printable(name)}' for name, share in largest)}".encode() + b"\n"


def longest(paths: Sequence[str]) -> int:
    """Columns of a terminal that the longest path takes."""
    return max((display_width(printable(path)) for path in paths), default=0)
