"""The figures of scores: accuracies with their intervals, and the reliability curve."""

from markupsafe import Markup

from regraft.evaluate.calibration import ReliabilityBin
from regraft.report.svg import Drawing, Point, linear
from regraft.report.text import count, counted, percent, span
from regraft.values import Interval

WIDTH = 480.0  # user units; drawn between 340 and 560 pixels wide, so that 13-unit text stays readable on a phone
SERIES = ("one", "two", "three")


def intervals_figure(rows: tuple[tuple[str, Interval], ...], baseline: float, what: str = "Accuracy") -> Markup:
    """Shares with their intervals on one axis from 0 to 100 %, and the baseline. `what` they are is read aloud."""
    label = "; ".join(f"{name} {percent(row.value)}, interval {span(row)}" for name, row in rows)
    bottom = 34.0 * len(rows) + 16
    drawing = Drawing(WIDTH, bottom + 24, f"{what}: {label}; baseline {percent(baseline)}")
    x = linear((0, 1), (118, WIDTH - 26))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawing.line((x(tick), 8), (x(tick), bottom), "grid")
        drawing.text((x(tick), bottom + 18), f"{tick:.0%}".replace("%", "\u00a0%"), "tick", anchor="middle")
    drawing.line((x(baseline), 8), (x(baseline), bottom), "base")
    side, shift = ("start", 5) if baseline < 0.6 else ("end", -5)
    drawing.text((x(baseline) + shift, bottom - 4), "baseline", "tick", anchor=side)
    for i, (name, interval) in enumerate(rows):
        y = 26.0 + 34 * i
        drawing.text((108, y + 4.5), name, "name", anchor="end")
        drawing.line((x(interval.low), y), (x(interval.high), y), f"whisker {SERIES[i]}")
        drawing.dot((x(interval.value), y), 5.5, f"dot {SERIES[i]}", f"{name}: {percent(interval.value)} ({span(interval)})")
    return drawing.render()


def reliability_figure(bins: tuple[ReliabilityBin, ...], noun: str = "answer") -> Markup:
    """Share right against probability claimed, with 95 % intervals; below it how many of `noun` each bin holds."""
    drawing = Drawing(
        WIDTH, 470, "Reliability curve: share right against probability claimed; the numbers are in the table below"
    )
    x, y = linear((0, 1), (58, WIDTH - 14)), linear((0, 1), (330, 14))
    _unit_axes(drawing, (58, WIDTH - 14), (330, 14))
    drawing.line((x(0), y(0)), (x(1), y(1)), "ideal")
    drawing.path([(x(b.confidence), y(b.accuracy.value)) for b in bins], "curve one")
    largest = max(b.accuracy.n for b in bins)
    height = linear((0, largest), (0, 62))
    for b in bins:
        words = f"{counted(b.accuracy.n, noun)} claiming {percent(b.confidence)}: {percent(b.accuracy.value)} right"
        drawing.line((x(b.confidence), y(b.accuracy.low)), (x(b.confidence), y(b.accuracy.high)), "whisker one thin")
        drawing.dot((x(b.confidence), y(b.accuracy.value)), 4.5, "dot one", words)
        tall = height(b.accuracy.n)
        drawing.box((x(b.low) + 1, 438 - tall), (x(b.high) - x(b.low) - 2, tall), "column", title=words)
    drawing.line((58, 438), (WIDTH - 14, 438), "axis")
    drawing.text((50, 380), count(largest) if largest < 100_000 else f"{largest / 1e6:.1f} M", "tick", anchor="end")
    drawing.text((50, 438), "0", "tick", anchor="end")
    drawing.text((WIDTH / 2 + 22, 461), f"{noun}s per bin of probability", "title", anchor="middle")
    return drawing.render()


def _unit_axes(drawing: Drawing, across: Point, up: Point) -> None:
    x, y = linear((0, 1), across), linear((0, 1), up)
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        drawing.line((x(0), y(tick)), (x(1), y(tick)), "grid")
        drawing.text((x(0) - 8, y(tick) + 4), f"{tick * 100:.0f}", "tick", anchor="end")
        drawing.text((x(tick), y(0) + 17), f"{tick * 100:.0f}", "tick", anchor="middle")
    drawing.text((x(0.5), y(0) + 36), "probability claimed, %", "title", anchor="middle")
    drawing.text((14, y(0.5)), "share true, %", "title", anchor="middle", turn=-90)
