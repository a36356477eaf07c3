"""The routes of a server around one model, as a FastAPI application.

    app = make_app(regraft.load("runs/photos"), Settings())

It can stand in any ASGI server; `regraft.serve.run` starts it in one that also keeps slow clients to their deadlines.
"""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.fitted import Fitted
from regraft.fitted_pixels import FittedPixels
from regraft.progress import Progress, Silent
from regraft.serve import schemas
from regraft.serve.body import Part, boundary_of, parts_of
from regraft.serve.guard import Guard
from regraft.serve.metrics import CONTENT_TYPE, Meters
from regraft.serve.models import Fields, model_of
from regraft.serve.page import add_page
from regraft.serve.refusal import Refused
from regraft.serve.service import Service, unless_gone
from regraft.serve.settings import Settings

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": text}
    for status, text in {
        400: "No request of this kind.",
        401: "The token is missing or wrong.",
        403: "Another site asks, or under a name that is not ours.",
        408: "The request did not arrive in time.",
        413: "More bytes, pixels or images than allowed.",
        415: "No image that can be read.",
        422: "The image is damaged, or an argument is out of range.",
        503: "Too much to do, or about to end; Retry-After says when to come again.",
    }.items()
}


def make_app(fitted: Fitted | FittedPixels, settings: Settings, progress: Progress = Silent()) -> FastAPI:
    """The server of a fitted model or a pretrained network; `progress` is told what its engine is.

    `app.state.service` is what answers: it starts and stops with the application. Raises SavedModelRefused where the folder of
    the run was damaged since it was loaded.
    """
    app = app_of(Service(model_of(fitted, settings), settings, progress))
    add_page(app, fitted)
    return app


def app_of(service: Service) -> FastAPI:
    """The routes around a service that is not yet started."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(
        title="regraft",
        version="1",
        summary="Answers of one model for images.",
        lifespan=lifespan,
        # The pages of documentation that FastAPI brings load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_middleware(Guard, settings=service.settings)
    app.add_middleware(_Measured, meters=service.meters)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(RequestValidationError, _invalid)
    _add_predict(app, service)
    _add_about(app, service)
    return app


def _add_predict(app: FastAPI, service: Service) -> None:
    @app.post(
        "/predict",
        responses={**_ERRORS, 200: {"model": schemas.ImageAnswer | schemas.PixelsAnswer | schemas.SeveralAnswers}},
        openapi_extra=schemas.IMAGE_BODY,
        response_class=JSONResponse,
    )
    async def predict(request: Request, top_k: Annotated[int, Query(ge=1, le=100_000)] = 5) -> JSONResponse:
        """Say what is on an image: the body is the file itself, or a multipart body with one or several."""
        boundary = boundary_of(request.headers.get("content-type", ""))
        async with service.taking(request) as body:
            if boundary is None:
                return JSONResponse(await unless_gone(request, service.answer(body, top_k)))
            parts = await service.on_thread(parts_of, body, boundary, service.settings.max_images)
            return JSONResponse(await unless_gone(request, _several(service, parts, top_k)))


async def _several(service: Service, parts: list[Part], top_k: int) -> Fields:
    if len(parts) == 1:
        return await service.answer(parts[0].data, top_k)
    results = []
    for part in parts:
        try:
            results.append({"name": part.name, **await service.answer(part.data, top_k)})
        except Refused as refused:
            results.append({"name": part.name, "status": "failed", **refused.fields()})
    return {"results": results}


def _add_about(app: FastAPI, service: Service) -> None:
    about = {**service.model.describe(), "limits": {"bytes": service.settings.max_bytes, "pixels": service.settings.max_pixels}}

    @app.get("/model", responses={200: {"model": schemas.ModelAnswer}, 401: _ERRORS[401]})
    async def model() -> JSONResponse:
        """What model this is."""
        return JSONResponse(about)

    @app.get("/healthz", responses={200: {"model": schemas.Health}})
    async def healthz() -> JSONResponse:
        """Whether the process lives."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", responses={200: {"model": schemas.Health}, 503: {"model": schemas.Health}})
    async def readyz() -> JSONResponse:
        """Whether the model is there and answers a known image as it did at the start."""
        ready = await service.is_ready()
        return JSONResponse({"status": "ready" if ready else service.state}, 200 if ready else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, 401: _ERRORS[401]})
    async def metrics() -> Response:
        """Counters in the text format of Prometheus."""
        return Response(service.meters.text(), media_type=CONTENT_TYPE)


async def _not_found(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers: Mapping[str, str] = (error.headers if isinstance(error, HTTPException) else None) or {}
    codes = {404: ("not_found", "there is nothing here"), 405: ("method_not_allowed", "this cannot be asked in that way")}
    code, message = codes.get(status, ("bad_request", "the request cannot be understood"))
    return Refused(status, code, message, headers).response()


async def _invalid(_: Request, error: Exception) -> Response:
    return Refused(422, "bad_argument", "top_k has to be a whole number of 1 or more").response()


class _Measured:
    """ASGI middleware around everything: counts requests by route and status."""

    def __init__(self, app: ASGIApp, *, meters: Meters) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._meters.answered(route, status, time.perf_counter() - start)
