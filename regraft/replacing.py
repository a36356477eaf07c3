"""Files written so that at every instant the old one or the new one is there, whole."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regraft.errors import OutOfSpace, UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to; at the end that is on the disk, and under the name of `path`.

    Raises OutOfSpace or UsageError where the file cannot be written; then what was there before still is.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> OutOfSpace | UsageError:
    """The error for a person when the file `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(expected=f"room to write {path}", got="a full disk", fix="free some space, or choose another --out")
    return UsageError(
        expected=f"to write {path}", got=error.strerror or str(error), fix="choose another --out, in a folder you may write to"
    )
