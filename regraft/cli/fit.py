"""regraft fit: images in, a run folder out."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from regraft.cli.options import (
    DATA_HELP,
    CacheOption,
    DeviceOption,
    GroupColumn,
    GroupPattern,
    HeadPath,
    JsonOption,
    LabelColumn,
    PathColumn,
    SkipBad,
    SplitColumn,
    Trust,
    WeightsOption,
)
from regraft.recipe import DEFAULT_BACKBONE, Balance, Features


def fit(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="PATH", help="Folder for the run; runs/NAME by default, runs/NAME-2 where that is taken."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in that folder.")] = False,
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            metavar="SPEC",
            help="efficientnet_lite0, 1 or 2, timm:NAME, torchvision:NAME, hub:owner/repo:entry, hub:FOLDER:entry or, for a "
            "function of your own, module:package.file:function.",
        ),
    ] = DEFAULT_BACKBONE,
    weights: WeightsOption = None,
    head_path: HeadPath = None,
    trust: Trust = False,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            metavar="head|partial:N|full|scratch",
            help="What is trained. head: a linear head on frozen features, at its optimum; partial:N: the last N stages too; "
            "full: the whole network; scratch: the same, from the weights it comes with.",
        ),
    ] = "head",
    own_head: Annotated[
        str | None,
        typer.Option(
            "--head",
            metavar="SPEC",
            help="A head of your own, module:package.file:function; the function makes it of (in_features, classes).",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            metavar="N",
            help="Passes over the images, where something is trained and not solved.",
            show_default=False,
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            "--freeze",
            metavar="RULE",
            help="What stays as it is all the same: a stage's name or number, or the start of parameter names; repeatable.",
            show_default=False,
        ),
    ] = None,
    features: Annotated[
        Features,
        typer.Option(
            "--features",
            metavar="last|stages|auto",
            help="Last layer only, later stages too, or whichever cross-validates better.",
        ),
    ] = "auto",
    balance: Annotated[
        Balance, typer.Option("--balance", metavar="auto|none", help="auto: rare classes count as much as frequent ones.")
    ] = "none",
    test: Annotated[
        str,
        typer.Option(
            "--test",
            metavar="DIR|none|auto",
            help="Folder or table to score on; none for cross-validation only; auto holds images out.",
        ),
    ] = "auto",
    test_share: Annotated[
        float, typer.Option("--test-share", metavar="SHARE", help="Share of the images that auto holds out.")
    ] = 0.2,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", metavar="PIXELS", help="Side of the network's input in pixels; what it was trained with by default."
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            "--channels",
            metavar="1|3|4",
            help="Images in grey, RGB, or RGB and alpha; what the backbone was made for by default.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed holds out other images.")] = 0,
    device: DeviceOption = "auto",
    cache: CacheOption = None,
    group: GroupColumn = None,
    group_pattern: GroupPattern = None,
    path_column: PathColumn = "path",
    label_column: LabelColumn = "label",
    split_column: SplitColumn = "split",
    skip_bad: SkipBad = False,
    as_json: JsonOption = False,
) -> None:
    """Fit a classifier to labelled images and say how good it is.

    Writes model.safetensors, config.json, predictions.parquet and report.html to the run folder, and metrics.jsonl where
    something was trained.
    """
    from regraft.cli import show
    from regraft.cli.start import importing
    from regraft.cli.strategy import strategy_of
    from regraft.cli.watch import watcher
    from regraft.place import place_run, reserved
    from regraft.recipe import Data, Recipe

    recipe = Recipe(
        data=Data(
            path=data,
            test=test if test in ("auto", "none") else Path(test),
            test_share=test_share,
            path_column=path_column,
            label_column=label_column,
            split_column=split_column,
            group_column=group,
            group_pattern=group_pattern,
            skip_bad=skip_bad,
        ),
        backbone=backbone,
        weights=weights,
        strategy=strategy_of(
            strategy, features=features, balance=balance, head=own_head, epochs=epochs, freeze=tuple(freeze or ())
        ),
        size=size,
        seed=seed,
        device=device,
        cache=cache,
        trust=trust,
        head_path=head_path,
        channels=channels,
    )
    place = place_run(data, out, overwrite=overwrite)
    watch = watcher()
    if place.note:
        watch.note(place.note)
    # torch takes seconds to import: what can be wrong with the options has been said before.
    with importing():
        from regraft.pipeline import fit as run_pipeline

    with reserved(place.folder):
        fitted = run_pipeline(recipe, place.folder, command=shlex.join(["regraft", *context.obj]), progress=watch)
    assert fitted.summary is not None
    for line in show.rejected_lines(fitted.summary.rejected):
        watch.note(line)
    show.print_json(show.fit_fields(fitted.summary)) if as_json else show.print_fit(fitted.summary)
