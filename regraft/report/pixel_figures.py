"""The figures of scores of pixels: how the images spread, and what each threshold would give."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from regraft.evaluate.pixel_scores import ImageScore
from regraft.evaluate.pixel_threshold import THRESHOLDS, ThresholdChoice
from regraft.report.figures import WIDTH
from regraft.report.regularisation import linear_ticks
from regraft.report.svg import Drawing, Point, linear
from regraft.report.text import NBSP, count, counted, percent

BINS = 20
LEFT, RIGHT, TOP, BOTTOM = 58.0, WIDTH - 14, 14.0, 190.0


def spread_figure(images: Sequence[ImageScore]) -> Markup:
    """How many images have which IoU; the line is the median. Empty for fewer than three images."""
    ious = np.array([image.iou for image in images if not math.isnan(image.iou)])
    if len(ious) < 3:
        return Markup("")
    counts, edges = np.histogram(ious, BINS, (0.0, 1.0))
    median = float(np.median(ious))
    drawing = Drawing(WIDTH, BOTTOM + 44, f"Images by their IoU: {counted(len(ious), 'image')}, median {percent(median)}")
    x, y = linear((0, 1), (LEFT, RIGHT)), linear((0, int(counts.max())), (BOTTOM, TOP))
    _across(drawing, "IoU of the image, %", (LEFT, RIGHT), BOTTOM)
    for number, low, high in zip(counts.tolist(), edges, edges[1:], strict=False):
        if number:
            words = f"{counted(number, 'image')} with an IoU of {low * 100:.0f} to {high * 100:.0f}{NBSP}%"
            drawing.box((x(low) + 1, y(number)), (x(high) - x(low) - 2, BOTTOM - y(number)), "column", title=words)
    drawing.line((x(median), TOP), (x(median), BOTTOM), "base")
    drawing.text((LEFT - 8, y(int(counts.max())) + 4), count(int(counts.max())), "tick", anchor="end")
    drawing.text((LEFT - 8, BOTTOM + 4), "0", "tick", anchor="end")
    drawing.text((13, (TOP + BOTTOM) / 2), "images", "title", anchor="middle", turn=-90)
    return drawing.render()


def threshold_figure(choice: ThresholdChoice) -> Markup:
    """The mean IoU at every threshold on the images that chose; ringed: the choice, dashed: one half."""
    words = f"Mean IoU by threshold on {counted(choice.images, 'image')}: {percent(choice.iou)} at {choice.threshold:.3f}"
    drawing = Drawing(WIDTH, BOTTOM + 44, words)
    low, high = min(choice.curve), max(*choice.curve, low_room(choice.curve))
    x, y = linear((0, 1), (LEFT, RIGHT)), linear((low, high), (BOTTOM, TOP))
    for tick in linear_ticks(low, high, 4):
        drawing.line((LEFT, y(tick)), (RIGHT, y(tick)), "grid")
        drawing.text((LEFT - 8, y(tick) + 4), f"{100 * tick:.0f}", "tick", anchor="end")
    _across(drawing, "threshold, % of probability", (LEFT, RIGHT), BOTTOM)
    drawing.line((x(0.5), TOP), (x(0.5), BOTTOM), "base")
    drawing.path([(x(t), y(value)) for t, value in zip(THRESHOLDS, choice.curve, strict=True)], "curve one")
    at = (x(choice.threshold), y(choice.iou))
    drawing.dot(at, 4.5, "dot one", f"threshold {choice.threshold:.3f}: {percent(choice.iou)}")
    drawing.dot(at, 7.5, "ring one")
    drawing.text((13, (TOP + BOTTOM) / 2), "mean IoU, %", "title", anchor="middle", turn=-90)
    return drawing.render()


def low_room(values: Sequence[float]) -> float:
    """The top of an axis for `values`, a little above the lowest where all are alike."""
    return min(values) + 0.01


def _across(drawing: Drawing, title: str, ends: Point, bottom: float) -> None:
    x = linear((0, 1), ends)
    drawing.line((ends[0], bottom), (ends[1], bottom), "axis")
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        drawing.text((x(tick), bottom + 17), f"{tick * 100:.0f}", "tick", anchor="middle")
    drawing.text((x(0.5), bottom + 37), title, "title", anchor="middle")
