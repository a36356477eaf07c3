"""`regraft.export`: a fitted model as a file that answers without regraft, and that has been tried before it is there."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from regraft.artifact.durable import sync_folder
from regraft.artifact.load import WEIGHTS_FILE
from regraft.errors import OutputExists, UsageError
from regraft.exports.describe import describe
from regraft.exports.formats import (
    SUFFIX,
    Ask,
    Recorded,
    Target,
    ask_onnx,
    ask_openvino,
    ask_torch,
    check_target,
    to_onnx,
    write_onnx,
    write_openvino,
    write_torch,
)
from regraft.exports.graph import outputs_of, program_of
from regraft.exports.held_out import Trial, find_trial
from regraft.exports.judge import check_same, int8_cost
from regraft.exports.outcome import Exported
from regraft.exports.quantise import quantised
from regraft.exports.verify import Reference, compare_answers, compare_pace, same_labels
from regraft.exports.weights import ask_safetensors, library_name, write_safetensors
from regraft.fitted import Fitted
from regraft.progress import Progress, Silent
from regraft.replacing import cannot_write
from regraft.saved import load_classifier


def export(
    run: str | Path | Fitted,
    *,
    to: Target,
    out: str | Path | None = None,
    int8: bool = False,
    images: str | Path | None = None,
    verify: bool = True,
    overwrite: bool = False,
    progress: Progress = Silent(),
) -> Exported:
    """Write a model as one file that needs no regraft, and try it on the images that judged the run before it is there.

    "onnx", "openvino" and "torch" (a `torch.export` program) take raw images (N, H, W, 3) uint8 of any size and give
    probabilities (N, K), and distances (N,) where the run measures them: resizing as Pillow does it, normalisation, network,
    temperature and softmax are inside, class names and thresholds in the metadata. "safetensors" holds the weights of the
    library's plain network with the new head. `int8` quantises the network with the run's training images (onnx, openvino).
    `out` is NAME.SUFFIX in the run's folder by default; of OpenVINO a .bin file lies beside it. `images` is a folder where the
    run's images are now, or any other images to try the file on.

    Each image is answered by the file and by the network in eager fp32, from the same pixels. Raises ExportDiffers where a
    label differs or a probability by more than 0.001 (in int8 the cost is measured instead); a contact sheet of these images
    then lies beside `out`, and nothing at `out`. Raises UsageError (with OutputExists) for what cannot be exported, for missing
    packages and where there are no images to try, DataUnusable, OutOfSpace.
    """
    check_target(to, int8=int8)
    fitted = _opened_run(run)
    if to == "safetensors":
        library_name(fitted)
    path = _place(fitted, to, int8, out, overwrite)
    trial = find_trial(fitted.folder, Path(images) if images is not None else None) if verify or int8 else None
    with _beside(path) as work:
        temporary = work / path.name
        precision = "int8" if int8 else "fp32"
        fp32 = _write(fitted, to, temporary, None if not int8 else trial, progress)
        found = Exported(path=path, to=to, precision=precision, classes=fitted.classes, bytes=_size(temporary), verified=verify)
        if verify and trial is not None:
            found = _tried(fitted, found, temporary, fp32, trial, progress)
        _put(work, path, skip=fp32)
    return found


def _opened_run(run: object) -> Fitted:
    if isinstance(run, Fitted):
        return run
    if isinstance(run, str | Path):
        return load_classifier(run)
    raise UsageError(
        expected="a run that classifies images, or its folder",
        got=repr(run)[:100],
        fix="of a run for pixels to_torch() gives the network as a module, for torch.onnx.export",
    )


def _place(fitted: Fitted, to: Target, int8: bool, out: str | Path | None, overwrite: bool) -> Path:
    if out is None:
        folder = fitted.folder or Path()
        name = fitted.folder.resolve().name if fitted.folder else fitted.backbone.name.replace(":", "-").replace("/", "-")
        path = folder / f"{name}{'-int8' * int8}{SUFFIX[to]}"
    else:
        path = Path(out)
    if path.suffix != SUFFIX[to]:
        raise UsageError(expected=f"a file name that ends in {SUFFIX[to]}", got=str(path), fix=f"--out {path.stem}{SUFFIX[to]}")
    if path.name == WEIGHTS_FILE and fitted.folder and path.parent.resolve() == fitted.folder.resolve():
        raise OutputExists(expected="a name of its own", got=f"{path}, the run itself", fix="give another --out")
    taken = [one for one in (path, path.with_suffix(".bin") if to == "openvino" else path) if one.exists()]
    if taken and (not overwrite or taken[0].is_dir()):
        raise OutputExists(
            expected="a new file", got=f"{taken[0]} is there already", fix="give another --out, or --overwrite to replace it"
        )
    return path


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder to work in, on the same disk; gone at the end. Raises OutOfSpace or UsageError where files cannot be written."""
    work = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work.mkdir()
        yield work
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put(work: Path, path: Path, *, skip: Path | None) -> None:
    """Move what was written to its place: the file that names the others last."""
    files = sorted(
        (file for file in work.iterdir() if skip is None or file.stem != skip.stem), key=lambda f: f.name == path.name
    )
    for file in files:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
        file.replace(path.parent / file.name)
    sync_folder(path.parent)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.stem == path.stem)


