"""regraft extend: a class more, or more images, without the old ones at hand."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from regraft.cli.options import CacheOption, DeviceOption, JsonOption
from regraft.cli.start import importing


def extend(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run with a solved head.", show_default=False)],
    more: Annotated[
        str,
        typer.Argument(
            metavar="MORE",
            help="Folder of class folders, a table or shards: of known classes, new ones or both.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PATH", help="Folder for the new run; by default that of RUN with -2 after it."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in that folder.")] = False,
    device: DeviceOption = "auto",
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add images or classes to a run, from the cached features of its own images.

    The head is solved again on old and new images together, and everything is judged anew; the old images are not read. A fifth
    of the new images of each class joins the test images.
    """
    from regraft.cli import show
    from regraft.cli.watch import watcher
    from regraft.place import next_to, place_run, reserved

    place = place_run(more, out or next_to(run), overwrite=overwrite)
    watch = watcher()
    with importing():
        from regraft.extending import extend as run_extend

    with reserved(place.folder):
        command = shlex.join(["regraft", *context.obj])
        fitted = run_extend(run, more, place.folder, cache=cache, device=device, command=command, progress=watch)
    assert fitted.summary is not None
    for line in show.rejected_lines(fitted.summary.rejected):
        watch.note(line)
    show.print_json(show.fit_fields(fitted.summary)) if as_json else show.print_fit(fitted.summary)
