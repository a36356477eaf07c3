"""Whether more images would help: the learning curve as a figure and as a sentence."""

import math

from markupsafe import Markup

from regraft.report.figures import WIDTH
from regraft.report.regularisation import Scale, linear_ticks
from regraft.report.svg import Drawing, linear
from regraft.report.text import MINUS, NBSP, count, counted, percent
from regraft.values import CurvePoint, LearningCurve, Projection

LEFT, RIGHT, TOP, BOTTOM = 62.0, WIDTH - 14, 14.0, 268.0
# A gain that is worth a sentence of its own: below it at the upper end of the band, more images are not worth their labels.
WORTH = 0.01
# A band wider than this says nothing that helps to decide.
TELLING = 0.10
_Z_95 = 1.96


def learning_curve_words(curve: LearningCurve) -> str:
    """What more images would bring, in a sentence or two; or that it cannot be told, and why."""
    if curve.law is None:
        return (
            f"There are too few images to tell what more would bring: {counted(curve.images, 'image')} cannot be divided into "
            "parts that are large enough to compare."
        )
    double = _at(curve, 2 * curve.images)
    band = f"(95{NBSP}% band {_points(double.gain.low)} to {_points(double.gain.high)})"
    if double.gain.high - double.gain.low > TELLING:
        return (
            f"There are too few images to tell what more would bring: twice as many could mean anything from "
            f"{_points(double.gain.low)} to {_points(double.gain.high)}{NBSP}points more."
        )
    if double.gain.high < WORTH:
        return (
            f"More images of this kind will hardly help: twice as many would bring about {_points(double.gain.value)}"
            f"{NBSP}points {band}."
        )
    return f"Twice the images would bring about {_points(double.gain.value)}{NBSP}points {band}{_more(curve)}."


def _more(curve: LearningCurve) -> str:
    """What the fixed number of further images would bring, where that is another question than twice as many."""
    others = [one for one in curve.projections if one.images < 1.4 * curve.images]
    if not others:
        return ""
    one = others[0]
    return (
        f", {count(one.images - curve.images)} more about {_points(one.gain.value)} "
        f"({_points(one.gain.low)} to {_points(one.gain.high)})"
    )


def learning_curve_figure(curve: LearningCurve) -> Markup | None:
    """Accuracy against the number of images: points with their 95 % intervals, the law with its band, dashed where it projects.

    None where there are fewer than two points.
    """
    if len(curve.points) < 2:
        return None
    drawing = Drawing(WIDTH, 330, _label(curve))
    x = _across(drawing, curve)
    y = _up(drawing, curve)
    if curve.band:
        edge = [(x(one.images), y(one.accuracy.low)) for one in reversed(curve.band)]
        drawing.area([*((x(one.images), y(one.accuracy.high)) for one in curve.band), *edge], "band one")
        known = [one for one in curve.band if one.images <= curve.images]
        drawing.path([(x(one.images), y(one.accuracy.value)) for one in known], "curve one")
        beyond = [known[-1], *(one for one in curve.band if one.images > curve.images)]
        drawing.path([(x(one.images), y(one.accuracy.value)) for one in beyond], "curve one ahead")
    for point in curve.points:
        low, high = (point.accuracy + sign * _Z_95 * point.accuracy_error for sign in (-1, 1))
        at = (x(point.images), y(point.accuracy))
        drawing.line((at[0], y(low)), (at[0], y(high)), "whisker one thin")
        drawing.dot(at, 4.5, "dot one", _point_words(point))
    drawing.text(((LEFT + RIGHT) / 2, 323), "training images", "title", anchor="middle")
    drawing.text((13, (TOP + BOTTOM) / 2), "right, %", "title", anchor="middle", turn=-90)
    return drawing.render()


def _across(drawing: Drawing, curve: LearningCurve) -> Scale:
    """Draw the logarithmic axis of images; returns the map from their number to a place."""
    last = max([point.images for point in curve.points] + [one.images for one in curve.band])
    place = linear((math.log(curve.points[0].images), math.log(last)), (LEFT + 12, RIGHT - 16))
    ticks = {curve.points[0].images, curve.images, last}
    for halving in range(1, 8):
        tick = curve.images >> halving
        if tick > 1.3 * curve.points[0].images:
            ticks.add(tick)
    for tick in sorted(ticks):
        if tick <= last:
            drawing.line((place(math.log(tick)), BOTTOM), (place(math.log(tick)), BOTTOM + 5), "axis")
            drawing.text((place(math.log(tick)), BOTTOM + 22), count(tick), "tick", anchor="middle")
    drawing.line((LEFT, BOTTOM), (RIGHT, BOTTOM), "axis")
    if curve.band:
        drawing.line((place(math.log(curve.images)), TOP), (place(math.log(curve.images)), BOTTOM), "base")
    return lambda images: place(math.log(images))


def _up(drawing: Drawing, curve: LearningCurve) -> Scale:
    """Draw the axis of accuracy; returns the map from a share to a height, held within the axis."""
    ends = [point.accuracy + sign * _Z_95 * point.accuracy_error for point in curve.points for sign in (-1, 1)]
    ends += [end for one in curve.band for end in (one.accuracy.low, one.accuracy.high)]
    low, high = min(ends), max(ends)
    room = 0.04 * (high - low) or 0.05
    low, high = max(0.0, low - room), min(1.0, high + room)
    place = linear((low, high), (BOTTOM, TOP))
    for tick in linear_ticks(low, high):
        drawing.line((LEFT, place(tick)), (RIGHT, place(tick)), "grid")
        drawing.text((LEFT - 8, place(tick) + 4), f"{100 * tick:.3g}", "tick", anchor="end")
    return lambda share: min(max(place(share), TOP), BOTTOM)


def _label(curve: LearningCurve) -> str:
    points = "; ".join(f"{count(point.images)} images {percent(point.accuracy)}" for point in curve.points)
    return f"Accuracy against the number of training images: {points}. {learning_curve_words(curve)}"


def _point_words(point: CurvePoint) -> str:
    error = f"{100 * _Z_95 * point.accuracy_error:.1f}"
    return f"{counted(point.images, 'image')}: {percent(point.accuracy)} ± {error}, {counted(point.heads, 'head')}"


def _at(curve: LearningCurve, images: int) -> Projection:
    return next(one for one in curve.projections if one.images == images)


def _points(gain: float) -> str:
    """0.0213 as "2.1", with a true minus sign."""
    shown = f"{abs(100 * gain):.1f}"
    return f"{MINUS}{shown}" if gain < 0 and shown != "0.0" else shown
