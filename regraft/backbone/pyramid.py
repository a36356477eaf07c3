"""The maps of several resolutions that a network makes on its way: which to take, and how to look at them as maps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor, fx
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd

from regraft.backbone.graph import FLAT, MAP, MAP_LAST, TOKENS
from regraft.backbone.model import Backbone, Boundary, Stage
from regraft.errors import UsageError

PYRAMID = "pyramid"
# Levels of a network that keeps one resolution throughout, as in SETR (Zheng et al., 2021) and BEiT (Bao et al., 2022).
PLAIN_LEVELS = 4
# A class token, a distillation token, registers: more tokens than these beside the patches belong to something else.
_MOST_EXTRA_TOKENS = 8
# A map at the size of the image: as wide as the first layer made it, it would cost more than all others together.
_FINEST_STRIDE = 2
_WIDENED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The value at the end of `stage`, graph node `node`, seen as a map of `channels`, a cell for `stride` x `stride` pixels.

    `layout` is that of `Stage`. Of tokens the first `extra_tokens` are not of the image (class token, registers).
    """

    stage: str
    node: str
    channels: int
    stride: int
    layout: str
    extra_tokens: int = 0


def pyramid_of(backbone: Backbone) -> tuple[Level, ...]:
    """The levels of a network, fine to coarse: the last stage at each resolution, from stride 2 on.

    A network that keeps one resolution (a plain ViT) gives its last stage and three before it, evenly spaced, which all have
    its stride. Strides are those at the size of `backbone.preprocess`. Raises UsageError for a network that cannot be
    recorded, and for one without maps.
    """
    if backbone.graph is None:
        raise UsageError(
            expected=f"{backbone.name} to be a network whose forward pass can be recorded, to read maps inside of it",
            got="one that cannot be recorded: only what enters its head is known",
            fix="choose another backbone; `regraft inspect` says of each whether it was recorded",
        )
    levels = [
        (stage, level)
        for stage in backbone.stages
        if not _adaptive(backbone, stage) and (level := _level(backbone, stage)) is not None
    ]
    levels = [(stage, level) for stage, level in levels if level.stride >= _FINEST_STRIDE]
    coarser: list[tuple[Stage, Level]] = []
    for stage, level in levels:
        # Resolution only falls on the way to the head; what seems finer again was misread (parts of an embedding in turn).
        if not coarser or level.stride >= coarser[-1][1].stride:
            coarser.append((stage, level))
    if not coarser:
        raise UsageError(
            expected=f"{backbone.name} to make maps: values with a place for each part of the image",
            got=f"stages without places: {', '.join(stage.name for stage in backbone.stages) or 'none'}",
            fix="choose a convolutional network or a vision transformer; `regraft inspect` shows the shapes of the stages",
        )
    if len({level.stride for _, level in coarser}) == 1:
        stem = next((stage for stage in backbone.stages if stage.number is not None), None)
        return _evenly_spaced([(stage, level) for stage, level in coarser if stage != stem] or coarser)
    ends = [one for (_, one), (_, other) in pairwise(coarser) if one.stride != other.stride]
    return (*ends, _not_widened([level for _, level in coarser]))


def _not_widened(levels: Sequence[Level]) -> Level:
    """The last level, or the one before it where the last is the same cells made much wider for a classifier.

    EfficientNet's 320 channels are 1280 behind a 1x1 convolution: four times the memory and the work, and no new place seen.
    """
    last = levels[-1]
    before = [level for level in levels[:-1] if level.stride == last.stride]
    return before[-1] if before and last.channels >= _WIDENED * before[-1].channels else last


def counted_from(backbone: Backbone, levels: Sequence[Level]) -> Backbone:
    """The network with its stages numbered from the end of the last level: nothing reads what comes after that.

    EfficientNet's last stage widens for a classifier; to train it would change no answer for a pixel.
    """
    end = 1 + max(i for i, stage in enumerate(backbone.stages) if stage.node in {level.node for level in levels})
    last = max((stage.number or 0 for stage in backbone.stages[end:]), default=0)
    numbers = [stage.number - last if stage.number and stage.number > last else None for stage in backbone.stages]
    return replace(backbone, stages=tuple(replace(one, number=n) for one, n in zip(backbone.stages, numbers, strict=True)))


