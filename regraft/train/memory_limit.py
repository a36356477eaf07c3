"""Work on a batch that may not fit into memory: done in parts, with the same result."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from regraft.errors import OutOfSpace

Result = TypeVar("Result")
Rows = NDArray[np.int64]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: torch has several, one of them a bare RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")
    )


def halves(rows: Rows, most: int) -> list[Rows]:
    """`rows` in the fewest parts of at most `most`, about equally long: a part of one would have no spread to normalise by."""
    return np.array_split(rows, -(-len(rows) // most))


def in_parts(rows: Rows, run: Callable[[Rows], Result]) -> list[Result]:
    """What `run` gives for `rows`, or where memory runs out for each half. Raises OutOfSpace for one alone."""
    try:
        return [run(rows)]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(rows) < 2:
            raise too_large(error) from error
    # Outside of the handler, which holds on to everything that the failed attempt had made.
    release()
    return [result for half in halves(rows, -(-len(rows) // 2)) for result in in_parts(half, run)]


def too_large(error: BaseException) -> OutOfSpace:
    """The error for one image that does not fit alone."""
    return OutOfSpace(
        expected="enough memory for one image at a time",
        got=str(error).splitlines()[0][:160] if str(error) else "none left",
        fix="close other programs, or give a smaller --size or a smaller --backbone",
    )


def release() -> None:
    """Give memory that is kept for later use back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
