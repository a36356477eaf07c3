"""Saved models to test with: a small good one, hostile ones, and mutations. Everything is made when it is asked for.

`python tests/faults/mkmodels.py FOLDER` writes the small model there; tests/golden holds what each format version wrote.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from regraft.artifact import (
    ArchitectureRecord,
    Config,
    FeaturesRecord,
    IntervalRecord,
    PreprocessRecord,
    SavedModel,
    ScoreRecord,
    ScoresRecord,
    TensorSpec,
    TrainingRecord,
    save_model,
)
from regraft.artifact.canonical import canonical, checksum
from regraft.artifact.schema import AbstainRecord, PixelScoreRecord, PixelsRecord

WIDTH = 6
CLASSES = ("cat", "dog", "Écureuil", "../<script>")


def small_config(**changes: Any) -> Config:
    """A config with every field filled; `changes` replace fields."""
    fields: dict[str, Any] = {
        "multi_label": False,
        "mirrored": False,
        "temperature": 1.0,
        "abstain": AbstainRecord(confidence=None, distance=None, max_error=None, coverage=None),
        "novelty": None,
        "classes": CLASSES,
        "architecture": ArchitectureRecord(source="builtin", name="efficientnet_lite0", head_path=None, answer=None),
        "weights_digest": "ab" * 32,
        "features": FeaturesRecord(kind="stages", taps=("blocks_3_add", "global_pool"), width=WIDTH, pooling="quarters"),
        "preprocess": PreprocessRecord(
            height=224,
            width=224,
            fit="crop",
            crop_share=0.875,
            interpolation="bicubic",
            mean=(0.498, 0.498, 0.498),
            std=(0.502, 0.502, 0.502),
            background=(255, 255, 255),
        ),
        "training": TrainingRecord(
            samples=320,
            test_samples=80,
            data_fingerprint="cd" * 32,
            split="20 % held out, stratified",
            seed=0,
            strategy="head",
            l2=1e-05,
            gradient_norm=3.5e-07,
            folds=5,
            balanced=False,
        ),
        "scores": ScoresRecord(
            test=ScoreRecord(
                accuracy=IntervalRecord(value=0.9, low=0.81, high=0.95, n=80), macro_f1=0.9, nll=0.3, ece=None, baseline=0.25
            ),
            cross_validation=None,
        ),
        "versions": {"regraft": "0.1.0", "torch": "2.10.0+cpu"},
    }
    return Config(**(fields | changes))


def pixel_fields() -> dict[str, Any]:
    """What a config has otherwise where every pixel has an answer: the object before its background."""
    share = IntervalRecord(value=0.75, low=0.625, high=0.875, n=80)
    return {
        "task": "saliency",
        "classes": ("background", "object"),
        "features": FeaturesRecord(kind="maps", taps=("blocks_1", "blocks_3_add"), width=WIDTH, pooling="whole"),
        "scores": ScoresRecord(test=None, cross_validation=None),
        "pixels": PixelsRecord(
            decoder="unet",
            threshold=0.4375,
            usual_side=288,
            values=((0, 0), (128, 255), (255, 1)),
            colours=(((0, 0, 0), 0), ((255, 255, 255), 1)),
            test=PixelScoreRecord(iou=share, dice=share, pixel_accuracy=share, baseline=0.25),
            judged=None,
        ),
    }


def small_model(seed: int = 0, **changes: Any) -> SavedModel:
    """A saved model of under a kilobyte of weights, with a scalar and a 64-bit tensor among them."""
    random = np.random.default_rng(seed)
    config = small_config(**changes)
    return SavedModel(
        config=config,
        tensors={
            "head.weight": random.standard_normal((len(config.classes), WIDTH)).astype(np.float32),
            "head.bias": random.standard_normal(len(config.classes)).astype(np.float32),
            "backbone.conv.weight": random.standard_normal((2, 3, 1, 1)).astype(np.float32),
            "backbone.bn.num_batches_tracked": np.array(seed + 7, np.int64),
        },
    )


def small_specs(config: Config) -> dict[str, TensorSpec]:
    """What the small model's architecture wants, by its number of classes."""
    return {
        "head.weight": TensorSpec((len(config.classes), config.features.width)),
        "head.bias": TensorSpec((len(config.classes),)),
        "backbone.conv.weight": TensorSpec((2, 3, 1, 1)),
        "backbone.bn.num_batches_tracked": TensorSpec((), "int64"),
    }


