"""Predictions as lines for people."""

from collections.abc import Sequence

from regraft.cli.show import percent
from regraft.data.names import printable
from regraft.values import Prediction

_PATH_WIDTH, _CLASS_WIDTH = 60, 24


class PredictionLines:
    """One line per image, in columns as far as the names are short: a line is written before the next answer is known."""

    header = b""

    def __init__(self, classes: Sequence[str], columns: int, longest_path: int) -> None:
        self._columns, self._path_width = columns, min(_PATH_WIDTH, longest_path)
        self._width = min(_CLASS_WIDTH, max((len(name) for name in classes), default=0))

    def encode(self, prediction: Prediction) -> bytes:
        path = f"{printable(prediction.path):<{self._path_width}}"
        if prediction.status == "failed":
            return f"{path}  failed: {printable(prediction.reason)}\n".encode()
        cells = (f"{percent(value):>7} {printable(name):<{self._width}}" for name, value in prediction.top[: self._columns])
        return f"{path}  {'  '.join(cells)}".rstrip().encode() + b"\n"
