"""regraft shard: labelled images into tar archives."""

from dataclasses import asdict
from typing import Annotated

import typer

from regraft.cli.options import (
    DATA_HELP,
    CacheOption,
    GroupColumn,
    JsonOption,
    LabelColumn,
    PathColumn,
    SkipBad,
    SplitColumn,
)


def shard(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    out: Annotated[str, typer.Argument(metavar="OUT", help="A new folder for the archives.", show_default=False)],
    size: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="About so large each archive is at most: 500MB, 1GB.")
    ] = "1GB",
    cache: CacheOption = None,
    group: GroupColumn = None,
    path_column: PathColumn = "path",
    label_column: LabelColumn = "label",
    split_column: SplitColumn = "split",
    skip_bad: SkipBad = False,
    as_json: JsonOption = False,
) -> None:
    """Write labelled images into tar archives, which fit takes in place of a folder and WebDataset reads.

    Images are kept byte for byte, with names, classes and groups; a fit of the archives gives the same model as one of the
    folder. Images of train/, val/ and test/ go into archives that begin so.
    """
    from regraft.cli import show
    from regraft.cli.strategy import bytes_of
    from regraft.cli.watch import watcher
    from regraft.recipe import Data
    from regraft.sharding import shard as write_shards

    chosen = Data(
        path=data,
        group_column=group,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        skip_bad=skip_bad,
    )
    watch = watcher()
    made = write_shards(chosen, out, size=bytes_of(size, "--size"), cache=cache, progress=watch)
    for line in (*made.notes, *show.rejected_lines(made.rejected)):
        watch.note(line)
    if as_json:
        fields = asdict(made) | {"folder": str(made.folder)}
        fields["rejected"] = [{"path": str(one.path), "code": one.code, "reason": one.reason} for one in made.rejected]
        show.print_json(fields)
    else:
        print(f"{made.folder}: {made.images:,} images in {len(made.shards):,} archives, {made.bytes / 10**6:,.1f} MB")
        print(f"fit them: regraft fit {made.folder}")
