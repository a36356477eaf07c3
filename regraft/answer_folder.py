"""A folder of answers for pixels: a mask for each image, pictures to look at, and a journal that says what belongs to what.

A mask lies where its image lay, as a PNG; overlays/ and probabilities/ hold the same names. answers.jsonl gets a line for
each image as soon as its files are whole, so that a run that was cut short can be gone on with.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.decode import decode_image
from regraft.data.shards.read import resolve
from regraft.errors import ImageRejected, UsageError
from regraft.mask_files import label_png, overlay_png, probability_png, write_probabilities
from regraft.mask_names import OVERLAYS, PROBABILITIES, MaskNames
from regraft.palette import palette_of
from regraft.replacing import cannot_write, replacing
from regraft.rows import csv_line, rounded
from regraft.segments import Kind, PixelAnswer
from regraft.values import ImagePath

JOURNAL: Final = "answers.jsonl"
CLASSES: Final = "classes.csv"
# Pixels of an overlay's longer side: enough to see a contour, few enough for a page full of them.
OVERLAY_SIDE: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRow:
    """What was answered for one image, and the names of the files below the folder, empty where there is none.

    `shares` say what part of the image each class takes.
    """

    path: str
    status: str
    reason: str = ""
    mask: str = ""
    overlay: str = ""
    probabilities: str = ""
    shares: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the folder is to hold: `kind` and `classes` of the answers, and which pictures beside the masks."""

    kind: Kind
    classes: tuple[str, ...]
    overlays: bool = True
    probabilities: bool = False


def row_fields(row: PixelRow, folder: Path | None = None) -> dict[str, Any]:
    """The row as JSON has it; with `folder` files are named from where it lies."""
    files = {key: _from(folder, getattr(row, key)) for key in ("mask", "overlay", "probabilities")}
    shares = [{"class": name, "share": rounded(share)} for name, share in row.shares]
    return {"path": row.path, "status": row.status, "reason": row.reason or None, **files, "shares": shares}


def json_row(row: PixelRow, folder: Path | None = None) -> bytes:
    """`row_fields` as one line of ASCII, every byte of a file name kept."""
    return json.dumps(row_fields(row, folder), allow_nan=False).encode("ascii") + b"\n"


def csv_header(classes: Sequence[str]) -> bytes:
    return csv_line(["path", "status", "reason", "mask", "overlay", "probabilities", *(f"share {name}" for name in classes)])


def csv_row(row: PixelRow, classes: Sequence[str], folder: Path | None = None) -> bytes:
    """The row under `csv_header`."""
    files = [_from(folder, name) or "" for name in (row.mask, row.overlay, row.probabilities)]
    shares = dict(row.shares)
    return csv_line(
        [row.path, row.status, row.reason, *files, *(repr(rounded(shares[name])) if name in shares else "" for name in classes)]
    )


def _from(folder: Path | None, name: str) -> str | None:
    return None if not name else name if folder is None else str(folder / name)


