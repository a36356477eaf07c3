"""regraft compare: which of two runs is better on the same images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.cli.options import JsonOption

if TYPE_CHECKING:
    from regraft.evaluate.paired import Comparison
    from regraft.values import Interval

_NAMED = 5  # images that one run alone answers right, as examples


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Folders of runs. Each is compared with the first.", show_default=False),
    ],
    part: Annotated[
        str | None,
        typer.Option(
            "--part",
            metavar="test|validation",
            help="The images to compare on: the test, or those of validation or cross-validation; the test if there is one.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which of two runs is better on the images that both answered.

    Images are matched by name. Differences have paired 95 % intervals; where chance explains the one in accuracy, it is not
    called better. Neither models nor images are opened.
    """
    from regraft.cli import show
    from regraft.cli.watch import watcher
    from regraft.comparing import compare as compare_runs
    from regraft.errors import UsageError

    if len(runs) < 2:
        raise UsageError(
            expected="two runs to compare", got=str(runs[0]), fix="name another one: regraft compare runs/one runs/other"
        )
    watch = watcher()
    found = [compare_runs(runs[0], run, part=part) for run in runs[1:]]
    for one in found:
        for note in one.notes:
            watch.note(note)
    if len(found) > 1:
        watch.note(f"{len(found)} comparisons: each interval is for its own, and some may leave 0 out by chance")
    if as_json:
        show.print_json({"comparisons": [fields_of(one) for one in found]})
        return
    for number, one in enumerate(found):
        if number:
            show.print_line()
        print_comparison(one)


def fields_of(comparison: "Comparison") -> dict[str, Any]:
    """What `regraft compare --json` prints of two runs; the names are fixed in docs/cli.md."""
    from regraft.cli.show import figures, interval_fields

    return {
        "runs": comparison.runs,
        "parts": comparison.parts,
        "images": comparison.images,
        "alone": comparison.alone,
        "scores": [figures(scores) for scores in comparison.scores],
        "difference": {
            "accuracy": interval_fields(comparison.accuracy),
            "macro_f1": interval_fields(comparison.macro_f1),
            "nll": interval_fields(comparison.nll),
        },
        "p_value": comparison.p_value,
        "better": comparison.better and comparison.runs[comparison.better == "second"],
        "verdict": comparison.verdict,
        "right_alone": comparison.right_alone,
        "notes": comparison.notes,
    }


def print_comparison(comparison: "Comparison") -> None:
    """Both runs, the differences, the images that one alone has right; the verdict comes last, where the eye is."""
    from regraft.cli import show

    show.print_table(
        ("run", "accuracy", "macro F1", "nll"),
        [
            (name, show.percent(scores.accuracy.value), show.percent(scores.macro_f1), f"{scores.nll:.3f}")
            for name, scores in zip(comparison.runs, comparison.scores, strict=True)
        ],
    )
    show.print_line()
    right = "" if comparison.scores[0].confusion_KK is not None else ", every label right"
    show.print_pairs(
        [
            ("images", f"{comparison.images:,} that both answered{right}"),
            *[_alone(comparison, side) for side in (0, 1)],
            ("macro F1", f"{_points(comparison.macro_f1)}"),
            ("neg. log-likelihood", _nats(comparison.nll)),
            ("accuracy", f"{_points(comparison.accuracy)}, p = {_p_text(comparison.p_value)} (McNemar's test)"),
            ("verdict", comparison.verdict),
        ]
    )


def _alone(comparison: "Comparison", side: int) -> tuple[str, str]:
    from regraft.data.names import count_of, listing

    names, which = comparison.right_alone[side], ("first", "second")[side]
    return f"right by the {which} alone", count_of(len(names), "image") + (f": {listing(names, _NAMED)}" if names else "")


def _points(difference: "Interval") -> str:
    value, low, high = (f"{100 * end:+.1f}" for end in (difference.value, difference.low, difference.high))
    return f"{value} points (95 % interval {low} to {high})"


def _nats(difference: "Interval") -> str:
    return f"{difference.value:+.3f} nats (95 % interval {difference.low:+.3f} to {difference.high:+.3f})"


def _p_text(value: float) -> str:
    return "under 0.001" if value < 0.001 else f"{value:.3f}"
