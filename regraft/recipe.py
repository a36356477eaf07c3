"""Everything a person may choose, as frozen values that check themselves when they are made.

What was learned from data is never in here; see `values`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from regraft.errors import UsageError

Features = Literal["last", "stages", "auto"]
Balance = Literal["auto", "none"]
Device = Literal["auto", "cpu", "cuda", "mps"]
DEFAULT_BACKBONE = "efficientnet_lite0"


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless `value` is among `allowed`."""
    if value not in allowed:
        raise UsageError(
            expected=f"{name} to be one of {', '.join(allowed)}", got=repr(value), fix=f"choose one of them for {name}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Where the labelled images are and how to read them.

    `path` is a folder of class folders (with or without train/, val/, test/), or a CSV or Parquet table.
    `test` is "auto" (the data's own test part, else 20 % held out), "none" (cross-validation only) or another folder or table.
    `columns` name the table's columns; `group_pattern` is a regular expression on an image's name whose first
    parenthesis (or whole match) is its group: images of one group stay on one side of every split.
    """

    path: Path
    test: str | Path = "auto"
    test_share: float = 0.2
    path_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"
    group_column: str | None = None
    group_pattern: str | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise UsageError(
                expected="a test share between 0 and 1", got=str(self.test_share), fix="give for example 0.2, or --test none"
            )
        if self.group_pattern is not None:
            try:
                re.compile(self.group_pattern)
            except re.error as error:
                raise UsageError(
                    expected="--group-pattern to be a regular expression",
                    got=f"{self.group_pattern!r} ({error})",
                    fix="for example '^([^_]+)_' groups by what stands before the first underscore",
                ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """Feature extraction: everything frozen, a linear head solved at its optimum.

    `features`: "last" (the input of the network's own head), "stages" (also the pooled mean and max of the later stages),
    or "auto" (whichever cross-validates better). `l2` fixes the regularisation; None chooses it by cross-validation.
    """

    features: Features = "auto"
    balance: Balance = "none"
    l2: float | None = None

    def __post_init__(self) -> None:
        one_of("--features", self.features, ("last", "stages", "auto"))
        one_of("--balance", self.balance, ("auto", "none"))
        if self.l2 is not None and not self.l2 > 0:
            raise UsageError(expected="an l2 above 0", got=str(self.l2), fix="leave it out to have it chosen")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One fit: data, backbone, strategy and where to run.

    `size` overrides the input side in pixels (square); None takes what the weights were trained with. `cache` is the
    feature cache's folder; None is the user's cache folder.
    """

    data: Data
    backbone: str = DEFAULT_BACKBONE
    weights: str | None = None
    strategy: Head = field(default_factory=Head)
    size: int | None = None
    seed: int = 0
    device: Device = "auto"
    cache: Path | None = None

    def __post_init__(self) -> None:
        one_of("--device", self.device, ("auto", "cpu", "cuda", "mps"))
        if self.size is not None and not 16 <= self.size <= 2048:
            fix = "leave it out for the weights' own size"
            raise UsageError(expected="--size from 16 to 2048 pixels", got=str(self.size), fix=fix)
        if self.seed < 0:
            raise UsageError(expected="--seed of 0 or more", got=str(self.seed), fix="give a whole number such as 0")
