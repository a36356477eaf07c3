"""Small pictures inside the page, within a budget of bytes."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from regraft.evaluate import Mistake

Thumbnails = Mapping[str, bytes] | Callable[[str], bytes | None]

NO_EVIDENCE: Mapping[str, bytes] = MappingProxyType({})
BUDGET = 3_000_000  # bytes of pictures: base64 adds a third, and the page is to stay under 5 MB
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictured:
    """A mistake with its picture as a data URI, and that of the evidence for the wrong answer; empty where there is none."""

    mistake: Mistake
    source: str
    evidence: str = ""


def pictured(
    found: tuple[Mistake, ...],
    thumbnails: Thumbnails,
    budget: int = BUDGET,
    evidence: Mapping[str, bytes] = NO_EVIDENCE,
) -> tuple[Pictured, ...]:
    """Each mistake with its pictures, as far as there are any and the budget lasts."""
    left, rows = budget, []
    for mistake in found:
        content = thumbnails(mistake.name) if callable(thumbnails) else thumbnails.get(mistake.name)
        sources = []
        for one in (content, evidence.get(mistake.name)):
            sources.append(data_uri(one) if one is not None and len(one) <= left else "")
            left -= len(one or b"") if sources[-1] else 0
        rows.append(Pictured(mistake=mistake, source=sources[0], evidence=sources[1]))
    return tuple(rows)


def data_uri(content: bytes) -> str:
    """Empty for anything but a picture by its first bytes: nothing else may come into the page."""
    kind = next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), None)
    if kind is None and content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}" if kind else ""
