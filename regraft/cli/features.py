"""regraft features: the features of every image, as a table."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.cli.options import (
    CacheOption,
    DeviceOption,
    HeadPath,
    JsonOption,
    LabelColumn,
    PathColumn,
    RayOption,
    Trust,
    WeightsOption,
    WorkersOption,
    check_workers,
)
from regraft.cli.start import importing
from regraft.recipe import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from regraft.bulk.features import ImageFeatures
    from regraft.progress import Progress
    from regraft.recipe import Data


def features(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="A folder, a CSV or Parquet table, a data set of torchvision by name; or files, folders and patterns; - reads "
            "paths from standard input. Labels are not needed.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The table, .parquet: a row for each image.", show_default=False)
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file.")] = False,
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="SPEC", help="The network, as regraft fit takes it.")
    ] = DEFAULT_BACKBONE,
    weights: WeightsOption = None,
    head_path: HeadPath = None,
    trust: Trust = False,
    all_stages: Annotated[
        bool, typer.Option("--all-stages", help="Beside what the head reads, mean and maximum of the later stages.")
    ] = False,
    size: Annotated[
        int | None,
        typer.Option("--size", metavar="PIXELS", help="Side of the input in pixels; what it was trained with by default."),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            "--channels",
            metavar="1|3|4",
            help="Images in grey, RGB, or RGB and alpha; what the backbone was made for by default.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of random weights.")] = 0,
    device: DeviceOption = "auto",
    cache: CacheOption = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    path_column: PathColumn = "path",
    label_column: LabelColumn = "label",
    null: Annotated[
        bool, typer.Option("--null", help="Paths on standard input end with NUL, as find -print0 writes them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the features of every image to a Parquet table: name, path, label where there is one, error, features.

    Every image gets its row, in order. Those that cannot be read have the reason in the column error; the exit code is then 5,
    and so it is where an archive was cut short.
    """
    from regraft.cli import show
    from regraft.cli.failed import check_all_answered
    from regraft.cli.watch import watcher

    check_workers(ray, workers)
    watch = watcher()
    chosen, cut = _chosen(data, path_column, label_column, null, watch)
    with importing():
        from regraft.bulk.features import features as run_features

    found = run_features(
        chosen,
        out=out,
        backbone=backbone,
        weights=weights,
        size=size,
        channels=channels,
        all_stages=all_stages,
        head_path=head_path,
        trust=trust,
        seed=seed,
        device=device,
        cache=cache,
        address=ray,
        workers=workers,
        overwrite=overwrite,
        progress=watch,
    )
    show.print_json(fields_of(found)) if as_json else show.print_pairs(_pairs(found))
    check_all_answered(found.failed, len(found.names), (*cut, *found.cut), fix="see the reasons in the column error")


def fields_of(found: "ImageFeatures") -> dict[str, Any]:
    """What `regraft features --json` prints; the names are fixed in docs/cli.md."""
    rows = len(found.names)
    return {
        "out": str(found.out),
        "rows": rows,
        "failed": found.failed,
        "cached": found.cached,
        "width": found.width,
        "columns": {name: list(span) for name, span in found.columns.items()},
        "backbone": found.backbone,
        "weights_digest": found.weights_digest,
        "engine": found.engine,
        "seconds": round(found.seconds, 3),
        "images_per_s": round(rows / found.seconds, 1) if found.seconds else None,
    }


def _chosen(
    data: list[str], path_column: str, label_column: str, null: bool, watch: "Progress"
) -> "tuple[Data | list[str], tuple[str, ...]]":
    """One source as it is read for a fit; anything else as a list of paths, and the archives among them that were cut short."""
    from regraft.data.named import named_set
    from regraft.data.shards.places import find_shards
    from regraft.data.tabular import is_table
    from regraft.inputs import STANDARD_INPUT, expand_inputs
    from regraft.recipe import Data, located

    if len(data) == 1 and data[0] != STANDARD_INPUT:
        path = located(data[0])
        whole = isinstance(path, str) or path.is_dir() or (path.is_file() and is_table(path))
        if whole or find_shards(path) or named_set(path) is not None:
            return Data(path=path, path_column=path_column, label_column=label_column), ()
    listed = sys.stdin.buffer if STANDARD_INPUT in data else None
    inputs = expand_inputs(data, listed=listed, null=null)
    for note in inputs.notes:
        watch.note(note)
    return list(inputs.paths), inputs.cut


def _pairs(found: "ImageFeatures") -> list[tuple[str, str]]:
    rows = len(found.names)
    failed = f", {found.failed:,} of them without features" if found.failed else ""
    spans = ", ".join(f"{name} {start}-{stop - 1}" for name, (start, stop) in found.columns.items())
    return [
        ("features", f"{found.width:,} columns of {found.backbone}: {spans}"),
        ("rows", f"{rows:,}{failed}"),
        ("engine", f"{found.engine}, {found.cached:,} from the cache"),
        ("time", f"{found.seconds:.1f} s, {rows / found.seconds:,.0f} images/s"),
        ("written to", str(found.out)),
    ]
