"""metrics.jsonl: a line of JSON for every epoch, for programs that draw curves."""

import json
import math
import os
import uuid
from dataclasses import asdict
from pathlib import Path

from regraft.evaluate.table import cannot_write
from regraft.values import History


def write_metrics(path: Path, history: History | None) -> None:
    """Write the epochs of a training, or remove what an earlier run left where nothing was trained.

    Each line has the fields of `values.Epoch`; figures that are no numbers are null. Raises OutOfSpace or UsageError.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        if history is None:
            path.unlink(missing_ok=True)
            return
        with temporary.open("w", encoding="ascii") as file:
            for epoch in history.epochs:
                fields = {name: value if math.isfinite(value) else None for name, value in asdict(epoch).items()}
                file.write(json.dumps(fields) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
