"""regraft inspect: what a network is made of, where its head is, what a strategy would train."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.cli.options import HeadPath, JsonOption, Trust, WeightsOption
from regraft.cli.start import importing

if TYPE_CHECKING:
    from regraft.backbone.model import HeadLocation
    from regraft.backbone.structure import Part, Structure
    from regraft.data.preprocess import Preprocess


def inspect(
    backbone: Annotated[
        str,
        typer.Argument(
            metavar="BACKBONE",
            help="efficientnet_lite0, timm:NAME, torchvision:NAME and so on: see regraft backbones.",
            show_default=False,
        ),
    ],
    classes: Annotated[
        int | None,
        typer.Option("--classes", metavar="K", help="Count with a new head for so many classes in place of its own."),
    ] = None,
    strategy: Annotated[
        str,
        typer.Option("--strategy", metavar="head|partial:N|full|norm|scratch", help="Say what this strategy would train."),
    ] = "head",
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            "--freeze",
            metavar="RULE",
            help="Keep more as it is: a stage's name or number, or the start of parameter names. May be repeated.",
        ),
    ] = None,
    weights: WeightsOption = None,
    size: Annotated[
        int | None,
        typer.Option("--size", metavar="PIXELS", help="Side of the input in pixels; what it was trained with by default."),
    ] = None,
    head_path: HeadPath = None,
    trust: Trust = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a network is made of and what a strategy would train.

    Its stages with their outputs and parameters, its head and how that was found, what it expects of an image, what it costs.
    Weights that are not on disk are not downloaded: the figures need none.
    """
    from regraft.cli import show

    with importing():
        from regraft.backbone.structure import inspect as look

    structure = look(
        backbone,
        classes=classes,
        strategy=strategy,
        freeze=tuple(freeze or ()),
        weights=weights,
        size=size,
        head_path=head_path,
        trust=trust,
    )
    show.print_json(fields_of(structure)) if as_json else print_structure(structure)


def fields_of(structure: "Structure") -> dict[str, Any]:
    """What `regraft inspect --json` prints; the names are fixed in docs/cli.md."""
    return {
        "source": structure.source,
        "weights": structure.weights,
        "strategy": structure.strategy,
        "classes": structure.classes,
        "head": [
            {
                "path": head.path,
                "kind": head.kind,
                "in_features": head.in_features,
                "out_features": head.out_features,
                "found_by": head.found_by,
                "role": head.role,
            }
            for head in structure.heads
        ],
        "stages": [
            {
                **_counts(part),
                "shape": part.shape,
                "layout": part.layout,
                "stride": part.stride(structure.preprocess.width),
                "number": part.number,
            }
            for part in structure.stages
        ],
        "others": [{**_counts(part), "kind": part.kind} for part in structure.parts if part.kind != "stage"],
        "parameters": {"total": structure.parameters, "trainable": structure.trainable},
        "preprocess": asdict(structure.preprocess),
        "megabytes": structure.bytes / 1e6,
        "gflops": structure.flops / 1e9,
        "other_sizes": [{"pixels": side, "takes": takes} for side, takes in structure.other_sizes],
        "notes": structure.notes,
    }


def _counts(part: "Part") -> dict[str, Any]:
    return {"name": part.name, "parameters": part.parameters, "trainable": part.trainable}


def print_structure(structure: "Structure") -> None:
    """The table of parts, whose columns add up, then all that is not in a table."""
    from regraft.cli import show

    show.print_table(
        ("part", "kind", "output", "parameters", "trains", "frozen"),
        [
            *(_cells(part) for part in structure.parts),
            ("all", "", "", *_figures(structure.parameters, structure.trainable)),
        ],
        gap=2,
    )
    show.print_line()
    show.print_pairs(list(_pairs(structure)))


