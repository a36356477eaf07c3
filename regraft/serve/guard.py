"""What stands before every route: who may ask, from where, and how an answer leaves that came before its request had ended.

Binding to the loopback is no border: any page that the user visits can send requests there. So a Host header has to name this
machine (against names that are made to point to it), an Origin has to be the same as that, and nothing is ever allowed across
origins.
"""

import asyncio
import hmac
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.serve.refusal import SECURITY_HEADERS, Gone, Refused, internal
from regraft.serve.settings import Settings, is_address, is_loopback

# Seconds to read on after an early answer: a socket closed with bytes unread takes the answer back on its way.
LINGER: Final = 1.0
# Say nothing of the model, so that they want no token: the page, which asks for it, and what an orchestrator looks at.
_OPEN, _OPEN_BELOW = frozenset({"/", "/healthz", "/readyz"}), "/static/"
_LONGEST_TARGET = 16_384

Headers = Sequence[tuple[bytes, bytes]]


def values(headers: Headers, name: bytes) -> list[str]:
    """All values of a header, in order."""
    return [value.decode("latin-1").strip() for key, value in headers if key == name]


def check_host(headers: Headers, settings: Settings) -> str:
    """The Host header, which has to name this machine. Raises Refused."""
    hosts = values(headers, b"host")
    if len(hosts) != 1 or not _is_allowed(hosts[0], settings):
        raise Refused(403, "host_not_allowed", "the server does not answer under this name; --allow-host adds one")
    return hosts[0]


def _is_allowed(host: str, settings: Settings) -> bool:
    name, port = _parted(host)
    if port is not None and not (port.isascii() and port.isdigit() and len(port) <= 5):
        return False
    bare, allowed = name.lower().strip("[]"), {allow.lower() for allow in (*settings.allow_hosts, settings.host)}
    # A number cannot be made to point elsewhere, as a name can; where others may ask at all, they may ask by that.
    return is_loopback(name) or bare in allowed or (not is_loopback(settings.host) and is_address(bare))


def _parted(host: str) -> tuple[str, str | None]:
    """Name and port; an IPv6 address keeps its brackets."""
    if host.startswith("["):
        name, found, rest = host.partition("]")
        wrong = not found or (rest and not rest.startswith(":"))
        return name + found, "-" if wrong else rest[1:] if rest else None
    name, found, port = host.partition(":")
    return name, port if found else None


def check_origin(headers: Headers, host: str, *, navigating: bool) -> None:
    """Raise Refused for what a page of another origin asks; `navigating`: for a page that a link may lead to."""
    origins = values(headers, b"origin")
    if len(origins) > 1 or (origins and not _is_same(origins[0], host)):
        raise Refused(403, "origin_not_allowed", "pages of other sites may not use this server")
    # Browsers leave Origin out of plain GETs, and say here what those are.
    sites = values(headers, b"sec-fetch-site")
    if sites and sites != ["none"] and sites != ["same-origin"] and not navigating:
        raise Refused(403, "origin_not_allowed", "pages of other sites may not use this server")


def _is_same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return origin == f"{parts.scheme}://{parts.netloc}" and parts.scheme in ("http", "https") and parts.netloc == host.lower()


def check_token(headers: Headers, path: str, token: str | None) -> None:
    """Raise Refused unless `Authorization: Bearer` has the token, where there is one; nothing else is looked at."""
    if token is None or path in _OPEN or path.startswith(_OPEN_BELOW):
        return
    given = values(headers, b"authorization")
    kind, _, secret = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if kind.lower() != "bearer" or not hmac.compare_digest(secret.strip().encode("latin-1"), token.encode("ascii")):
        raise Refused(401, "token_wanted", "the server wants its token: Authorization: Bearer", {"www-authenticate": "Bearer"})


class Guard:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await self._answer(scope, Exchange(scope["headers"], receive, send))

    async def _answer(self, scope: Scope, exchange: "Exchange") -> None:
        try:
            self._check(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except Refused as refused:
            await refused.response()(scope, exchange.receive, exchange.send)
        except Gone:
            return
        except Exception:
            if not exchange.started:
                await internal().response()(scope, exchange.receive, exchange.send)
            raise

    def _check(self, scope: Scope) -> None:
        headers = scope["headers"]
        if len(scope["path"]) + len(scope["query_string"]) > _LONGEST_TARGET:
            raise Refused(414, "address_too_long", "what is asked for is longer than anything here")
        host = check_host(headers, self._settings)
        to_page = scope["method"] == "GET" and scope["path"] == "/" and values(headers, b"sec-fetch-mode") == ["navigate"]
        check_origin(headers, host, navigating=to_page)
        check_token(headers, scope["path"], self._settings.token)


class Exchange:
    """One request and its answer: knows whether the body was read to its end, and puts the headers of security on."""

    def __init__(self, headers: Headers, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        lengths = values(headers, b"content-length")
        self._unread = bool(values(headers, b"transfer-encoding")) or any(length.strip("0") for length in lengths)
        self._waits = bool(values(headers, b"expect"))
        self.started = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if self._unread:
                headers["connection"] = "close"
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._read_on()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _read_on(self) -> None:
        """The client gets to read its answer while it still sends; one that waits for a word to go on sends nothing."""
        if self._waits:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await self.receive())["type"] == "http.request" and self._unread:
                    continue
