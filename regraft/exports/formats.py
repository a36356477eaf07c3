"""The formats: how each is written, and how a written file is asked again as its users will ask it."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from regraft.errors import UsageError, first_line
from regraft.exports.graph import INPUT
from regraft.needs import check_installed

Target = Literal["onnx", "openvino", "torch", "safetensors"]
TARGETS: tuple[Target, ...] = ("onnx", "openvino", "torch", "safetensors")
SUFFIX: dict[Target, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "safetensors": ".safetensors"}
# Images (N, H, W, C) uint8 -> probabilities (N, K) and, where they are measured, distances (N,).
Ask = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], ...]]
_PACKAGES: dict[Target, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
    "safetensors": (),
}
_KEY = "regraft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A model as ONNX: `proto` is an `onnx.ModelProto`, `backbone` its name for messages."""

    proto: Any
    backbone: str


def check_target(to: Target, *, int8: bool = False) -> None:
    """Raise UsageError for an unknown format, for one without int8, or where a package that it needs is missing."""
    if to not in TARGETS:
        raise UsageError(expected=f"--to {', '.join(TARGETS)}", got=repr(to), fix="choose one of them")
    if int8 and to not in ("onnx", "openvino"):
        raise UsageError(
            expected="--int8 with --to onnx or openvino, whose runtimes compute with whole numbers",
            got=f"--to {to}",
            fix="choose one of these, or leave --int8 out",
        )
    needed = (*_PACKAGES[to], *(("nncf", "onnxruntime") if int8 else ()))
    check_installed(*needed, extra="export", why=f"--to {to}{' --int8' * int8}")


def to_onnx(program: torch.export.ExportedProgram, outputs: tuple[str, ...], backbone: str) -> Recorded:
    """The recorded graph as ONNX. Raises UsageError for an operation that ONNX does not have."""
    try:
        with _quiet(), torch.no_grad():
            found = torch.onnx.export(
                program, (), dynamo=True, input_names=[INPUT], output_names=list(outputs), external_data=False, verbose=False
            )
        assert found is not None, "the exporter returns a program where it is given no file"
        return Recorded(proto=_named(found.model_proto), backbone=backbone)
    except Exception as error:  # the exporter raises many kinds
        raise UsageError(
            expected=f"a network that ONNX can express, {backbone}",
            got=f"{type(error).__name__}: {first_line(error)}",
            fix="use --to torch, or fit another backbone: `regraft backbones` lists them",
        ) from error


def _named(proto: Any) -> Any:
    """Sizes by what they are, without the exporter's notes to itself, which hold paths of the machine it ran on."""
    names = ("images", "height", "width")
    for value in (*proto.graph.input, *proto.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if dim.dim_param:
                dim.dim_param = name
    for node in proto.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key == "namespace"]
        names_of = [(entry.key, entry.value) for entry in kept]
        del node.metadata_props[:]
        for key, value in names_of:
            node.metadata_props.add(key=key, value=value)
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]
    return proto


def write_onnx(recorded: Recorded, metadata: Mapping[str, str], path: Path) -> None:
    """Write an ONNX file, weights inside. Raises UsageError beyond the 2 GB that such a file can hold."""
    import onnx

    proto = recorded.proto
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, dict(metadata))
    if proto.ByteSize() >= 2**31:
        raise UsageError(
            expected="a network of less than 2 GB, which one ONNX file can hold",
            got=f"{proto.ByteSize():,} bytes",
            fix="use --to openvino or --to torch",
        )
    path.write_bytes(proto.SerializeToString())


def write_openvino(recorded: Recorded, metadata: Mapping[str, str], path: Path) -> None:
    """Write OpenVINO's two files, PATH.xml and PATH.bin, weights in fp32 (of an int8 model in int8)."""
    import openvino

    model = openvino.convert_model(_as_stream(recorded))
    for key, value in metadata.items():
        model.set_rt_info(value, [_KEY, key])
    openvino.save_model(model, path, compress_to_fp16=False)


def _as_stream(recorded: Recorded) -> Any:
    import io

    return io.BytesIO(recorded.proto.SerializeToString())


def write_torch(program: torch.export.ExportedProgram, metadata: Mapping[str, str], path: Path) -> None:
    """Write a `torch.export` program; the metadata is in its extra file "metadata.json"."""
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={"metadata.json": json.dumps(dict(metadata))})


def ask_onnx(path: Path, *, threads: int | None = None) -> Ask:
    """An ONNX file in ONNX Runtime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: tuple(session.run(None, {INPUT: images}))


def ask_openvino(path: Path, *, threads: int | None = None) -> Ask:
    """An OpenVINO model on the processor, in fp32: by itself it takes bf16 where the processor has it."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    compiled = openvino.Core().compile_model(path, "CPU", options)

    def ask(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        found = compiled(images)
        return tuple(np.array(found[output]) for output in compiled.outputs)

    return ask


def ask_torch(path: Path) -> Ask:
    """A `torch.export` program. Its guards would refuse a side of one pixel, which it answers like any other."""
    with path.open("rb") as file:
        return ask_module(torch.export.load(file).module(check_guards=False))


def ask_module(module: torch.nn.Module) -> Ask:
    """A module in eager torch."""

    def ask(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        with torch.inference_mode():
            return tuple(output.numpy() for output in module(torch.from_numpy(images)))

    return ask


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks, which speak to its developers."""
    logger, level = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
