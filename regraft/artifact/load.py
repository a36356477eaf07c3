"""Reads a saved model back: nothing is run, nothing is trusted that was not checked, nothing else is opened."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from regraft.artifact.canonical import CHECKSUM, canonical, checksum, parse_object
from regraft.artifact.checks import Header, Tensor, TensorSpec, check_finite, check_specs, read_header
from regraft.artifact.files import OpenFile, is_file, open_regular, refusal
from regraft.artifact.schema import FORMAT, FORMAT_VERSION, Config, SealedConfig, WeightsFile, quoted
from regraft.errors import DataUnusable, SavedModelRefused

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
MAX_CONFIG_BYTES = 8_000_000
# Far above what this version writes, so that a newer version's file is called new, not damaged.
_MAX_DEPTH, _MAX_BRACKETS = 32, 100_000
_EXPECTED = "a config.json written by regraft"
_MAX_ATTEMPTS = 3
# 1 MiB stays in the processor's cache between reading and hashing.
_BLOCK_BYTES = 2**20

_ALWAYS_ANSWERS = {"confidence": None, "distance": None, "max_error": None, "coverage": None}
Migration = Callable[[dict[str, Any]], dict[str, Any]]
# From each older format version to the one after it; tests/golden holds a saved model of every version there was.
MIGRATIONS: dict[int, Migration] = {
    # Heads that the user named, and own code.
    1: lambda value: value | {"format_version": 2, "architecture": value["architecture"] | {"head_path": None, "answer": None}},
    # Answers that are means over two sides of an image.
    2: lambda value: value | {"format_version": 3, "mirrored": False},
    # Calibrated probabilities, and when to rather not answer.
    3: lambda value: value | {"format_version": 4, "temperature": 1.0, "novelty": None, "abstain": dict(_ALWAYS_ANSWERS)},
    # Answers for every pixel.
    4: lambda value: value | {"format_version": 5, "pixels": None},
    # Maps were pooled as a whole.
    5: lambda value: value | {"format_version": 6, "features": value["features"] | {"pooling": "whole"}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """A model as plain data. `tensors` are float32 or int64; `notes` are things a person should know of the loading."""

    config: Config
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


def pending_weights(folder: Path, sha256: str) -> Path:
    """Where the weights stand between the two renames of a save; see `save`."""
    return folder / f"model-{sha256[:16]}.safetensors"


def read_config(folder: Path) -> SealedConfig:
    """The config of the saved model in `folder`, without touching its weights. Raises SavedModelRefused."""
    return _read_config(folder)[0]


def load_model(
    folder: Path, *, expected: Callable[[Config], Mapping[str, TensorSpec]], allow_nonfinite: bool = False
) -> SavedModel:
    """The saved model in `folder`; its tensors are equal bit for bit to those that were saved.

    `expected` gives the tensors that the architecture of a config wants; they are compared with the file's header before
    any weights are read. Raises SavedModelRefused for anything that is not exactly what `save_model` wrote.
    """
    for _ in range(_MAX_ATTEMPTS):
        config, notes = _read_config(folder)
        specs = expected(config)
        try:
            tensors = _read_weights(folder, config.model, specs, allow_nonfinite)
        except SavedModelRefused:
            # A save may have come between the two reads: then the config is another one by now.
            if read_config(folder).checksum == config.checksum:
                raise
        else:
            return SavedModel(config=config, tensors=MappingProxyType(tensors), notes=notes)
    raise refusal(folder, expected="a saved model at rest", got="it keeps changing while it is read", fix="try again later")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a config file, in its one spelling. Raises SavedModelRefused."""
    with open_regular(path, _EXPECTED) as file:
        if not 2 <= file.size <= MAX_CONFIG_BYTES:
            raise file.foreign(_EXPECTED, f"{file.size:,} bytes, not 2 to {MAX_CONFIG_BYTES:,}")
        text = file.read(file.size)
        try:
            value = parse_object(text, max_depth=_MAX_DEPTH, max_brackets=_MAX_BRACKETS)
            if canonical(value) != text:
                raise ValueError("not spelled as regraft writes it, so edited or damaged")
        except ValueError as error:
            raise file.foreign(_EXPECTED, str(error)) from None
        return value


