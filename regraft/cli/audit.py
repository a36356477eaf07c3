"""regraft audit: what is wrong with a folder of images and its labels."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from regraft.cli.options import (
    DATA_HELP,
    CacheOption,
    DeviceOption,
    Exclude,
    GroupColumn,
    GroupPattern,
    JsonOption,
    LabelColumn,
    PathColumn,
    SplitColumn,
    WeightsOption,
)
from regraft.cli.start import importing
from regraft.recipe import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from regraft.findings import Audit, Copies, Mixed, Similar, Suspect
    from regraft.values import Rejected

Found = TypeVar("Found")
# Findings of a kind that are printed, and names of one.
_SHOWN, _NAMED = 10, 10


def audit(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    fix_list: Annotated[
        Path | None,
        typer.Option(
            "--fix-list",
            metavar="FILE",
            help="Write what was found as a CSV table to edit, for fit --exclude.",
            show_default=False,
        ),
    ] = None,
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="SPEC", help="The network whose features find wrong labels, as fit takes it.")
    ] = DEFAULT_BACKBONE,
    weights: WeightsOption = None,
    test: Annotated[
        str, typer.Option("--test", metavar="DIR|none|auto", help="A separate test set, to find what it shares with the data.")
    ] = "auto",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed holds out other images.")] = 0,
    device: DeviceOption = "auto",
    cache: CacheOption = None,
    exclude: Exclude = None,
    group: GroupColumn = None,
    group_pattern: GroupPattern = None,
    path_column: PathColumn = "path",
    label_column: LabelColumn = "label",
    split_column: SplitColumn = "split",
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with labelled images: copies, leaks, wrong labels, images of little use, shortcuts.

    Files are never touched. Images that cannot be read are listed and left out. Every fit does the same and shows it in its
    report.
    """
    from regraft.cli import show
    from regraft.cli.watch import watcher
    from regraft.recipe import Data, Recipe, located

    recipe = Recipe(
        data=Data(
            path=data,
            test=test if test in ("auto", "none") else located(test),
            path_column=path_column,
            label_column=label_column,
            split_column=split_column,
            group_column=group,
            group_pattern=group_pattern,
            skip_bad=True,
            exclude=exclude,
        ),
        backbone=backbone,
        weights=weights,
        seed=seed,
        device=device,
        cache=cache,
    )
    watch = watcher()
    with importing():
        from regraft.auditing import audit as run_audit
        from regraft.auditing import write_fix_list

    found, rejected = run_audit(recipe, progress=watch)
    rows = write_fix_list(found, fix_list) if fix_list else 0
    if as_json:
        show.print_json(audit_fields(found, rejected) | {"fix_list": str(fix_list) if fix_list else None})
        return
    print_audit(found, rejected)
    if fix_list:
        show.print_line(f"{rows:,} rows in {fix_list}: edit the column action, then fit with --exclude {fix_list}")


def audit_fields(found: "Audit", rejected: Sequence["Rejected"]) -> dict[str, Any]:
    """What `regraft audit --json` prints; the names are fixed in docs/cli.md."""
    from regraft.cli.show import figures

    leak = found.leak
    without = figures(leak.scores_without) if leak and leak.scores_without else None
    return {
        "images": found.images,
        "unreadable": [{"path": str(item.path), "code": item.code, "reason": item.reason} for item in rejected],
        "copies": [
            asdict(one) | {"across_classes": one.across_classes, "across_parts": one.across_parts} for one in found.copies
        ],
        "similar": [asdict(one) | {"across_parts": one.across_parts} for one in found.similar],
        "leak": {"names": leak.names, "twins": leak.twins, "without": without} if leak else None,
        "suspects": [asdict(one) for one in found.suspects],
        "wrong_labels": asdict(found.wrong) if found.wrong else None,
        "mixed": [asdict(one) for one in found.mixed],
        "outliers": [asdict(one) for one in found.outliers],
        "odd": [asdict(one) for one in found.odd],
        "shortcuts": [asdict(one) for one in found.shortcuts],
        "imbalance": asdict(found.imbalance) if found.imbalance else None,
        "kept_together": found.kept_together,
        "seconds": round(found.seconds, 3),
    }


def print_audit(found: "Audit", rejected: Sequence["Rejected"]) -> None:
    """The findings, the gravest kind first, a few lines of each."""
    from regraft.cli import show

    show.print_line()
    if found.leak:
        show.print_line(f"test images that show the same as a training image: {len(found.leak.names):,}")
        if found.leak.scores_without:
            show.print_line(f"  a solved head without them: {show.interval_text(found.leak.scores_without.accuracy)}")
        _listed(list(zip(found.leak.names, found.leak.twins, strict=True)), lambda pair: f"{pair[0]}  =  {pair[1]}")
    _section("copies", found.copies, _copies_line)
    _section("almost the same to the network, though no copies", found.similar, _similar_line)
    _section("labels that may be wrong", found.suspects, _suspect_line)
    if found.wrong and found.wrong.value > 0:
        show.print_line(f"in all about {show.interval_text(found.wrong)} of the labels may be wrong")
    _section("classes hardly told apart", found.mixed, _mixed_line)
    _section("signs of the class in the files", found.shortcuts, lambda one: one.words or one.what)
    _section("images of little use", found.odd, lambda one: f"{one.name}: {one.reason}")
    _section(
        "images unlike all others",
        found.outliers,
        lambda one: f"{one.name}: {one.distance:.1f} times as far as usual",
    )
    _section("images that cannot be read", rejected, lambda one: f"{one.name}: {one.reason}")
    if found.imbalance:
        big = found.imbalance
        show.print_line(f"very unequal classes: {big.largest} {big.most:,} images, {big.smallest} {big.fewest:,}")
    kinds = (found.copies, found.similar, found.suspects, found.mixed, found.shortcuts, found.odd, found.outliers, rejected)
    nothing = "" if any(kinds) or found.imbalance else "nothing found: "
    show.print_line(f"{nothing}{found.images:,} images audited in {found.seconds:.1f} s")


def _section(title: str, found: Sequence[Found], line: Callable[[Found], str]) -> None:
    from regraft.cli import show

    if found:
        show.print_line(f"{title}: {len(found):,}")
        _listed(found, line)


def _listed(found: Sequence[Found], line: Callable[[Found], str]) -> None:
    from regraft.cli import show

    for one in found[:_SHOWN]:
        show.print_line(f"  {line(one)}")
    if len(found) > _SHOWN:
        show.print_line(f"  and {len(found) - _SHOWN:,} more (--json, --fix-list)")


def _suspect_line(one: "Suspect") -> str:
    from regraft.cli.show import percent

    return f"{one.name}: {one.label} ({percent(one.given)}), rather {one.suggested} ({percent(one.instead)})"


def _mixed_line(one: "Mixed") -> str:
    from regraft.cli.show import percent

    return f"{one.one} and {one.other}: {percent(one.accuracy.value)} right between the two"


def _similar_line(one: "Similar") -> str:
    return _joined("  ~  ", one.names) + ("  (in training and test)" if one.across_parts else "")


def _copies_line(one: "Copies") -> str:
    flags = ["different labels"] * one.across_classes + ["in training and test"] * one.across_parts
    return f"{_joined('  =  ', one.names)}  ({', '.join([one.change, *flags])})"


def _joined(between: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return between.join(names[:_NAMED]) + more
