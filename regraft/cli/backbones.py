"""regraft backbones: what can be used, what comes with regraft, what is on disk."""

from typing import TYPE_CHECKING, Annotated

import typer

from regraft.cli.options import JsonOption
from regraft.cli.start import importing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regraft.backbone.catalogue import Usable


def backbones(
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATTERN]",
            help="Part of a name, or a pattern: resnet50, 'timm:convnext*', 'torchvision:*'.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the networks that can be used by name.

    Without a pattern: those that come with regraft and those whose weights are on disk. Nothing is downloaded.
    """
    from regraft.cli import show

    with importing():
        from regraft.backbone import catalogue

    every = catalogue.everything()
    rows = [row for row in every if row.on_disk] if pattern is None else catalogue.matching(pattern, every)
    if as_json:
        show.print_json({"backbones": [_fields(row) for row in rows], "known": len(every)})
        return
    _print_rows(rows)
    if pattern is None:
        show.print_line()
        for line in _others(every):
            show.print_line(line)


def _fields(row: "Usable") -> dict[str, object]:
    return {
        "name": row.name,
        "library": row.library,
        "weights": row.weights,
        "default": row.default,
        "on_disk": row.on_disk,
        "imagenet_top1": row.imagenet_top1,
        "parameters": row.parameters,
        "bytes": row.bytes,
    }


def _print_rows(rows: "Sequence[Usable]") -> None:
    from regraft.cli import show

    header = ("name", "top-1, %", "parameters", "size", "weights")
    cells = [
        (
            row.name,
            "" if row.imagenet_top1 is None else f"{row.imagenet_top1:.1f}",
            "" if row.parameters is None else f"{row.parameters / 1e6:.1f} M",
            "" if row.bytes is None else show.size_text(row.bytes),
            _where(row),
        )
        for row in rows
    ]
    # timm states neither accuracy nor size: columns that nobody fills are left out.
    kept = [column for column in range(len(header)) if any(row[column] for row in cells)]
    show.print_table([header[column] for column in kept], [[row[column] for column in kept] for row in cells], gap=2)


def _where(row: "Usable") -> str:
    if row.library == "embedded":
        return "embedded"
    if row.weights is None:
        return "none published"
    return ", ".join(["on disk"] * row.on_disk + ["default"] * row.default)


def _others(every: "Sequence[Usable]") -> list[str]:
    """How many more there are, and how to see them."""

    def count(library: str) -> str:
        rows = [row for row in every if row.library == library]
        networks = {row.name.split(":")[1].partition(".")[0] for row in rows}
        return f"{len(networks):,} networks, {len([row for row in rows if row.weights]):,} sets of weights"

    return [
        f"torchvision  {count('torchvision')}: regraft backbones 'torchvision:*'",
        f"timm         {count('timm')}: regraft backbones 'timm:resnet*'",
        "your own     hub:FOLDER:ENTRY, hub:OWNER/REPO:ENTRY, module:PACKAGE.FILE:FUNCTION",
        "Weights that are not on disk are downloaded when they are first needed. What is inside: regraft inspect NAME.",
    ]
