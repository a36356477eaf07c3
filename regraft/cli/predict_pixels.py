"""regraft predict, for a run that answers for every pixel: masks in a folder, one row per image on standard output."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.recipe import Device
from regraft.values import INSIDE

if TYPE_CHECKING:
    from regraft.answer_folder import AnswerFolder, PixelRow
    from regraft.fitted_pixels import FittedPixels
    from regraft.inputs import Inputs
    from regraft.progress import Progress

# How much of a mask the same model may have otherwise: another machine, engine or precision.
_SAME_WITHIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for: a folder for the masks, which pictures beside them, and how rows are printed."""

    out: Path | None
    overlays: bool
    probabilities: bool
    whole: bool
    resume: bool
    overwrite: bool
    as_json: bool
    as_csv: bool
    top_k: int
    device: Device


def check_asked(model: str, files: Sequence[str], asked: Asked) -> Path:
    """The folder for the answers. Raises UsageError, or OutputExists where something is in it; nothing is made."""
    from regraft.errors import UsageError
    from regraft.evidence.files import check_folder

    if asked.out is None:
        raise UsageError(
            expected="--out, a folder for the masks: this run answers for every pixel",
            got=f"{model} without it",
            fix="name a folder: --out masks_out/",
        )
    if asked.out.suffix.lower() in (".csv", ".json", ".jsonl", ".ndjson", ".parquet"):
        raise UsageError(
            expected="--out as a folder for masks: this run answers for every pixel",
            got=str(asked.out),
            fix=f"--out masks_out/; rows for a file come with --csv > {asked.out.with_suffix('.csv')}",
        )
    if asked.as_json and asked.as_csv:
        raise UsageError(expected="--json or --csv", got="both", fix="leave one out")
    if asked.resume and asked.overwrite:
        raise UsageError(expected="--resume or --overwrite", got="both", fix="leave one out")
    folder = asked.out.resolve()
    inside = [name for name in files if name != "-" and Path(name).exists() and Path(name).resolve().is_relative_to(folder)]
    if inside:
        raise UsageError(
            expected=f"images outside of {asked.out}, where the masks go",
            got=f"{inside[0]}, which is inside of it",
            fix="give another folder with --out",
        )
    check_folder(asked.out, keep=asked.resume or asked.overwrite, option="--out")
    return asked.out


def write_answers(
    fitted: "FittedPixels", folder: Path, files: Sequence[str], inputs: "Inputs", asked: Asked
) -> tuple[int, int]:
    """Answer every input, in order; how many failed, of how many."""
    from regraft.answer_folder import AnswerFolder, Wanted
    from regraft.cli.pixel_show import longest
    from regraft.cli.watch import watcher
    from regraft.mask_names import MaskNames, roots_of

    people = not (asked.as_json or asked.as_csv)
    # Rows and bars would overwrite each other on a terminal.
    watch = watcher(bars=not sys.stdout.isatty())
    for note in (*inputs.notes, *fitted.notes):
        watch.note(note)
    paths = _outside(inputs.paths, folder, watch)
    if people:
        # Lines for people are in columns, for which the longest path has to be known.
        every = list(paths)
        paths, width = iter(every), longest(every)
    wanted = Wanted(kind=fitted.kind, classes=tuple(fitted.classes), overlays=asked.overlays, probabilities=asked.probabilities)
    failed = total = 0
    with AnswerFolder(folder, wanted, MaskNames(roots_of(files)), resume=asked.resume) as answers:
        _check_same_model(fitted, answers, asked)
        write = _printing(asked, answers, tuple(fitted.classes), width if people else 0)
        for row in _rows(fitted, paths, answers, asked, watch):
            write(row)
            total += 1
            failed += row.status == "failed"
    watch.note(f"{folder}: {total - failed:,} masks, {failed:,} images failed")
    return failed, total


def _rows(
    fitted: "FittedPixels", paths: Iterable[str], answers: "AnswerFolder", asked: Asked, watch: "Progress"
) -> Iterator["PixelRow"]:
    """A row for each path, in order: those that are there already, and the others as soon as their files are."""
    waiting: deque[PixelRow | None] = deque()

    def open_ones() -> Iterator[str]:
        for path in paths:
            row = answers.kept.get(path)
            waiting.append(row)
            if row is None:
                yield path

    found = fitted.iter_predict(
        open_ones(), whole=asked.whole, probabilities=asked.probabilities, device=asked.device, progress=watch
    )
    for answer in found:
        while (row := waiting.popleft()) is not None:
            yield row
        yield answers.write(answer)
    yield from (row for row in waiting if row is not None)


def _outside(paths: Iterator[str], folder: Path, watch: "Progress") -> Iterator[str]:
    """The inputs that are no answers of an earlier run."""
    resolved, left_out = folder.resolve(), 0
    for path in paths:
        if Path(path).resolve().is_relative_to(resolved):
            left_out += 1
        else:
            yield path
    if left_out:
        watch.note(f"{left_out:,} images in {folder} were left out: that is where the masks go")


def _printing(asked: Asked, answers: "AnswerFolder", classes: tuple[str, ...], width: int) -> Callable[["PixelRow"], None]:
    """What writes a row to standard output."""
    from regraft.answer_folder import csv_header, csv_row, json_row
    from regraft.cli.pixel_show import PixelLines

    folder, lines = answers.folder, PixelLines(width, asked.top_k)
    sys.stdout.flush()
    out = sys.stdout.buffer

    def write(row: "PixelRow") -> None:
        if asked.as_json:
            out.write(json_row(row, folder))
        else:
            out.write(csv_row(row, classes, folder) if asked.as_csv else lines.encode(row))
        out.flush()

    if asked.as_csv:
        out.write(csv_header(classes))
    return write


def _check_same_model(fitted: "FittedPixels", answers: "AnswerFolder", asked: Asked) -> None:
    """Ask one image again. Raises UsageError where another model made the masks that are there."""
    from regraft.errors import UsageError

    row = next((row for row in answers.kept.values() if Path(row.path.partition(INSIDE)[0]).is_file()), None)
    if row is None:
        return
    answer = fitted.predict([row.path], whole=asked.whole, device=asked.device)[0]
    apart = answers.differs(row, answer)
    if apart > _SAME_WITHIN:
        raise UsageError(
            expected=f"{answers.folder} to hold masks that this model made, with the same options",
            got=f"{row.mask}: {100 * apart:.0f} % of its pixels are otherwise now",
            fix="resume with the model and options of the first run, or start again with --overwrite",
        )
