"""regraft report: the page of a run, drawn again."""

from typing import Annotated

import typer

from regraft.cli.options import JsonOption


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/photos.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Draw the report of a run again, and its model card.

    From report.json and predictions.parquet alone: the model and the images need not be there. A README.md that was changed
    by hand is left as it is.
    """
    from regraft.cli import show
    from regraft.cli.watch import watcher
    from regraft.report import rebuild_report

    files = rebuild_report(run)
    for note in files.notes:
        watcher().note(note)
    if as_json:
        show.print_json({"run": run, "report": str(files.page), "json": str(files.twin), "card": str(files.card)})
    else:
        show.print_pairs([("report", str(files.page)), ("for programs", str(files.twin)), ("model card", str(files.card))])
