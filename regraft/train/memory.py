"""Solved heads kept beside the features they came from: the same problem is not solved twice.

The key holds everything the solution depends on: which features (their table's folder, which names the network, the
preprocessing and the engine), the images' own digests, targets, folds, the strategy and this file's version. A file
(`cache.sealed`) holds a safetensors block.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from regraft.cache.sealed import recall, remember
from regraft.strategies import Head
from regraft.train.head_fit import HeadFit
from regraft.values import HeadChoice, Strength

# To be raised with every change of the solver that changes a solution.
VERSION = 1


def head_key(
    table: str,
    digests: Sequence[bytes],
    targets: NDArray[np.int64] | NDArray[np.bool_],
    folds_N: NDArray[np.int64],
    classes: int,
    strategy: Head,
) -> str:
    """What names the solution of one problem."""
    chosen = {"features": strategy.features, "balance": strategy.balance, "l2": strategy.l2}
    total = hashlib.sha256(json.dumps([VERSION, table, classes, chosen, str(targets.dtype)]).encode())
    for part in (b"".join(digests), np.ascontiguousarray(targets).tobytes(), folds_N.tobytes()):
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:32]


def recall_head(cache: Path, key: str) -> HeadFit | None:
    """The head solved before, or None."""
    data = recall(_path(cache, key))
    if data is None:
        return None
    with suppress(ValueError, KeyError, TypeError, safetensors.SafetensorError):
        arrays = safetensors.numpy.load(data)
        choice = json.loads(bytes(arrays["choice"]))
        return HeadFit(
            features=choice["features"],
            weight_KD=arrays["weight"],
            bias_K=arrays["bias"],
            choice=HeadChoice(**{**choice, "tried": tuple(Strength(**one) for one in choice["tried"])}),
            out_of_fold_NK=arrays["out_of_fold"],
        )
    return None


def remember_head(cache: Path, key: str, head: HeadFit) -> None:
    """Keep a solved head; failing to is no error."""
    choice = np.frombuffer(json.dumps(asdict(head.choice)).encode(), np.uint8)
    arrays = {"weight": head.weight_KD, "bias": head.bias_K, "out_of_fold": head.out_of_fold_NK, "choice": choice}
    remember(_path(cache, key), safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def _path(cache: Path, key: str) -> Path:
    return cache / "heads" / key
