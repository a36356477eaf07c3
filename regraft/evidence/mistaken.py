"""What was seen in the images that were answered wrong."""

from collections.abc import Mapping, Sequence

from regraft.evaluate import Mistake
from regraft.evidence.explain import explain
from regraft.evidence.overlay import SIDE, overlay
from regraft.evidence.watched import watched
from regraft.fitted import Fitted
from regraft.recipe import Device
from regraft.values import ImagePath

LIMIT = 12
EVIDENCE_WORDS = (
    "in grey what the network saw, and in colour the evidence for the wrong answer, yellow being most. Colour on the "
    "background speaks of a shortcut."
)
# Other methods than Grad-CAM take ten times as long: docs/explain.md#methods
SLOW_LIMIT = 4


def mistake_overlays(
    fitted: Fitted,
    found: Sequence[Mistake],
    paths: Mapping[str, ImagePath],
    *,
    limit: int = LIMIT,
    side: int = SIDE,
    device: Device = "auto",
) -> dict[str, bytes]:
    """By the image's name a picture (`overlay`) of the evidence for the wrong answer, for the first `limit` mistakes.

    Where it takes long, for 4.

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
