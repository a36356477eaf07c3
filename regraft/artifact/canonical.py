"""JSON with one spelling: the same value always gives the same bytes, and no other bytes are accepted."""

import hashlib
import json
import math
from itertools import accumulate
from typing import Any

CHECKSUM = "checksum"
_DEPTH_STEPS = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(_DEPTH_STEPS))


def canonical(value: dict[str, Any]) -> bytes:
    """`value` as UTF-8 JSON with sorted keys, one space of indent and a final line feed. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"


def checksum(value: dict[str, Any]) -> str:
    """SHA-256 of `value` without its own checksum, as 64 hexadecimal digits."""
    rest = {key: item for key, item in value.items() if key != CHECKSUM}
    return hashlib.sha256(canonical(rest)).hexdigest()


def parse_object(text: bytes, *, max_depth: int, max_brackets: int) -> dict[str, Any]:
    """The JSON object in `text`, or ValueError with the reason.

    Stricter than the standard: UTF-8 only, no duplicate keys, no NaN or infinity, whole numbers of at most 19 digits,
    at most `max_brackets` brackets, nested at most `max_depth` deep (checked before parsing, which recurses).
    """
    decoded = text.decode()
    _check_brackets(text, max_depth, max_brackets)
    value = json.loads(decoded, object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _check_brackets(text: bytes, max_depth: int, max_brackets: int) -> None:
    without_escapes = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(without_escapes.split(b'"')[::2])
    brackets = outside_strings.translate(None, _ALL_BUT_BRACKETS)
    if len(brackets) > max_brackets:
        raise ValueError(f"{len(brackets):,} brackets, over {max_brackets:,}")
    depth = max(accumulate(map(_DEPTH_STEPS.__getitem__, brackets)), default=0)
    if depth > max_depth:
        raise ValueError(f"nested {depth:,} deep, over {max_depth}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is there twice")
    return value


def _whole(digits: str) -> int:
    if len(digits) > 19:
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number too large for a float")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"the literal {name}, which JSON does not have")