def reseal(folder: Path, change: Callable[[dict[str, Any]], object] = lambda value: None, weights: bytes | None = None) -> None:
    """Do what a knowing attacker can: change the config, or the weights, and make every checksum right again."""
    path = folder / "config.json"
    value = json.loads(path.read_bytes())
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
        value["model"] |= {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    change(value)
    path.write_bytes(canonical(value | {"checksum": checksum(value)}))


def weights_file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file made by hand. `header` is raw bytes or becomes JSON; `length` overrides its length field."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: object = (1,), begin: object = 0, end: object = 4, dtype: object = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def bloated(count: int) -> bytes:
    """A header of `count` empty tensors and nothing else; 500,000 take 30 MB."""
    items = (f'"tensor_{number:07d}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for number in range(count))
    return weights_file(b"{" + ",".join(items).encode() + b"}")


def hostile_weights() -> dict[str, tuple[bytes, str]]:
    """Weights files that must be refused although the config vouches for them, each with a part of the message."""
    one = {"head.bias": entry()}
    data = b"\x00\x00\x80?"
    return {
        "length 0": (weights_file(one, data, length=0), "header length of 0 bytes"),
        "7 bytes": (b"\x10\x00\x00\x00\x00\x00\x00", "7 bytes, too short"),
        "length 1": (weights_file(one, data, length=1), "header length of 1 bytes"),
        "length > file": (weights_file(one, data, length=500), "longer than the file"),
        "length > 2 MB": (weights_file(b" " * 2_000_001, data), "header length of 2,000,001 bytes"),
        "length 2^64-1": (weights_file(one, data, length=2**64 - 1), "18,446,744,073,709,551,615"),
        "20,001 tensors": (bloated(20_001), "2 MB|tensors|header length"),
        "braces": (weights_file(b'{"a":{' + b"{" * 30_000), "over 20,000 tensors"),
        "no tensors": (weights_file({}, data), "0 tensors"),
        "not an object": (weights_file(b"[1,2]", data), "not JSON"),
        "duplicate key": (weights_file(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), data), "twice"),
        "duplicate dtype": (
            weights_file(b'{"a":{"dtype":"F32","dtype":"I64","shape":[1],"data_offsets":[0,4]}}', data),
            "twice",
        ),
        "overlap": (weights_file({"a": entry((2,), 0, 8), "b": entry((1,), 4, 8)}, data * 2), "an overlap at byte 8"),
        "same bytes twice": (weights_file({"a": entry(), "b": entry()}, data), "an overlap at byte 4"),
        "hole": (weights_file({"a": entry(), "b": entry((1,), 8, 12)}, data * 3), "a hole at byte 4"),
        "hole at start": (weights_file({"a": entry((1,), 4, 8)}, data * 2), "a hole at byte 0"),
        "trailing bytes": (weights_file(one, data + b"\x00"), "end at byte 4 of 5"),
        "data missing": (weights_file(one, data[:3]), "end at byte 4 of 3"),
        "wrong shape": (weights_file({"a": entry((2,))}, data), "takes 8 bytes, not 4"),
        "shape product overflow": (weights_file({"a": entry((2**32, 2**32), 0, 0)}), "takes 73,786,976,294,838,206,464"),
        "huge side": (weights_file({"a": entry((2**62, 4), 0, 0)}), "not lists of whole numbers"),
        "negative side": (weights_file({"a": entry((-1, -1))}, data), "not lists of whole numbers"),
        "float side": (weights_file({"a": entry((1.0,))}, data), "not lists of whole numbers"),
        "true as side": (weights_file({"a": entry((True,))}, data), "not lists of whole numbers"),
        "nine sides": (weights_file({"a": entry((1,) * 9)}, data), "not lists of whole numbers"),
        "shape a text": (weights_file({"a": entry("1")}, data), "not lists of whole numbers"),
        "end before begin": (weights_file({"a": entry((1,), 4, 0)}, data), "takes 4 bytes, not -4"),
        "three offsets": (weights_file({"a": entry() | {"data_offsets": [0, 4, 4]}}, data), "not lists of whole numbers"),
        "misaligned": (
            weights_file({"a": entry(), "b": entry((1,), 4, 12, "I64")}, data * 3),
            "b: not aligned",
        ),
        "unknown dtype": (weights_file({"a": entry(dtype="F8_E4M3")}, data), "dtype 'F8_E4M3'"),
        "dtype a list": (weights_file({"a": entry(dtype=["F32"])}, data), "dtype .'F32'."),
        "extra field": (weights_file({"a": entry() | {"pickle": "x"}}, data), "not exactly dtype"),
        "entry a list": (weights_file({"a": [1]}, data), "not exactly dtype"),
        "metadata a list": (weights_file(one | {"__metadata__": ["x"]}, data), "__metadata__"),
        "metadata nested": (weights_file(one | {"__metadata__": {"x": {"y": "z"}}}, data), "__metadata__"),
        "name a path": (weights_file({"../../etc/passwd": entry()}, data), "tensor name"),
        "name empty": (weights_file({"": entry()}, data), "tensor name"),
        "name long": (weights_file({"a" * 100_000: entry()}, data), "tensor name 'aaa"),
        "name with control": (weights_file({"a\n\x1b[31m": entry()}, data), r"tensor name 'a\\n\\x1b"),
        "1e5 brackets": (weights_file(b'{"a":' + b"[" * 100_000), "nested 100,001 deep"),
        "3e5 brackets": (weights_file(b'{"a":' + b"[" * 300_000), "300,001 brackets"),
        "1e5 escaped quotes": (weights_file(b'{"' + b'\\"' * 100_000), "header refused"),
        "not UTF-8": (weights_file(b'{"\xff\xfe":1}', data), "utf-8"),
        "UTF-16": (weights_file('{"a":1}'.encode("utf-16-le"), data), "header refused"),
        "huge int": (
            weights_file(b'{"a":{"dtype":"F32","shape":[%b],"data_offsets":[0,4]}}' % (b"9" * 5000), data),
            "5,000 digits",
        ),
        "NaN literal": (weights_file(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', data), "literal NaN"),
        "Infinity": (
            weights_file(b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}', data),
            "too large for a float",
        ),
        "control in text": (weights_file(b'{"a\x01":1}', data), "header refused"),
        "nothing after brace": (weights_file(b"{ ", data), "header refused"),
    }


class _Payload:
    """What a hostile pickle runs; all it does is make a folder, so that a test can see that it ran."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


def hostile_pickles(marker: Path) -> dict[str, bytes]:
    """Over 60 files that make `marker` if an unpickler reads them: every protocol, bare, in containers, packed, disguised."""
    name = str(marker)
    payloads = {
        "mkdir": _Payload(os.mkdir, name),
        "system": _Payload(os.system, f"mkdir '{name}'"),
        "exec": _Payload(exec, f"import os; os.mkdir({name!r})"),
        "eval": _Payload(eval, f"__import__('os').mkdir({name!r})"),
        "call": _Payload(subprocess.call, ["mkdir", name]),
        "makedirs": _Payload(os.makedirs, name),
    }
    files = {
        f"{kind} protocol {protocol}": pickle.dumps(payload, protocol)
        for kind, payload in payloads.items()
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    }
    files |= {
        f"in a {type(box).__name__} {number}": pickle.dumps(box, number % 6)
        for number, box in enumerate(_boxes(payloads["mkdir"]))
    }
    files |= _packed(pickle.dumps(payloads["mkdir"], 2), name)
    return files


def _boxes(payload: _Payload) -> Iterator[object]:
    yield from ({"state_dict": payload}, [payload], (1, payload), {"epoch": 3, "model": [payload]}, [[[[payload]]]])
    yield from (
        {"weight": np.zeros(3), "x": payload},
        ["a" * 600, payload],
        (payload, payload),
        {1: {2: payload}},
        [None, payload],
    )


def _packed(raw: bytes, name: str) -> dict[str, bytes]:
    magic, protocol = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
    by_hand = b"cos\nmkdir\n(V" + name.encode() + b"\ntR."
    good = weights_file({"head.bias": entry()}, b"\x00\x00\x80?")
    return {
        "legacy torch.save": magic + protocol + raw,
        "torch zip": _zipped({"archive/data.pkl": raw, "archive/version": b"3"}),
        "stored torch zip": _zipped({"archive/data.pkl": raw}, zipfile.ZIP_STORED),
        "TorchScript": _zipped({"m/code/__torch__.py": b"def forward(self): pass", "m/data.pkl": raw, "m/constants.pkl": raw}),
        "Keras zip": _zipped({"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": raw}),
        "npz": _zipped({"arr_0.npy": _npy(raw)}),
        "npy of objects": _npy(raw),
        "gzip": gzip.compress(raw, mtime=0),
        "zlib": zlib.compress(raw),
        "bzip2": bz2.compress(raw),
        "xz": lzma.compress(raw),
        "tar": _tarred(raw),
        "opcodes by hand": by_hand,
        "after JSON": b'{"format":"regraft"}' + raw,
        "before JSON": raw + b'{"format":"regraft"}',
        "after weights": good + raw,
        "before weights": raw + good,
        "as header": weights_file(raw),
        "as padded header": weights_file(b"{" + raw + b"}"),
        "in metadata": weights_file({"__metadata__": {"pickle": 1, "x": raw.hex()}, "head.bias": entry()}, b"\x00\x00\x80?"),
        "framed in zeros": b"\x00" * 64 + raw,
        "repeated": raw * 50,
        "after a line feed": b"\n" + raw,
        "HDF5 head": b"\x89HDF\r\n\x1a\n" + raw,
        "ONNX head": b"\x08\x07\x12\x07pytorch" + raw,
    }


def _npy(raw: bytes) -> bytes:
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + raw


def _zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()


def _tarred(raw: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("pickle")
        info.size = len(raw)
        archive.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """One random mutation; never the same bytes again."""
    mutators = (_flip_bits, _truncate, _insert, _duplicate, _overwrite, _change_length, _change_number, _swap)
    while True:
        mutated = mutators[random.integers(len(mutators))](data, random)
        if mutated != data:
            return mutated


def _place(data: bytes, random: np.random.Generator) -> int:
    # Half of the mutations hit the first bytes, where lengths and structure are.
    return int(random.integers(min(len(data), 64) if random.random() < 0.5 else len(data)))


def _flip_bits(data: bytes, random: np.random.Generator) -> bytes:
    mutated = bytearray(data)
    for _ in range(random.integers(1, 9)):
        mutated[_place(data, random)] ^= 1 << int(random.integers(8))
    return bytes(mutated)


def _truncate(data: bytes, random: np.random.Generator) -> bytes:
    return data[: random.integers(len(data))]


def _insert(data: bytes, random: np.random.Generator) -> bytes:
    place = _place(data, random)
    return data[:place] + random.bytes(int(random.integers(1, 40))) + data[place:]


def _duplicate(data: bytes, random: np.random.Generator) -> bytes:
    begin, end = sorted(int(place) for place in random.integers(len(data) + 1, size=2))
    return data[:end] + data[begin:end] * int(random.integers(1, 4)) + data[end:]


def _overwrite(data: bytes, random: np.random.Generator) -> bytes:
    place, value = _place(data, random), bytes([random.choice([0, 0xFF, 0x22, 0x5B, 0x7B, 0x20])])
    count = int(random.integers(1, 20))
    return data[:place] + value * count + data[place + count :]


def _change_length(data: bytes, random: np.random.Generator) -> bytes:
    values = (0, 1, 7, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(data), len(data) - 8, int(random.integers(4096)))
    return struct.pack("<Q", values[random.integers(len(values))]) + data[8:]


def _change_number(data: bytes, random: np.random.Generator) -> bytes:
    digits = [place for place, byte in enumerate(data) if 0x30 <= byte <= 0x39]
    place = digits[random.integers(len(digits))] if digits else 0
    values = (b"-1", b"1e9", b"NaN", b"18446744073709551616", b"0", b"true", b'"1"', b"[]", b"9" * 30)
    return data[:place] + values[random.integers(len(values))] + data[place + 1 :]


def _swap(data: bytes, random: np.random.Generator) -> bytes:
    first, second, third = sorted(int(place) for place in random.integers(len(data) + 1, size=3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


if __name__ == "__main__":
    save_model(small_model(), Path(sys.argv[1]))
