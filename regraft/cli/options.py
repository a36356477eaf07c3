"""Options that several commands share, and what they stand for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regraft.cli.start import importing
from regraft.recipe import Device

if TYPE_CHECKING:
    from regraft.fitted import Fitted

DeviceOption = Annotated[
    Device,
    typer.Option(
        "--device", metavar="auto|cpu|cuda|mps", help="Where the network runs; auto takes an accelerator if there is one."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON on standard output.")]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache", metavar="DIR", help="Folder of the feature cache; your user's cache folder, or $REGRAFT_CACHE, by default."
    ),
]
PathColumn = Annotated[
    str, typer.Option("--path-column", metavar="COLUMN", help="Column of a table that holds the images' paths.")
]
LabelColumn = Annotated[str, typer.Option("--label-column", metavar="COLUMN", help="Column of a table that holds the classes.")]
SplitColumn = Annotated[
    str, typer.Option("--split-column", metavar="COLUMN", help="Column of a table that says train, val or test, if it has one.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without the unreadable images, even if they are more than a tenth.")
]


def open_run(run: str) -> "Fitted":
    """The fitted run in the folder `run`. Raises SavedModelRefused, or UsageError where there is no such folder."""
    from regraft.errors import UsageError

    if not Path(run).exists():
        raise UsageError(
            expected="the folder of a run, such as runs/photos",
            got=f"{run}: no such folder",
            fix="make one: regraft fit photos/",
        )
    with importing():
        from regraft.saved import load

    return load(run)


def open_model(model: str, weights: str | None) -> "Fitted":
    """A run where `model` is a folder or looks like a path, else the pretrained backbone of that name."""
    from regraft.errors import UsageError

    if Path(model).exists() or "/" in model or "\\" in model:
        if weights is not None:
            raise UsageError(expected="--weights with a backbone", got=f"{model}, which is a run", fix="leave --weights out")
        return open_run(model)
    with importing():
        from regraft.fitted import pretrained

    return pretrained(model, weights=weights)
