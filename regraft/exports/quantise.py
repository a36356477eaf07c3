"""int8: weights and activations as whole numbers of 8 bits, with ranges seen on the user's own training images."""

import contextlib
import copy
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from regraft.errors import DataUnusable, UsageError, first_line
from regraft.exports.formats import Recorded
from regraft.exports.graph import INPUT
from regraft.exports.verify import Opened, open_image
from regraft.fitted import Fitted
from regraft.progress import Progress, Silent
from regraft.values import Sample

# Images whose activations are looked at; nncf's own default.
IMAGES: Final = 300
_NETWORK, _DISTANCES = "/answers.network", "answers.network.distances"
_OF_TRANSFORMERS = {"LayerNormalization"}


def quantised(recorded: Recorded, fitted: Fitted, train: Sequence[Sample], *, progress: Progress = Silent()) -> Recorded:
    """The same graph with the network in int8; what resizes, normalises, measures distances, the head and the softmax stay.

    Ranges are those of at most 300 training images, spread over all. Raises DataUnusable where none can be read.
    """
    import nncf

    images = _calibration(fitted, train, progress)
    heads = {"head", *(place.path for place in fitted.backbone.main_heads)}
    outside = [node.name for node in recorded.proto.graph.node if not _of_network(node, heads)]
    transformer = any(node.op_type in _OF_TRANSFORMERS for node in recorded.proto.graph.node)
    try:
        with _silent():
            found = nncf.quantize(
                copy.deepcopy(recorded.proto),
                nncf.Dataset(images, lambda pixels: {INPUT: pixels}),
                subset_size=len(images),
                ignored_scope=nncf.IgnoredScope(names=outside, validate=False),
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            )
    except Exception as error:  # a network that the quantiser cannot take apart
        raise UsageError(
            expected=f"a network that nncf can quantise, {fitted.backbone.name}",
            got=f"{type(error).__name__}: {first_line(error)}",
            fix="leave --int8 out, or fit another backbone",
        ) from error
    return replace(recorded, proto=_folded(found))


def _of_network(node: Any, heads: set[str]) -> bool:
    """Whether a node may be quantised. Heads may not: features of several stages differ in scale by more than 8 bits tell."""
    where = next((entry.value for entry in node.metadata_props if entry.key == "namespace"), "")
    return _NETWORK in where and _DISTANCES not in where and not any(f".{head}: " in where for head in heads)


def _calibration(fitted: Fitted, train: Sequence[Sample], progress: Progress) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Images as the network expects them, of which resizing then changes nothing."""
    chosen = [train[i] for i in np.unique(np.linspace(0, len(train) - 1, min(IMAGES, len(train))).astype(int))] if train else []
    found = []
    with progress.task("reading training images", len(chosen), "image") as task:
        for sample in chosen:
            image = open_image(sample, fitted.backbone.preprocess)
            if isinstance(image, Opened):
                pixels = image.pixels
                found.append(np.repeat(pixels, 3, axis=2)[np.newaxis] if pixels.shape[2] == 1 else pixels[np.newaxis])
            task.advance()
    if not found:
        raise DataUnusable(
            expected="training images of the run, to see which values the network computes with",
            got="none that can be read",
            fix="name the folder that the run was fitted on: --images DIR",
        )
    return found


def _folded(proto: Any) -> Any:
    """Weights stored as the whole numbers that they are: the quantiser leaves them in fp32 and rounds them at every start."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in [node for node in proto.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in tensors]:
        value, scale, zero = (numpy_helper.to_array(tensors[name]) for name in node.input[:3])
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [1] * value.ndim
        if scale.ndim:
            shape[axis] = -1
        limits = np.iinfo(zero.dtype)
        whole = np.rint(value / scale.reshape(shape)) + zero.reshape(shape).astype(np.float64)
        name = f"{node.output[0]}_int8"
        proto.graph.initializer.append(numpy_helper.from_array(np.clip(whole, limits.min, limits.max).astype(zero.dtype), name))
        _put_instead(proto, node.output[0], name)
        proto.graph.node.remove(node)
    used = {name for node in proto.graph.node for name in node.input}
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in used]:
        proto.graph.initializer.remove(tensor)
    return proto


def _put_instead(proto: Any, old: str, new: str) -> None:
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            if name == old:
                node.input[place] = new


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the quantiser's own bars and remarks, which it writes to both streams."""
    logger, level = logging.getLogger("nncf"), logging.getLogger("nncf").level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
