"""Published weights: from the disk or the network, with an error that says what works without one."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants
from torch import nn

from regraft.backbone.source import ALWAYS_THERE, as_module
from regraft.errors import BackboneNotFound, first_line


def download(make: Callable[[], object], spec: str) -> nn.Module:
    """What `make` gives, which may fetch weights. Raises BackboneNotFound where they cannot be had."""
    try:
        with _offline_where_it_is():
            return as_module(make())
    except Exception as error:
        raise BackboneNotFound(
            expected=f"the published weights of {spec}, on disk or from the network",
            got=f"{type(error).__name__}: {first_line(error)}",
            fix=(
                f"without a network use an embedded backbone ({ALWAYS_THERE}), "
                "or pass a local file: --weights weights.safetensors"
            ),
        ) from error


@contextmanager
def _offline_where_it_is() -> Iterator[None]:
    """Without a network the hub's client tries for most of a minute before it looks at what is on disk; say so beforehand."""
    before = constants.HF_HUB_OFFLINE
    try:
        if not getproxies():
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
