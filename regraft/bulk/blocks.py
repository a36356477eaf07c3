"""Images as blocks that travel: rows with a number, a place that only its reader understands, and what came of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from regraft.values import Rejected

# A place (a path, or whatever addresses an image inside of something) and the name of the image in its row.
Item = tuple[Any, str]
Answer = NDArray[np.float32] | Rejected
# What stands for an image that ended every process that read it.
LOST = Rejected(path=Path(), name="", code="lost", reason="every process that read it came to an end")
# Images in a block: as many as are lost with a worker; few enough that all workers have some to the end.
LEAST, MOST, BLOCKS_PER_WORKER = 8, 256, 8
_CAME = pa.schema([("row", pa.int64()), ("values", pa.binary()), ("code", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True, slots=True)
class Came:
    """What came of one row: `values` (D,), or why there are none."""

    row: int
    values: NDArray[np.float32] | None
    code: str = ""
    reason: str = ""

    def answer(self, items: Sequence[Item]) -> Answer:
        """The same for whoever has the items."""
        if self.values is not None:
            return self.values
        path, name = items[self.row]
        return Rejected(path=path, name=name, code=self.code, reason=self.reason)


def block_size(images: int, workers: int) -> int:
    """Images in a block: a whole number of batches."""
    size = -(-images // (workers * BLOCKS_PER_WORKER))
    return min(MOST, max(LEAST, -(-size // LEAST) * LEAST))


def to_blocks(items: Sequence[Item], size: int) -> list[pa.Table]:
    """The items in blocks of `size`, each with its number."""
    return [to_block(items, range(start, min(start + size, len(items)))) for start in range(0, len(items), size)]


def to_block(items: Sequence[Item], rows: Sequence[int]) -> pa.Table:
    """Some of the items as a block."""
    from ray.data.extensions import ArrowPythonObjectArray

    # Objects of Python as Ray itself carries them between the processes of one user; nothing of this is kept.
    return pa.table({"row": list(rows), "item": ArrowPythonObjectArray.from_objects([items[row] for row in rows])})


def items_of(block: pa.Table) -> list[Item]:
    """The items of a block, on a worker."""
    return list(block.column("item").to_pylist())


def answered(block: pa.Table, answers: Sequence[Answer]) -> pa.Table:
    """The block that goes back."""
    return pa.table(
        {
            "row": block.column("row"),
            "values": [None if isinstance(a, Rejected) else np.asarray(a, np.float32).tobytes() for a in answers],
            "code": [a.code if isinstance(a, Rejected) else None for a in answers],
            "reason": [_utf8(a.reason) if isinstance(a, Rejected) else None for a in answers],
        },
        schema=_CAME,
    )


def came_of(block: pa.Table) -> Iterator[Came]:
    """The rows of a block that came back."""
    for row in block.to_pylist():
        values = None if row["values"] is None else np.frombuffer(row["values"], np.float32)
        yield Came(row["row"], values, row["code"] or "", row["reason"] or "")


def absolute(path: Any) -> Any:
    """The same place for a process with another working folder: a path, or what lies inside of the file `container`."""
    if isinstance(path, Path):
        return path.absolute()
    container = getattr(path, "container", None)
    if isinstance(container, str) and "://" not in container:
        return replace(path, container=str(Path(container).absolute()))
    return path


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