def _write(fitted: Fitted, to: Target, path: Path, calibrate: Trial | None, progress: Progress) -> Path | None:
    """Write the file; of an int8 one also what it is in fp32, whose path comes back."""
    precision = "fp32" if calibrate is None else "int8"
    metadata = describe(fitted, precision=precision)
    if to == "safetensors":
        write_safetensors(fitted, metadata, path)
        return None
    with progress.task(f"recording {fitted.backbone.name}", 1, "network") as task:
        program = program_of(fitted)
        task.advance()
    if to == "torch":
        write_torch(program, metadata, path)
        return None
    write = write_onnx if to == "onnx" else write_openvino
    recorded: Recorded = to_onnx(program, outputs_of(fitted), fitted.backbone.name)
    if calibrate is None:
        write(recorded, metadata, path)
        return None
    plain = path.with_stem(f"{path.stem}-fp32")
    write(recorded, metadata, plain)
    write(quantised(recorded, fitted, calibrate.train, progress=progress), metadata, path)
    return plain


def _opened(path: Path, to: Target, fitted: Fitted) -> Ask:
    threads = torch.get_num_threads()
    if to == "safetensors":
        return ask_safetensors(path, fitted)
    if to == "torch":
        return ask_torch(path)
    return ask_onnx(path, threads=threads) if to == "onnx" else ask_openvino(path, threads=threads)


def _tried(fitted: Fitted, found: Exported, path: Path, fp32: Path | None, trial: Trial, progress: Progress) -> Exported:
    """The file beside the network on every image. Raises ExportDiffers."""
    ask, reference = _opened(path, found.to, fitted), Reference(fitted)
    answered = compare_answers(ask, reference, trial.images, progress=progress)
    if not answered.samples:
        first = answered.rejected[0]
        raise UsageError(
            expected="images to try the export on",
            got=f"none of {len(answered.rejected):,} can be read: {first.name}: {first.reason}",
            fix="name others: --images DIR",
        )
    pace = compare_pace(ask, reference, answered.samples)
    assert pace is not None, "at least one image was read before"
    cost = None
    if fp32 is None:
        check_same(fitted, found, answered, pace)
    elif trial.labelled:
        plain = compare_pace(_opened(fp32, found.to, fitted), reference, answered.samples)
        assert plain is not None, "at least one image was read before"
        cost = int8_cost(fitted, answered, pace, plain, _size(fp32))
    return replace(
        found,
        images=len(answered.samples),
        on=trial.on,
        lost=trial.lost,
        rejected=len(answered.rejected),
        same_labels=same_labels(answered.theirs, answered.ours, fitted.multi_label),
        largest_difference=float(abs(answered.theirs - answered.ours).max()),
        distance_difference=answered.distance_gap,
        as_predicted=same_labels(answered.theirs, answered.predicted, fitted.multi_label),
        predicted_difference=float(abs(answered.theirs - answered.predicted).max()),
        images_per_s=pace.theirs,
        eager_images_per_s=pace.ours,
        batch=pace.batch,
        int8=cost,
    )
