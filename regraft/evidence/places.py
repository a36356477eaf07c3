"""What a stage gives, as a map of places: (N, C, h, w), whatever its layout, and back again."""

from dataclasses import dataclass

import torch
from torch import Tensor

from regraft.backbone.graph import MAP, MAP_LAST, TOKENS
from regraft.backbone.model import Stage
from regraft.data.preprocess import Preprocess

# Tokens that stand for no place: one for the class, one to distil, and up to 16 registers in the networks that have them.
_MOST_OTHERS = 20


@dataclass(frozen=True, slots=True)
class Grid:
    """How a value is a map of `rows` x `columns` places. `others` are its first tokens, which stand for none."""

    layout: str
    rows: int
    columns: int
    others: int = 0


def grid_of(stage: Stage, preprocess: Preprocess) -> Grid | None:
    """The grid of a stage's value; None where it has no places, or tokens that are no grid over the image."""
    if stage.layout == MAP:
        return Grid(MAP, stage.shape[1], stage.shape[2])
    if stage.layout == MAP_LAST:
        return Grid(MAP_LAST, stage.shape[0], stage.shape[1])
    return _token_grid(stage.shape[0], preprocess) if stage.layout == TOKENS else None


def _token_grid(tokens: int, preprocess: Preprocess) -> Grid | None:
    """Of all grids of square patches the one with most places, as far as there are tokens for them."""
    for patch in range(1, min(preprocess.height, preprocess.width) // 2 + 1):
        rows, columns = preprocess.height // patch, preprocess.width // patch
        if rows * columns <= tokens:
            others = tokens - rows * columns
            return Grid(TOKENS, rows, columns, others) if others <= _MOST_OTHERS else None
    return None


def to_map(value: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The places as (N, C, h, w), and the other tokens (N, others, C)."""
    if grid.layout == MAP:
        return value, value[:, :0]
    if grid.layout == MAP_LAST:
        return value.permute(0, 3, 1, 2), value[:, :0]
    others, places = value[:, : grid.others], value[:, grid.others :]
    return places.transpose(1, 2).unflatten(2, (grid.rows, grid.columns)), others


def from_map(map_NChw: Tensor, others: Tensor, grid: Grid) -> Tensor:
    """The value that `to_map` took apart."""
    if grid.layout == MAP:
        return map_NChw
    if grid.layout == MAP_LAST:
        return map_NChw.permute(0, 2, 3, 1)
    return torch.cat([others, map_NChw.flatten(2).transpose(1, 2)], dim=1)
