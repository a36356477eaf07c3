"""What was found out about images, kept beside their features: the same question is not worked out twice.

The key holds everything that an answer depends on; a file is the SHA-256 of what follows, then JSON. A damaged one is as good
as none, and failing to keep one is no error.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

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
    with suppress(OSError, ValueError, TypeError, KeyError):
        data = path.read_bytes()
        if hashlib.sha256(data[64:]).hexdigest().encode() == data[:64]:
            kept: Answer = of_plain(kind, json.loads(data[64:]), str(path))
            return kept
    answer = make()
    text = json.dumps(to_plain(answer), allow_nan=False).encode()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_bytes(hashlib.sha256(text).hexdigest().encode() + text)
        temporary.replace(path)
    return answer
