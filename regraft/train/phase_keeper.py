"""The states of a training's phases, with what was decided once and must not be decided anew.

Where all is done again on all images, those phases are numbered on, and carry what the first time chose.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from regraft.train.keeper import Keeper, Kept, with_nan, without_nan
from regraft.train.loop import Course
from regraft.values import Epoch, FloatArray

_JUDGED = "judged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What validation chose: the course of each phase, how many epochs it was planned for, the share of what was learned.

    `judged_NK` are the answers to the validation images, (V, K).
    """

    courses: Sequence[Course]
    planned: Sequence[int]
    share: float
    judged_NK: FloatArray


class PhaseKeeper:
    """A keeper's states of one phase. `plan` holds what was decided at its beginning; whoever decides writes it there."""

    def __init__(
        self,
        keeper: Keeper,
        number: int,
        courses: Sequence[Course],
        choice: Choice | None = None,
        *,
        planned: Sequence[int] = (),
    ) -> None:
        self.keeper, self.number, self.courses, self.choice = keeper, number, courses, choice
        self.planned = planned
        self._index = len(courses)  # among the phases of this time
        self._before = keeper.recall()
        before = self.recall()
        self.plan: dict[str, Any] = {} if before is None else dict(before.facts["decided"])

    def keep(self, state: Kept) -> None:
        facts = {**state.facts, "phase": self.number, "decided": self.plan, "courses": _plain(self.courses), "choice": None}
        facts["planned"] = list(self.planned)
        tensors = dict(state.tensors)
        if self.choice is not None:
            planned, share = list(self.choice.planned), self.choice.share
            facts["choice"] = {"courses": _plain(self.choice.courses), "planned": planned, "share": share}
            tensors[_JUDGED] = torch.from_numpy(np.asarray(self.choice.judged_NK, np.float32))
        self.keeper.keep(Kept(tensors=tensors, facts=facts))

    def recall(self) -> Kept | None:
        before = self._before
        return before if before is not None and before.facts["phase"] == self.number else None

    def finished(self) -> tuple[Course, int] | None:
        """The course of this phase and the epochs it was planned for, where a later one is kept already."""
        if self._before is None or self._before.facts["phase"] <= self.number:
            return None
        return _course(self._before.facts["courses"][self._index]), int(self._before.facts["planned"][self._index])


def recalled_choice(keeper: Keeper, phases: int) -> Choice | None:
    """What validation chose, where a training goes on after that."""
    before = keeper.recall()
    if before is None or before.facts["phase"] < phases:
        return None
    chosen = before.facts["choice"]
    return Choice(
        courses=[_course(fields) for fields in chosen["courses"]],
        planned=list(chosen["planned"]),
        share=float(chosen["share"]),
        judged_NK=before.tensors[_JUDGED].numpy(),
    )


def _plain(courses: Sequence[Course]) -> list[dict[str, Any]]:
    return [without_nan(asdict(course)) for course in courses]


def _course(fields: dict[str, Any]) -> Course:
    epochs = tuple(Epoch(**with_nan(epoch)) for epoch in fields["epochs"])
    return Course(**with_nan({**fields, "epochs": epochs}))
