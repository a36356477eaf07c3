"""What a person should know of a model that answers for every pixel, as plain sentences in order of weight."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from regraft.evaluate.compare import student
from regraft.report.advice import SENTENCES
from regraft.report.pixel_content import PixelReport
from regraft.report.text import NBSP, count, counted, percent, plain, points, short, span
from regraft.segments import PixelScores
from regraft.values import History, Interval

WIDE = 0.03  # half an interval of the IoU, beyond which more images to judge with are worth having
FEW = 6  # below so many images a bootstrap's intervals are too narrow to compare
POOR = 0.5  # below this IoU an answer misses or invents about as much as it finds
WHAT = {
    "empty": "nothing but background",
    "full": "one class everywhere",
    "all ignored": "every pixel ignored",
    "disagrees": "far from the answer of a model that had not seen it",
}


def pixel_sentences(content: PixelReport) -> tuple[str, ...]:
    """How good, against what, how sure, how it varies, and what is hardest."""
    candidates = (
        _headline(content),
        _agreement(content),
        _against_baseline(content),
        _paid(content),
        _spread(content),
        _edges(content.scores),
        _lean(content.scores) if content.scores.kind == "saliency" else _hardest(content.scores),
        _set_aside(content),
    )
    return tuple(sentence for sentence in candidates if sentence)


def pixels_to_fix(content: PixelReport) -> tuple[str, ...]:
    """At most three sentences on images and masks."""
    return tuple(islice(_faults(content), SENTENCES))


def pixels_to_try(content: PixelReport) -> tuple[str, ...]:
    """At most three sentences on what may make the next model better, or better known."""
    return tuple(islice(_chances(content), SENTENCES))


def leaked(content: PixelReport) -> tuple[str, ...]:
    """The test images that show the same as a training image."""
    pairs = [pair for one in content.copies if one.across_parts for pair in zip(one.names, one.parts, strict=True)]
    return tuple(dict.fromkeys(name for name, part in pairs if part == "test"))


def leaked_words(content: PixelReport) -> str:
    """How many test images are known from training, and the score without them; empty where none is."""
    n = len(leaked(content))
    if not n:
        return ""
    start = f"{counted(n, 'test image')} {'shows' if n == 1 else 'show'} the same as a training image"
    if content.without_copies is None:
        return f"{start}. The scores are too good by that; hold out images of other things."
    without = content.without_copies.iou
    return (
        f"{start}. On the other {count(without.n)} the mean IoU is {percent(without.value)} ({span(without)}) rather than "
        f"{percent(content.scores.iou.value)}: take that as the result."
    )


def training_verdict(history: History, measure: str) -> str:
    """Is it better than the solved probe, on validation images that neither had seen?"""
    figures = (
        f"{plain(measure)} {percent(history.accuracy.value)} against {percent(history.solved.value)} on the same "
        f"{counted(history.validation, 'validation image')}"
    )
    sure = history.gain_se > 0 and abs(history.gain) > student(history.validation - 1) * history.gain_se
    chance = "more than chance explains" if sure else "though chance can explain it"
    if abs(history.accuracy.value - history.solved.value) < 5e-4:
        return f"Training did as well as the solved per-pixel probe: {figures}."
    if history.gain < 0:
        return f"Training did worse than the solved per-pixel probe: {figures}, {chance}."
    return f"Training did better than the solved per-pixel probe: {figures}, {chance}."


def mask_words(content: PixelReport) -> str:
    """ "2 nothing but background, 1 far from its answer": the masks to look at, by kind."""
    kinds = Counter(one.what for one in content.masks)
    named = [(n, WHAT.get(what, what)) for what, n in kinds.items()]
    return ", ".join(f"{count(n)}{NBSP}{plain(words)}" for n, words in sorted(named, key=lambda pair: (-pair[0], pair[1])))


def _unlike(one: Interval, other: Interval) -> bool:
    """Whether two means differ by more than chance explains, by the widths of their intervals."""
    error = math.hypot(one.high - one.low, other.high - other.low) / 2
    return abs(one.value - other.value) > error


def _headline(content: PixelReport) -> str:
    scores = content.scores
    of = "Mean IoU" if scores.kind == "saliency" else f"Mean IoU over {counted(len(scores.classes), 'class', 'classes')}"
    start = f"{of} {percent(scores.iou.value)} on {counted(scores.n, 'image')}"
    interval = f"(95{NBSP}% interval {span(scores.iou)})"
    means = (
        " IoU: of all pixels that mask or answer call the object, the share that both do, averaged over the images."
        if scores.kind == "saliency"
        else " IoU: of all pixels that mask or answer give to a class, the share that both do; each class counts the same."
    )
    if content.on == "test":
        return f"{start} that were never used for any choice {interval}.{means}"
    return (
        f"{start} of the validation {interval}. No images were held out for a test (--test none), and these chose the epoch"
        f"{' and the threshold' if content.threshold else ''}: expect slightly less on new images.{means}"
    )


def _agreement(content: PixelReport) -> str:
    if content.validation is None or content.on != "test":
        return ""
    test, crossed = content.scores.iou, content.validation.iou
    gave = f"The {counted(crossed.n, 'validation image')} gave {percent(crossed.value)} ({span(crossed)}): "
    if min(test.n, crossed.n) < FEW:
        return gave + "so few images cannot tell whether the two differ."
    if not _unlike(test, crossed):
        return gave + "the two agree within chance."
    side = "lower" if test.value < crossed.value else "higher"
    gap = points(test.value - crossed.value)
    return gave + f"the test is {gap} {side}, more than chance explains; the test images may differ in kind."


def _against_baseline(content: PixelReport) -> str:
    scores = content.scores
    if scores.iou.low <= scores.baseline:
        return f"This is not clearly better than the best fixed answer, which would have {percent(scores.baseline)}."
    return f"The best fixed answer, one class for every pixel, would have {percent(scores.baseline)}."


def _paid(content: PixelReport) -> str:
    if content.probe is None or content.history is None:
        return ""
    gap = content.scores.iou.value - content.probe.value
    start = f"The solved per-pixel probe, which training began with, has {percent(content.probe.value)} on the same images: "
    if abs(gap) < 5e-4:
        return start + "training changed nothing."
    return start + f"training {'brought' if gap > 0 else 'cost'} {points(gap)}."


def _spread(content: PixelReport) -> str:
    ious = np.array([image.iou for image in content.images if not math.isnan(image.iou)])
    if len(ious) < 3:
        return ""
    poor = int((ious < POOR).sum())
    start = f"On half of the images the IoU is {percent(float(np.median(ious)))} or more"
    if not poor:
        return f"{start}, and on the worst {percent(float(ious.min()))}."
    return f"{start}; on {counted(poor, 'image')} of {count(len(ious))} it is below {POOR * 100:.0f}{NBSP}%."


def _edges(scores: PixelScores) -> str:
    if math.isnan(scores.boundary_f.value):
        return ""
    return (
        f"Outlines agree to {percent(scores.boundary_f.value)} ({span(scores.boundary_f)}): the boundary F-measure, for which "
        f"an edge may be off by 0.75{NBSP}% of the image's diagonal."
    )


def _lean(scores: PixelScores) -> str:
    row = scores.per_class[1]
    if math.isnan(row.precision) or math.isnan(row.recall):
        return ""
    found = f"Of the pixels of the {plain(row.name)} {percent(row.recall)} are found"
    start = f"{found}, and {percent(row.precision)} of those called so are: "
    gap = row.precision - row.recall
    if abs(gap) < 0.02:
        return start + "it draws objects neither too small nor too large."
    return start + ("it rather leaves out parts." if gap > 0 else "it rather takes in what lies around.")


def _hardest(scores: PixelScores) -> str:
    rows = [row for row in scores.per_class if not math.isnan(row.iou.value) and row.pixels]
    if len(rows) < 2:
        return ""
    worst = min(rows, key=lambda row: (row.iou.value, -row.pixels))
    found = f"{percent(worst.recall)} of its pixels are found"
    right = "" if math.isnan(worst.precision) else f", {percent(worst.precision)} of those called so are right"
    return f"The hardest class is {_shown(worst.name)}, with an IoU of {percent(worst.iou.value)}: {found}{right}."


def _set_aside(content: PixelReport) -> str:
    n = len(content.rejected)
    verb = "was" if n == 1 else "were"
    return f"{counted(n, 'image')} could not be used and {verb} set aside; the reasons are below." if n else ""


def _faults(content: PixelReport) -> Iterator[str]:
    if words := leaked_words(content):
        yield words
    far = [one for one in content.masks if one.what == "disagrees"]
    if far:
        yield (
            f"{counted(len(far), 'mask is', 'masks are')} far from what a model says that had not seen them, such as that of "
            f"{_shown(far[0].name)} (IoU {percent(1 - far[0].share)}): look at these first."
        )
    odd = [one for one in content.masks if one.what != "disagrees"]
    if odd:
        kinds = Counter(WHAT.get(one.what, one.what) for one in odd)
        said = ", ".join(f"{count(n)} {plain(what)}" for what, n in kinds.most_common())
        says = counted(len(odd), "mask says", "masks say")
        yield f"{says} little ({said}), such as that of {_shown(odd[0].name)}: is that meant so?"
    if same := [one for one in content.copies if not one.across_parts]:
        yield f"{counted(len(same), 'picture is', 'pictures are')} there more than once and counted each time."


def _chances(content: PixelReport) -> Iterator[str]:
    scores = content.scores
    if content.history is None or content.strategy == "head":
        yield "Train deeper: --strategy partial:2 trains the last stages of the network too, which so far is as it was."
    yield from _weakest(scores)
    half = (scores.iou.high - scores.iou.low) / 2
    if half > WIDE:
        what = "test images" if content.on == "test" else "images"
        yield (
            f"Judge with more images: {counted(scores.n, 'image')} leave the result uncertain by {half * 100:.0f}{NBSP}points "
            f"either way; about {count(4 * scores.n)} {what} would halve that."
        )


def _weakest(scores: PixelScores) -> Iterator[str]:
    """More images of a class that is clearly harder than the typical one."""
    rows = [row for row in scores.per_class if row.images and not math.isnan(row.iou.value)]
    if scores.kind == "saliency" or len(rows) < 3:
        return
    worst, median = min(rows, key=lambda row: row.iou.value), float(np.median([row.iou.value for row in rows]))
    if worst.iou.high < median:
        yield (
            f"Add images with {_shown(worst.name)}, the weakest class: its IoU is {percent(worst.iou.value)}, the median of "
            f"the classes {percent(median)}. It is in {counted(worst.images, 'image')} of {count(scores.n)} here."
        )


def limits_of(content: PixelReport) -> tuple[str, ...]:
    """What not to expect of the model, from what was measured."""
    return tuple(_limits(content))


def _limits(content: PixelReport) -> Iterator[str]:
    scores = content.scores
    if scores.kind == "saliency":
        yield "It tells an object from what is around it, whatever the object is; where there is none it may find one."
    else:
        known = counted(len(scores.classes), "class", "classes")
        yield f"It knows {known} and gives one of them to every pixel, whatever is there: it has no answer for other things."
    yield "The scores hold for images of the kind that it was judged on. Of other cameras, places or styles they say nothing."
    if scores.iou.low <= scores.baseline:
        yield f"It is not clearly better than a fixed answer, which would have a mean IoU of {percent(scores.baseline)}."
    poor = [row for row in scores.per_class if row.pixels and row.iou.value < POOR]
    if scores.kind == "semantic" and poor:
        yield f"Of {counted(len(poor), 'class', 'classes')} the IoU is below one half: {_names([row.name for row in poor])}."
    unseen = [row.name for row in scores.per_class if not row.pixels]
    if unseen:
        yield f"{counted(len(unseen), 'class was', 'classes were')} not judged at all, for lack of pixels: {_names(unseen)}."
    if content.calibrated and not content.calibrated.ece_after <= 0.05:
        off = percent(content.calibrated.ece_after)
        yield f"Its probabilities are off by {off} on average: take them as an order, not as shares."
    if leaked(content):
        yield leaked_words(content)
    if not content.searched:
        yield "The images were not searched for copies, nor the masks for wrong ones."


def _names(names: Sequence[str]) -> str:
    return ", ".join(_shown(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")


def _shown(name: str) -> str:
    return short(plain(name), 80)
