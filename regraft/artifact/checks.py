"""Reads the header of a safetensors file and says whether the file can be what the architecture wants.

Of the file only the header is touched. The safetensors library alone is not safe against denial of service: a 29 MB header
of 500,000 empty tensors took it 13 s and 1.3 GB.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.artifact.canonical import parse_object
from regraft.artifact.files import REFETCH, OpenFile
from regraft.artifact.schema import quoted
from regraft.errors import SavedModelRefused

MAX_HEADER_BYTES = 2_000_000
MAX_TENSORS = 20_000
Dtype = Literal["float32", "int64"]
Tensor = NDArray[np.float32] | NDArray[np.int64]

_DTYPES: dict[str, Dtype] = {"F32": "float32", "I64": "int64"}
_ITEM_BYTES: dict[Dtype, int] = {"float32": 4, "int64": 8}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,255}")
_EXPECTED = "a model.safetensors written by regraft"
_MAX_SIDE = 2**40
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor is without its values. `shape` may be () for a scalar."""

    shape: tuple[int, ...]
    dtype: Dtype = "float32"

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor's spec and where its bytes begin, counted from the end of the header."""

    spec: TensorSpec
    begin: int

    @property
    def end(self) -> int:
        return self.begin + self.spec.bytes


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a weights file: its bytes as they stand, length field included, and what they say."""

    raw: bytes
    tensors: Mapping[str, Placed]


def read_header(file: OpenFile) -> Header:
    """Read and check the header at the start of `file`. Raises SavedModelRefused; touches no byte after the header.

    Checked: length, JSON (no duplicates, no NaN, not deep), names, dtypes, shapes, and that the tensors fill the rest
    of the file exactly, one after the other and aligned.
    """
    if file.size < _LENGTH_BYTES + 2:
        raise file.foreign(_EXPECTED, f"a file of {file.size} bytes, too short")
    length_field = file.read(_LENGTH_BYTES)
    length = int.from_bytes(length_field, "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, file.size - _LENGTH_BYTES):
        limit = "longer than the file" if length > file.size - _LENGTH_BYTES else f"not from 2 to {MAX_HEADER_BYTES:,}"
        raise file.foreign(_EXPECTED, f"a header length of {length:,} bytes, {limit}")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise file.foreign(_EXPECTED, "a header that is not JSON")
    try:
        tensors = parse_header(text, file.size - _LENGTH_BYTES - length)
    except ValueError as error:
        raise SavedModelRefused(expected=_EXPECTED, got=f"{file.path}: header refused: {error}", fix=REFETCH) from None
    return Header(raw=length_field + text, tensors=tensors)


def parse_header(text: bytes, data_bytes: int) -> dict[str, Placed]:
    """The tensors that header `text` places in the `data_bytes` after it. Raises ValueError with the reason."""
    # Counted before parsing, so that a bloated header costs neither time nor memory: each tensor opens at least one brace.
    if text.count(b"{") > MAX_TENSORS + 2:
        raise ValueError(f"over {MAX_TENSORS:,} tensors")
    entries = parse_object(text, max_depth=3, max_brackets=6 * MAX_TENSORS + 4)
    _check_metadata(entries.pop("__metadata__", {}))
    if not 1 <= len(entries) <= MAX_TENSORS:
        raise ValueError(f"{len(entries):,} tensors, not 1 to {MAX_TENSORS:,}")
    tensors = {name: _entry(name, entry) for name, entry in entries.items()}
    _check_layout(tensors, data_bytes)
    return tensors


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ is not a table of texts")


def _entry(name: str, entry: Any) -> Placed:
    if not _NAME.fullmatch(name):
        raise ValueError(f"tensor name {quoted(name)}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name}: not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{name}: dtype {quoted(dtype)}, not one of {', '.join(_DTYPES)}")
    if not _whole_numbers(shape) or len(shape) > 8 or not _whole_numbers(offsets) or len(offsets) != 2:
        raise ValueError(f"{name}: shape or data_offsets are not lists of whole numbers from 0")
    placed = Placed(TensorSpec(tuple(shape), _DTYPES[dtype]), offsets[0])
    if placed.end != offsets[1]:
        raise ValueError(f"{name}: {placed.spec} takes {placed.spec.bytes:,} bytes, not {offsets[1] - offsets[0]:,}")
    return placed


def _whole_numbers(values: Any) -> bool:
    # `type is int`: JSON's true is an int to isinstance.
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= _MAX_SIDE for value in values)


def _check_layout(tensors: Mapping[str, Placed], data_bytes: int) -> None:
    position = 0
    for name, placed in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if placed.begin != position:
            kind = "a hole" if placed.begin > position else "an overlap"
            raise ValueError(f"{name}: {kind} at byte {position:,} of the data")
        if placed.begin % _ITEM_BYTES[placed.spec.dtype]:
            raise ValueError(f"{name}: not aligned to its items")
        position = placed.end
    if position != data_bytes:
        raise ValueError(f"tensors end at byte {position:,} of {data_bytes:,} of the data")


def check_specs(found: Mapping[str, TensorSpec], expected: Mapping[str, TensorSpec], what: str) -> None:
    """Raise SavedModelRefused with the first five differences, by name, unless both are the same tensors."""
    differences = [_difference(name, found, expected) for name in sorted(found.keys() | expected.keys())]
    real = [line for line in differences if line]
    if real:
        more = f"; and {len(real) - 5:,} more" if len(real) > 5 else ""
        raise SavedModelRefused(
            expected=f"the {len(expected):,} tensors of its architecture and classes in {what}",
            got=f"{len(real):,} differences: {'; '.join(real[:5])}{more}",
            fix=REFETCH,
        )


def _difference(name: str, found: Mapping[str, TensorSpec], expected: Mapping[str, TensorSpec]) -> str | None:
    if name not in found:
        return f"missing {name} {expected[name]}"
    if name not in expected:
        return f"extra {name} {found[name]}"
    if found[name] != expected[name]:
        return f"{name} is {found[name]}, not {expected[name]}"
    return None


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise SavedModelRefused when a float holds NaN or infinity, as weights do after training has diverged."""
    bad = [name for name, tensor in sorted(tensors.items()) if not np.isfinite(tensor).all()]
    if bad:
        raise SavedModelRefused(
            expected=f"only finite numbers in {what}",
            got=f"NaN or infinity in {', '.join(bad[:5])}{' and others' if len(bad) > 5 else ''}",
            fix="fit again; if such weights are meant, pass allow_nonfinite=True",
        )
