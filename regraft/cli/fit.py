"""regraft fit: images in, a run folder out."""

import json
import shlex
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regraft.cli.options import (
    DATA_HELP,
    CacheOption,
    ClassList,
    DeviceOption,
    Exclude,
    GroupColumn,
    GroupPattern,
    HeadPath,
    Ignore,
    JsonOption,
    LabelColumn,
    MaskColumn,
    Masks,
    PathColumn,
    SkipBad,
    SplitColumn,
    TaskOption,
    Trust,
    WeightsOption,
)
from regraft.cli.start import importing
from regraft.recipe import DEFAULT_BACKBONE, DEFAULT_LOSS
from regraft.strategies import Balance, Features

if TYPE_CHECKING:
    from regraft.progress import Progress
    from regraft.recipe import Recipe
    from regraft.train.checkpoints import Resume


def fit(
    context: typer.Context,
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="PATH", help="Folder for the run; runs/NAME by default, runs/NAME-2 where that is taken."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in that folder.")] = False,
    task: TaskOption = "classification",
    masks: Masks = None,
    classes: ClassList = None,
    ignore: Ignore = None,
    decoder: Annotated[
        str,
        typer.Option(
            "--decoder",
            metavar="auto|linear|small|unet|fpn|deeplabv3+",
            help="What answers for pixels, on the network's maps; linear: one layer, at its optimum.",
        ),
    ] = "auto",
    loss: Annotated[
        str,
        typer.Option("--loss", metavar="SUM", help="What a decoder is trained by: a sum of ce, dice, lovasz and focal."),
    ] = DEFAULT_LOSS,
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
            metavar="head|partial:N|norm|full|gradual|scratch|auto",
            help="What is trained. head: a linear head on frozen features, at its optimum; partial:N: the last N stages too; "
            "norm: scale and shift of the norms; full: the whole network; gradual[:EPOCHS]: one stage more in each phase; "
            "scratch: the whole network from the weights it comes with; auto: what is best in --minutes.",
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
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN|random",
            help="A run whose network this one starts with, to train more; random: a new head in place of the solved one.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", metavar="N", help="Passes over the training images.", show_default=False),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            metavar="N",
            help="As many epochs as fit into this time, at most --epochs; of auto: all of its training, 10 by default.",
            show_default=False,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            metavar="RATE",
            help="Learning rate of the head and the last stage; earlier ones move less.",
            show_default=False,
        ),
    ] = None,
    depth_decay: Annotated[
        float | None,
        typer.Option(
            "--depth-decay", metavar="SHARE", help="Rate of a stage as a share of that of the next one.", show_default=False
        ),
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option("--optimizer", metavar="adamw|sgd|adam", help="adamw by default.", show_default=False)
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            metavar="cosine|step[:N]|onecycle|plateau|constant",
            help="How the rate goes on; cosine (with warm-up) by default; step:3: a tenth every 3 epochs.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            help="Images in a step, 32 by default; taken in parts, with the same result, where memory runs out.",
            show_default=False,
        ),
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            "--augment",
            metavar="NAME|SPEC",
            help="none, flip, light, rotate, trivial or strong; or a transform of your own, module:package.file:name.",
            show_default=False,
        ),
    ] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Answer with the mean over the image and its mirror image.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was interrupted in that folder.")
    ] = False,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="With --resume: refuse where the last bits could differ from an uninterrupted run's."),
    ] = False,
    allow_data_change: Annotated[
        bool, typer.Option("--allow-data-change", help="With --resume: go on though the images are not those of before.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write the curves of a training for TensorBoard, too.")
    ] = False,
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
    test_masks: Annotated[
        Path | None,
        typer.Option("--test-masks", metavar="DIR", help="Folder of the masks of --test.", show_default=False),
    ] = None,
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
    cache_size: Annotated[
        str,
        typer.Option(
            "--cache-size", metavar="SIZE", help="At most so much is kept of the images for one training: 500MB, 20GB."
        ),
    ] = "20GB",
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            metavar="SHARE",
            help="Withhold answers that are not sure enough, so that at most this share of the others is wrong.",
            show_default=False,
        ),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            "--coverage",
            metavar="SHARE",
            help="Withhold the least sure answers, so that about this share of images is answered.",
            show_default=False,
        ),
    ] = None,
    exclude: Exclude = None,
    group: GroupColumn = None,
    group_pattern: GroupPattern = None,
    path_column: PathColumn = "path",
    label_column: LabelColumn = "label",
    split_column: SplitColumn = "split",
    mask_column: MaskColumn = "mask",
    skip_bad: SkipBad = False,
    as_json: JsonOption = False,
) -> None:
    """Fit a classifier to labelled images, or to images with masks one that answers for every pixel, and say how good it is.

    Writes model.safetensors, config.json and report.html to the run folder, predictions.parquet where images have classes,
    and metrics.jsonl where something was trained.
    """
    from regraft.cli.strategy import TrainingOptions, bytes_of, strategy_of
    from regraft.cli.together import check_together, placed, together
    from regraft.cli.watch import watcher
    from regraft.place import reserved
    from regraft.progress import Silent
    from regraft.recipe import Data, Recipe, located

    recipe = Recipe(
        data=Data(
            path=data,
            test=test if test in ("auto", "none") else located(test),
            test_share=test_share,
            path_column=path_column,
            label_column=label_column,
            split_column=split_column,
            group_column=group,
            group_pattern=group_pattern,
            skip_bad=skip_bad,
            exclude=exclude,
            task=task,
            masks=masks,
            test_masks=test_masks,
            class_list=classes,
            ignore=ignore,
            mask_column=mask_column,
        ),
        backbone=backbone,
        weights=weights,
        strategy=strategy_of(
            strategy,
            features=features,
            balance=balance,
            head=own_head,
            training=TrainingOptions(
                epochs=epochs,
                minutes=minutes,
                lr=lr,
                depth_decay=depth_decay,
                optimizer=optimizer,
                schedule=schedule,
                batch_size=batch_size,
                augment=augment,
                start="random" if start == "random" else None,
            ),
            freeze=tuple(freeze or ()),
            pixels=task != "classification",
        ),
        size=size,
        seed=seed,
        device=device,
        cache=cache,
        trust=trust,
        head_path=head_path,
        channels=channels,
        go_on_from=None if start in (None, "random") else Path(start),
        tta=tta,
        cache_limit=bytes_of(cache_size),
        tensorboard=tensorboard,
        max_error=max_error,
        coverage=coverage,
        decoder=decoder,
        loss=loss,
    )
    _check_pixels(recipe)
    _check_resuming(resume, exact=exact, allow_data_change=allow_data_change, overwrite=overwrite)
    check_together(recipe)
    with together(device) as ranks, ExitStack() as held:
        watch = watcher() if ranks.first else Silent()
        place, resume = ranks.shared(lambda: placed(data, out, overwrite=overwrite, resume=resume))
        if place.finished:
            _say_finished(place.folder, as_json)
            return
        if place.note:
            watch.note(place.note)
        command = shlex.join(["regraft", *context.obj])
        # torch takes seconds to import: what can be wrong with the options has been said before.
        with importing():
            from regraft.train.checkpoints import Resume
        going_on = Resume(exact=exact, allow_data_change=allow_data_change) if resume else None
        ranks.shared(lambda: held.enter_context(reserved(place.folder)))
        run = _fit_classes if task == "classification" else _fit_pixels
        run(recipe, place.folder, going_on, command, watch, as_json)


