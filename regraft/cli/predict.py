"""regraft predict: one row per image, in order, whatever happens to any of them."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regraft.cli.options import (
    DeviceOption,
    HeadAgain,
    HeadPath,
    NamedAgain,
    RayOption,
    Trust,
    WeightsOption,
    WorkersOption,
    check_workers,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from regraft.bulk.models import Model
    from regraft.fitted import Fitted
    from regraft.inputs import Inputs
    from regraft.progress import Progress
    from regraft.row_file import Kept, RowKind, Target
    from regraft.rows import RowWriter
    from regraft.values import Prediction

# How far figures of the same model may be apart: another machine, engine or precision.
_SAME_WITHIN = 0.02
_SEE = "see the reasons in their rows"


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|BACKBONE", help="Folder of a run, or a backbone such as efficientnet_lite0.", show_default=False
        ),
    ],
    files: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders, patterns, shards; - reads paths from standard input.", metavar="FILE...", show_default=False
        ),
    ],
    top_k: Annotated[int, typer.Option("--top-k", metavar="K", min=1, help="How many classes to name for each image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, one per image.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV, one line per image.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="Write the rows to this file: .csv, .jsonl or .parquet; the masks of a run for pixels to this folder.",
            show_default=False,
        ),
    ] = None,
    overlays: Annotated[
        bool | None,
        typer.Option(
            "--overlays/--no-overlays",
            help="Beside masks, the images with the areas in colour; on by default.",
            show_default=False,
        ),
    ] = None,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Beside masks, the probabilities: .png of an object, .npz of several classes."),
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Show large images at once, made small, in place of tile by tile.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the file of a run that was cut short.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file or the masks of --out, and pictures of --explain.")
    ] = False,
    explain: Annotated[
        Path | None,
        typer.Option(
            "--explain",
            metavar="DIR",
            help="Write to this folder, for each image, where the evidence for the best answer lies.",
            show_default=False,
        ),
    ] = None,
    null: Annotated[
        bool, typer.Option("--null", help="Paths on standard input end with NUL, as find -print0 writes them.")
    ] = False,
    weights: WeightsOption = None,
    head_path: HeadPath = None,
    backbone: NamedAgain = None,
    head: HeadAgain = None,
    trust: Trust = False,
    device: DeviceOption = "auto",
    ray: RayOption = None,
    workers: WorkersOption = None,
) -> None:
    """Say what is on images, with probabilities; of a run for pixels, write masks and say what part each class takes.

    Every input gets its row. Those that cannot be used have the status failed and the reason; the exit code is then 5, and so
    it is where an archive was cut short. One that is no sound archive at all stops the command before any row.
    """
    from regraft.cli.failed import check_all_answered
    from regraft.cli.options import check_run_options, open_model, open_pixels
    from regraft.cli.predict_pixels import Asked, check_asked, write_answers
    from regraft.errors import UsageError
    from regraft.evidence.files import check_folder
    from regraft.inputs import STANDARD_INPUT, expand_inputs
    from regraft.kind import kind_of_run
    from regraft.row_file import check_target, choose_target

    listed = sys.stdin.buffer if STANDARD_INPUT in files else None
    _check_ray(ray, workers, explain)
    if kind_of_run(Path(model)) != "classification":
        _check_no_evidence(explain)
        _check_no_masks(model, {"--ray": ray is not None}, has="classifies images", got="which answers for every pixel")
        asked = Asked(
            out=out, overlays=overlays is not False, probabilities=probabilities, whole=whole, resume=resume,
            overwrite=overwrite, as_json=as_json, as_csv=as_csv, top_k=top_k, device=device,
        )  # fmt: skip
        folder = check_asked(model, files, asked)
        inputs = expand_inputs(files, listed=listed, null=null)
        check_run_options(model, weights, head_path)
        pixels = open_pixels(model, backbone=backbone, head=head, trust=trust)
        failed, total = write_answers(pixels, folder, files, inputs, asked)
        check_all_answered(failed, total, inputs.cut, fix=_SEE)
        return
    _check_no_masks(model, {"--overlays": overlays is not None, "--probabilities": probabilities, "--whole": whole})
    if as_json and as_csv:
        raise UsageError(expected="--json or --csv", got="both", fix="leave one out")
    kind: RowKind | None = "csv" if as_csv else "jsonl" if as_json else None
    target = choose_target(out, kind, explained=explain is not None) if out else None
    if target:
        check_target(target, resume=resume, overwrite=overwrite)
    elif resume or (overwrite and explain is None):
        raise UsageError(expected="--out with --resume or --overwrite", got="none", fix="name the file: --out predictions.csv")
    if explain:
        check_folder(explain, keep=resume or overwrite)
    inputs = expand_inputs(files, listed=listed, null=null)
    fitted = open_model(model, weights, backbone=backbone, head=head, trust=trust, head_path=head_path)
    sent = _sent(ray, model, fitted, weights, backbone, head, trust, head_path)
    answers = _Answers(fitted, min(top_k, len(fitted.classes)), device, explain, ray, workers, sent)
    failed, total = _to_file(answers, inputs, target, resume) if target else _to_stdout(answers, inputs, kind)
    check_all_answered(failed, total, inputs.cut, fix=_SEE)


def _check_no_evidence(explain: Path | None) -> None:
    """Raise UsageError for --explain with a run that answers for every pixel."""
    from regraft.errors import UsageError

    if explain is not None:
        raise UsageError(
            expected="--explain with a run that classifies images",
            got="one that answers for every pixel",
            fix="leave it out: overlays show what was found where",
        )


def _check_no_masks(
    model: str, given: dict[str, bool], *, has: str = "answers for every pixel", got: str = "which classifies images"
) -> None:
    """Raise UsageError for options of masks with a model that has none, or of classes with one of masks."""
    from regraft.errors import UsageError

    for option in (option for option, was in given.items() if was):
        raise UsageError(expected=f"{option} with a run that {has}", got=f"{model}, {got}", fix=f"leave {option} out")


def _check_ray(ray: str | None, workers: int | None, explain: Path | None) -> None:
    """Raise UsageError for a Ray that cannot be had, and for what does not go together with it."""
    from regraft.errors import UsageError

    check_workers(ray, workers)
    if ray is None:
        return
    if explain is not None:
        raise UsageError(expected="--explain or --ray", got="both", fix="explain fewer images, without --ray")
    from regraft.bulk.cluster import check_ray

    check_ray(ray, workers)


def _sent(
    ray: str | None, model: str, fitted: "Fitted", weights: str | None, backbone: str | None, head: str | None, trust: bool,
    head_path: str | None,
) -> "Model | None":  # fmt: skip
    """What Ray's workers open, where they are to answer."""
    if ray is None:
        return None
    from regraft.bulk.models import model_of

    return model_of(model, fitted, weights=weights, backbone=backbone, head=head, trust=trust, head_path=head_path)


