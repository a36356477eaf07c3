"""A prediction as a row of text, JSON lines or CSV, and back.

CSV follows RFC 4180 with line feeds. A text that a spreadsheet would take for a formula (it starts with = + - @, one of
their full-width forms, a tab or a line break) gets an apostrophe in front, which spreadsheets do not show. JSON lines are
plain ASCII and keep every byte of a file name, bytes that are not UTF-8 as lone surrogates; CSV and Parquet write those
with a backslash.
"""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

from regraft.values import Prediction

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


_FIRST, _LAST = ("path", "status", "reason"), ("abstained", "why")


class RowWriter(Protocol):
    """How rows are written: `header`, then one record per prediction."""

    @property
    def header(self) -> bytes: ...

    def encode(self, prediction: Prediction) -> bytes: ...


class RowFormat(RowWriter, Protocol):
    """Rows that can be read again. `quoted`: line feeds inside of quotes end no record."""

    @property
    def quoted(self) -> bool: ...

    def decode(self, record: bytes) -> Prediction:
        """The row back, its path as `shown_path` gives it. Raises ValueError for what `encode` does not write."""
        ...

    def shown_path(self, path: str) -> str: ...


def rounded(value: float) -> float | None:
    """Six significant digits: more would be noise of the network's arithmetic. None for what is no number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def prediction_fields(prediction: Prediction) -> dict[str, object]:
    """What a row says of an image, but for its path."""
    return {
        "status": prediction.status,
        "reason": prediction.reason or None,
        "predictions": [{"class": name, "probability": rounded(value)} for name, value in prediction.top],
        "abstained": prediction.abstained,
        "why": prediction.why or None,
        "distance": None if prediction.distance is None else rounded(prediction.distance),
    }


@dataclass(frozen=True, slots=True)
class JsonRows:
    """One JSON object per line: path, status, reason (null when ok), predictions [{class, probability}], best first, abstained,
    why (null where it is answered), distance (null where none is measured).

    `explained`: and explanation, the path of a picture (null where there is none).
    """

    header: bytes = b""
    quoted: bool = False
    explained: bool = False

    def encode(self, prediction: Prediction) -> bytes:
        row = {"path": prediction.path, **prediction_fields(prediction)}
        if self.explained:
            row["explanation"] = prediction.explanation or None
        return json.dumps(row, allow_nan=False).encode("ascii") + b"\n"

    def decode(self, record: bytes) -> Prediction:
        try:
            row = json.loads(record)
            if self.explained != ("explanation" in row):
                raise ValueError(f"{'no' if self.explained else 'an'} explanation in the row")
            top = tuple((str(item["class"]), _number(item["probability"])) for item in row["predictions"])
            return Prediction(
                path=row["path"],
                status=_status(row["status"]),
                reason=row["reason"] or "",
                top=top,
                abstained=row["abstained"] is True,
                why=row["why"] or "",
                distance=row["distance"],
                explanation=row.get("explanation") or "",
            )
        except (KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"not a row: {error}") from None

    def shown_path(self, path: str) -> str:
        return path


class CsvRows:
    """path, status, reason, then `columns` times class and probability, best first, then abstained ("yes" or empty) and why.

    `explained`: and last explanation, the path of a picture.
    """

    quoted = True

    def __init__(self, columns: int, *, explained: bool = False) -> None:
        self.columns, self.explained = columns, explained
        self.header = csv_line(column_names(columns, explained=explained))

    def encode(self, prediction: Prediction) -> bytes:
        cells = [prediction.path, prediction.status, prediction.reason]
        for name, value in prediction.top[: self.columns]:
            number = rounded(value)
            cells += [name, "" if number is None else repr(number)]
        cells += [""] * (len(_FIRST) + 2 * self.columns - len(cells))
        cells += ["yes" if prediction.abstained else "", prediction.why, *[prediction.explanation] * self.explained]
        return csv_line(cells)

    def decode(self, record: bytes) -> Prediction:
        cells = next(csv.reader([record.decode("utf-8")], strict=True), [])
        if len(cells) != len(column_names(self.columns, explained=self.explained)):
            raise ValueError(f"not a row: {len(cells)} cells")
        picture = cells.pop() if self.explained else ""
        path, status, reason, *answers, abstained, why = cells
        pairs = zip(answers[::2], answers[1::2], strict=True)
        top = tuple((name, _number(value or None)) for name, value in pairs if name)
        return Prediction(
            path=path,
            status=_status(status),
            reason=reason,
            top=top,
            abstained=abstained == "yes",
            why=why,
            explanation=picture,
        )

    def shown_path(self, path: str) -> str:
        return safe_cell(path)


def column_names(columns: int, *, explained: bool = False) -> list[str]:
    """The columns of CSV and Parquet."""
    pairs = ([f"class_{k}", f"probability_{k}"] for k in range(1, columns + 1))
    return [*_FIRST, *(name for pair in pairs for name in pair), *_LAST, *["explanation"] * explained]


def as_utf8(text: str) -> str:
    """`text` with what cannot be written as UTF-8 (bytes of a file name) as backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def safe_cell(text: str) -> str:
    """`text` as no spreadsheet takes it for a formula."""
    text = as_utf8(text)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def csv_line(cells: list[str]) -> bytes:
    """One record of CSV, its line feed included."""
    line = io.StringIO()
    # The writer quotes a lone carriage return only when it is part of its own line ending.
    csv.writer(line, lineterminator="\r\n").writerow([safe_cell(cell) for cell in cells])
    return line.getvalue().removesuffix("\r\n").encode("utf-8") + b"\n"


def _status(text: object) -> Literal["ok", "failed"]:
    if text == "ok":
        return "ok"
    if text == "failed":
        return "failed"
    raise ValueError(f"not a status: {text!r}")


def _number(value: object) -> float:
    return math.nan if value is None else float(str(value))


def records(file: BinaryIO, *, quoted: bool) -> Iterator[tuple[bytes, int]]:
    """Each whole record of a file with the offset of its end, from where the file stands; a torn last one is left out."""
    end, open_line = file.tell(), b""
    for line in iter(file.readline, b""):
        open_line += line
        # Quotes inside of a cell are doubled, so an odd count means that a cell goes on in the next line.
        if not line.endswith(b"\n") or (quoted and open_line.count(b'"') % 2):
            continue
        end += len(open_line)
        yield open_line, end
        open_line = b""
