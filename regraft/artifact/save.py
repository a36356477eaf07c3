"""Writes a saved model so that at every instant, power cuts included, the folder holds a whole one: the old or the new.

Two files cannot be renamed at once, so the config decides and the weights are also found under a name made from their
digest:

    1. both are written to temporary names and synced
    2. weights -> model-DIGEST.safetensors    old config, old model.safetensors: the old pair loads
    3. config  -> config.json                 the new pair loads: the loader looks for model-DIGEST first
    4. weights -> model.safetensors           the new pair, under its usual name

The folder is synced after each rename, so that they reach the disk in this order.
"""

import hashlib
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import safetensors.numpy

from regraft.artifact.canonical import CHECKSUM, canonical, checksum
from regraft.artifact.checks import MAX_HEADER_BYTES, Tensor, check_finite, parse_header
from regraft.artifact.durable import locked, remove, reporting, sync_folder, write_synced
from regraft.artifact.load import CONFIG_FILE, MAX_CONFIG_BYTES, WEIGHTS_FILE, SavedModel, pending_weights, read_object
from regraft.artifact.schema import FORMAT, Config, SealedConfig, WeightsFile, quoted
from regraft.errors import OutputExists, SavedModelRefused

_PENDING_NAME = re.compile(r"model-[0-9a-f]{16}\.safetensors")
_LOADABLE = "a model that could be loaded again"


def save_model(model: SavedModel, folder: Path, *, allow_nonfinite: bool = False) -> None:
    """Write `model` to `folder` (made if need be), in place of the saved model there, if any; no other file is touched.

    The same model always gives the same bytes. Raises OutputExists when the folder holds files of these names that regraft
    did not write, RunLocked while another save is writing there, SavedModelRefused for what could not be loaded again,
    OutOfSpace (or its child NotWritable) when the disk fails; then what was there before still loads.
    """
    weights = _weights_bytes(model.tensors, allow_nonfinite)
    digest = hashlib.sha256(weights).hexdigest()
    text = _config_text(model.config, WeightsFile(file=WEIGHTS_FILE, bytes=len(weights), sha256=digest))
    with reporting(folder, len(weights) + len(text)):
        _make_folder(folder)
        with locked(folder):
            _refuse_foreign(folder)
            _commit(folder, weights, text, pending_weights(folder, digest))


def _weights_bytes(tensors: Mapping[str, Tensor], allow_nonfinite: bool) -> bytes:
    for name, tensor in tensors.items():
        if not isinstance(tensor, np.ndarray) or tensor.dtype not in (np.dtype("<f4"), np.dtype("<i8")):
            raise _unloadable(
                f"tensor {quoted(name)} is {getattr(tensor, 'dtype', type(tensor).__name__)}, not float32 or int64"
            )
    if not allow_nonfinite:
        check_finite(tensors, "the model to save")
    # asarray with an order, not ascontiguousarray, which makes a vector of a scalar; the library writes strided memory as is.
    data: bytes = safetensors.numpy.save({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()})
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise _unloadable(f"names and shapes of {len(tensors):,} tensors take {length:,} bytes, over {MAX_HEADER_BYTES:,}")
    try:
        parse_header(data[8 : 8 + length], len(data) - 8 - length)
    except ValueError as error:
        raise _unloadable(str(error)) from None
    return data


def _config_text(config: Config, weights: WeightsFile) -> bytes:
    value = config.model_dump(mode="json", exclude={"model", CHECKSUM}) | {"model": weights.model_dump(mode="json")}
    text = canonical(value | {CHECKSUM: checksum(value)})
    if len(text) > MAX_CONFIG_BYTES:
        raise _unloadable(f"class names and settings that take {len(text):,} bytes, over {MAX_CONFIG_BYTES:,}")
    SealedConfig.model_validate_json(text)
    return text


def _unloadable(got: str) -> SavedModelRefused:
    return SavedModelRefused(expected=_LOADABLE, got=got, fix="change the model before it is saved; limits: docs/format.md")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OutputExists(
            expected="a folder to save to", got=f"{folder}: a file is in the way", fix="give another --out"
        ) from None


def _refuse_foreign(folder: Path) -> None:
    config, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if config.exists():
        if _is_ours(config):
            return
        taken = config
    elif weights.exists():
        taken = weights
    else:
        return
    raise OutputExists(
        expected=f"{folder} to hold a saved model of regraft or none",
        got=f"{taken}, which regraft did not write or which is damaged",
        fix="move or delete it, or give another folder with --out",
    )


def _is_ours(config: Path) -> bool:
    try:
        return read_object(config).get("format") == FORMAT
    except SavedModelRefused:
        return False


def _commit(folder: Path, weights: bytes, text: bytes, pending: Path) -> None:
    config, new_weights, new_config = folder / CONFIG_FILE, folder / f".{WEIGHTS_FILE}.tmp", folder / f".{CONFIG_FILE}.tmp"
    with ExitStack() as undo:
        for path, data in ((new_weights, weights), (new_config, text)):
            remove(path)  # left by a save that was killed
            undo.callback(remove, path)
            write_synced(path, data)
        if not pending.exists():
            undo.callback(_remove_unless_named, pending, config, text)
        new_weights.replace(pending)
        sync_folder(folder)
        new_config.replace(config)
        sync_folder(folder)
        pending.replace(folder / WEIGHTS_FILE)
        sync_folder(folder)
    for path in folder.iterdir():
        if _PENDING_NAME.fullmatch(path.name):
            remove(path)  # left by a save that was killed before its second rename


def _remove_unless_named(pending: Path, config: Path, text: bytes) -> None:
    # Asked of the disk: an interrupt may fall between the rename of the config and the line after it.
    if not config.exists() or config.read_bytes() != text:
        remove(pending)
