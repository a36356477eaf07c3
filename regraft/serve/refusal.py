"""Why a request is not answered, in words that tell nothing of the machine: a code, a status, a sentence."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from starlette.responses import JSONResponse

# Nothing that the server sends may be taken for another kind, framed, or run; the page sets a policy of its own.
SECURITY_HEADERS: Final = MappingProxyType(
    {
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }
)

# What `data.decode` refuses an image for -> status, code, sentence. Its own words may name paths and addresses in memory.
_IMAGES: Final[Mapping[str, tuple[int, str, str]]] = {
    "empty": (400, "empty", "there is no image in the request"),
    "not_an_image": (415, "not_an_image", "this is no image that can be read: JPEG, PNG, WebP, BMP, GIF and TIFF can"),
    "too_many_pixels": (413, "image_too_large", "the image has too many pixels"),
    "file_too_large": (413, "image_too_large", "the image has too many bytes"),
    "too_much_metadata": (422, "too_much_metadata", "the image carries too much beside its pixels"),
    "too_costly": (422, "too_costly", "the image would take too long or too much memory to read"),
    "truncated": (422, "truncated", "the image ends too early"),
    "damaged": (422, "damaged", "the image is damaged"),
    "pixel_type": (422, "pixel_type", "the pixels of the image are of a kind that cannot be read"),
}


class Refused(Exception):
    """A request, or one image of it, that gets no answer. `status` is that of HTTP."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(code)
        self.status, self.code, self.message, self.headers = status, code, message, headers

    def fields(self) -> dict[str, dict[str, str]]:
        """What a client reads."""
        return {"error": {"code": self.code, "message": self.message}}

    def response(self) -> JSONResponse:
        """The whole answer, its headers of security included."""
        return JSONResponse(self.fields(), self.status, {**SECURITY_HEADERS, **self.headers})


class Gone(Exception):
    """The client hung up before its answer was there."""


def image_refused(code: str) -> Refused:
    """What `errors.ImageRejected` with this code is for a client."""
    return Refused(*_IMAGES.get(code, (422, "unreadable", "the image cannot be read")))


def busy() -> Refused:
    """More is asked than can be answered."""
    return Refused(503, "busy", "too many requests are waiting; ask again in a moment", {"retry-after": "1"})


def too_large(most: int) -> Refused:
    """A body beyond the limit."""
    return Refused(413, "image_too_large", f"the request has more than {most:,} bytes")


def internal() -> Refused:
    """A mistake of ours."""
    return Refused(500, "internal", "something went wrong in the server; its log says what", {"connection": "close"})
