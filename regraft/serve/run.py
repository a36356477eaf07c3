"""A server from start to end: binds before the model is loaded, says when it answers, and leaves no answer half given."""

import asyncio
import errno
import math
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import FrameType

import uvicorn
from fastapi import FastAPI

from regraft.errors import UsageError
from regraft.fitted import Fitted
from regraft.fitted_pixels import FittedPixels
from regraft.progress import Progress, Silent
from regraft.serve.app import make_app
from regraft.serve.protocol import Deadlines
from regraft.serve.service import Service
from regraft.serve.settings import Settings, is_loopback

# Files that are open beside connections.
_OTHER_FILES = 100


def bind(settings: Settings) -> socket.socket:
    """The place to listen at, taken and not yet listened at. Raises UsageError where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            expected="an address of this machine", got=f"{settings.host}: {error}", fix="leave --host out"
        ) from None
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise _cannot_bind(settings, error) from None
    if settings.token is None and not is_loopback(str(found.getsockname()[0])):
        found.close()
        replace(settings, host=str(address[0]))  # says what is missing
    return found


def _cannot_bind(settings: Settings, error: OSError) -> UsageError:
    taken = error.errno == errno.EADDRINUSE
    got = "another program listens there" if taken else str(error.strerror or error)
    fix = "choose another with --port; 0 takes any that is free" if taken else "give another --host or --port"
    return UsageError(expected=f"a free port {settings.port} at {settings.host}", got=got, fix=fix)


def address_of(settings: Settings, listener: socket.socket) -> str:
    """What to give a browser."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host or '0.0.0.0'}:{listener.getsockname()[1]}"


def serve(
    fitted: Fitted | FittedPixels,
    settings: Settings,
    *,
    listener: socket.socket | None = None,
    progress: Progress = Silent(),
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer until told to end by SIGTERM or Ctrl-C; then answer what is under way and let the signal have its way.

    `listener` is what `bind` gave. `on_ready` is called with the address once a request would be answered.
    Raises UsageError where the port is taken.
    """
    settings = replace(settings, connections=_room_for(settings.connections))
    listener = listener or bind(settings)
    app = make_app(fitted, settings, progress)
    service: Service = app.state.service
    with listener:
        server_of(app, lambda: on_ready(address_of(settings, listener))).run(sockets=[listener])
    if service.started.done() and (error := service.started.exception()):
        raise error


def server_of(app: FastAPI, on_ready: Callable[[], None] = lambda: None) -> "Server":
    """What runs an app of `make_app`."""
    settings = app.state.service.settings
    config = uvicorn.Config(
        app,
        http=Deadlines.bound(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,  # anybody could say where a request came from
        server_header=False,
        timeout_keep_alive=settings.idle_wait,
    )
    return Server(config, app.state.service, on_ready)


def _room_for(connections: int) -> int:
    """As many as the system lets a process have, at most `connections`; the limit on open files is raised for them."""
    try:
        import resource
    except ImportError:  # not on Windows
        return connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
        return max(1, min(connections, soft - _OTHER_FILES))
    return connections


class Server(uvicorn.Server):
    """Tells when it is ready. At the end it says so to whoever asks while requests under way are answered."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._on_ready, self._told = service, on_ready, False

    async def on_tick(self, counter: int) -> bool:
        if not self._told and self._service.started.done():
            self._told = True
            if self._service.started.exception():
                self.should_exit = True
            else:
                self._on_ready()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.leave()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.leave()
        until = time.monotonic() + self._service.settings.stop_wait
        while self._service.visitors and not self.force_exit and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self.config.timeout_graceful_shutdown = max(1, math.ceil(until - time.monotonic()))
        await super().shutdown(sockets)