def pyramid_boundary(backbone: Backbone, levels: Sequence[Level]) -> Boundary:
    """The place to cut at which the values of all levels cross. Its name is "pyramid"."""
    assert backbone.graph is not None
    by_name = {node.name: node for node in backbone.graph.nodes}
    shapes = tuple(tuple(by_name[level.node].meta["shape"][1:]) for level in levels)
    return Boundary(name=PYRAMID, nodes=tuple(level.node for level in levels), shapes=shapes)


def grid_of(height: int, width: int, stride: int) -> tuple[int, int]:
    """Rows and columns of a level for an image of so many pixels: what does not fill a cell has one."""
    return -(-height // stride), -(-width // stride)


def as_map(value: Tensor, level: Level, height: int, width: int) -> Tensor:
    """The value of a level, as the network gives it, as a map (N, C, h, w); `height` and `width` are the image's.

    Raises ValueError for tokens that are not as many as an image of this size has.
    """
    if level.layout == MAP:
        return value
    if level.layout == MAP_LAST:
        return value.permute(0, 3, 1, 2)
    rows, columns = grid_of(height, width, level.stride)
    if value.shape[1] != rows * columns + level.extra_tokens:
        raise ValueError(f"{value.shape[1]} tokens of {level.stage} are not {rows} x {columns} and {level.extra_tokens} more")
    return value[:, level.extra_tokens :].transpose(1, 2).reshape(len(value), -1, rows, columns)


def _adaptive(backbone: Backbone, stage: Stage) -> bool:
    """Whether a stage ends in pooling to a fixed number of places: that says nothing about the size of a cell (VGG)."""
    assert backbone.graph is not None
    node: fx.Node = next(node for node in backbone.graph.nodes if node.name == stage.node)
    if node.op != "call_module":
        return False
    return isinstance(backbone.module.get_submodule(str(node.target)), _AdaptiveAvgPoolNd | _AdaptiveMaxPoolNd)


def _level(backbone: Backbone, stage: Stage) -> Level | None:
    """A stage as a level; None for one without places."""
    height, width = backbone.preprocess.height, backbone.preprocess.width
    if stage.layout == FLAT:
        return None
    extra = 0
    if stage.layout == TOKENS:
        tokens, channels = stage.shape
        found = _of_tokens(tokens, height, width)
        if found is None:
            return None
        stride, extra = found
    else:
        channels, rows, columns = stage.shape if stage.layout == MAP else (stage.shape[2], *stage.shape[:2])
        stride = _of_map(rows, columns, height, width)
    return Level(stage=stage.name, node=stage.node, channels=channels, stride=stride, layout=stage.layout, extra_tokens=extra)


def _of_map(rows: int, columns: int, height: int, width: int) -> int:
    """The stride of a map: a power of two where that gives such a grid, a patch size that divides, else the nearest power.

    The last is for convolutions that do not pad: Inception V3 makes 35 x 35 of 299 x 299.
    """
    exact = [stride for stride in _strides(height, width) if grid_of(height, width, stride) == (rows, columns)]
    return exact[0] if exact else 2 ** max(0, round(math.log2(height * width / (rows * columns)) / 2))


def _of_tokens(tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """Patch size and number of extra tokens: those of the patch size that leaves the fewest extra."""
    found = []
    for preference, stride in enumerate(_strides(height, width)):
        rows, columns = grid_of(height, width, stride)
        if 0 <= tokens - rows * columns <= _MOST_EXTRA_TOKENS:
            found.append((tokens - rows * columns, preference, stride))
    return (min(found)[2], min(found)[0]) if found else None


def _strides(height: int, width: int) -> list[int]:
    """Strides that networks have: powers of two, then patch sizes that divide both sides (14, 7, 28)."""
    powers = [2**power for power in range(max(height, width).bit_length())]
    return [*powers, *(s for s in range(3, min(height, width) + 1) if s not in powers and height % s == width % s == 0)]


def _evenly_spaced(levels: Sequence[tuple[Stage, Level]]) -> tuple[Level, ...]:
    """The last level, whatever norm follows the blocks in it, and those after the first three quarters of the blocks."""
    last = levels[-1][1]
    blocks = [level for stage, level in levels if stage.number is not None and level.layout == last.layout] or [last]
    steps = range(1, PLAIN_LEVELS)
    earlier = [blocks[max(0, round(len(blocks) * step / PLAIN_LEVELS) - 1)] for step in steps]
    chosen = dict.fromkeys([*(level for level in earlier if level != blocks[-1]), last])
    return tuple(chosen)
