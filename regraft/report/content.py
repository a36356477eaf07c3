"""What a report is drawn from, gathered once: values and pictures, no file of the user's any more."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from regraft.evaluate import mistakes
from regraft.findings import Audit
from regraft.report.pictures import PICTURE_BYTES, Thumbnails, is_picture
from regraft.values import Augmented, Predictions, RunSummary, Scores

# How many of each are drawn with their pictures. All findings are in report.json.
MISTAKES, GROUPS, OF_GROUP, SUSPECTS, OUTLIERS, ODD = 24, 8, 4, 18, 12, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlays:
    """Pictures of images that show what an answer was made from, by the images' names; `words` say how they were made."""

    words: str
    pictures: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContent:
    """All that the page shows. `test` is None where nothing was held out; both predictions carry their targets.

    `thumbnails` are pictures (PNG, JPEG, GIF or WebP) of the images that are shown, by name.
    """

    summary: RunSummary
    test: Predictions | None
    cross_validation: Predictions
    audit: Audit | None = None
    augmented: Augmented | None = None
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    overlays: Overlays | None = None

    @property
    def headline(self) -> Predictions:
        """The predictions that the first figure is of."""
        return self.cross_validation if self.test is None else self.test

    @property
    def scores(self) -> Scores:
        """The scores of the headline."""
        return self.summary.test_scores or self.summary.cross_validation


def gather(
    summary: RunSummary,
    *,
    test: Predictions | None,
    cross_validation: Predictions,
    thumbnails: Thumbnails,
    audit: Audit | None = None,
    augmented: Augmented | None = None,
    overlays: Overlays | None = None,
) -> ReportContent:
    """The report's content, with the pictures it will show, a few megabytes at most.

    `thumbnails` gives the PNG, JPEG, GIF or WebP bytes for an image's name, or None, as a mapping or a function; it is asked
    once for each image that is shown, those of mistakes first. The headline is on `test`, or on `cross_validation` where that
    is None. Raises DataUnusable where that has no targets.
    """
    content = ReportContent(
        summary=summary, test=test, cross_validation=cross_validation, audit=audit, augmented=augmented, overlays=overlays
    )
    left = PICTURE_BYTES - (len(augmented.sheet) if augmented else 0)
    left -= sum(map(len, overlays.pictures.values())) if overlays else 0
    found: dict[str, bytes] = {}
    for name in dict.fromkeys(_shown(content)):
        picture = thumbnails(name) if callable(thumbnails) else thumbnails.get(name)
        if picture is not None and len(picture) <= left and is_picture(picture):
            found[name] = picture
            left -= len(picture)
    return ReportContent(
        summary=summary,
        test=test,
        cross_validation=cross_validation,
        audit=audit,
        augmented=augmented,
        thumbnails=found,
        overlays=overlays,
    )


def _shown(content: ReportContent) -> Iterator[str]:
    """Names of the images that the page shows, in its order."""
    yield from (mistake.name for mistake in mistakes(content.headline, MISTAKES))
    audit = content.audit
    if audit is None:
        return
    for copies in audit.copies[:GROUPS]:
        yield from copies.names[:OF_GROUP]
    yield from (suspect.name for suspect in audit.suspects[:SUSPECTS])
    yield from (odd.name for odd in audit.odd[:ODD])
    yield from (outlier.name for outlier in audit.outliers[:OUTLIERS])
