"""regraft export: a run as a file that answers without regraft."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from regraft.cli.options import HeadAgain, HeadPath, JsonOption, NamedAgain, Trust, WeightsOption

if TYPE_CHECKING:
    from regraft.exports.outcome import Exported, Int8Cost

_NAMED = 10  # images whose label int8 changed, as examples


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|BACKBONE", help="Folder of a run, or a backbone such as efficientnet_lite0.", show_default=False
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="onnx|openvino|torch|safetensors", help="The kind of file; torch: a torch.export program."
        ),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The file; in the run's folder, named after it, by default.", show_default=False
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise with the run's training images, and measure what that costs.")
    ] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="DIR",
            help="Where the run's images are now, or other images to try the file on.",
            show_default=False,
        ),
    ] = None,
    unverified: Annotated[bool, typer.Option("--unverified", help="Do not try the file on any image.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    weights: WeightsOption = None,
    head_path: HeadPath = None,
    backbone: NamedAgain = None,
    head: HeadAgain = None,
    trust: Trust = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model as one file that answers without regraft, and try it on the images that judged the run.

    The file takes raw images of any size and gives probabilities: all that happens to an image is inside. A label that
    differs from the network's own, or a probability by more than 0.001, is an error, and then no file is written.
    """
    from regraft.cli import show
    from regraft.cli.options import open_model
    from regraft.cli.start import importing
    from regraft.cli.watch import watcher
    from regraft.kind import kind_of_run

    with importing():
        from regraft.exports.exporting import export as run_export
        from regraft.exports.formats import Target, check_target

    watch = watcher()
    check_target(cast(Target, to), int8=int8)
    if kind_of_run(Path(model)) != "classification":
        _refuse_pixels(model)
    fitted = open_model(model, weights, backbone=backbone, head=head, trust=trust, head_path=head_path)

    found = run_export(
        fitted,
        to=cast(Target, to),
        out=out,
        int8=int8,
        images=images,
        verify=not unverified,
        overwrite=overwrite,
        progress=watch,
    )
    for note in notes_of(found):
        watch.note(note)
    if as_json:
        show.print_json(fields_of(found))
        return
    show.print_pairs(pairs_of(found))


def _refuse_pixels(model: str) -> None:
    from regraft.errors import UsageError

    raise UsageError(
        expected="a run that classifies images",
        got=f"{model}, which answers for every pixel",
        fix="in Python regraft.load(RUN).to_torch() gives its network as a module, for torch.onnx.export",
    )


def notes_of(found: "Exported") -> list[str]:
    """What a person should know before the file is used."""
    notes = []
    if not found.verified:
        notes.append(f"NOT VERIFIED: {found.path} was tried on no image; its answers may be wrong")
    if found.lost:
        notes.append(f"{found.lost:,} of the {found.on} were not found, and not tried; --images DIR names their folder")
    if found.rejected:
        notes.append(f"{found.rejected:,} images cannot be read, and were not tried")
    if found.as_predicted < found.same_labels:
        count = found.same_labels - found.as_predicted
        notes.append(f"{count:,} large JPEGs have another label with regraft predict, which decodes them at a reduced scale")
    if found.to == "openvino":
        notes.append('compile it with {"INFERENCE_PRECISION_HINT": "f32"}: by itself OpenVINO takes bf16 where it can')
    return notes


def fields_of(found: "Exported") -> dict[str, Any]:
    """What `regraft export --json` prints; the names are fixed in docs/cli.md."""
    from dataclasses import asdict

    return asdict(found) | {"path": str(found.path), "speed": found.speed}


def pairs_of(found: "Exported") -> list[tuple[str, str]]:
    """The outcome for people; the file comes last, where the eye is."""
    from regraft.cli.show import size_text

    rows = [("model", f"{found.precision}, {len(found.classes):,} classes, {size_text(found.bytes)}")]
    if found.verified:
        rows += [
            ("labels", f"{found.same_labels:,} of {found.images:,} {found.on} as eager fp32 has them"),
            ("probabilities", f"at most {found.largest_difference:.1e} from eager fp32's, from the same pixels"),
            ("as predict", f"{found.as_predicted:,} of {found.images:,} labels, at most {found.predicted_difference:.1e} away"),
            (
                "speed",
                f"{found.images_per_s:,.0f} images/s, {found.speed:.1f} times eager fp32 "
                f"({found.eager_images_per_s:,.0f}), {found.batch} at a time",
            ),
        ]
    else:
        rows += [("labels", "NOT VERIFIED: tried on no image")]
    if found.int8:
        rows += _cost_pairs(found.int8)
    return [*rows, ("file", str(found.path))]


def _cost_pairs(cost: "Int8Cost") -> list[tuple[str, str]]:
    from regraft.cli.show import interval_text, size_text

    gain, low, high = (100 * end for end in (cost.difference.value, cost.difference.low, cost.difference.high))
    rows = [
        ("accuracy fp32", interval_text(cost.before)),
        ("accuracy int8", interval_text(cost.after)),
        ("difference", f"{gain:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"),
        ("against fp32", f"{cost.speed:.1f} times as fast as the same file in fp32, which has {size_text(cost.fp32_bytes)}"),
    ]
    rows += [("changed", f"{name}: {before} is now {after}") for name, before, after in cost.changed[:_NAMED]]
    if len(cost.changed) > _NAMED:
        rows += [("", f"and {len(cost.changed) - _NAMED:,} more")]
    return rows
