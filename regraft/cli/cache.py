"""regraft cache: what is kept, so that the next fit decodes nothing again."""

from pathlib import Path

import typer

from regraft.cli.options import CacheOption, JsonOption

app = typer.Typer(help="List or clear the feature cache.", no_args_is_help=True, rich_markup_mode=None)


def _folder(cache: Path | None) -> Path:
    """The cache's folder, there or not. Raises UsageError for a file."""
    from regraft.cache.store import default_folder
    from regraft.errors import UsageError

    folder = cache or default_folder()
    if folder.exists() and not folder.is_dir():
        raise UsageError(expected="a folder for --cache", got=f"{folder}: a file", fix="give the folder of the cache")
    return folder


@app.command("list")
def list_cache(cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """List what is kept.

    One line for each table of features (what made it, of how many images, how large), for each data set, and for images
    that scikit-learn's tools gave as arrays.
    """
    from regraft.cache.store import list_tables
    from regraft.cli import show
    from regraft.data.arrays import kept_arrays
    from regraft.data.materialise import kept_sets
    from regraft.data.names import count_of

    folder = _folder(cache)
    tables, sets, (arrays, array_bytes) = list_tables(folder), kept_sets(folder), kept_arrays(folder)
    if as_json:
        rows = [{"name": t.name, "rows": t.rows, "bytes": t.bytes, "description": t.description} for t in tables]
        data = [{"name": s.name, "images": s.images, "bytes": s.bytes} for s in sets]
        given = {"images": arrays, "bytes": array_bytes}
        show.print_json({"folder": str(folder), "tables": rows, "datasets": data, "arrays": given})
        return
    if tables:
        show.print_table(
            ("made by", "images", "size", "name"),
            [(t.description, f"{t.rows:,}", show.size_text(t.bytes), t.name) for t in tables],
        )
    for kept in sets:
        show.print_line(f"{kept.name}: {count_of(kept.images, 'image')}, {show.size_text(kept.bytes)}")
    if arrays:
        show.print_line(f"given as arrays: {count_of(arrays, 'image')}, {show.size_text(array_bytes)}")
    total = show.size_text(sum(t.bytes for t in tables) + sum(s.bytes for s in sets) + array_bytes)
    counts = [count_of(len(tables), "table")] * bool(tables) + [count_of(len(sets), "data set")] * bool(sets)
    show.print_line(f"{folder}: {', '.join([*counts, total]) if counts or arrays else 'empty'}")


@app.command("clear")
def clear_cache(cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """Remove what is kept.

    The next fit makes features and measurements again, and fetches the data set that it names. Other files in the folder stay.
    """
    from regraft.cache.store import clear
    from regraft.cli import show

    folder = _folder(cache)
    freed = clear(folder)
    if as_json:
        show.print_json({"folder": str(folder), "freed": freed})
    else:
        show.print_line(f"{folder}: {show.size_text(freed)} freed")
