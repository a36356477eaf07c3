"""Small pictures inside the page, within a budget of bytes."""

import base64
from collections.abc import Callable, Mapping

Thumbnails = Mapping[str, bytes] | Callable[[str], bytes | None]

PICTURE_BYTES = 3_000_000  # gathered for one report: base64 adds a third, and the page is to stay under 5 MB
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}


class Album:
    """Hands out pictures as data URIs as long as the budget, in letters, lasts; empty ones then, and where there is none."""

    def __init__(self, pictures: Mapping[str, bytes], budget: int) -> None:
        self._pictures, self.left = pictures, budget

    def take(self, name: str) -> str:
        return self.drawn(self._pictures.get(name))

    def drawn(self, content: bytes | None) -> str:
        """Any picture at all, out of the same budget."""
        source = data_uri(content) if content else ""
        if len(source) > self.left:
            return ""
        self.left -= len(source)
        return source


def is_picture(content: bytes) -> bool:
    """By its first bytes: PNG, JPEG, GIF or WebP."""
    return bool(_kind(content))


def data_uri(content: bytes) -> str:
    """Empty for anything but a picture by its first bytes: nothing else may come into the page."""
    kind = _kind(content)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}" if kind else ""


def _kind(content: bytes) -> str:
    webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    return next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), "webp" if webp else "")
