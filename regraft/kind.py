"""What kind of answers a saved run gives, read from its config.json alone: no network is needed to choose what to do."""

import json
from pathlib import Path
from typing import Final, Literal

from regraft.segments import Kind

Task = Literal["classification"] | Kind

_CONFIG_FILE: Final = "config.json"
_MOST_BYTES = 8_000_000


def kind_of_run(folder: Path) -> Task:
    """The task of the run in `folder`: "classification" also where there is no run, or one that cannot be read.

    Whoever opens such a run is told what is wrong with it.
    """
    path = folder / _CONFIG_FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            return "classification"
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return "classification"
    task = config.get("task") if isinstance(config, dict) else None
    if task == "saliency":
        return "saliency"
    return "semantic" if task == "semantic" else "classification"
