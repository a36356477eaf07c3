"""The findings of the audit as the page draws them: a few of each kind with pictures, more as rows, all in report.json."""

from dataclasses import dataclass
from typing import Any

from regraft.findings import Audit, Copies, Odd, Outlier, Suspect
from regraft.report.advice import leak_words, odd_words
from regraft.report.content import GROUPS, ODD, OF_GROUP, OUTLIERS, SUSPECTS, ReportContent
from regraft.report.pictures import Album
from regraft.report.text import counted, plain

ROWS = 100  # of a kind that are listed without pictures
SAME = {"file": "the same file", "pixels": "the same pixels", "altered": "altered copies"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """An image of a group: its picture as a data URI, which may be empty, its label and part."""

    name: str
    source: str
    label: str
    part: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Images that show the same, `more` of them not drawn; `flags` say why that matters."""

    faces: tuple[Face, ...]
    more: int
    same: str
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictured:
    """A finding on one image, with its picture as a data URI, which may be empty."""

    finding: Suspect | Odd | Outlier
    source: str


def audit_context(content: ReportContent, album: Album) -> dict[str, Any]:
    """What the template of the section needs; pictures are taken from the album in the order of the page."""
    audit = content.audit
    if audit is None:
        return {"audit": None}
    return {
        "audit": audit,
        "looked_for": looked_for(audit),
        "nothing": is_clean(audit),
        "found": found_words(audit),
        "leak_words": leak_words(audit.leak, content.summary.test_scores) if audit.leak else "",
        "groups": tuple(_group(copies, album) for copies in audit.copies[:GROUPS]),
        "more_groups": audit.copies[GROUPS : GROUPS + ROWS],
        "suspects": _pictured(audit.suspects[:SUSPECTS], album),
        "more_suspects": audit.suspects[SUSPECTS : SUSPECTS + ROWS],
        "odd_words": odd_words(audit),
        "odd": _pictured(audit.odd[:ODD], album),
        "more_odd": audit.odd[ODD : ODD + ROWS],
        "outliers": _pictured(audit.outliers[:OUTLIERS], album),
        "more_outliers": audit.outliers[OUTLIERS : OUTLIERS + ROWS],
        "similar": audit.similar[:ROWS],
        "mixed": audit.mixed[:ROWS],
        "same_words": same_words,
        "rows": ROWS,
    }


def is_clean(audit: Audit) -> bool:
    """Whether nothing at all was found."""
    found = (audit.copies, audit.leak, audit.suspects, audit.mixed, audit.outliers, audit.odd, audit.shortcuts, audit.similar)
    return not any(found) and audit.imbalance is None


def found_words(audit: Audit) -> str:
    """How many of each kind, the gravest first."""
    kinds = (
        (len(audit.leak.names) if audit.leak else 0, "test image known from training", "test images known from training"),
        (len(audit.suspects), "label that may be wrong", "labels that may be wrong"),
        (len(audit.copies), "picture there more than once", "pictures there more than once"),
        (len(audit.similar), "group of images that are almost the same", "groups of images that are almost the same"),
        (len(audit.shortcuts), "sign of the class in the files", "signs of the class in the files"),
        (len(audit.mixed), "pair of classes hardly told apart", "pairs of classes hardly told apart"),
        (len(audit.odd), "image of little use", "images of little use"),
        (len(audit.outliers), "image unlike all others", "images unlike all others"),
        (int(audit.imbalance is not None), "pair of classes of very different size", ""),
    )
    return ", ".join(counted(n, one, many) for n, one, many in kinds if n)


def looked_for(audit: Audit) -> str:
    """What the audit can find, in one sentence."""
    return (
        f"{counted(audit.images, 'image')} were searched for copies of one another (the same file or pixels, re-encoded, "
        "resized, flipped or cropped ones), images that are almost the same to the network, test images known from training, "
        "labels that look wrong, classes that are hardly told apart, images unlike all others, tiny, blank, blurred or oddly "
        "shaped ones, signs of the class in the files themselves, and classes of very different size."
    )


def same_words(copies: Copies) -> str:
    """How they are the same."""
    return SAME[copies.sameness] + (f": {plain(copies.change)}" if copies.sameness == "altered" and copies.change else "")


def _group(copies: Copies, album: Album) -> Group:
    together = zip(copies.names, copies.labels, copies.parts, strict=True)
    faces = [Face(name=n, source=album.take(n), label=label, part=p) for n, label, p in list(together)[:OF_GROUP]]
    flags = ["different labels"] * copies.across_classes + ["in training and test"] * copies.across_parts
    return Group(faces=tuple(faces), more=len(copies.names) - len(faces), same=same_words(copies), flags=tuple(flags))


def _pictured(found: tuple[Suspect, ...] | tuple[Odd, ...] | tuple[Outlier, ...], album: Album) -> tuple[Pictured, ...]:
    return tuple(Pictured(finding=one, source=album.take(one.name)) for one in found)
