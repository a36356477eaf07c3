"""A model at work: bytes of an image in, what is answered out, with a bound on how much is under way at once."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, TypeVar

from starlette.requests import Request

from regraft.cache.stream import decoding_threads
from regraft.progress import Progress, Silent
from regraft.serve.body import Bodies
from regraft.serve.metrics import Meters
from regraft.serve.models import Fields, Model
from regraft.serve.refusal import Gone, Refused, busy
from regraft.serve.settings import Settings
from regraft.serve.worker import Worker

State = Literal["starting", "ready", "stopping", "failed"]
Result = TypeVar("Result")
# A self-test is good for so many seconds: whoever looks often costs no more than that.
_FRESH = 1.0


class Service:
    """Starts with `start`, ends with `stop`; `started` holds None once it can answer, or what kept it from that."""

    def __init__(self, model: Model, settings: Settings, progress: Progress = Silent()) -> None:
        self.model, self.settings, self.meters = model, settings, Meters()
        self.state: State = "starting"
        self.started: Future[None] = Future()
        # Requests that wait for an answer, and those of them whose body is there.
        self.visitors = self.under_way = 0
        self._progress, self._bodies = progress, Bodies(settings)
        self._decoders = ThreadPoolExecutor(decoding_threads(), thread_name_prefix="decode")
        self._worker: Worker[Any, Any] = Worker(
            model.run,
            batch=model.batch,
            wait=settings.batch_wait if model.batch > 1 else 0.0,
            coming=lambda: self.under_way,
            ran=self.meters.ran,
        )
        self._tested: tuple[float, bool] = (0.0, False)
        self._reference: Any = None

    def start(self) -> None:
        """Make ready on a thread of its own; requests that come before wait for it."""
        threading.Thread(target=self._start, name="start", daemon=True).start()

    def _start(self) -> None:
        try:
            self.model.prepare(self._progress.note)
            self._worker.start(self.model.threads)
            self._reference = self._worker.submit(self.model.probe()).result()
            if not self.model.same(self._reference, self._reference):
                raise ArithmeticError("the model answers its self-test with what is no number")
        except BaseException as error:
            self.state = "failed"
            self.started.set_exception(error)
            return
        if self.state == "starting":
            self.state = "ready"
        self.started.set_result(None)

    def leave(self) -> None:
        """Take no more requests; those under way are answered."""
        self.state = "stopping"

    def stop(self) -> None:
        """End the threads."""
        self.leave()
        if self.started.done() and not self.started.exception():
            self._worker.stop()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def taking(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request that is worked on as long as this is open. Raises Refused, and Gone."""
        with self._visit():
            async with self._bodies.read(request) as body:
                with self._slot():
                    yield body

    @contextmanager
    def _visit(self) -> Iterator[None]:
        """From the head of a request to its answer. Raises Refused where it would find no place now."""
        self._check_open()
        self._check_room()
        self.visitors += 1
        try:
            yield
        finally:
            self.visitors -= 1

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """A place among the requests that are worked on, for one whose body is there. Raises Refused where there is none."""
        self._check_room()
        self.under_way += 1
        self.meters.under_way.set(self.under_way)
        try:
            yield
        finally:
            self.under_way -= 1
            self.meters.under_way.set(self.under_way)

    def _check_open(self) -> None:
        if self.state == "stopping":
            raise Refused(503, "stopping", "the server is about to end", {"retry-after": "5", "connection": "close"})
        if self.state == "failed":
            raise Refused(503, "not_ready", "the model cannot answer", {"retry-after": "60"})

    def _check_room(self) -> None:
        if self.under_way >= self.settings.queue:
            raise busy()

    async def answer(self, data: bytes, top_k: int) -> Fields:
        """What `regraft predict --json` says of the image, less its path. Raises Refused."""
        item = await self.on_thread(self.model.decode, data)
        answer = await asyncio.wrap_future(self._worker.submit(item))
        fields: Fields = await self.on_thread(self.model.fields, answer, top_k)
        return fields

    async def on_thread(self, function: Any, *arguments: Any) -> Any:
        """The result of a function that takes a while, from one of the decoding threads."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)

    async def is_ready(self) -> bool:
        """Whether a known image is answered as at the start."""
        if self.state != "ready":
            return False
        made, good = self._tested
        if time.monotonic() - made > _FRESH:
            now = await asyncio.wrap_future(self._worker.submit(self.model.probe()))
            good = self.model.same(self._reference, now)
            self._tested = time.monotonic(), good
        return good and self.state == "ready"


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is dropped as soon as the client hangs up: then raises Gone."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
