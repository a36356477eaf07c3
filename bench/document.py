"""Writes what was measured into docs/measurements.md, each figure between its own marks; the rest of the page is left alone."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figures import Row, number
from measure import ROOT

PAGE = ROOT / "docs/measurements.md"
START = """# Measurements

Each figure has a target, and a command that repeats it beside its peers on your own machine. `make bench` runs them all.
Ours and the peer run in turn, each in a fresh process, at least three times unless a figure says otherwise; a comparison is
made pair by pair, and the table gives the median of the pairs with the smallest and the largest. Peers: `bench/peers.py`.

## Figures
"""


def record(name: str, title: str, rows: Sequence[Row], machine: dict[str, Any], *, quick: bool = False) -> dict[str, Any]:
    """A measured figure as plain data: what the JSON file holds and the page is made from."""
    return {
        "figure": name,
        "title": f"QUICK TRIAL on a few images, not a figure. {title}" if quick else title,
        "command": f"python bench/run.py {'--quick ' * quick}--only {name}",
        "machine": machine,
        "rows": [
            {
                "what": row.what,
                "target": row.target,
                "centre": row.measured.centre,
                "low": row.measured.low,
                "high": row.measured.high,
                "runs": row.measured.runs,
                "unit": row.unit,
                "passed": row.passed,
                "also": row.also,
            }
            for row in rows
        ],
    }


def section(figure: dict[str, Any]) -> str:
    """One figure as Markdown, between its marks."""
    lines = [
        mark(figure["figure"]),
        f"### {figure['figure']}",
        "",
        figure["title"],
        "",
        "| figure | target | measured | smallest..largest | runs | met | beside it |",
        "|---|---|---|---|---|---|---|",
        *(table_line(row) for row in figure["rows"]),
        "",
        f"Repeat it: `{figure['command']}`. {machine_line(figure['machine'])}",
        mark(figure["figure"], end=True),
    ]
    return "\n".join(lines)


def mark(name: str, *, end: bool = False) -> str:
    """The comment before or after a figure."""
    return f"<!-- {'end' if end else 'figure'}: {name} -->"


def table_line(row: dict[str, Any]) -> str:
    """One row of a figure's table."""
    unit = row["unit"]
    cells = [
        row["what"],
        row["target"],
        f"**{number(row['centre'])}{unit}**",
        f"{number(row['low'])}..{number(row['high'])}{unit}",
        str(row["runs"]),
        "yes" if row["passed"] else "**no**",
        ", ".join(f"{key} {value}" for key, value in row["also"].items()),
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def machine_line(machine: dict[str, Any]) -> str:
    """Where it was measured, in one sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version != "none")
    flags = " ".join(machine["flags"]) or "no special instructions"
    return (
        f"Machine: {machine['cores']} cores {machine['architecture']} ({flags}), {machine['memory_gb']} GB, "
        f"{machine['system']}; Python {machine['python']}, {versions}."
    )


def merge(page: str, sections: dict[str, str]) -> str:
    """`page` with these figures replaced where they stand, and new ones after the last of them, or at the end."""
    for name, new in sections.items():
        old = re.compile(f"{re.escape(mark(name))}.*?{re.escape(mark(name, end=True))}", re.DOTALL)
        last = [match.end() for match in re.finditer(re.escape("<!-- end: ") + r"\S+ -->", page)]
        if old.search(page):
            # A function, because backslashes in a replacement string would be read as references.
            page = old.sub(lambda _, new=new: new, page)
        elif last:
            page = f"{page[: last[-1]]}\n\n{new}{page[last[-1] :]}"
        else:
            page = f"{page.rstrip()}\n\n{new}\n"
    return page


def render(folder: Path) -> list[str]:
    """Bring docs/measurements.md up to date with the JSON files in `folder`; returns the names of the figures."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    sections = {figure["figure"]: section(figure) for figure in found}
    page = PAGE.read_text() if PAGE.exists() else START
    PAGE.write_text(merge(page, sections))
    return list(sections)
