"""Small pictures inside the page, within a budget of bytes."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from regraft.evaluate import Mistake

Thumbnails = Mapping[str, bytes] | Callable[[str], bytes | None]

BUDGET = 3_000_000  # bytes of pictures: base64 adds a third, and the page is to stay under 5 MB
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictured:
    """A mistake with its picture as a data URI; empty where there is none."""

    mistake: Mistake
    source: str


def pictured(found: tuple[Mistake, ...], thumbnails: Thumbnails, budget: int = BUDGET) -> tuple[Pictured, ...]:
    """Each mistake with its picture, as far as there is one and the budget lasts."""
    left, rows = budget, []
    for mistake in found:
        content = thumbnails(mistake.name) if callable(thumbnails) else thumbnails.get(mistake.name)
        source = data_uri(content) if content is not None and len(content) <= left else ""
        left -= len(content or b"") if source else 0
        rows.append(Pictured(mistake=mistake, source=source))
    return tuple(rows)


def data_uri(content: bytes) -> str:
    """Empty for anything but a picture by its first bytes: nothing else may come into the page."""
    kind = next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), None)
    if kind is None and content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}" if kind else ""
