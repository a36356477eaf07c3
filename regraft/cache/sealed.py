"""Small files of the cache that can be made again: a damaged one is as good as none, and failing to keep one is no error."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

_DIGEST = 64


def recall(path: Path) -> bytes | None:
    """What `remember` kept there, or None."""
    with suppress(OSError):
        data = path.read_bytes()
        if hashlib.sha256(data[_DIGEST:]).hexdigest().encode() == data[:_DIGEST]:
            return data[_DIGEST:]
    return None


def remember(path: Path, content: bytes) -> None:
    """Keep `content`, with its SHA-256 before it."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + content)
        temporary.replace(path)
