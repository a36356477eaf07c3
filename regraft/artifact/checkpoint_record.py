"""One training checkpoint as a value, and the JSON that says what it is: sealed by a checksum, bounded, in one spelling."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from regraft.artifact.canonical import CHECKSUM, canonical, checksum, parse_object
from regraft.artifact.checkpoint_tensors import Layout, non_finite, specs_of
from regraft.artifact.schema import quoted
from regraft.errors import Diverged

FORMAT: Final = "regraft checkpoint"
FORMAT_VERSION: Final = 1
# A hundred bytes for each of the most tensors a checkpoint holds, and as much again for facts.
MAX_JSON_BYTES = 16_000_000
_MAX_DEPTH, _MAX_BRACKETS = 32, 100_000
_SHOWN = 5
_KEYS = {"format", "format_version", "number", "tensors", "bytes", "sha256", "facts", CHECKSUM}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on. `number` counts up over the whole run, and is one more than that of the checkpoint it went
    on from; `tensors` are float32, bfloat16, int64, bool or uint8; `facts` are what JSON has (a tuple comes back as a list).
    """

    number: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def check_finite(checkpoint: Checkpoint) -> None:
    """Raise Diverged where a tensor or a fact holds NaN or infinity: what a run goes on from is all numbers."""
    bad = [quoted(place) for place in (*non_finite(checkpoint.tensors), *_non_finite_facts(checkpoint.facts, "facts"))]
    if bad:
        raise Diverged(
            expected=f"only finite numbers in checkpoint {checkpoint.number}",
            got=f"NaN or infinity in {', '.join(bad[:_SHOWN])}{' and others' if len(bad) > _SHOWN else ''}",
            fix="give a smaller rate; the checkpoint before this one is untouched",
        )


def _non_finite_facts(value: object, place: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    elif isinstance(value, Mapping):
        for key, item in value.items():
            # JSON would make a text of it without a word.
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r}, which is no text")
            yield from _non_finite_facts(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _non_finite_facts(item, f"{place}[{index}]")


def sealed(checkpoint: Checkpoint, layout: Layout, *, sha256: str) -> bytes:
    """The JSON of a checkpoint whose file of tensors has this layout and SHA-256; its length does not hang on the latter."""
    value = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "number": checkpoint.number,
        "tensors": specs_of(checkpoint.tensors),
        "bytes": layout.size,
        "sha256": sha256,
        "facts": dict(checkpoint.facts),
    }
    return canonical(value | {CHECKSUM: checksum(value)})


def parsed(text: bytes, number: int) -> dict[str, Any]:
    """What the JSON of checkpoint `number` says. Raises ValueError with the reason for anything but what `sealed` gives."""
    if not 2 <= len(text) <= MAX_JSON_BYTES:
        raise ValueError(f"{len(text):,} bytes, not 2 to {MAX_JSON_BYTES:,}")
    value = parse_object(text, max_depth=_MAX_DEPTH, max_brackets=_MAX_BRACKETS)
    if value.get(CHECKSUM) != checksum(value) or canonical(value) != text:
        raise ValueError("other contents than were saved")
    if value.get("format") != FORMAT or value.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{quoted(value.get('format'))} of version {quoted(value.get('format_version'))}")
    if value.keys() != _KEYS or not isinstance(value["tensors"], dict) or not isinstance(value["facts"], dict):
        raise ValueError("other fields than a checkpoint has")
    if value["number"] != number:
        raise ValueError(f"checkpoint {quoted(value['number'])} under the number {number}")
    return value
