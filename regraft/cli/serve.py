"""regraft serve: a model behind HTTP."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regraft.cli.options import DeviceOption, HeadAgain, HeadPath, NamedAgain, Trust, WeightsOption

if TYPE_CHECKING:
    from regraft.fitted import Fitted
    from regraft.fitted_pixels import FittedPixels

TOKEN = "REGRAFT_TOKEN"


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN|BACKBONE", help="Folder of a run, or a backbone such as efficientnet_lite0.", show_default=False
        ),
    ],
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help=f"What every request has to bring; ${TOKEN} does as well. Needed where others can reach the server.",
            show_default=False,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A name that the server may be asked under, beside those of this machine itself; can be repeated.",
            show_default=False,
        ),
    ] = None,
    max_bytes: Annotated[int, typer.Option("--max-bytes", metavar="N", min=1, help="Bytes that a request may have.")] = 32
    * 2**20,
    max_pixels: Annotated[
        int | None, typer.Option("--max-pixels", metavar="N", min=1, help="Pixels that an image may have.", show_default=False)
    ] = None,
    queue: Annotated[
        int, typer.Option("--queue", metavar="N", min=1, help="Requests that are worked on or wait; more are sent away.")
    ] = 64,
    no_batching: Annotated[
        bool, typer.Option("--no-batching", help="Show the network one image at a time, not those that wait together.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as one line of JSON.")] = False,
    weights: WeightsOption = None,
    head_path: HeadPath = None,
    backbone: NamedAgain = None,
    head: HeadAgain = None,
    trust: Trust = False,
    device: DeviceOption = "auto",
) -> None:
    """Answer for images over HTTP, and show a page to try it, until told to end.

    The address is printed once it answers. Only this machine can reach it unless --host says otherwise.
    """
    from regraft.cli import show
    from regraft.cli.start import give_back_large_blocks, importing
    from regraft.cli.watch import watcher
    from regraft.needs import check_installed

    check_installed("fastapi", "uvicorn", "python_multipart", "prometheus_client", extra="serve", why="the server")
    from regraft.data.problem import MAX_PIXELS
    from regraft.serve.settings import Settings

    settings = Settings(
        host=host,
        port=port,
        token=_token(token_file),
        allow_hosts=tuple(allow_host or ()),
        max_bytes=max_bytes,
        max_pixels=max_pixels or MAX_PIXELS,
        queue=queue,
        batching=not no_batching,
        device=device,
    )
    watch = watcher()
    give_back_large_blocks()

    def tell(address: str) -> None:
        if as_json:
            show.print_json({"address": address, "model": model, "token": settings.token is not None})
        else:
            show.print_line(address)
        sys.stdout.flush()

    with importing():
        from regraft.serve.run import bind
        from regraft.serve.run import serve as run
    # The port first: loading a model takes seconds, and to no end where it is taken.
    listener = bind(settings)
    fitted = _open(model, weights, head_path, backbone, head, trust)
    for note in fitted.notes:
        watch.note(note)
    run(fitted, settings, listener=listener, progress=watch, on_ready=tell)


def _open(
    model: str, weights: str | None, head_path: str | None, backbone: str | None, head: str | None, trust: bool
) -> "Fitted | FittedPixels":
    from regraft.cli.options import check_run_options, open_model, open_pixels
    from regraft.kind import kind_of_run

    if kind_of_run(Path(model)) == "classification":
        return open_model(model, weights, backbone=backbone, head=head, trust=trust, head_path=head_path)
    check_run_options(model, weights, head_path)
    return open_pixels(model, backbone=backbone, head=head, trust=trust)


def _token(path: Path | None) -> str | None:
    """The secret that requests have to bring, from the file or the environment: a command line can be read by others."""
    if path is None:
        return os.environ.get(TOKEN) or None
    from regraft.errors import UsageError

    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not a text file"
        raise UsageError(expected="a file with the token", got=f"{path}: {why}", fix="check the path of --token-file") from None
