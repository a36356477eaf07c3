"""regraft suggest: which images to label next."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.cli.options import DeviceOption, HeadAgain, JsonOption, NamedAgain, Trust

if TYPE_CHECKING:
    from regraft.values import Suggestions


def suggest(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/photos.", show_default=False)],
    unlabelled: Annotated[
        list[str],
        typer.Argument(
            metavar="UNLABELLED...",
            help="Folders of images without labels, images, patterns; - reads paths from standard input.",
            show_default=False,
        ),
    ],
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many images to suggest.")] = 100,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.csv", help="Write them to this file, too: path, doubt and classes.", show_default=False
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed draws other images.")] = 0,
    null: Annotated[
        bool, typer.Option("--null", help="Paths on standard input end with NUL, as find -print0 writes them.")
    ] = False,
    backbone: NamedAgain = None,
    head: HeadAgain = None,
    trust: Trust = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say which images to label next.

    Such as the run is unsure of and that tell it different things, the most useful first; near copies are suggested once.
    Images that cannot be read are listed and left out; the exit code is then 5, and so it is where an archive was cut short.
    """
    import sys

    from regraft.cli import show
    from regraft.cli.failed import check_all_answered
    from regraft.cli.options import open_run
    from regraft.cli.watch import watcher
    from regraft.inputs import STANDARD_INPUT, expand_inputs

    if out is not None:
        _check_out(out, overwrite)
    inputs = expand_inputs(unlabelled, listed=sys.stdin.buffer if STANDARD_INPUT in unlabelled else None, null=null)
    fitted, watch = open_run(run, backbone=backbone, head=head, trust=trust), watcher()
    for note in (*inputs.notes, *fitted.notes):
        watch.note(note)
    found = fitted.suggest(inputs.paths, count, seed=seed, device=device, progress=watch)
    for line in show.rejected_lines(found.rejected):
        watch.note(line)
    if out is not None:
        _write(out, found)
        watch.note(f"{out}: {len(found.chosen):,} rows")
    show.print_json(fields_of(found)) if as_json else print_suggestions(found, count)
    total = found.images + len(found.rejected)
    fix = "see the reasons above; the suggestions are made from the others"
    check_all_answered(len(found.rejected), total, inputs.cut, fix=fix)


def _check_out(out: Path, overwrite: bool) -> None:
    from regraft.errors import OutputExists, UsageError

    if out.suffix.lower() != ".csv":
        raise UsageError(expected="--out with a name that ends in .csv", got=str(out), fix="--out suggestions.csv")
    if out.exists() and not overwrite:
        raise OutputExists(expected=f"no file at {out}", got="one that is there", fix="name another, or add --overwrite")


def _write(out: Path, found: "Suggestions") -> None:
    """The suggestions as CSV, to a temporary name that is then renamed."""
    from regraft.replacing import replacing
    from regraft.rows import csv_line

    columns = max((len(one.top) for one in found.chosen), default=0)
    names = [name for k in range(1, columns + 1) for name in (f"class_{k}", f"probability_{k}")]
    rows = [csv_line(["rank", "path", "doubt", *names])]
    for rank, one in enumerate(found.chosen, 1):
        answers = [cell for name, share in one.top for cell in (name, f"{share:.6g}")]
        rows.append(csv_line([str(rank), one.path, f"{one.doubt:.6g}", *answers]))
    with replacing(out) as temporary:
        temporary.write_bytes(b"".join(rows))


def fields_of(found: "Suggestions") -> dict[str, Any]:
    """What `regraft suggest --json` prints; the names are fixed in docs/cli.md."""
    return {
        "suggestions": [
            {
                "path": one.path,
                "doubt": one.doubt,
                "predictions": [{"class": name, "probability": share} for name, share in one.top],
            }
            for one in found.chosen
        ],
        "images": found.images,
        "alike": found.alike,
        "rejected": len(found.rejected),
        "rejected_images": [{"path": str(one.path), "code": one.code, "reason": one.reason} for one in found.rejected],
    }


def print_suggestions(found: "Suggestions", count: int) -> None:
    """The table, the most useful first, and what it was chosen from."""
    from regraft.cli import show
    from regraft.cli.show import percent

    show.print_table(
        ("image", "doubt", "best answer", "second"),
        [(one.path, f"{one.doubt:.2f}", *(f"{name} {percent(share)}" for name, share in one.top[:2])) for one in found.chosen],
    )
    show.print_line()
    short = f", no more that differ of the {count:,} asked for" if len(found.chosen) < count else ""
    rows = [("suggested", f"{len(found.chosen):,} of {found.images:,} images{short}")]
    if found.alike:
        rows.append(("left out", f"{found.alike:,} near copies of these"))
    rows.append(("doubt", "1 minus the lead of the best answer over the second: 1 is a tie"))
    show.print_pairs(rows)
