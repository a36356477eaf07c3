"""Write docs/cli.md from the commands themselves: python docs/make_cli.py [--check]."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Command line

Written by `python docs/make_cli.py` from the commands; change their help, not this page. `python -m regraft` is the same
command.

Results go to standard output, everything else (what was found, progress, errors) to standard error. Exit codes:
[errors.md](errors.md).
"""
TAIL = """## What `--json` prints

One line on standard output; nothing at all when the command fails. Undefined figures are `null`. Fields may be added.

- `fit`: `run`, `backbone`, `strategy`, `features`, `l2`, `classes`, `images` {`train`, `test`, `rejected`}, `test`
  {`accuracy` {`value`, `low`, `high`, `n`}, `macro_f1`, `nll`, `ece`, `baseline`} (null with `--test none`),
  `cross_validation` (the same), `seconds` {`features`, `head`, `total` and the other steps}, `engine`, `cache` {`hits`,
  `misses`}, `report`
- `evaluate`: `n`, `accuracy` {`value`, `low`, `high`, `n`}, `macro_f1`, `nll`, `ece`, `baseline`, `per_class` [{`class`,
  `precision`, `recall`, `f1`, `support`, `predicted`}], `confusion` (rows are the true classes; null for several labels per
  image), `classes`, `rejected` (how many), `rejected_images` [{`path`, `code`, `reason`}]
- `predict`: one line per input: `path`, `status` ("ok" or "failed"), `reason` (null when ok), `predictions` [{`class`,
  `probability`}], best first
- `cache list`: `folder`, `tables` [{`name`, `rows`, `bytes`, `description`}]; `cache clear`: `folder`, `freed` (bytes)
- `doctor`: a field for everything that it lists, and `problems`

## Where a run goes

`fit photos/` writes to `runs/photos`, or to `runs/photos-2` and so on where that holds a run already, and says so.
`--overwrite` replaces the earlier run instead. A folder given with `--out` has to be new or empty unless `--overwrite`,
which replaces runs of regraft and nothing else. A run never goes inside of its own data.

## Rows of `predict`

One row per input, in the order of the inputs; probabilities have six significant digits. An input that cannot be used has
the status `failed` and a reason, and the exit code is then 5; it is 3 where there is no input at all.

- Folders give their images, sorted, without hidden files; patterns that the shell left alone are expanded; `-` reads paths
  from standard input, one per line or with `--null` ended by NUL, each taken as it is.
- CSV has the columns `path`, `status`, `reason`, `class_1`, `probability_1` and so on. A text that a spreadsheet would run
  as a formula (starting with `=`, `+`, `-`, `@`, a tab or a line break) has an apostrophe in front. Names with line breaks
  are in quotes.
- JSON lines are ASCII and keep every file name exactly. In CSV and Parquet, bytes of a name that are not UTF-8 are written
  with a backslash.
- `--out` writes `.csv` and `.jsonl` row by row; `.parquet` appears when it is complete, until then its rows are in
  `NAME.partial`. An existing file is refused unless `--resume` or `--overwrite`.
- `--resume` goes on after an interruption, a full disk or a kill, with the same inputs and options. What is there is
  checked: the header, each path, and one image asked again. On the same machine the file ends with the same bytes as if
  nothing had happened.
"""


def render() -> str:
    """The whole page."""
    import typer

    from regraft.cli.app import app

    sections = [part for name, command in walk(typer.main.get_command(app), "regraft") for part in section(name, command)]
    return "\n".join([HEAD, *sections, TAIL])


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    for word, child in getattr(command, "commands", {}).items():
        yield from walk(child, f"{name} {word}")
    if not hasattr(command, "commands"):
        yield name, command


def section(name: str, command: Any) -> Iterator[str]:
    """One command: what it does, how it is called, its options."""
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option"]
    words = " ".join([name, *(label(item) for item in arguments), "[OPTIONS]"])
    yield f"## `{name}`\n\n{plain(command.help)}\n\n```console\n$ {words}\n```\n"
    rows = [f"| `{cell(label(item))}` | | {cell(item.help)} |" for item in arguments]
    rows += [f"| `{flags(item)}` | {default(item)} | {cell(item.help)} |" for item in options]
    yield "| | default | |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def label(argument: Any) -> str:
    """How an argument is called in the usage line."""
    return str(argument.metavar or argument.name.upper())


def flags(option: Any) -> str:
    """The option with what it takes."""
    return cell(", ".join(option.opts) + ("" if option.is_flag else f" {option.metavar}"))


def default(option: Any) -> str:
    """The default where it says something."""
    return "" if option.is_flag or option.default is None else f"`{option.default}`"


def plain(text: str | None) -> str:
    """Help with its paragraphs, without the indentation of the source."""
    return "\n".join(line.strip() for line in (text or "").strip().splitlines())


def cell(text: str | None) -> str:
    """Text that does not end a table's cell."""
    return plain(text).replace("\n", " ").replace("|", "\\|")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text(encoding="utf-8") != render())
    PAGE.write_text(render(), encoding="utf-8")
