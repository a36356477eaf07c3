"""regraft evaluate: how good a run is on other labelled images."""

from pathlib import Path
from typing import Annotated

import typer

from regraft.cli.options import (
    DATA_HELP,
    DeviceOption,
    HeadAgain,
    JsonOption,
    LabelColumn,
    MaskColumn,
    Masks,
    NamedAgain,
    PathColumn,
    SkipBad,
    SplitColumn,
    Trust,
)


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/photos.", show_default=False)],
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    backbone: NamedAgain = None,
    head: HeadAgain = None,
    trust: Trust = False,
    device: DeviceOption = "auto",
    path_column: PathColumn = "path",
    label_column: LabelColumn = "label",
    split_column: SplitColumn = "split",
    masks: Masks = None,
    mask_column: MaskColumn = "mask",
    skip_bad: SkipBad = False,
    as_json: JsonOption = False,
) -> None:
    """Score a run on other labelled images, or on images with masks.

    Classes are matched by name. Data with a test part is scored on that part.
    """
    from regraft.cli import pixel_show, show
    from regraft.cli.options import open_pixels, open_run
    from regraft.cli.watch import watcher
    from regraft.errors import UsageError
    from regraft.kind import kind_of_run
    from regraft.recipe import Data

    task = kind_of_run(Path(run))
    if task == "classification" and masks is not None:
        raise UsageError(
            expected="--masks with a run that answers for every pixel", got=f"{run}, which does not", fix="leave --masks out"
        )
    chosen = Data(
        path=data,
        task=task,
        masks=masks,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        mask_column=mask_column,
        skip_bad=skip_bad,
    )
    watch = watcher()
    if task != "classification":
        fitted = open_pixels(run, backbone=backbone, head=head, trust=trust)
        pixel_show.show_evaluation(fitted.evaluate(chosen, device=device, progress=watch), watch, as_json=as_json)
        return
    evaluation = open_run(run, backbone=backbone, head=head, trust=trust).evaluate(chosen, device=device, progress=watch)
    for line in (*evaluation.notes, *show.rejected_lines(evaluation.rejected)):
        watch.note(line)
    show.print_json(show.evaluate_fields(evaluation)) if as_json else show.print_evaluation(evaluation)
