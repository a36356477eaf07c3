"""All commands in one place. What a command needs is imported when it runs, so that --help starts at once."""

from typing import Annotated

import typer

from regraft.cli import (
    audit,
    backbones,
    cache,
    compare,
    doctor,
    evaluate,
    export,
    extend,
    features,
    fit,
    inspect,
    predict,
    rank,
    report,
    serve,
    shard,
    suggest,
)
from regraft.errors import UsageError
from regraft.launch import launched

app = typer.Typer(
    name="regraft",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain text: rich would double the time of --help.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"regraft {version('regraft')}")
        raise typer.Exit


@app.callback()
def regraft(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and leave.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Works after any command, too.")
    ] = False,
) -> None:
    """Transfer learning: a folder of labelled images in, a classifier you can trust out.

    Results go to standard output, everything else to standard error.
    """
    launch = launched()
    if launch is not None and launch.size > 1 and context.invoked_subcommand not in (None, "fit"):
        raise UsageError(
            expected="`regraft fit`, which several processes can work on",
            got=f"`regraft {context.invoked_subcommand}` in {launch.size} processes",
            fix="start it by itself, without torchrun",
        )


app.command("fit")(fit.fit)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("predict")(predict.predict)
app.command("features")(features.features)
app.command("serve")(serve.serve)
app.command("export")(export.export)
app.command("audit")(audit.audit)
app.command("extend")(extend.extend)
app.command("shard")(shard.shard)
app.command("suggest")(suggest.suggest)
app.command("rank")(rank.rank)
app.command("report")(report.report)
app.command("inspect")(inspect.inspect)
app.command("backbones")(backbones.backbones)
app.add_typer(cache.app, name="cache")
app.command("doctor")(doctor.doctor)
