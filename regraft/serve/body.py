"""Bodies of requests: counted while they arrive, held to limits of size and time, and taken apart where they have parts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from regraft.serve.refusal import Gone, Refused, busy, too_large
from regraft.serve.settings import Settings

_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One image of a body, and the name that the client gave it."""

    name: str
    data: bytes


class Bodies:
    """Holds bodies until their requests are answered; together they take no more than the `memory` of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self.held = settings, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body. Raises Refused where a limit is met, Gone where the client hangs up."""
        _check_head(request, self._settings.max_bytes)
        pieces: list[bytes] = []
        try:
            await self._fill(pieces, request)
            yield b"".join(pieces)
        finally:
            self.held -= sum(map(len, pieces))

    async def _fill(self, pieces: list[bytes], request: Request) -> None:
        taken = 0
        try:
            async with asyncio.timeout(self._settings.body_wait):
                async for piece in request.stream():
                    pieces.append(piece)
                    taken += len(piece)
                    self.held += len(piece)
                    self._check(taken)
        except ClientDisconnect:
            raise Gone from None
        except TimeoutError:
            raise Refused(408, "too_slow", "the request did not arrive in time", {"connection": "close"}) from None

    def _check(self, taken: int) -> None:
        if taken > self._settings.max_bytes:
            raise too_large(self._settings.max_bytes)
        if self.held > max(self._settings.memory, self._settings.max_bytes):
            raise busy()


def _check_head(request: Request, most: int) -> None:
    """Refuse at once what the head of a request gives away; what it says of the length may be a lie."""
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise too_large(most)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "encoding_not_supported", "send the image as it is, without a Content-Encoding")


def boundary_of(content_type: str) -> bytes | None:
    """Of a multipart body; None: the body is one image. Raises Refused where it cannot be taken apart."""
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(content_type)
    if not kind.startswith(b"multipart/"):
        return None
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 200:
        raise _bad_parts()
    return boundary


def parts_of(body: bytes, boundary: bytes, most: int) -> list[Part]:
    """The files of a multipart body, in order; other fields are left out. Raises Refused, also for none and for too many."""
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    collected = _Collected(most)
    try:
        parser = MultipartParser(boundary, collected.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise _bad_parts() from None
    if not collected.ended:
        raise _bad_parts()
    if not collected.parts:
        raise Refused(400, "empty", "there is no image in the request")
    return collected.parts


def _bad_parts() -> Refused:
    return Refused(400, "bad_multipart", "the multipart body cannot be taken apart")


class _Collected:
    """What the parser calls. Headers of a part come before its data, in pieces."""

    def __init__(self, most: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._most = most
        self._field, self._value, self._disposition = bytearray(), bytearray(), b""
        self._data = bytearray()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_part_end": self._part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._disposition, self._data = b"", bytearray()

    def _header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _part(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._disposition)
        if b"filename" not in options:
            return
        if len(self.parts) == self._most:
            raise Refused(413, "too_many_images", f"the request has more than {self._most} images")
        name = options[b"filename"].decode("utf-8", "replace")[:_LONGEST_NAME]
        self.parts.append(Part(name=name, data=bytes(self._data)))

    def _end(self) -> None:
        self.ended = True