@dataclass(frozen=True)
class _Answers:
    """What makes the rows: `columns` classes for each image, and where `folder` is named, a picture of the evidence in it.

    `sent` is what the workers of `ray` open.
    """

    fitted: "Fitted"
    columns: int
    device: DeviceOption
    folder: Path | None
    ray: str | None = None
    workers: int | None = None
    sent: "Model | None" = None

    def of(self, paths: "Iterable[str]", watch: "Progress") -> "Iterator[Prediction]":
        """One row per path, in order, as soon as it is there."""
        if self.ray is not None and self.sent is not None:
            from regraft.bulk.predicting import iter_on_ray

            return iter_on_ray(
                self.fitted,
                self.sent,
                paths,
                address=self.ray,
                workers=self.workers,
                top_k=self.columns,
                device=self.device,
                progress=watch,
            )
        if self.folder is None:
            return self.fitted.iter_predict(paths, top_k=self.columns, device=self.device, progress=watch)
        return self._explained(self.folder, paths, watch)

    def _explained(self, folder: Path, paths: "Iterable[str]", watch: "Progress") -> "Iterator[Prediction]":
        from regraft.evidence.explain import explain
        from regraft.evidence.files import write_picture
        from regraft.evidence.overlay import overlay

        for one in explain(self.fitted, paths, top_k=self.columns, device=self.device, progress=watch):
            row = one.prediction
            if row.status == "ok":
                row = replace(row, explanation=str(write_picture(folder, row.path, overlay(one))))
            yield row


