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
        total.update(_digest(part))
    return total.hexdigest()[:32]


def _digest(part: object) -> bytes:
    if isinstance(part, np.ndarray):
        of_array = hashlib.sha256(f"{part.dtype} {part.shape}".encode())
        # Not copied: logits of a million images take gigabytes.
        of_array.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        return of_array.digest()
    if isinstance(part, bytes):
        return hashlib.sha256(part).digest()
    if isinstance(part, Iterable) and not isinstance(part, str):
        return hashlib.sha256(b"".join(map(_digest, part))).digest()
    return hashlib.sha256(f"{type(part).__name__} {part}".encode("utf-8", "surrogatepass")).digest()


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