def _read_config(folder: Path) -> tuple[SealedConfig, tuple[str, ...]]:
    if is_file(folder):
        raise _file_instead_of_folder(folder)
    path = folder / CONFIG_FILE
    value = read_object(path)
    if value.get("format") != FORMAT:
        raise refusal(path, expected=_EXPECTED, got=f"format {quoted(value.get('format'))}")
    if value.get(CHECKSUM) != checksum(value):
        raise refusal(path, expected="the checksum that was saved with it", got="other contents: damaged or edited")
    value, notes = _migrated(path, value)
    return _validated(path, value), notes


def _file_instead_of_folder(path: Path) -> SavedModelRefused:
    expected = "the folder of a run, which holds config.json and model.safetensors"
    if path.name in (CONFIG_FILE, WEIGHTS_FILE):
        return refusal(path, expected=expected, got="one of its files", fix=f"give {path.parent}")
    with open_regular(path, expected) as file:
        return file.foreign(expected, "a file")


def _migrated(path: Path, value: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    version = value.get("format_version")
    if type(version) is not int or version < 0:
        raise refusal(path, expected="a format_version", got=quoted(version))
    if version > FORMAT_VERSION:
        raise _too_new(path, value, version)
    for step in range(version, FORMAT_VERSION):
        if step not in MIGRATIONS:
            raise refusal(path, expected=f"a format version that can be read, up to {FORMAT_VERSION}", got=str(version))
        try:
            value = MIGRATIONS[step](value)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise refusal(path, expected=f"fields of format {step}", got=quoted(str(error), 200)) from None
    note = f"{path}: read from the older format {version}; regraft fit writes format {FORMAT_VERSION}"
    return value, () if version == FORMAT_VERSION else (note,)


def _too_new(path: Path, value: dict[str, Any], version: int) -> SavedModelRefused:
    versions = value.get("versions")
    writer = versions.get("regraft") if isinstance(versions, dict) else None
    known = isinstance(writer, str) and re.fullmatch(r"[0-9A-Za-z.+!-]{1,40}", writer)
    return refusal(
        path,
        expected=f"format version {FORMAT_VERSION} or older",
        got=f"{version}, which needs regraft >= {writer if known else 'the one that wrote it'}",
        fix=f"pip install --upgrade 'regraft{f'>={writer}' if known else ''}'",
    )


def _validated(path: Path, value: dict[str, Any]) -> SealedConfig:
    text = canonical(value)
    try:
        config = SealedConfig.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = quoted(".".join(str(part) for part in first["loc"]))
        raise refusal(path, expected=_EXPECTED, got=f"{place}: {quoted(first['msg'], 200)}") from None
    except DataUnusable as error:
        raise refusal(path, expected=error.expected, got=error.got) from None
    # One spelling per value: 1 for 1.0, or a default left out, would be a second one.
    if canonical(config.model_dump(mode="json")) != text:
        raise refusal(path, expected=_EXPECTED, got="a field in another spelling than regraft writes")
    return config


def _read_weights(
    folder: Path, model: WeightsFile, specs: Mapping[str, TensorSpec], allow_nonfinite: bool
) -> dict[str, Tensor]:
    pending = pending_weights(folder, model.sha256)
    path = pending if is_file(pending) else folder / model.file
    with open_regular(path, "the weights that config.json names") as file:
        header = read_header(file)
        if file.size != model.bytes:
            raise refusal(path, expected=f"{model.bytes:,} bytes, as config.json says", got=f"{file.size:,} bytes")
        check_specs({name: placed.spec for name, placed in header.tensors.items()}, specs, str(path))
        data = _read_data(file, header, model.sha256)
    # Views of one buffer, not the library's loader: that one would copy all of it, or open the file a second time by name.
    tensors = {name: _view(data, header, name) for name in header.tensors}
    if not allow_nonfinite:
        check_finite(tensors, str(path))
    return tensors


def _read_data(file: OpenFile, header: Header, sha256: str) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    digest = hashlib.sha256(header.raw)
    data = np.empty(file.size - len(header.raw), np.uint8)
    buffer = data.data
    for start in range(0, len(data), _BLOCK_BYTES):
        block = buffer[start : start + _BLOCK_BYTES]
        file.fill(block)
        digest.update(block)
    if digest.hexdigest() != sha256:
        raise refusal(
            file.path, expected=f"the checksum in {CONFIG_FILE}", got="another: the file is damaged or of another run"
        )
    return data


def _view(data: np.ndarray[tuple[int], np.dtype[np.uint8]], header: Header, name: str) -> Tensor:
    placed = header.tensors[name]
    tensor: Tensor = data[placed.begin : placed.end].view(placed.spec.dtype).reshape(placed.spec.shape)
    return tensor
