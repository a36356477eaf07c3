"""Frozen values as plain JSON and back, exactly. What type a value has decides how it is read, and nothing in the text does.

No library does this here: pydantic reads the values' own types, but cannot be told to refuse unknown fields of plain
dataclasses, to tell NaN from infinity, nor to keep file names that are not Unicode.
"""

import base64
import binascii
import math
import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

# JSON has no infinity. NaN, a figure that is not defined, is null.
INFINITIES = {"Infinity": math.inf, "-Infinity": -math.inf}
MAX_CELLS = 2**28  # of a matrix: 2 GB, which the system hands out as they are written to


def to_plain(value: Any) -> Any:
    """`value` as JSON can hold it: dataclasses as objects, tuples as lists, NaN as null, bytes in base64.

    A matrix of whole numbers is its shape and the cells that are not zero, as row, column and value. Raises TypeError for any
    other kind of value.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return _plain_float(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype == np.int64:
        rows, columns = np.nonzero(value)
        cells = np.stack([rows, columns, value[rows, columns]], axis=1)
        return {"shape": list(value.shape), "cells": cells.tolist()}
    raise TypeError(f"no plain form for {type(value).__name__}")


def of_plain(kind: Any, plain: Any, where: str) -> Any:
    """The value of type `kind` that `to_plain` made `plain` of. `where` names the place in errors.

    A field that is not there takes its default: it came with a later version. Raises ValueError for anything else that does
    not fit, and TypeError for a `kind` that has no plain form.
    """
    if kind in _READERS:
        return _READERS[kind](plain, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _optional(inner, plain, where)
    if origin is Literal:
        return _checked(plain in inner and isinstance(plain, str), plain, where)
    if origin is tuple and inner[1:] == (...,):
        return tuple(of_plain(inner[0], item, f"{where}[{i}]") for i, item in enumerate(_a(list, plain, where)))
    if origin is tuple:
        parts = _checked(isinstance(plain, list) and len(plain) == len(inner), plain, where)
        return tuple(of_plain(one, item, f"{where}[{i}]") for i, (one, item) in enumerate(zip(inner, parts, strict=True)))
    if origin is dict:
        return {key: of_plain(inner[1], item, f"{where}.{key}") for key, item in _a(dict, plain, where).items()}
    if origin is np.ndarray:
        return _matrix(plain, where)
    if is_dataclass(kind):
        return _dataclass(kind, plain, where)
    raise TypeError(f"{where}: no plain form for {kind}")


def _plain_float(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else next(name for name, one in INFINITIES.items() if one == value)


def _float(plain: Any, where: str) -> float:
    if plain is None:
        return math.nan
    if isinstance(plain, str) and plain in INFINITIES:
        return INFINITIES[plain]
    number: float = _checked(type(plain) in (int, float), plain, where)
    return number


def _bytes(plain: Any, where: str) -> bytes:
    try:
        return base64.b64decode(_a(str, plain, where), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{where}: not base64") from None


def _matrix(plain: Any, where: str) -> NDArray[np.int64]:
    shape, cells = _a(dict, plain, where).get("shape"), plain.get("cells")
    whole = isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and side >= 0 for side in shape)
    if plain.keys() != {"shape", "cells"} or not whole or math.prod(shape) > MAX_CELLS or not isinstance(cells, list):
        raise ValueError(f"{where}: not a matrix")
    matrix = np.zeros(shape, np.int64)
    for cell in cells:
        three = isinstance(cell, list) and len(cell) == 3 and all(type(number) is int for number in cell)
        if not three or not (0 <= cell[0] < shape[0] and 0 <= cell[1] < shape[1] and abs(cell[2]) < 2**63):
            raise ValueError(f"{where}: not a cell: {str(cell)[:40]}")
        matrix[cell[0], cell[1]] = cell[2]
    return matrix


def _optional(kinds: tuple[Any, ...], plain: Any, where: str) -> Any:
    others = [kind for kind in kinds if kind is not types.NoneType]
    if plain is None and len(others) < len(kinds):
        return None
    if len(others) == 1:
        return of_plain(others[0], plain, where)
    # One of them as text, the other as an object: where an image is.
    objects = [kind for kind in others if is_dataclass(kind)]
    if len(others) != 2 or len(objects) != 1:
        raise TypeError(f"{where}: no plain form for one of {kinds}")
    (text,) = (kind for kind in others if kind not in objects)
    return of_plain(objects[0] if isinstance(plain, dict) else text, plain, where)


def _dataclass(kind: Any, plain: Any, where: str) -> Any:
    given, known = _a(dict, plain, where), _fields(kind)
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"{where}: unknown field {unknown[0]!r}")
    values = {}
    for name, (field_kind, required) in known.items():
        if name in given:
            values[name] = of_plain(field_kind, given[name], f"{where}.{name}")
        elif required:
            raise ValueError(f"{where}: no field {name!r}")
    return kind(**values)


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The type of each field, and whether it has no default."""
    kinds = get_type_hints(kind)
    return {
        field.name: (kinds[field.name], field.default is MISSING and field.default_factory is MISSING) for field in fields(kind)
    }


def _a(kind: type, plain: Any, where: str) -> Any:
    return _checked(type(plain) is kind, plain, where)


def _checked(fits: bool, plain: Any, where: str) -> Any:
    if not fits:
        raise ValueError(f"{where}: {str(plain)[:40]!r} is not what stands there")
    return plain


_READERS: dict[Any, Callable[[Any, str], Any]] = {
    str: lambda plain, where: _a(str, plain, where),
    bool: lambda plain, where: _a(bool, plain, where),
    int: lambda plain, where: _a(int, plain, where),
    float: _float,
    bytes: _bytes,
    Path: lambda plain, where: Path(_a(str, plain, where)),
}
