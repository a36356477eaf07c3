"""The confusion matrix, readable for any number of classes: a table of counts for few, a map for many, nothing beyond."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from regraft.report.svg import Drawing
from regraft.report.text import counted, plain, short
from regraft.values import Scores

TABLE_CLASSES = 16  # more columns do not fit a page's width with readable counts
MAP_CLASSES = 100  # beyond it cells and names get too small; the list of confusions stays
CELL, MARGIN = 13.0, 150.0  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """`depth` is the share of the row's images, 0 to 1, for colouring; `words` is what a screen reader says."""

    images: int
    depth: float
    right: bool
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    truth: str
    cells: tuple[Cell, ...]
    support: int


def confusion_rows(scores: Scores) -> tuple[Row, ...]:
    """The matrix as rows for a table; empty for multi-label data and for more classes than a table holds."""
    counts_KK = scores.confusion_KK
    if counts_KK is None or len(scores.classes) > TABLE_CLASSES:
        return ()
    shares_KK = _shares(counts_KK)
    return tuple(
        Row(
            truth=truth,
            support=int(counts_KK[t].sum()),
            cells=tuple(
                Cell(
                    images=int(counts_KK[t, a]),
                    depth=float(shares_KK[t, a]),
                    right=t == a,
                    words=_words(counts_KK, scores.classes, t, a),
                )
                for a in range(len(scores.classes))
            ),
        )
        for t, truth in enumerate(scores.classes)
    )


def confusion_map(scores: Scores) -> Markup | None:
    """The matrix as a picture with a tooltip per cell; None where a table shows it, or nothing can."""
    counts_KK, classes = scores.confusion_KK, scores.classes
    if counts_KK is None or not TABLE_CLASSES < len(classes) <= MAP_CLASSES:
        return None
    side = CELL * len(classes)
    label = f"Confusion matrix of {len(classes)} classes; the commonest confusions are listed below"
    drawing = Drawing(MARGIN + side + 8, MARGIN + side + 8, label)
    drawing.box((MARGIN, MARGIN), (side, side), "ground")
    for k, name in enumerate(classes):
        middle = MARGIN + CELL * (k + 0.5)
        drawing.text((MARGIN - 6, middle + 3.5), short(plain(name), 22), "tiny", anchor="end")
        drawing.text((middle + 3.5, MARGIN - 6), short(plain(name), 22), "tiny", turn=-90)
    shares_KK = _shares(counts_KK)
    for t, a in np.argwhere(counts_KK):
        corner = (MARGIN + CELL * a + 0.5, MARGIN + CELL * t + 0.5)
        style, depth = ("hit" if t == a else "miss"), 0.25 + 0.75 * float(shares_KK[t, a])
        drawing.box(corner, (CELL - 1, CELL - 1), style, title=_words(counts_KK, classes, t, a), opacity=depth)
    return drawing.render(fixed=True)


def _shares(counts_KK: NDArray[np.int64]) -> NDArray[np.float64]:
    shares_KK: NDArray[np.float64] = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    return shares_KK


def _words(counts_KK: NDArray[np.int64], classes: tuple[str, ...], truth: int, answer: int) -> str:
    images = counted(int(counts_KK[truth, answer]), "image")
    return f"{images} of {plain(classes[truth])} answered {plain(classes[answer])}"
