"""regraft cache: what is kept, so that the next fit decodes nothing again."""

import typer

from regraft.cli.options import CacheOption, JsonOption

app = typer.Typer(help="List or clear the feature cache.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_cache(cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """List the tables of features: what made them, how many images, how large."""
    from regraft.cache.store import default_folder, list_tables
    from regraft.cli import show

    folder = cache or default_folder()
    tables = list_tables(folder)
    if as_json:
        rows = [{"name": t.name, "rows": t.rows, "bytes": t.bytes, "description": t.description} for t in tables]
        show.print_json({"folder": str(folder), "tables": rows})
        return
    if tables:
        show.print_table(
            ("made by", "images", "size", "name"),
            [(t.description, f"{t.rows:,}", show.size_text(t.bytes), t.name) for t in tables],
        )
    total = show.size_text(sum(t.bytes for t in tables))
    show.print_line(f"{folder}: {len(tables):,} tables, {total}" if tables else f"{folder}: empty")


@app.command("clear")
def clear_cache(cache: CacheOption = None, as_json: JsonOption = False) -> None:
    """Remove all features and measurements; the next fit makes them again. Other files in the folder stay."""
    from regraft.cache.store import clear, default_folder
    from regraft.cli import show

    folder = cache or default_folder()
    freed = clear(folder)
    if as_json:
        show.print_json({"folder": str(folder), "freed": freed})
    else:
        show.print_line(f"{folder}: {show.size_text(freed)} freed")
