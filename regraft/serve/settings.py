"""What may be chosen of a server: where it listens, who may ask, and the limits that it keeps."""

import ipaddress
from dataclasses import dataclass, field

from regraft.data.problem import MAX_PIXELS
from regraft.errors import UsageError
from regraft.recipe import Device

# Shorter ones can be guessed.
_SHORTEST_TOKEN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Times are in seconds. The limits are those of one request unless they say otherwise.

    `token` is wanted of every request that asks for something of the model, and cannot be left out where `host` is no
    loopback address. `allow_hosts` are names that a Host header may have beside those of the loopback. `max_bytes` are of a
    body, `max_pixels` of an image, `max_images` in one multipart body. `queue` requests are worked on or wait at a time,
    `memory` bytes of bodies are held; what comes on top is answered with 503. With `batching` the network takes what is
    waiting, at most `batch` images, and waits for more for at most `batch_wait`. `head_wait`, `body_wait` and `idle_wait`
    bound how long a connection may take to say what it wants, to send its body, and to stay open without a request;
    `stop_wait` how long requests under way are waited for at the end. More than `connections` at a time push out the one that
    has been idle for longest.

    Raises UsageError.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    allow_hosts: tuple[str, ...] = ()
    max_bytes: int = 32 * 2**20
    max_pixels: int = MAX_PIXELS
    max_images: int = 32
    queue: int = 64
    memory: int = 256 * 2**20
    batching: bool = True
    batch: int = 8
    batch_wait: float = 0.004
    head_wait: float = 10.0
    body_wait: float = 30.0
    idle_wait: float = 30.0
    stop_wait: float = 10.0
    connections: int = 4000
    device: Device = "auto"

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_images", "queue", "memory", "batch", "connections"):
            if getattr(self, name) < 1:
                raise UsageError(expected=f"{name} of 1 or more", got=str(getattr(self, name)), fix="leave it out")
        for name in ("batch_wait", "head_wait", "body_wait", "idle_wait", "stop_wait"):
            if not 0 <= getattr(self, name) <= 3600:
                raise UsageError(expected=f"{name} of 0 to 3600 seconds", got=str(getattr(self, name)), fix="leave it out")
        if not 0 <= self.port <= 65535:
            raise UsageError(expected="a port of 0 to 65535", got=str(self.port), fix="leave it out for 8000")
        if self.token is None and not is_loopback(self.host):
            raise UsageError(
                expected="a token wherever others than this machine can reach the server",
                got=f"the address {self.host} without one",
                fix="give --token-file FILE or set REGRAFT_TOKEN, or leave --host out",
            )
        if self.token is not None and not _is_usable(self.token):
            raise UsageError(
                expected=f"a token of {_SHORTEST_TOKEN} or more visible ASCII characters",
                got=f"one of {len(self.token)} characters",  # never the token itself
                fix="make one: python -c 'import secrets; print(secrets.token_urlsafe())' > token.txt",
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at this address: "localhost", 127.0.0.0/8 or ::1, without a port."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Whether this is the number of a machine and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_usable(token: str) -> bool:
    return len(token) >= _SHORTEST_TOKEN and all("!" <= letter <= "~" for letter in token)
