"""The report's first paragraph: what a person should know, as plain sentences in order of weight."""

import math
from dataclasses import dataclass

import numpy as np

from regraft.evaluate.calibration import chance_calibration_error, claims
from regraft.evaluate.interval import Z_95
from regraft.report.abstention import abstain_words
from regraft.report.compared import judgement
from regraft.report.text import NBSP, count, counted, percent, plain, points, span
from regraft.values import Interval, Predictions, RunSummary, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Images of `truth` answered as `answer`: `images` of the `support` there are."""

    truth: str
    answer: str
    images: int
    support: int


def sentences(summary: RunSummary, shown: Predictions) -> tuple[str, ...]:
    """How good, against what, how sure, and what went wrong most. `shown` are the predictions of the headline."""
    scores = summary.test_scores or summary.cross_validation
    candidates = (
        _headline(summary, shown.multi_label),
        _agreement(summary),
        judgement(summary),
        _against_baseline(scores, shown.multi_label),
        _sureness(scores, shown),
        _worst(scores, shown.multi_label),
        abstain_words(summary.abstain) if summary.abstain else "",
        _set_aside(summary),
    )
    return tuple(sentence for sentence in candidates if sentence)


def confusions(scores: Scores, limit: int) -> tuple[Confusion, ...]:
    """The commonest wrong answers, most images first; none for multi-label data."""
    if scores.confusion_KK is None:
        return ()
    wrong_KK = scores.confusion_KK.copy()
    np.fill_diagonal(wrong_KK, 0)
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[: min(limit, np.count_nonzero(wrong_KK))]
    cells = [divmod(int(cell), len(scores.classes)) for cell in order]
    return tuple(
        Confusion(
            truth=scores.classes[t],
            answer=scores.classes[a],
            images=int(wrong_KK[t, a]),
            support=int(scores.confusion_KK[t].sum()),
        )
        for t, a in cells
    )


def unlike(one: Interval, other: Interval) -> bool:
    """Whether two shares differ by more than chance explains: beyond 1.96 standard errors of their difference."""
    pooled = (one.value * one.n + other.value * other.n) / (one.n + other.n)
    error = math.sqrt(pooled * (1 - pooled) * (1 / one.n + 1 / other.n))
    return abs(one.value - other.value) > Z_95 * error


def _headline(summary: RunSummary, multi_label: bool) -> str:
    accuracy = (summary.test_scores or summary.cross_validation).accuracy
    interval = f"(95{NBSP}% interval {span(accuracy)})"
    right = f"{percent(accuracy.value)} {'of images with every label right' if multi_label else 'right'}"
    if summary.test_scores is not None:
        return f"{right} on {counted(accuracy.n, 'image')} that were never used for any choice {interval}."
    if summary.history:
        chosen = "the strategy and the epoch" if summary.compared else "the epoch"
        return (
            f"{right} on the {counted(accuracy.n, 'validation image')} {interval}. No images were held out for a test "
            f"(--test none), and these chose {chosen}: expect slightly less on new images."
        )
    sentence = f"{right} in cross-validation on the {counted(accuracy.n, 'training image')} {interval}. "
    if len(summary.head.tried) < 2:
        return sentence + "No images were held out for a test (--test none)."
    return sentence + (
        "No images were held out for a test (--test none), and the regularisation was chosen on these same folds: "
        "expect slightly less on new images."
    )


def _agreement(summary: RunSummary) -> str:
    if summary.test_scores is None:
        return ""
    test, crossed = summary.test_scores.accuracy, summary.cross_validation.accuracy
    judged = "The validation images" if summary.history else f"Cross-validation on the {counted(crossed.n, 'training image')}"
    gave = f"{judged} gave {percent(crossed.value)} ({span(crossed)}): "
    if not unlike(test, crossed):
        return gave + "the two agree within chance."
    gap, side = points(test.value - crossed.value), "lower" if test.value < crossed.value else "higher"
    return gave + f"the test is {gap} {side}, more than chance explains; the test images may differ in kind."


def _against_baseline(scores: Scores, multi_label: bool) -> str:
    rule = "giving the commonest set of labels" if multi_label else "answering the largest class"
    if scores.accuracy.low <= scores.baseline:
        return f"This is not clearly better than always {rule}, which would be right on {percent(scores.baseline)}."
    return f"Always {rule} would be right on {percent(scores.baseline)}."


def _sureness(scores: Scores, shown: Predictions) -> str:
    claimed, true, error = claims(shown)
    gap = claimed - true
    start = f"It is {percent(claimed)} sure of its answers on average, and {percent(true)} are right: "
    verdict = f"it is {'over' if gap > 0 else 'under'}-confident by {points(gap)}."
    if shown.multi_label:
        start = f"It gives a label {percent(claimed)} on average, and {percent(true)} of all labels apply: "
        verdict = f"its probabilities are {points(gap)} too {'high' if gap > 0 else 'low'}."
    if abs(gap) > max(0.01, Z_95 * error):
        return start + verdict
    if scores.ece > max(0.02, 1.5 * chance_calibration_error(shown)):
        return start + f"true on the whole, yet off by {points(scores.ece)} for a typical answer (see Calibration)."
    return start + "the probabilities can be taken at face value."


def _worst(scores: Scores, multi_label: bool) -> str:
    if not multi_label and scores.accuracy.value == 1:
        return "It made no mistake on these images."
    found = [row for row in scores.per_class if row.support]
    weakest = min(found, key=lambda row: (row.recall, -row.support)) if found else None
    if weakest is None or weakest.recall == 1:
        return ""
    kind, hits = "label" if multi_label else "class", round(weakest.recall * weakest.support)
    sentence = (
        f"The hardest {kind} is {plain(weakest.name)}: {count(hits)} of its {counted(weakest.support, 'image')} are found "
        f"({percent(weakest.recall)})"
    )
    commonest = confusions(scores, 1)
    if not commonest:
        return sentence + "."
    worst = commonest[0]
    mixed_up = f"answering {plain(worst.answer)} for {plain(worst.truth)} ({counted(worst.images, 'time')})"
    return f"{sentence}; the commonest mistake is {mixed_up}."


def _set_aside(summary: RunSummary) -> str:
    n = len(summary.rejected)
    return (
        f"{counted(n, 'image')} could not be used and {'was' if n == 1 else 'were'} set aside; the reasons are below."
        if n
        else ""
    )
