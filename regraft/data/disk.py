"""What a disk says when it takes no more."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regraft.errors import NotWritable, OutOfSpace, first_line

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def is_full(error: BaseException) -> bool:
    """Whether an exception says that there is no space left."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def keeping(what: str, folder: Path) -> Iterator[None]:
    """Turn an OSError of writing `what` below `folder` into OutOfSpace or NotWritable."""
    try:
        yield
    except OSError as error:
        full = is_full(error)
        raise (OutOfSpace if full else NotWritable)(
            expected=f"to keep {what} under {folder}",
            got=first_line(error),
            fix="free some space (`regraft cache clear`)" if full else "choose a folder that may be written with --cache",
        ) from error
