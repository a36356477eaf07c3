"""Predictions as lines for people."""

from collections.abc import Sequence

from regraft.cli.show import percent
from regraft.data.names import display_width, padded, printable
from regraft.values import Prediction

_PATH_WIDTH, _CLASS_WIDTH = 60, 32


class PredictionLines:
    """One line per image, in columns as far as the names are short: a line is written before the next answer is known."""

    header = b""

    def __init__(self, classes: Sequence[str], columns: int, longest_path: int) -> None:
        self._columns, self._path_width = columns, min(_PATH_WIDTH, longest_path)
        self._names = _short_names(classes)
        self._width = max((display_width(name) for name in self._names.values()), default=0)

    def encode(self, prediction: Prediction) -> bytes:
        path = padded(printable(prediction.path), self._path_width)
        if prediction.status == "failed":
            return f"{path}  failed: {printable(prediction.reason)}\n".encode()
        cells = (
            f"{percent(value):>7} {padded(self._shown(name), self._width)}" for name, value in prediction.top[: self._columns]
        )
        withheld = f"none of these ({prediction.why}); else " if prediction.abstained else ""
        return f"{path}  {withheld}{'  '.join(cells)}".rstrip().encode() + b"\n"

    def _shown(self, name: str) -> str:
        return self._names.get(name) or printable(name)


def _short_names(classes: Sequence[str]) -> dict[str, str]:
    """The names cut to the column, as ImageNet's lists of synonyms are; in full where two would then look the same."""
    full = {name: printable(name) for name in classes}
    cut = {name: text if len(text) <= _CLASS_WIDTH else f"{text[: _CLASS_WIDTH - 1]}…" for name, text in full.items()}
    return cut if len(set(cut.values())) == len(full) else full
