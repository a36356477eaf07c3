"""Small models behind a real server on the loopback, and clients that speak to it letter by letter."""

import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import torch
from torch import nn

from regraft.backbone.load import load_backbone
from regraft.backbone.pyramid import pyramid_of
from regraft.evaluate.abstain import Thresholds
from regraft.fitted import Fitted
from regraft.fitted_pixels import FittedPixels
from regraft.recipe import Own
from regraft.saved_pixels import head_module
from regraft.segments import MaskMap
from regraft.serve.app import app_of
from regraft.serve.models import Model, model_of
from regraft.serve.run import Server, bind, server_of
from regraft.serve.service import Service
from regraft.serve.settings import Settings
from regraft.train.pixel_network import PixelHead

SIDE = 32
CLASSES = ("amber", "<b>blue</b>", "cyan", "=cow")
# Waits that a test can sit out.
QUICK = {"port": 0, "head_wait": 0.6, "body_wait": 0.6, "idle_wait": 0.6, "stop_wait": 5.0}


def _network() -> nn.Module:
    """Answers that hang on the picture, and statistics that would mix a batch were they not frozen."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(CLASSES)))
    network[-1].weight.data *= 8
    return network.eval()


def classifier(**changes: Any) -> Fitted:
    backbone = load_backbone(Own(module=_network(), input_shape=(3, SIDE, SIDE), mean=(0.5,) * 3, std=(0.25,) * 3))
    backbone = replace(backbone, preprocess=replace(backbone.preprocess, fit="squash"))
    return Fitted(
        **{"backbone": backbone, "head": None, "classes": CLASSES, "thresholds": Thresholds(confidence=0.5), **changes}
    )


def segmenter() -> FittedPixels:
    """Three classes of pixels by their colour."""
    backbone = classifier().backbone
    levels = pyramid_of(backbone)
    module = head_module("linear", levels, 3, SIDE, SIDE).eval()
    torch.manual_seed(1)
    for parameter in (*module.parameters(), *module.buffers()):
        if parameter.shape[:1] == (3,):
            parameter.data.normal_()
    head = PixelHead(levels=levels, decoder="linear", channels=3, module=module)
    mask_map = MaskMap(kind="semantic", classes=("background", "cat", "dog"))
    return FittedPixels(backbone=backbone, head=head, mask_map=mask_map, usual_side=64)


class Slow(Model):
    """A model whose answers take as long as it is told; an image is what its bytes say."""

    batch = threads = 1

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.ran, self.prepared = seconds, list[bytes](), threading.Event()
        self.prepared.set()

    def describe(self) -> dict[str, Any]:
        return {}

    def prepare(self, note: Any) -> None:
        self.prepared.wait()

    def decode(self, data: bytes) -> bytes:
        return data

    def run(self, items: Sequence[bytes]) -> Sequence[bytes]:
        self.ran += items
        time.sleep(0 if b"probe" in items else self.seconds)
        if any(item.startswith(b"bad") for item in items):
            raise ValueError(f"cannot answer {items} at {object()}")
        return items

    def fields(self, answer: bytes, top_k: int) -> dict[str, Any]:
        return {"status": "ok", "body": answer.decode()}

    def probe(self) -> bytes:
        return b"probe"

    def same(self, one: Any, other: Any) -> bool:
        return bool(one == other)


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that answers."""

    port: int
    service: Service
    server: Server

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.address, trust_env=False, timeout=20, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def say(self, *pieces: bytes, pause: float = 0.0, wait: float = 5.0) -> bytes:
        """What comes back until the server hangs up or `wait` is over."""
        with self.connect() as connection:
            for piece in pieces:
                try:
                    connection.sendall(piece)
                except OSError:  # refused before it was all there
                    break
                time.sleep(pause)
            return hear(connection, wait)


def hear(connection: socket.socket, wait: float = 5.0) -> bytes:
    """Everything until the other side hangs up."""
    connection.settimeout(wait)
    heard = b""
    try:
        while piece := connection.recv(65536):
            heard += piece
    except (TimeoutError, ConnectionResetError):
        pass
    return heard


def status(answer: bytes) -> int:
    """Of the first answer in what came back; 0: none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def post(body: bytes, headers: Mapping[str, str] = {}, *, length: int | None = None, path: str = "/predict") -> bytes:
    """A request as it goes over the wire; `length` is what it says of the body."""
    given = {"Host": "127.0.0.1", "Content-Length": str(len(body) if length is None else length), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value)
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


@contextmanager
def serving(model: Any, **settings: Any) -> Iterator[Running]:
    """A server of a fitted model, or of any `Model`, in a thread of this process."""
    chosen = Settings(**{**QUICK, "device": "cpu", **settings})
    listener = bind(chosen)
    service = Service(model if isinstance(model, Slow) else model_of(model, chosen), chosen)
    server = server_of(app_of(service))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        if not isinstance(model, Slow):
            service.started.result(timeout=60)
        while not server.started:
            time.sleep(0.005)
        yield Running(port=listener.getsockname()[1], service=service, server=server)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive(), "the server did not end"


def png(seed: int, side: int = 48) -> bytes:
    """A picture that no other seed gives."""
    from drawn_pictures import drawn, encoded

    return encoded(drawn(seed, (side + seed % 5, side)))


def close_to(fields: Mapping[str, Any], top: Sequence[tuple[str, float]]) -> bool:
    """Whether an answer over HTTP is the one of `predict`: the same classes in order, probabilities within 1e-5."""
    said = [(one["class"], one["probability"]) for one in fields["predictions"]]
    return [name for name, _ in said] == [name for name, _ in top] and bool(
        np.allclose([p for _, p in said], [p for _, p in top], rtol=0, atol=1e-5)
    )
