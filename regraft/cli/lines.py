"""Predictions as lines for people."""

from collections.abc import Sequence

from regraft.cli.show import percent
from regraft.data.names import printable
from regraft.values import Prediction

_PATH_WIDTH, _CLASS_WIDTH = 40, 24


class PredictionLines:
    """One line per image, in columns as long as the names are short; it has to be written before the next answer is known."""

    header = b""

    def __init__(self, classes: Sequence[str], columns: int) -> None:
        self._columns = columns
        self._width = min(_CLASS_WIDTH, max((len(name) for name in classes), default=0))

    def encode(self, prediction: Prediction) -> bytes:
        path = f"{printable(prediction.path):<{_PATH_WIDTH}}"
        if prediction.status == "failed":
            return f"{path}  failed: {printable(prediction.reason)}\n".encode()
        cells = (f"{percent(value):>7} {printable(name):<{self._width}}" for name, value in prediction.top[: self._columns])
        return f"{path}  {'  '.join(cells)}".rstrip().encode() + b"\n"
