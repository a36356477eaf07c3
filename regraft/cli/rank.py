"""regraft rank: which backbone suits these images."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.cli.options import (
    DATA_HELP,
    CacheOption,
    DeviceOption,
    GroupColumn,
    GroupPattern,
    JsonOption,
    LabelColumn,
    PathColumn,
    SkipBad,
    SplitColumn,
    Trust,
)
from regraft.cli.start import importing

if TYPE_CHECKING:
    from regraft.values import RankedBackbone, Ranking


def rank(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    backbones: Annotated[
        str, typer.Option("--backbones", metavar="A,B,C", help="Names of backbones, with commas: see regraft backbones.")
    ] = "efficientnet_lite0,efficientnet_lite1,efficientnet_lite2",
    images: Annotated[int, typer.Option("--images", metavar="N", help="Compare on so many of the training images.")] = 1000,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="none", help="none: random weights for all of them.")
    ] = None,
    test: Annotated[
        str, typer.Option("--test", metavar="DIR|none|auto", help="The test set that fit will get: its images take no part.")
    ] = "auto",
    test_share: Annotated[
        float, typer.Option("--test-share", metavar="SHARE", help="Share of the images that auto holds out.")
    ] = 0.2,
    size: Annotated[
        int | None,
        typer.Option("--size", metavar="PIXELS", help="Side of the input in pixels; what each was trained with by default."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed takes other images.")] = 0,
    device: DeviceOption = "auto",
    cache: CacheOption = None,
    group: GroupColumn = None,
    group_pattern: GroupPattern = None,
    path_column: PathColumn = "path",
    label_column: LabelColumn = "label",
    split_column: SplitColumn = "split",
    skip_bad: SkipBad = False,
    trust: Trust = False,
    as_json: JsonOption = False,
) -> None:
    """Say which backbone suits these images.

    A head is solved on the frozen features of each and judged by cross-validation on the same training images. Of those that
    are as good as the best, the smallest is recommended. The exit code is 5 where a backbone failed.
    """
    from regraft.cli import show
    from regraft.cli.watch import watcher
    from regraft.errors import SomeFailed
    from regraft.recipe import Data, located

    chosen = Data(
        path=data,
        test=test if test in ("auto", "none") else located(test),
        test_share=test_share,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group,
        group_pattern=group_pattern,
        skip_bad=skip_bad,
    )
    watch = watcher()
    with importing():
        from regraft.ranking import rank as run_ranking

    ranking = run_ranking(
        chosen,
        backbones=[name.strip() for name in backbones.split(",")],
        images=images,
        weights=weights,
        size=size,
        seed=seed,
        device=device,
        cache=cache,
        trust=trust,
        progress=watch,
    )
    show.print_json(fields_of(ranking)) if as_json else print_ranking(ranking)
    failed = [row for row in ranking.backbones if row.status == "failed"]
    if failed:
        raise SomeFailed(
            expected="every backbone to be at hand",
            got=f"{len(failed)} of {len(ranking.backbones)} failed: {', '.join(row.backbone for row in failed)}",
            fix="see the reasons in their rows",
        )


def fields_of(ranking: "Ranking") -> dict[str, Any]:
    """What `regraft rank --json` prints; the names are fixed in docs/cli.md."""
    return {
        "recommended": ranking.recommended,
        "best": ranking.best,
        "images": ranking.images,
        "folds": ranking.folds,
        "classes": ranking.classes,
        "baseline": ranking.baseline,
        "backbones": [_row_fields(row) for row in ranking.backbones],
    }


def _row_fields(row: "RankedBackbone") -> dict[str, Any]:
    failed = row.status == "failed"
    return {
        "backbone": row.backbone,
        "status": row.status,
        "reason": row.reason or None,
        "accuracy": {"value": row.accuracy, "error": row.accuracy_error},
        "nll": {"value": row.nll, "error": row.nll_error},
        "behind": {"value": row.behind, "error": row.behind_error},
        "tied": row.tied,
        "features": row.features or None,
        "imagenet_top1": row.imagenet_top1,
        "parameters": None if failed else row.parameters,
        "images_per_s": None if failed else row.images_per_s,
        "engine": row.engine or None,
        "cached": row.cached,
        "seconds": round(row.seconds, 3),
    }


def print_ranking(ranking: "Ranking") -> None:
    """The table, best first, what failed, and last what follows from it."""
    from regraft.cli import show

    show.print_table(
        ("backbone", "accuracy", "nll", "behind", "top-1", "params", "img/s"),
        [_cells(row) for row in ranking.backbones if row.status == "ok"],
        gap=2,
    )
    show.print_line()
    for row in ranking.backbones:
        if row.status == "failed":
            show.print_line(f"{row.backbone} failed: {row.reason}")
    show.print_pairs(_pairs(ranking))


def _cells(row: "RankedBackbone") -> tuple[str, ...]:
    # No blanks around the signs: with them the table of three embedded backbones is wider than 80 columns.
    return (
        row.backbone,
        f"{100 * row.accuracy:.1f}±{100 * row.accuracy_error:.1f}",
        f"{row.nll:.3f}±{row.nll_error:.3f}",
        f"{row.behind:.3f}±{row.behind_error:.3f}" if row.behind else "best",
        "" if row.imagenet_top1 is None else f"{row.imagenet_top1:.1f}",
        f"{row.parameters / 1e6:.1f} M",
        f"{row.images_per_s:,.0f}",
    )


def _pairs(ranking: "Ranking") -> list[tuple[str, str]]:
    good = [row for row in ranking.backbones if row.status == "ok"]
    tied = [row.backbone for row in good if row.tied and row.backbone != ranking.best]
    right = next(row.accuracy for row in good if row.backbone == ranking.recommended)
    why = f"the smallest of {len(tied) + 1} that are as good as one another" if tied else "clearly better than the others"
    return [
        ("columns", "accuracy in per cent and nll in nats, with standard errors; top-1: ImageNet"),
        ("compared on", f"{ranking.how}, {ranking.folds} folds"),
        ("baseline", f"{100 * ranking.baseline:.1f} % by always naming the largest class"),
        *([("as good", f"{', '.join(tied)}: behind {ranking.best} by no more than two standard errors")] if tied else []),
        ("recommended", f"{ranking.recommended} ({100 * right:.1f} %)" + (f": {why}" if len(good) > 1 else "")),
    ]
