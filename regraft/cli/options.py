"""Options that several commands share, and what they stand for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from regraft.cli.start import importing
from regraft.recipe import Device, Task

if TYPE_CHECKING:
    from regraft.fitted import Fitted
    from regraft.fitted_pixels import FittedPixels

DATA_HELP = (
    "Folder of class folders, where there are masks of images, a CSV or Parquet table, a data set of torchvision by name "
    "(torchvision:CIFAR10), or shards with the images inside (tar, Parquet, Arrow): a file, a folder, a pattern or a URL."
)
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
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME|FILE|none",
        help="Weights of the backbone: a published name (IMAGENET1K_V2, a1_in1k), a local file, none: random ones.",
        show_default=False,
    ),
]
HeadPath = Annotated[
    str | None,
    typer.Option(
        "--head-path",
        metavar="PATH",
        help="The layer that makes the logits, where the one found is not it.",
        show_default=False,
    ),
]
Trust = Annotated[bool, typer.Option("--trust", help="Let a remote hub: network run its author's code.")]
NamedAgain = Annotated[
    str | None,
    typer.Option(
        "--backbone", metavar="SPEC", help="The network of a run on code of your own, which no run holds.", show_default=False
    ),
]
HeadAgain = Annotated[
    str | None,
    typer.Option("--head", metavar="SPEC", help="The head of your own that a run was fitted with.", show_default=False),
]
GroupColumn = Annotated[
    str | None,
    typer.Option("--group", metavar="COLUMN", help="Column of a table; its groups (patients, videos) are never split apart."),
]
GroupPattern = Annotated[
    str | None,
    typer.Option(
        "--group-pattern", metavar="REGEX", help="Regular expression whose first parenthesis in an image's path is its group."
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without the unreadable images, even if they are more than a tenth.")
]
Exclude = Annotated[
    Path | None,
    typer.Option(
        "--exclude",
        metavar="FILE",
        help="Leave out the images of this list, as regraft audit --fix-list writes it; files are not touched.",
        show_default=False,
    ),
]


RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="local|ADDRESS",
        help="Have Ray's workers do it: local starts Ray on this machine; auto, HOST:PORT or ray://HOST:PORT joins a cluster.",
        show_default=False,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", help="Workers of --ray; one for each accelerator or processor by default.", show_default=False
    ),
]
TaskOption = Annotated[
    Task,
    typer.Option(
        "--task",
        metavar="classification|saliency|semantic",
        help="A class for each image; for every pixel, learned from masks, whether it is of an object; or its class.",
    ),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        metavar="DIR",
        help="Folder of the masks, named as the images are; masks/ beside images/, or a table's column, by default.",
        show_default=False,
    ),
]
MaskColumn = Annotated[str, typer.Option("--mask-column", metavar="COLUMN", help="Column of a table that holds the masks.")]
ClassList = Annotated[
    Path | None,
    typer.Option("--classes", metavar="FILE", help="What the values in masks mean: a line for each class.", show_default=False),
]
Ignore = Annotated[
    int | None,
    typer.Option("--ignore", metavar="VALUE", help="A value in masks that stands for no answer.", show_default=False),
]


def open_run(run: str, *, backbone: str | None = None, head: str | None = None, trust: bool = False) -> "Fitted":
    """The fitted run in the folder `run`. Raises SavedModelRefused, or UsageError where there is no such folder.

    `backbone` names its network again where that is own code, `head` its head.
    """
    from regraft.errors import UsageError

    if not Path(run).exists():
        raise UsageError(
            expected="the folder of a run, such as runs/photos",
            got=f"{run}: no such folder",
            fix="make one: regraft fit photos/",
        )
    with importing():
        from regraft.saved import load_classifier

    return load_classifier(run, backbone=backbone, head=head, trust=trust)


def open_pixels(run: str, *, backbone: str | None = None, head: str | None = None, trust: bool = False) -> "FittedPixels":
    """As `open_run`, for a run that answers for every pixel: `regraft.kind` tells."""
    with importing():
        from regraft.saved import load

    return cast("FittedPixels", load(run, backbone=backbone, head=head, trust=trust))


def check_run_options(model: str, weights: str | None, head_path: str | None) -> None:
    """Raise UsageError for what says something of a backbone, where `model` is a run."""
    from regraft.errors import UsageError

    for option, value in (("--weights", weights), ("--head-path", head_path)):
        if value is not None:
            raise UsageError(expected=f"{option} with a backbone", got=f"{model}, which is a run", fix=f"leave {option} out")


def check_workers(ray: str | None, workers: int | None) -> None:
    """Raise UsageError for workers without --ray."""
    from regraft.errors import UsageError

    if workers is not None and ray is None:
        raise UsageError(expected="--workers with --ray", got="no --ray", fix="add --ray local, or leave --workers out")


def open_model(
    model: str,
    weights: str | None,
    *,
    backbone: str | None = None,
    head: str | None = None,
    trust: bool = False,
    head_path: str | None = None,
) -> "Fitted":
    """A run where `model` is a folder or looks like a path, else the pretrained backbone of that name."""
    from regraft.errors import UsageError

    named = model.startswith(("timm:", "torchvision:", "hub:", "module:"))
    if Path(model).exists() or (not named and ("/" in model or "\\" in model)):
        check_run_options(model, weights, head_path)
        return open_run(model, backbone=backbone, head=head, trust=trust)
    for option, value, what in (("--backbone", backbone, "network"), ("--head", head, "head")):
        if value is not None:
            raise UsageError(
                expected=f"{option} with a run, whose {what} it names again",
                got=f"{model}, which is a backbone",
                fix=f"leave {option} out",
            )
    with importing():
        from regraft.fitted import pretrained

    return pretrained(model, weights=weights, trust=trust, head_path=head_path)