class AnswerFolder:
    """A folder that takes answers. A context manager: leaving it keeps what was written.

    `kept` holds the rows of earlier runs that nothing is missing of, by path; only where `resume`.
    """

    def __init__(self, folder: Path, wanted: Wanted, names: MaskNames, *, resume: bool = False) -> None:
        """Raises UsageError and OutOfSpace where the folder cannot be written to, UsageError for a journal of another kind."""
        self.folder, self._wanted, self._names = folder, wanted, names
        rows = list(_read_journal(folder / JOURNAL)) if resume else []
        self.kept = {row.path: row for row in rows if self._is_whole(row)}
        for row in self.kept.values():
            self._names.keep(row.path, row.mask.removesuffix(".png"))
        self._palette = palette_of(max(2, len(wanted.classes)))
        self._start()

    def __enter__(self) -> "AnswerFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()

    def write(self, answer: PixelAnswer) -> PixelRow:
        """Write the files of one answer, then its line. Raises OutOfSpace and UsageError; what was written before is kept."""
        row = self._failed(answer) if answer.labels_HW is None else self._written(answer, answer.labels_HW)
        self._append(json_row(row))
        return row

    def differs(self, row: PixelRow, answer: PixelAnswer) -> float:
        """The share of pixels that an answer has otherwise than the mask of a row; 1 where that cannot be compared."""
        with Image.open(self.folder / row.mask) as image:
            mask_HW = np.asarray(image)
        if answer.labels_HW is None or mask_HW.shape != answer.labels_HW.shape:
            return 1.0
        labels_HW = (mask_HW > 0) if self._wanted.kind == "saliency" else mask_HW
        return float((labels_HW != answer.labels_HW).mean())

    def _start(self) -> None:
        journal = self.folder / JOURNAL
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(journal, error) from error
        with replacing(journal) as temporary:
            temporary.write_bytes(b"".join(json_row(row) for row in self.kept.values()))
        if self._wanted.kind == "semantic":
            with replacing(self.folder / CLASSES) as temporary:
                temporary.write_bytes(b"".join(_class_lines(self._wanted.classes)))
        # Unbuffered: each line is whole in the file or the last one, whenever the process dies.
        self._journal = journal.open("ab", buffering=0)

    def _append(self, line: bytes) -> None:
        try:
            self._journal.write(line)
        except OSError as error:
            raise cannot_write(self.folder / JOURNAL, error) from error

    def _failed(self, answer: PixelAnswer) -> PixelRow:
        return PixelRow(path=answer.path, status="failed", reason=answer.reason)

    def _written(self, answer: PixelAnswer, labels_HW: NDArray[np.uint8]) -> PixelRow:
        name, wanted = self._names.name(answer.path), self._wanted
        overlay = ""
        if wanted.overlays:
            try:
                pixels = _small(resolve([answer.path])[0])
            except ImageRejected as error:
                return PixelRow(path=answer.path, status="failed", reason=error.got)
            overlay = self._put(f"{OVERLAYS}/{name}.png", overlay_png(pixels, labels_HW, wanted.classes, self._palette))
        probabilities = "" if answer.probabilities_CHW is None else self._probabilities(name, answer.probabilities_CHW)
        palette = None if wanted.kind == "saliency" else self._palette
        mask = self._put(f"{name}.png", label_png(labels_HW, palette))
        return PixelRow(
            path=answer.path, status="ok", mask=mask, overlay=overlay, probabilities=probabilities, shares=answer.shares
        )

    def _probabilities(self, name: str, values_CHW: NDArray[np.float16]) -> str:
        """Of the object as a picture of 16 bits, of several classes as arrays."""
        if self._wanted.kind == "saliency":
            return self._put(f"{PROBABILITIES}/{name}.png", probability_png(values_CHW[0], bits=16))
        relative = f"{PROBABILITIES}/{name}.npz"
        write_probabilities(self._made(relative), values_CHW, self._wanted.classes)
        return relative

    def _put(self, relative: str, content: bytes) -> str:
        with replacing(self._made(relative)) as temporary:
            temporary.write_bytes(content)
        return relative

    def _made(self, relative: str) -> Path:
        path = self.folder / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error
        return path

    def _is_whole(self, row: PixelRow) -> bool:
        """Whether all that is wanted of the row is there; an image that failed is tried again."""
        wanted = [row.mask, *[row.overlay] * self._wanted.overlays, *[row.probabilities] * self._wanted.probabilities]
        return row.status == "ok" and all(name and (self.folder / name).is_file() for name in wanted)


def _small(path: ImagePath) -> NDArray[np.uint8]:
    """The image as large as its overlay. Raises ImageRejected."""
    image = decode_image(path, smallest_side=OVERLAY_SIDE).pixels
    image.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def _class_lines(classes: Sequence[str]) -> Iterator[bytes]:
    """What the indices of the masks stand for."""
    yield csv_line(["index", "class", "colour"])
    for index, (name, colour) in enumerate(zip(classes, palette_of(len(classes)), strict=True)):
        yield csv_line([str(index), name, "#{:02x}{:02x}{:02x}".format(*colour)])


def _read_journal(path: Path) -> Iterator[PixelRow]:
    """The rows of an earlier run; a torn last line is left out. Raises UsageError for what is no journal."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            yield _row_of(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                expected=f"{path} as an earlier run wrote it",
                got=f"line {number}: {type(error).__name__}",
                fix="start again with --overwrite, or give another --out",
            ) from None


def _row_of(fields: dict[str, Any]) -> PixelRow:
    files = {key: _checked_name(fields[key] or "") for key in ("mask", "overlay", "probabilities")}
    shares = tuple((str(item["class"]), float(item["share"])) for item in fields["shares"])
    return PixelRow(
        path=str(fields["path"]), status=str(fields["status"]), reason=fields["reason"] or "", shares=shares, **files
    )


def _checked_name(name: str) -> str:
    """Raises ValueError for a name that leads out of the folder."""
    if Path(name).anchor or ".." in Path(name).parts:
        raise ValueError(name)
    return name
