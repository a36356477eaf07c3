"""The tensors of a training checkpoint as a plain safetensors file, written and read in one pass, tensor by tensor.

The header of such a file is never parsed. What the file holds stands in the checkpoint's JSON; from that follows the one header
that a whole file begins with, so holes, overlaps, bloat and wrong lengths need no checks of their own: they are other bytes.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from regraft.artifact.checks import MAX_TENSORS as MAX_MODEL_TENSORS
from regraft.artifact.files import OpenFile, open_regular, refusal
from regraft.artifact.schema import quoted

# The network, its best weights, and the two moments of AdamW.
MAX_TENSORS = 4 * MAX_MODEL_TENSORS
# 1 MiB stays in the processor's cache between hashing and writing.
_BLOCK_BYTES = 2**20
_MAX_ITEMS = 2**40
_SPELLINGS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL", torch.uint8: "U8"}
_DTYPES = {spelling: dtype for dtype, spelling in _SPELLINGS.items()}
_SPEC = re.compile(rf"({'|'.join(_DTYPES)})((?: [0-9]{{1,12}}){{0,8}})")
_EXPECTED = "the tensors that a checkpoint's JSON names"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One tensor of the file. `shape` may be () for a scalar."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What stands where in the file: the header, length field included, then the tensors one after the other."""

    header: bytes
    places: tuple[Place, ...]

    @property
    def size(self) -> int:
        return len(self.header) + sum(place.bytes for place in self.places)


def specs_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What each tensor is, as text: "F32 64 3 7 7". Raises ValueError for a dtype that a checkpoint does not hold."""
    return {name: " ".join([_spelling(name, tensor), *map(str, tensor.shape)]) for name, tensor in tensors.items()}


def _spelling(name: str, tensor: Tensor) -> str:
    if tensor.dtype not in _SPELLINGS:
        raise ValueError(f"tensor {quoted(name)} is {tensor.dtype}, not one of {', '.join(map(str, _SPELLINGS))}")
    return _SPELLINGS[tensor.dtype]


def layout_of(specs: Mapping[str, str]) -> Layout:
    """Where tensors of these specs stand in the file: wide items first, so that all are aligned, then by name.

    Raises ValueError for what `specs_of` does not give.
    """
    if len(specs) > MAX_TENSORS:
        raise ValueError(f"{len(specs):,} tensors, over {MAX_TENSORS:,}")
    places = [_place(name, spec) for name, spec in specs.items()]
    places.sort(key=lambda place: (-place.dtype.itemsize, place.name))
    entries, begin = {}, 0
    for place in places:
        end = begin + place.bytes
        entries[place.name] = {"dtype": _SPELLINGS[place.dtype], "shape": place.shape, "data_offsets": (begin, end)}
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    # Blanks up to a multiple of 8, as safetensors writes it: the data that follows is aligned.
    text += b" " * (-len(text) % 8)
    return Layout(header=len(text).to_bytes(8, "little") + text, places=tuple(places))


def _place(name: str, spec: str) -> Place:
    # In a header this name is not a tensor.
    if name == "__metadata__":
        raise ValueError("a tensor named __metadata__")
    match = _SPEC.fullmatch(spec) if isinstance(spec, str) else None
    if match is None:
        raise ValueError(f"tensor {quoted(name)} is {quoted(spec)}, which is no dtype and shape")
    shape = tuple(map(int, match[2].split()))
    # Of an empty tensor too, whose other sides take no bytes but would overflow the strides.
    if math.prod(filter(None, shape)) > _MAX_ITEMS:
        raise ValueError(f"tensor {quoted(name)} is {spec}, over {_MAX_ITEMS:,} numbers")
    return Place(name=name, dtype=_DTYPES[match[1]], shape=shape)


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, value in sorted(tensors.items()) if value.is_floating_point() and not value.isfinite().all()]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], layout: Layout) -> str:
    """Write a new file, wait until it is on the disk, and give its SHA-256. Raises OSError; `path` must not exist."""
    digest = hashlib.sha256()
    with path.open("xb", buffering=0) as file:
        for block in _blocks(tensors, layout):
            digest.update(block)
            rest = block
            while rest:
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    return digest.hexdigest()


def _blocks(tensors: Mapping[str, Tensor], layout: Layout) -> Iterator[memoryview]:
    yield memoryview(layout.header)
    for place in layout.places:
        # One at a time: only a tensor on an accelerator, or a strided one, is copied.
        data = _bytes_of(tensors[place.name].detach().cpu().contiguous().reshape(-1))
        for start in range(0, len(data), _BLOCK_BYTES):
            yield data[start : start + _BLOCK_BYTES]


def _bytes_of(flat: Tensor) -> memoryview:
    data: memoryview = flat.view(torch.uint8).numpy().data
    return data


def read_tensors(path: Path, layout: Layout, sha256: str) -> dict[str, Tensor]:
    """The tensors of the file, on the CPU, each in memory of its own. Raises SavedModelRefused for any other file."""
    with open_regular(path, _EXPECTED) as file:
        if file.size != layout.size:
            raise refusal(path, expected=_EXPECTED, got=f"{file.size:,} bytes, not {layout.size:,}")
        header = file.read(len(layout.header))
        if header != layout.header:
            raise refusal(path, expected=_EXPECTED, got="a header of other tensors")
        digest = hashlib.sha256(header)
        tensors = {place.name: _read(file, place, digest) for place in layout.places}
    if digest.hexdigest() != sha256:
        raise refusal(path, expected=_EXPECTED, got="another checksum than was saved")
    bad = non_finite(tensors)
    if bad:
        raise refusal(path, expected=_EXPECTED, got=f"NaN or infinity in {quoted(bad[0])}")
    return tensors


def _read(file: OpenFile, place: Place, digest: "hashlib._Hash") -> Tensor:
    flat = torch.empty(math.prod(place.shape), dtype=place.dtype)
    data = _bytes_of(flat)
    for start in range(0, len(data), _BLOCK_BYTES):
        block = data[start : start + _BLOCK_BYTES]
        file.fill(block)
        digest.update(block)
    # To torch any other byte in a boolean is undefined.
    if place.dtype is torch.bool and (flat.view(torch.uint8) > 1).any():
        raise refusal(file.path, expected=_EXPECTED, got=f"{quoted(place.name)} is neither true nor false")
    return flat.reshape(place.shape)
