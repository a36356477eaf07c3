"""The course of a training in a few lines of a terminal."""

import math
import sys
from collections.abc import Callable, Sequence

from regraft.values import History

WIDEST = 60  # columns of a curve; more epochs than that share some
_BLOCKS = "▁▂▃▄▅▆▇█"


def curve_lines(history: History, *, blocks: bool | None = None) -> list[str]:
    """Loss and share right, of training and validation images, from the first epoch to the last; none of one epoch.

    `blocks` draws them; None where standard output is a terminal that can show such letters. Plain text has their ends alone.
    """
    if len(history.epochs) < 2:
        return []
    drawn = can_draw() if blocks is None else blocks
    loss, share = "{:.3f}".format, (lambda value: f"{100 * value:.1f} %")
    rows = [
        ("loss", "training", [epoch.loss for epoch in history.epochs], loss),
        ("", "validation", [epoch.validation_loss for epoch in history.epochs], loss),
        ("right", "training", [epoch.accuracy for epoch in history.epochs], share),
        ("", "validation", [epoch.validation_accuracy for epoch in history.epochs], share),
    ]
    lines = [f"{what:<5}  {of:<10}  {_row(values, text, drawn)}" for what, of, values, text in rows]
    if drawn:
        lines.append(f"{'':19}{_mark(history)}")
    return [line.rstrip() for line in lines]


def can_draw() -> bool:
    """Whether standard output is a terminal, in an encoding that has the blocks."""
    try:
        _BLOCKS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return sys.stdout.isatty()


def sparkline(values: Sequence[float]) -> str:
    """A block for each value, as high as it is between the least and the largest; a blank for what is no number."""
    shown = _fewer(values)
    finite = [value for value in shown if math.isfinite(value)]
    low, width = min(finite, default=0.0), (max(finite, default=0.0) - min(finite, default=0.0)) or math.inf
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((value - low) / width * top)] if math.isfinite(value) else " " for value in shown)


def _row(values: Sequence[float], text: Callable[[float], str], drawn: bool) -> str:
    ends = f"{text(values[0])} to {text(values[-1])}"
    return f"{sparkline(values)}  {ends}" if drawn else ends


def _mark(history: History) -> str:
    """A pointer to the epoch that was kept."""
    if not history.chosen:
        return ""
    columns = min(WIDEST, len(history.epochs))
    return f"{' ' * ((history.chosen - 1) * columns // len(history.epochs))}^ kept: epoch {history.chosen}"


def _fewer(values: Sequence[float]) -> Sequence[float]:
    """At most WIDEST of them, the last of each share."""
    if len(values) <= WIDEST:
        return values
    return [values[(i + 1) * len(values) // WIDEST - 1] for i in range(WIDEST)]
