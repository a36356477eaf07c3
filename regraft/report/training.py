"""How a part that cannot be solved was trained, epoch by epoch, and whether that paid."""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from regraft.evaluate.interval import Z_95
from regraft.report.figures import WIDTH
from regraft.report.regularisation import linear_ticks
from regraft.report.svg import Drawing, linear
from regraft.report.text import NBSP, SUPERSCRIPT, counted, figure, percent, power
from regraft.values import Epoch, History

LEFT, RIGHT = 62.0, WIDTH - 14
LOSS, ACCURACY, RATES = (22.0, 190.0), (218.0, 386.0), (414.0, 482.0)  # top and bottom of the three panels
MOST_DOTS = 300  # epochs: beyond it they would only make the line thicker
PHASE_WIDTH = 58.0  # of "phase 1" in the figure's units
Scale = Callable[[float], float]


def verdict(history: History) -> str:
    """Is it better than the solved head, on the images that neither had seen?"""
    figures = (
        f"{percent(history.accuracy.value)} right against {percent(history.solved.value)} on the same "
        f"{counted(history.validation, 'validation image')}"
    )
    sure = history.gain_se > 0 and abs(history.gain) > Z_95 * history.gain_se
    if history.gain < 0:
        if sure:
            more = "more than chance explains. Plain --strategy head costs less and does better."
        else:
            more = "though chance can explain it. Plain --strategy head costs less."
        return f"Worse than the solved linear head: {figures}, {more}"
    if sure:
        return f"Better than the solved linear head: {figures}, more than chance explains."
    better = "Better than the solved linear head, but within chance" if history.gain else "As good as the solved linear head"
    return f"{better}: {figures}. Plain --strategy head costs less."


def share_words(history: History) -> str:
    """How far the kept weights lie from those of the start, where they are a mixture."""
    if history.share == 1 or not history.epochs:
        return ""
    return (
        f"The weights that were kept lie {100 * history.share:.0f}{NBSP}% of the way from those that the training began with "
        "to those of that epoch: the validation images liked this mixture best."
    )


def phases(history: History) -> tuple[tuple[int, int, int], ...]:
    """Number, first and last epoch of each phase; empty where there is but one."""
    numbers = sorted({epoch.phase for epoch in history.epochs})
    if len(numbers) < 2:
        return ()
    of = {number: [epoch.number for epoch in history.epochs if epoch.phase == number] for number in numbers}
    return tuple((number, min(epochs), max(epochs)) for number, epochs in of.items())


def curves_figure(history: History, measure: str = "share right") -> Markup:
    """Loss, share right and learning rates by epoch, of training and validation images; the epoch that was kept is ringed.

    Every other phase of a training that has several is shaded. `measure` says what is right.
    """
    words = f"Loss and {measure} of {len(history.epochs)} epochs; kept: epoch {history.chosen}; the numbers are in the table"
    drawing = Drawing(WIDTH, RATES[1] + 44, words)
    x = linear((0, len(history.epochs)), (LEFT + 8, RIGHT - 8))
    _bands(drawing, history, x)
    seen = [(e.number, e.loss) for e in history.epochs]
    judged = [(0, history.start_loss), *((e.number, e.validation_loss) for e in history.epochs)]
    # The first epochs of a network from scratch may be far above the rest, whose differences are what one looks for.
    y = _axis(drawing, [value for _, value in (*seen, *judged)], LOSS, "loss, nats", lambda tick: f"{tick:.3g}")
    _curve(drawing, seen, x, y, "one", "training", figure)
    _curve(drawing, judged, x, y, "two", "validation", figure, history.chosen)
    seen = [(e.number, e.accuracy) for e in history.epochs]
    judged = [(0, history.start_accuracy), *((e.number, e.validation_accuracy) for e in history.epochs)]
    shares = [history.solved.value, *(value for _, value in (*seen, *judged))]
    y = _axis(drawing, shares, ACCURACY, f"{measure.removeprefix('share ')}, %", lambda tick: f"{100 * tick:.0f}", ceiling=1.0)
    drawing.line((LEFT, y(history.solved.value)), (RIGHT, y(history.solved.value)), "base")
    _curve(drawing, seen, x, y, "one", "training", percent)
    _curve(drawing, judged, x, y, "two", "validation", percent, history.chosen)
    _rates(drawing, history, x)
    for tick in range(0, len(history.epochs) + 1, max(1, math.ceil(len(history.epochs) / 10))):
        drawing.text((x(tick), RATES[1] + 18), str(tick), "tick", anchor="middle")
    drawing.text(((LEFT + RIGHT) / 2, RATES[1] + 38), "epoch", "title", anchor="middle")
    return drawing.render()


