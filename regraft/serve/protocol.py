"""HTTP as uvicorn speaks it, with deadlines: a client that is slow to say what it wants, or to take its answer, is let go.

uvicorn bounds only the time between two requests. A connection that sends nothing, or a letter now and then, would stay for
ever; so would one that does not read.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from regraft.serve.refusal import SECURITY_HEADERS, Refused
from regraft.serve.settings import Settings

# A body in crumbs costs more to take apart than an image to answer: so many pieces are looked at before their size counts.
_PIECES, _SMALLEST = 1000, 64
_BAD: Final = Refused(400, "bad_request", "the request cannot be understood")
_SLOW: Final = Refused(408, "too_slow", "the request did not arrive in time")


class _Counting(h11.Connection):
    """A connection that refuses bodies in crumbs."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self._pieces = self._bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces, self._bytes = self._pieces + 1, self._bytes + len(event.data)
            if self._pieces > _PIECES and self._bytes < _SMALLEST * self._pieces:
                raise h11.RemoteProtocolError("a body in crumbs")
        return event


class Deadlines(H11Protocol):
    """`bound` gives the class for some settings, as uvicorn's configuration takes one."""

    settings: Settings
    # Those without a request under way, the one that has waited for longest first.
    idle: dict["Deadlines", None]

    @classmethod
    def bound(cls, settings: Settings) -> type["Deadlines"]:
        return type("Deadlines", (cls,), {"settings": settings, "idle": {}})

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = _Counting()
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.settings.connections:
            oldest = next(iter(self.idle), self)
            self.idle.pop(oldest, None)
            oldest.transport.abort()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._head)
        self._stop(self._reading)
        self.idle.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop(self._reading)
        self._reading = self.loop.call_later(self.settings.body_wait, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop(self._reading)
        super().resume_writing()

    def _watch(self) -> None:
        """The deadline of a head runs from the connection on, or from the first letter of a further request."""
        if self.conn.their_state is not h11.IDLE:
            self._stop(self._head)
            self._head = None
            self.idle.pop(self, None)
            return
        self.idle.setdefault(self)
        if self._head is None and (self.cycle is None or self.conn.trailing_data[0]):
            self._head = self.loop.call_later(self.settings.head_wait, self._too_late)

    def _too_late(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            self._send(_SLOW)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._send(_BAD)
        self.transport.close()

    def _send(self, refused: Refused) -> None:
        """An answer without an application. One that has begun already is just broken off."""
        body = json.dumps(refused.fields()).encode("ascii")
        told = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        head = h11.Response(
            status_code=refused.status,
            headers=[*SECURITY_HEADERS.items(), *told.items()],
            reason=STATUS_PHRASES[refused.status],
        )
        with suppress(h11.LocalProtocolError):
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()
