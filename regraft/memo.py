"""What was found out about images, kept beside their features: the same question is not worked out twice.

The key holds everything that an answer depends on; a file (`cache.sealed`) holds JSON.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from regraft.cache.sealed import recall, remember
from regraft.report.codec import of_plain, to_plain

# To be raised with every change of what is found in the same images.
VERSION = 1
Answer = TypeVar("Answer")


def key_of(*parts: object) -> str:
    """What names an answer: a digest of arrays, bytes, and whatever has a telling text."""
    total = hashlib.sha256(f"{VERSION}".encode())
    for part in parts:
        total.update(hashlib.sha256(_bytes(part)).digest())
    return total.hexdigest()[:32]


def _bytes(part: object) -> bytes:
    if isinstance(part, np.ndarray):
        return f"{part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes()
    if isinstance(part, bytes):
        return part
    if isinstance(part, Iterable) and not isinstance(part, str):
        return b"".join(hashlib.sha256(_bytes(one)).digest() for one in part)
    return f"{type(part).__name__} {part}".encode("utf-8", "surrogatepass")


def remembered(cache: Path, key: str, kind: Any, make: Callable[[], Answer]) -> Answer:
    """The answer of type `kind` that was kept under this key, or what `make` gives, which is then kept."""
    path = cache / "found" / key
    if (data := recall(path)) is not None:
        with suppress(ValueError, TypeError, KeyError):
            kept: Answer = of_plain(kind, json.loads(data), str(path))
            return kept
    answer = make()
    remember(path, json.dumps(to_plain(answer), allow_nan=False).encode())
    return answer