def kept(epoch: Epoch, history: History) -> bool:
    """Whether the weights of this epoch are those of the model."""
    return epoch.number == history.chosen


def several_rates(history: History) -> bool:
    """Whether some layers moved at smaller rates than others."""
    return any(0 < epoch.lowest_rate < epoch.rate for epoch in history.epochs)


def _bands(drawing: Drawing, history: History, x: Scale) -> None:
    """What belongs to a phase, from the end of the one before to its own end."""
    found = phases(history)
    for number, first, last in found:
        left, right = x(first - 1), x(last)
        if number % 2 == 0:
            drawing.box((left, LOSS[0]), (right - left, RATES[1] - LOSS[0]), "ground")
    narrowest = min((x(last) - x(first - 1) for _, first, last in found), default=0.0)
    for number, first, last in found[:: max(1, math.ceil(14 / narrowest)) if found else 1]:
        words = f"phase {number}" if narrowest > PHASE_WIDTH else str(number)
        drawing.text(((x(first - 1) + x(last)) / 2, LOSS[0] - 8), words, "tick", anchor="middle")
    if found and narrowest <= PHASE_WIDTH:
        drawing.text((LEFT - 8, LOSS[0] - 8), "phase", "tick", anchor="end")


def _rates(drawing: Drawing, history: History, x: Scale) -> None:
    """The largest rate and, where there are several, the smallest, at the end of each epoch."""
    rates = [epoch.rate for epoch in history.epochs if math.isfinite(epoch.rate) and epoch.rate > 0]
    exponent = math.floor(math.log10(max(rates, default=1.0)))
    unit = 10.0**exponent
    raised = f"10{str(exponent).translate(SUPERSCRIPT)}"
    drawn = [0.0, *(rate / unit for rate in rates)]
    y = _axis(drawing, drawn, RATES, f"rate, {raised}" if exponent else "rate", lambda tick: f"{tick:.3g}", ticks=2)
    lowest = [(e.number, e.lowest_rate / unit) for e in history.epochs]
    if several_rates(history):
        _curve(drawing, lowest, x, y, "three faint", "smallest rate", lambda value: power(value * unit))
    largest = [(e.number, e.rate / unit) for e in history.epochs]
    _curve(drawing, largest, x, y, "three", "largest rate", lambda value: power(value * unit))


def _axis(
    drawing: Drawing,
    values: Sequence[float],
    panel: tuple[float, float],
    title: str,
    text: Callable[[float], str],
    ceiling: float = math.inf,
    ticks: int = 5,
) -> Scale:
    """Draw a vertical axis for the finite values; returns the map from value to height, held within the panel."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = 0.06 * (high - low) or 0.05
    low, high = max(0.0, low - room), min(ceiling, high + room)
    place = linear((low, high), (panel[1], panel[0]))
    for tick in linear_ticks(low, high, ticks):
        drawing.line((LEFT, place(tick)), (RIGHT, place(tick)), "grid")
        drawing.text((LEFT - 8, place(tick) + 4), text(tick), "tick", anchor="end")
    drawing.line((LEFT, panel[1]), (RIGHT, panel[1]), "axis")
    drawing.text((13, sum(panel) / 2), title, "title", anchor="middle", turn=-90)
    return lambda value: min(max(place(value), panel[0]), panel[1])


def _curve(
    drawing: Drawing,
    values: Sequence[tuple[int, float]],
    x: Scale,
    y: Scale,
    series: str,
    name: str,
    text: Callable[[float], str],
    ringed: int | None = None,
) -> None:
    finite = [(number, value) for number, value in values if math.isfinite(value)]
    drawing.path([(x(number), y(value)) for number, value in finite], f"curve {series}")
    for number, value in finite:
        if len(finite) > MOST_DOTS and number != ringed:
            continue
        words = f"epoch {number}, {name}: {text(value)}".replace(NBSP, " ")
        drawing.dot((x(number), y(value)), 2.6, f"dot {series}", words)
        if number == ringed:
            drawing.dot((x(number), y(value)), 7.5, f"ring {series}", f"kept: {words}")