def _to_stdout(answers: _Answers, inputs: "Inputs", kind: "RowKind | None") -> tuple[int, int]:
    """Rows on standard output as they come; how many failed, of how many."""
    from regraft.cli.lines import PredictionLines
    from regraft.cli.watch import watcher
    from regraft.data.names import display_width, printable
    from regraft.rows import CsvRows, JsonRows

    fitted, columns, explained = answers.fitted, answers.columns, answers.folder is not None
    form: RowWriter = JsonRows(explained=explained) if kind == "jsonl" else CsvRows(columns, explained=explained)
    paths = inputs.paths
    if kind is None:
        # Lines for people are in columns, for which the longest path has to be known.
        every = list(paths)
        longest = max((display_width(printable(path)) for path in every), default=0)
        form, paths = PredictionLines(fitted.classes, columns, longest), iter(every)
    # Rows and bars would overwrite each other on a terminal.
    watch = watcher(bars=not sys.stdout.isatty())
    for note in (*inputs.notes, *fitted.notes):
        watch.note(note)
    sys.stdout.flush()
    write, flush = sys.stdout.buffer.write, sys.stdout.buffer.flush
    failed = total = 0
    if form.header:
        write(form.header)
    for prediction in answers.of(paths, watch):
        write(form.encode(prediction))
        flush()
        total += 1
        failed += prediction.status == "failed"
    return failed, total


def _to_file(answers: _Answers, inputs: "Inputs", target: "Target", resume: bool) -> tuple[int, int]:
    """Rows to a file, going on with it where asked to; how many failed, of how many."""
    from regraft.cache.answer import MANY
    from regraft.cache.stream import BATCH
    from regraft.cli.watch import watcher
    from regraft.row_file import Kept, RowFile, read_kept

    watch, columns = watcher(), answers.columns
    for note in (*inputs.notes, *answers.fitted.notes):
        watch.note(note)
    kept, paths = Kept(), inputs.paths
    if resume:
        every = list(paths)
        # The engine is chosen by the number of images: so many have to be left that it is the same as for all of them.
        most = len(every) - MANY if len(every) >= MANY else None
        kept, paths = read_kept(target, columns, iter(every), align=BATCH, most=most)
    _check_same_model(answers, kept, target)
    if kept.rows:
        watch.note(f"{target.path}: {kept.rows:,} rows are there already{', all of them' if kept.complete else ''}")
    with RowFile(target, columns, kept) as rows:
        if not kept.complete:
            for prediction in answers.of(paths, watch):
                rows.write(prediction)
        rows.finish()
    watch.note(f"{target.path}: {rows.rows:,} rows, {rows.failed:,} of them failed")
    return rows.failed, rows.rows


def _check_same_model(answers: _Answers, kept: "Kept", target: "Target") -> None:
    """Ask one image again. Raises UsageError where another model made the rows that are there."""
    from regraft.errors import UsageError

    if kept.probe is None:
        return
    path, before = kept.probe
    form = target.rows(answers.columns)
    # Through the format and back, because names may be spelled differently there.
    asked = answers.fitted.predict([path], top_k=answers.columns, device=answers.device)[0]
    now = form.decode(form.encode(asked))
    figures = dict(now.top)
    same = now.status == "ok" and all(abs(figures.get(name, 0.0) - value) <= _SAME_WITHIN for name, value in before.top)
    if not same:
        raise UsageError(
            expected=f"{target.path} to hold rows that this model made",
            got=f"{path}: {_best(before.top)} in the file, {_best(now.top)} now",
            fix="resume with the model of the first run, or start again with --overwrite",
        )


def _best(top: tuple[tuple[str, float], ...]) -> str:
    return f"{top[0][0]} {100 * top[0][1]:.1f} %" if top else "no answer"