def _cells(part: "Part") -> tuple[str, ...]:
    kind = f"stage {part.number}" if part.number else _KINDS.get(part.kind, part.kind)
    return (part.name, kind, shape_text(part), *_figures(part.parameters, part.trainable))


_KINDS = {"between": "before head", "other": "before head"}


def _figures(parameters: int, trainable: int) -> tuple[str, str, str]:
    return f"{parameters:,}", f"{trainable:,}", f"{parameters - trainable:,}"


def shape_text(part: "Part") -> str:
    """'512 x 7 x 7' (channels, height, width), '7 x 7 x 768 (channels last)', '197 x 768 (tokens)', '4096'."""
    text = " x ".join(map(str, part.shape))
    return {"tokens": f"{text} (tokens)", "map-channels-last": f"{text} (channels last)"}.get(part.layout, text)


def _pairs(structure: "Structure") -> list[tuple[str, str]]:
    from regraft.cli.show import size_text

    billions = structure.flops / 1e9
    total, trains = structure.parameters, structure.trainable
    counted = "its own head" if structure.classes is None else f"a new head of {structure.classes:,} classes"
    return [
        (
            "backbone",
            f"{structure.source}, {'random weights' if structure.weights == 'none' else f'weights {structure.weights}'}",
        ),
        *(("head" if head.role == "main" else "auxiliary head", head_text(head)) for head in structure.heads),
        ("image", preprocess_text(structure.preprocess)),
        ("pixels", normalisation_text(structure.preprocess)),
        ("other sizes", sizes_text(structure)),
        ("strategy", f"{structure.strategy}, with {counted}"),
        ("parameters", f"{total:,}, of which {trains:,} train ({share_text(trains, total)})"),
        ("size", f"{size_text(structure.bytes)} of weights"),
        ("computation", f"{billions:.3g} GFLOPs for one image, which are {billions / 2:.3g} billion multiply-adds"),
        *(("note", note) for note in structure.notes),
    ]


def share_text(part: int, whole: int) -> str:
    """'75 %', '0.13 %'."""
    share = 100 * part / whole if whole else 0.0
    return f"{share:.0f} %" if share >= 10 or not share else f"{share:.2g} %"


def head_text(head: "HeadLocation") -> str:
    """Where a head is, what it is, and who says so."""
    kind = {"linear": "linear", "conv1x1": "1x1 convolution"}.get(head.kind, head.kind)
    shared = f", one of {round(1 / head.share)} that are averaged" if head.share < 1 else ""
    return f"{head.path} ({kind}, {head.in_features:,} to {head.out_features:,}{shared}), found by {head.found_by}"


def sizes_text(structure: "Structure") -> str:
    """'taken: 96 and 256 pixels were tried', 'refused: ...', '96 taken, 256 refused'."""
    tried = " and ".join(str(side) for side, _ in structure.other_sizes)
    answers = {takes for _, takes in structure.other_sizes}
    if len(answers) == 1:
        return f"{'taken' if answers == {True} else 'refused'}: {tried} pixels were tried"
    return ", ".join(f"{side} pixels {'taken' if takes else 'refused'}" for side, takes in structure.other_sizes)


def preprocess_text(pre: "Preprocess") -> str:
    """What becomes of an image, in words."""
    size = f"{pre.height} x {pre.width}"
    side = round(min(pre.height, pre.width) / pre.crop_share)
    if pre.fit == "squash":
        what = f"squashed to {size}"
    elif pre.fit == "pad":
        what = f"the whole of it inside of {size}, the rest {pre.background}"
    elif side > min(pre.height, pre.width):
        what = f"shorter side to {side}, central {size} of it"
    else:
        what = f"central {'square' if pre.height == pre.width else 'part of that shape'} to {size}"
    return f"{what}, {pre.interpolation}"


def normalisation_text(pre: "Preprocess") -> str:
    """What becomes of its pixels, in words."""
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (pre.mean, pre.std))
    return f"divided by 255, minus {mean}, divided by {std}"
