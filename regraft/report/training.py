"""How a part that cannot be solved was trained, epoch by epoch, and whether that paid."""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from regraft.evaluate.interval import Z_95
from regraft.report.figures import WIDTH
from regraft.report.regularisation import linear_ticks
from regraft.report.svg import Drawing, linear
from regraft.report.text import NBSP, counted, figure, percent
from regraft.values import Epoch, History

LEFT, RIGHT = 62.0, WIDTH - 14
LOSS, ACCURACY = (14.0, 190.0), (232.0, 408.0)  # top and bottom of the two panels
Scale = Callable[[float], float]


def verdict(history: History) -> str:
    """Is it better than the solved head, on the images that neither had seen?"""
    figures = (
        f"{percent(history.accuracy.value)} right against {percent(history.solved.value)} on the same "
        f"{counted(history.validation, 'validation image')}"
    )
    sure = history.gain_se > 0 and abs(history.gain) > Z_95 * history.gain_se
    if history.gain < 0:
        chance = "more than chance explains" if sure else "though chance can explain it"
        return f"Worse than the solved linear head: {figures}, {chance}. Plain --strategy head costs less and does better."
    if sure:
        return f"Better than the solved linear head: {figures}, more than chance explains."
    better = "Better than the solved linear head, but within chance" if history.gain else "As good as the solved linear head"
    return f"{better}: {figures}. Plain --strategy head costs less."


def curves_figure(history: History) -> Markup:
    """Loss above, share right below, by epoch, of training and validation images; the epoch that was kept is ringed."""
    words = f"Loss and share right of {len(history.epochs)} epochs; kept: epoch {history.chosen}; the numbers are in the table"
    drawing = Drawing(WIDTH, 452, words)
    x = linear((0, len(history.epochs)), (LEFT + 8, RIGHT - 8))
    seen = [(e.number, e.loss) for e in history.epochs]
    judged = [(0, history.start_loss), *((e.number, e.validation_loss) for e in history.epochs)]
    # The first epochs of a network from scratch may be far above the rest, whose differences are what one looks for.
    y = _axis(drawing, [value for _, value in (*seen, *judged)], LOSS, "loss, nats", lambda tick: f"{tick:.3g}")
    _curve(drawing, seen, x, y, "one", "training", figure)
    _curve(drawing, judged, x, y, "two", "validation", figure, history.chosen)
    seen = [(e.number, e.accuracy) for e in history.epochs]
    judged = [(0, history.start_accuracy), *((e.number, e.validation_accuracy) for e in history.epochs)]
    shares = [history.solved.value, *(value for _, value in (*seen, *judged))]
    y = _axis(drawing, shares, ACCURACY, "right, %", lambda tick: f"{100 * tick:.0f}", ceiling=1.0)
    drawing.line((LEFT, y(history.solved.value)), (RIGHT, y(history.solved.value)), "base")
    drawing.text((LEFT + 6, y(history.solved.value) - 5), "solved head", "tick")
    _curve(drawing, seen, x, y, "one", "training", percent)
    _curve(drawing, judged, x, y, "two", "validation", percent, history.chosen)
    for tick in range(0, len(history.epochs) + 1, max(1, math.ceil(len(history.epochs) / 10))):
        drawing.text((x(tick), ACCURACY[1] + 18), str(tick), "tick", anchor="middle")
    drawing.text(((LEFT + RIGHT) / 2, ACCURACY[1] + 38), "epoch", "title", anchor="middle")
    return drawing.render()


def kept(epoch: Epoch, history: History) -> bool:
    """Whether the weights of this epoch are those of the model."""
    return epoch.number == history.chosen


def _axis(
    drawing: Drawing,
    values: Sequence[float],
    panel: tuple[float, float],
    title: str,
    text: Callable[[float], str],
    ceiling: float = math.inf,
) -> Scale:
    """Draw a vertical axis for the finite values; returns the map from value to height, held within the panel."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = 0.06 * (high - low) or 0.05
    low, high = max(0.0, low - room), min(ceiling, high + room)
    place = linear((low, high), (panel[1], panel[0]))
    for tick in linear_ticks(low, high):
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
        words = f"epoch {number}, {name}: {text(value)}".replace(NBSP, " ")
        drawing.dot((x(number), y(value)), 2.6, f"dot {series}", words)
        if number == ringed:
            drawing.dot((x(number), y(value)), 7.5, f"ring {series}", f"kept: {words}")
