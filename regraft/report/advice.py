"""What to fix in the data and what to try next: sentences from what was found and measured, the most important first."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from regraft.evaluate.interval import wilson
from regraft.findings import Audit, Leak
from regraft.report.content import ReportContent
from regraft.report.summary import unlike
from regraft.report.text import NBSP, count, counted, percent, plain, short, span
from regraft.values import Interval, RunSummary, Scores

SENTENCES = 3
WIDE = 0.04  # half an interval: beyond it the first digit of the percentage is in doubt
FEWEST = 5  # images of a class, below which its recall says nothing


def to_fix(audit: Audit | None, scores: Scores | None) -> tuple[str, ...]:
    """At most three sentences on the data; none where nothing was looked for or found. `scores` are of the test images."""
    return tuple(islice(_faults(audit, scores), SENTENCES)) if audit else ()


def to_try(content: ReportContent) -> tuple[str, ...]:
    """At most three sentences on what may make the next model better, or better known."""
    return tuple(islice(_chances(content), SENTENCES))


def leak_words(leak: Leak, scores: Scores | None) -> str:
    """How many test images are known from training, and what the score is without them."""
    n = len(leak.names)
    start = f"{counted(n, 'test image')} {'shows' if n == 1 else 'show'} the same as a training image"
    if leak.scores_without is None or scores is None:
        return f"{start}: nothing is left to judge with once they are out. Hold out images of other things."
    without = leak.scores_without.accuracy
    return (
        f"{start}. On the other {count(without.n)} it is right on {percent(without.value)} ({span(without)}) rather than "
        f"{percent(scores.accuracy.value)}: take that as the result."
    )


def odd_words(audit: Audit) -> str:
    """ "2 blank, 1 tiny": how many images of each kind may be of little use."""
    codes = Counter(odd.code for odd in audit.odd)
    return ", ".join(
        f"{count(images)}{NBSP}{plain(code)}" for code, images in sorted(codes.items(), key=lambda c: (-c[1], c[0]))
    )


def _faults(audit: Audit, scores: Scores | None) -> Iterator[str]:
    if audit.leak:
        yield leak_words(audit.leak, scores)
    if twice := [copies for copies in audit.copies if copies.across_classes]:
        yield (
            f"{counted(len(twice), 'picture is', 'pictures are')} there under different labels "
            f"({' and '.join(_shown(label) for label in dict.fromkeys(twice[0].labels))}, for one): only one can be right."
        )
    if audit.suspects:
        worst, share = audit.suspects[0], percent(len(audit.suspects) / max(audit.images, 1))
        yield (
            f"{counted(len(audit.suspects), 'label')} ({share}) may be wrong, such as that of {_shown(worst.name)}: "
            f"{_shown(worst.label)}, which looks like {_shown(worst.suggested)}. Look at these first."
        )
    if audit.shortcuts:
        sign = audit.shortcuts[0]
        yield (
            f"The {_shown(sign.what)} of a file alone gives its class away in {percent(sign.accuracy.value)} of cases (always "
            f"the largest class: {percent(sign.baseline)}): the network may have learned that instead of the pictures."
        )
    yield from _lesser_faults(audit)


def _lesser_faults(audit: Audit) -> Iterator[str]:
    if audit.mixed:
        pair = audit.mixed[0]
        yield (
            f"{_shown(pair.one)} and {_shown(pair.other)} are hardly told apart ({percent(pair.accuracy.value)} right, half by "
            "guessing): settle which image belongs where, or make them one class."
        )
    if audit.odd:
        yield f"{counted(len(audit.odd), 'image')} may be of little use ({odd_words(audit)})."
    if audit.outliers:
        yield f"{counted(len(audit.outliers), 'image')} look like nothing else in the data: do they belong there?"
    if same := [copies for copies in audit.copies if not copies.across_classes and not copies.across_parts]:
        yield f"{counted(len(same), 'picture is', 'pictures are')} there more than once and counted each time."
    if near := [one for one in audit.similar if one.across_parts]:
        tested = sum(one.parts.count("test") for one in near)
        yield (
            f"{counted(tested, 'test image is', 'test images are')} almost the same as a training image, though no copy: if "
            "they come from one burst or video, keep those together with --group-pattern, or the score is too good."
        )
    if audit.imbalance:
        uneven = audit.imbalance
        yield (
            f"{_shown(uneven.largest)} has {counted(uneven.most, 'image')}, {_shown(uneven.smallest)} {count(uneven.fewest)}: "
            "more of the small class would help it most."
        )


def _chances(content: ReportContent) -> Iterator[str]:
    summary, scores = content.summary, content.scores
    yield from _other_kind(summary)
    yield from _deeper(summary, scores)
    yield from _weakest(content)
    half = (scores.accuracy.high - scores.accuracy.low) / 2
    if half > WIDE:
        what = "test images" if summary.test_scores else "images"
        yield (
            f"Judge with more images: {counted(scores.n, 'image')} leave the result uncertain by {half * 100:.0f}{NBSP}points "
            f"either way; about {count(4 * scores.n)} {what} would halve that."
        )


def _other_kind(summary: RunSummary) -> Iterator[str]:
    test, crossed = summary.test_scores, summary.cross_validation.accuracy
    if test and test.accuracy.value < crossed.value and unlike(test.accuracy, crossed):
        yield (
            "Train on images of the kind that the test images are: the model does worse on those than on held-out training "
            "images, by more than chance."
        )


def _deeper(summary: RunSummary, scores: Scores) -> Iterator[str]:
    """Training that was not tried, or paid so far."""
    left_out = [one for one in summary.compared if one.note]
    if left_out:
        names = ", ".join(plain(one.strategy) for one in left_out)
        yield f"Give auto more time (--minutes): it did not get to {names}."
    elif summary.compared or scores.accuracy.value == 1:
        return
    elif summary.history is None:
        yield (
            "Train more than the head: --strategy auto tries it and keeps only what is measured to be better. So far the "
            "network itself is as it was."
        )
    elif summary.strategy.startswith("partial") and summary.history.gain > summary.history.gain_se:
        yield f"Train deeper, with --from {_shown(str(summary.run))} --strategy full: training the last stages paid."


def _weakest(content: ReportContent) -> Iterator[str]:
    """More images of a class that is found clearly less often than the others."""
    summary, scores = content.summary, content.scores
    kind = "label" if content.headline.multi_label else "class"
    rows = [row for row in scores.per_class if row.support >= FEWEST]
    found, support = sum(round(row.recall * row.support) for row in rows), sum(row.support for row in rows)
    if len(rows) < 2 or not support:
        return
    row = min(rows, key=lambda row: (row.recall, -row.support, row.name))
    of_class: Interval = wilson(round(row.recall * row.support), row.support)
    of_others = wilson(found - round(row.recall * row.support), support - row.support)
    if of_class.value < of_others.value and unlike(of_class, of_others):
        known = {other.name: other.support for other in summary.cross_validation.per_class}
        trained = "" if summary.history else f" It has {counted(known.get(row.name, 0), 'training image')}."
        yield (
            f"Add images of {_shown(row.name)}, the weakest {kind}: {percent(row.recall)} of its images are found, "
            f"{percent(of_others.value)} of the others.{trained}"
        )


def _shown(name: str) -> str:
    return short(plain(name), 80)