def _fit_classes(
    recipe: "Recipe", folder: Path, resume: "Resume | None", command: str, watch: "Progress", as_json: bool
) -> None:
    from regraft.cli import show

    with importing():
        from regraft.pipeline import fit as run_pipeline

    fitted = run_pipeline(recipe, folder, resume=resume, command=command, progress=watch)
    if fitted is None:
        return  # the first of several processes does the rest
    summary = fitted.summary
    assert summary is not None
    for line in show.rejected_lines(summary.rejected):
        watch.note(line)
    show.print_json(show.fit_fields(summary)) if as_json else show.print_fit(summary)


def _fit_pixels(
    recipe: "Recipe", folder: Path, resume: "Resume | None", command: str, watch: "Progress", as_json: bool
) -> None:
    from regraft.cli import pixel_show, show

    with importing():
        from regraft.pixel_pipeline import fit as run_pipeline

    summary = run_pipeline(recipe, folder, resume=resume, command=command, progress=watch).summary
    assert summary is not None
    for line in show.rejected_lines(summary.rejected):
        watch.note(line)
    show.print_json(pixel_show.fit_fields(summary)) if as_json else pixel_show.print_fit(summary)


def _check_pixels(recipe: "Recipe") -> None:
    """Raise UsageError for what only a task has a use for whose every pixel has an answer."""
    from regraft.errors import UsageError

    for option, given in (("--decoder", recipe.decoder != "auto"), ("--loss", recipe.loss != DEFAULT_LOSS)):
        if given and recipe.data.task == "classification":
            raise UsageError(
                expected=f"{option} with a task whose every pixel has an answer",
                got="--task classification",
                fix=f"add --task saliency or --task semantic, or leave {option} out",
            )


def _check_resuming(resume: bool, *, exact: bool, allow_data_change: bool, overwrite: bool) -> None:
    """Raise UsageError for options that say something of going on without it, or the opposite."""
    from regraft.errors import UsageError

    if resume and overwrite:
        raise UsageError(
            expected="--resume or --overwrite", got="both", fix="--resume goes on with a training, --overwrite starts anew"
        )
    for option, given in (("--exact", exact), ("--allow-data-change", allow_data_change)):
        if given and not resume:
            raise UsageError(
                expected=f"{option} with --resume", got=f"{option} alone", fix=f"leave {option} out, or add --resume"
            )


def _say_finished(folder: Path, as_json: bool) -> None:
    from regraft.cli import show

    if as_json:
        show.print_json({"run": str(folder), "finished": True})
        return
    show.print_line(f"{folder} is finished already: nothing to go on with. `regraft evaluate {folder} DATA` scores it.")
    if command := _command_of(folder):
        show.print_line(f"It was made by `{command}`; for other options give --overwrite, or another --out.")


def _command_of(folder: Path) -> str:
    """The command that made a run, as its report has it; nothing where that does not say."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return str((told.get("summary") or told["report"])["command"])
    return ""
