"""The states of a training's phases, with what was decided once and must not be decided anew."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from regraft.train.keeper import Keeper, Kept
from regraft.train.loop import Course
from regraft.values import Epoch


class PhaseKeeper:
    """A keeper's states of one phase, with what was decided at its beginning and how the phases before it went."""

    def __init__(self, keeper: Keeper, number: int, courses: Sequence[Course]) -> None:
        self.keeper, self.number, self.courses = keeper, number, courses
        before = keeper.recall()
        self._before = before
        here = before is not None and before.facts["phase"] == number
        self.plan: dict[str, Any] = dict(before.facts["decided"]) if before is not None and here else {}

    def keep(self, state: Kept) -> None:
        facts = {**state.facts, "phase": self.number, "decided": self.plan, "courses": [asdict(one) for one in self.courses]}
        self.keeper.keep(Kept(tensors=state.tensors, facts=facts))

    def recall(self) -> Kept | None:
        before = self._before
        return before if before is not None and before.facts["phase"] == self.number else None

    def finished(self) -> Course | None:
        """The course of this phase, where a later one is kept already."""
        if self._before is None or self._before.facts["phase"] <= self.number:
            return None
        fields = dict(self._before.facts["courses"][self.number])
        epochs = tuple(Epoch(**epoch) for epoch in fields.pop("epochs"))
        return Course(**fields, epochs=epochs)
