"""For MkDocs: a line `<!-- show: NAME, NAME | WORD -->` becomes the measured figures of that name in docs/measurements.md.

Only rows that hold the WORD, where there is one. So no page can show a figure that has been measured anew.
"""

import re
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).with_name("measurements.md")
_SHOW = re.compile(r"^<!-- show: ([\w, ]+?)(?: \| (\w+))? -->$", re.MULTILINE)
_COLUMNS = (0, 2, 6)  # what was measured, the figure, what stands beside it


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its figures. Raises ValueError for a name without any."""
    return _SHOW.sub(lambda found: table(found[1].split(", "), found[2] or ""), markdown)


def table(names: list[str], word: str) -> str:
    """The rows of these figures that hold `word`, with where they are from."""
    text = MEASURED.read_text(encoding="utf-8")
    rows = [row for name in names for row in _rows(text, name) if word in row[0].split(",")[0]]
    if not rows:
        raise ValueError(f"no figure of {names} with {word!r} in {MEASURED.name}")
    lines = ["| " + " | ".join(row[column] for column in _COLUMNS) + " |" for row in rows]
    links = ", ".join(f"[{name}](measurements.md#{name})" for name in names)
    return "\n".join(["| | measured | |", "|---|---|---|", *lines, "", f"From {links}."])


def _rows(text: str, name: str) -> list[list[str]]:
    found = re.search(rf"<!-- figure: {name} -->(.*?)<!-- end: {name} -->", text, re.DOTALL)
    lines = re.findall(r"^\|(.*)\|$", found[1], re.MULTILINE)[2:] if found else []
    return [[cell.strip() for cell in line.split("|")] for line in lines]
