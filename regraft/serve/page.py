"""The page at `/`: its files, and what it alone asks for, the picture of an image and the heat map of an answer."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from regraft.data.colour import Background
from regraft.data.decode import WHITE, Decoded, decode_image
from regraft.data.preprocess import to_input_size
from regraft.errors import ImageRejected, UnknownClass
from regraft.evidence.explain import pixel_explainer
from regraft.evidence.layer import heat_layer
from regraft.fitted import Fitted
from regraft.fitted_pixels import FittedPixels
from regraft.serve.models import check_pixels
from regraft.serve.refusal import Refused, busy, image_refused
from regraft.serve.service import Service, unless_gone
from regraft.serve.settings import Settings
from regraft.serve.worker import Worker
from regraft.values import Explanation

if TYPE_CHECKING:
    from fastapi import FastAPI

# No style, script or picture from anywhere but here, and nothing inline; pictures also from what the page holds itself.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FOLDER: Final = Path(__file__).with_name("page")
_KINDS: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS: Final = {"content-security-policy": POLICY, "cross-origin-opener-policy": "same-origin"}
# Pictures and heat maps that wait at a time; the answers themselves come first.
QUEUE: Final = 16
PICTURE_SIDE, _QUALITY = 1200, 88


def add_page(app: "FastAPI", fitted: Fitted | FittedPixels) -> None:
    """Put the page at `/` of an application around a service, and its files below `/static/`.

    Two requests are the page's own, and take an image: `POST /picture` gives a JPEG of it, upright, and, where the model
    classifies, `POST /explain?class=NAME` a PNG of the evidence to lay over it.
    """
    files = {path.name: (path.read_bytes(), _KINDS[path.suffix]) for path in FOLDER.iterdir() if path.suffix in _KINDS}
    service: Service = app.state.service
    settings, desk = service.settings, _Desk()

    async def static(name: str) -> Response:
        if name not in files:
            raise Refused(404, "not_found", "there is nothing here")
        content, kind = files[name]
        return Response(content, media_type=kind, headers=_HEADERS)

    async def index() -> Response:
        return await static("index.html")

    async def worked(request: Request, kind: str, work: Callable[[bytes], bytes]) -> Response:
        async with service.taking(request) as body:
            return Response(await unless_gone(request, desk.ask(lambda: work(body))), media_type=kind)

    async def picture(request: Request) -> Response:
        return await worked(request, "image/jpeg", lambda body: picture_of(body, settings))

    _add(app, "GET", "/", index)
    _add(app, "GET", "/static/{name}", static)
    _add(app, "POST", "/picture", picture)
    if isinstance(fitted, Fitted):
        evidence = Evidence(fitted, settings)

        async def explain(request: Request) -> Response:
            of = request.query_params.get("class")
            return await worked(request, "image/png", lambda body: evidence.layer(body, of))

        _add(app, "POST", "/explain", explain)


def _add(app: "FastAPI", method: str, path: str, answer: Callable[..., Awaitable[Response]]) -> None:
    # Left out of the schema: they are the page's own, and change with it.
    app.add_api_route(path, answer, methods=[method], include_in_schema=False)


class Evidence:
    """Heat maps of one model, for one thread at a time. What makes them is built for the first one."""

    def __init__(self, fitted: Fitted, settings: Settings) -> None:
        self._fitted, self._settings = fitted, settings

    @cached_property
    def _explain(self) -> Callable[[NDArray[np.uint8], str | None], Explanation]:
        return pixel_explainer(self._fitted, device=self._settings.device)

    def layer(self, data: bytes, of: str | None) -> bytes:
        """A PNG of the shape of the image: what speaks for the class `of`, None for the best answer. Raises Refused."""
        preprocess = self._fitted.backbone.preprocess
        background = None if preprocess.channels == 4 else preprocess.background
        decoded = _decoded(data, self._settings, background, preprocess.smallest_useful_side())
        try:
            explanation = self._explain(to_input_size(decoded.pixels, preprocess), of)
        except UnknownClass:
            raise Refused(404, "unknown_class", "the model has no class of that name") from None
        return heat_layer(explanation.heat_HW, decoded.size_on_disk, preprocess)


def picture_of(data: bytes, settings: Settings) -> bytes:
    """A JPEG of an image, upright, at most PICTURE_SIDE pixels on its longer side. Raises Refused."""
    picture = _decoded(data, settings, WHITE, PICTURE_SIDE).pixels
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _decoded(data: bytes, settings: Settings, background: Background | None, side: int) -> Decoded:
    check_pixels(data, settings.max_pixels)
    try:
        return decode_image(data, background=background, smallest_side=side)
    except ImageRejected as error:
        raise image_refused(error.code) from None


class _Desk:
    """One thread for what the page asks beside answers, and no more than QUEUE requests that wait for it."""

    def __init__(self) -> None:
        self._worker = Worker[Callable[[], bytes], bytes](lambda asked: [one() for one in asked], batch=1, wait=0)
        self._waiting, self._works = 0, False

    async def ask(self, work: Callable[[], bytes]) -> bytes:
        if self._waiting >= QUEUE:
            raise busy()
        if not self._works:
            self._worker.start()
            self._works = True
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._worker.submit(work))
        finally:
            self._waiting -= 1
