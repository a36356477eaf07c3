"""What was seen in the images that were answered wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from regraft.evaluate import Mistake
from regraft.evidence.explain import explain
from regraft.evidence.overlay import SIDE, overlay
from regraft.evidence.watched import watched
from regraft.fitted import Fitted
from regraft.recipe import Device

LIMIT = 12
# Other methods than Grad-CAM take ten times as long: docs/explain.md#methods
SLOW_LIMIT = 4


def mistake_overlays(
    fitted: Fitted,
    found: Sequence[Mistake],
    paths: Mapping[str, Path],
    *,
    limit: int = LIMIT,
    side: int = SIDE,
    device: Device = "auto",
) -> dict[str, bytes]:
    """For the first `limit` mistakes (4 where it takes long) the picture of the evidence for the wrong answer, by image name.

    It is what `fitted` sees, even where the answer is of a head of cross-validation, which had not learned from the image.
    Left out are images that cannot be read any more, and those without a path.
    """
    known = [mistake for mistake in found if mistake.name in paths]
    if not known:
        return {}
    shown = known[: limit if watched(fitted) else min(limit, SLOW_LIMIT)]
    answers = [wrong_answer(mistake) for mistake in shown]
    explained = explain(fitted, [paths[mistake.name] for mistake in shown], of=answers, device=device)
    pictures = zip(shown, explained, strict=True)
    return {mistake.name: overlay(one, side=side) for mistake, one in pictures if one.prediction.status == "ok"}


def wrong_answer(mistake: Mistake) -> str | None:
    """The class to explain: one that was wrongly given; where labels were only missed, one of those."""
    given = [name for name in mistake.predicted if name not in mistake.truth]
    missed = [name for name in mistake.truth if name not in mistake.predicted]
    return next(iter([*given, *missed]), None)
