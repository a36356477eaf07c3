"""`regraft.export`: a fitted model as a file that answers without regraft, and that has been tried before it is there."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from regraft.artifact.durable import sync_folder
from regraft.errors import OutputExists, RegraftError, UsageError
from regraft.evaluate.interval import paired_shares, share_interval
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
from regraft.exports.quantise import quantised
from regraft.exports.verify import (
    NEAR,
    NEAR_DISTANCE,
    Answered,
    Pace,
    Reference,
    compare_answers,
    compare_pace,
    labels_of,
    same_labels,
    write_sheet,
)
from regraft.exports.weights import ask_safetensors, library_name, write_safetensors
from regraft.fitted import Fitted
from regraft.progress import Progress, Silent
from regraft.replacing import cannot_write
from regraft.saved import load_classifier
from regraft.task.classify import groups_of, targets_of
from regraft.values import Interval

_NAMED = 10  # images that a message names


class ExportDiffers(RegraftError):
    """An exported file that answers otherwise than the network that it came from."""

    exit_code = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Cost:
    """What int8 costs, on labelled images: shares right of the network in fp32 and of the file, and their paired difference.

    `changed` are the images whose label is another: name, label before, label after. `fp32_bytes` is the size that the same
    export has in fp32, `speed` images per second as a share of that one's.
    """

    before: Interval
    after: Interval
    difference: Interval
    changed: tuple[tuple[str, str, str], ...]
    fp32_bytes: int
    speed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An exported file and how it did on `images` images, named by `on`; `lost` were not found, `rejected` not readable.

    `same_labels` counts the images with the labels of the network in eager fp32, `largest_difference` is that of all their
    probabilities. Both get the same pixels there; `as_predicted` and `predicted_difference` compare with what `regraft predict`
    says of the files, which decodes large JPEGs at a reduced scale. `images_per_s` and `eager_images_per_s` are from raw pixels
    to answers, `batch` at a time; 0 where nothing was tried (`verified` False).
    """

    path: Path
    to: Target
    precision: str
    classes: tuple[str, ...]
    bytes: int
    verified: bool
    images: int = 0
    on: str = ""
    lost: int = 0
    rejected: int = 0
    same_labels: int = 0
    largest_difference: float = 0.0
    distance_difference: float = 0.0
    as_predicted: int = 0
    predicted_difference: float = 0.0
    images_per_s: float = 0.0
    eager_images_per_s: float = 0.0
    batch: int = 0
    int8: Int8Cost | None = None

    @property
    def speed(self) -> float:
        """Images per second as a share of eager fp32's; 0 where nothing was tried."""
        return self.images_per_s / self.eager_images_per_s if self.eager_images_per_s else 0.0


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
    if path.name in ("model.safetensors",) and fitted.folder and path.parent.resolve() == fitted.folder.resolve():
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
    if fp32 is None:
        _check_same(fitted, found, answered, pace)
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
        int8=None if fp32 is None else _cost(fitted, found, answered, pace, fp32, trial),
    )


def _check_same(fitted: Fitted, found: Exported, answered: Answered, pace: Pace) -> None:
    """Raise ExportDiffers, with a contact sheet of the images, where the file answers otherwise than the network."""
    gap_N = abs(answered.theirs - answered.ours).max(axis=1)
    # Not `<=`: an answer that is no number is as wrong as can be.
    bad = sorted({*answered.differing(fitted.multi_label), *(i for i, gap in enumerate(gap_N) if not gap <= NEAR)})
    if not bad:
        if pace.largest_difference <= NEAR and answered.distance_gap <= NEAR_DISTANCE:
            return
        what, gap = ("of several images at a time", pace.largest_difference)
        if answered.distance_gap > NEAR_DISTANCE:
            what, gap = ("of distances", answered.distance_gap)
        raise _differs(found, f"answers {what} that are {gap:.2g} away", "")
    sheet = found.path.with_suffix(".differences.png")
    write_sheet(sheet, [answered.samples[i] for i in bad], fitted.backbone.preprocess)
    named = [_line(fitted, answered, i) for i in bad[:_NAMED]]
    more = f"\n       and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
    raise _differs(found, f"{len(bad):,} of {len(gap_N):,} otherwise:{''.join(named)}{more}", f"; they are shown in {sheet}")


def _differs(found: Exported, got: str, where: str) -> ExportDiffers:
    return ExportDiffers(
        expected=f"an export to {found.to} that answers as the network does, each probability within {NEAR:g}",
        got=got,
        fix=f"use another format, or other versions of its packages; nothing was written to {found.path}{where}",
    )


def _line(fitted: Fitted, answered: Answered, row: int) -> str:
    sides = [(rows[row], rows[row].argmax()) for rows in (answered.ours, answered.theirs)]
    ours, theirs = (f"{fitted.classes[k]} {shares[k]:.4f}" for shares, k in sides)
    return f"\n       {answered.samples[row].name}: {ours} by the network, {theirs} by the file"


def _cost(fitted: Fitted, found: Exported, answered: Answered, pace: Pace, fp32: Path, trial: Trial) -> Int8Cost | None:
    """What int8 costs; None where no labels are known."""
    if not trial.labelled:
        return None
    truth = targets_of(answered.samples, fitted.classes, fitted.multi_label)
    sides = [labels_of(rows, fitted.multi_label) == truth for rows in (answered.ours, answered.theirs)]
    before, after = (side.all(axis=1) if side.ndim == 2 else side for side in sides)
    groups = groups_of(answered.samples)
    plain = compare_pace(_opened(fp32, found.to, fitted), Reference(fitted), answered.samples)
    assert plain is not None, "at least one image was read before"
    changed = [
        (answered.samples[i].name, _named(fitted, answered.ours[i]), _named(fitted, answered.theirs[i]))
        for i in answered.differing(fitted.multi_label)
    ]
    return Int8Cost(
        before=share_interval(before, groups),
        after=share_interval(after, groups),
        difference=paired_shares(before, after, groups),
        changed=tuple(changed),
        fp32_bytes=_size(fp32),
        speed=pace.theirs / plain.theirs,
    )


def _named(fitted: Fitted, shares_K: NDArray[np.float64]) -> str:
    if not fitted.multi_label:
        return fitted.classes[int(shares_K.argmax())]
    return ", ".join(name for name, share in zip(fitted.classes, shares_K, strict=True) if share > 0.5) or "none"
