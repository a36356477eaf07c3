"""Answers over HTTP: those of `predict`, alone and in batches, with whatever beside them; what the server says of itself."""

import base64
import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from faults.hostile_images import hostile
from faults.mkimages import valid
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from servers import CLASSES, Running, Slow, classifier, close_to, png, segmenter, serving
from starlette.testclient import TestClient

from regraft.errors import ImageRejected
from regraft.fitted import Fitted
from regraft.serve import engine, schemas
from regraft.serve.app import app_of
from regraft.serve.service import Service
from regraft.serve.settings import Settings
from regraft.serve.worker import Worker
from regraft.values import Prediction

# Nothing of the machine: no path, no address in memory, no name of a class of Python or of a library.
TELLTALE = re.compile(r"(?i)/\w+/|0x[0-9a-f]{4}|traceback|\wError\b|pillow|\bPIL\b|torch|uvicorn|fastapi|starlette|\.py\b")

NO_FILE = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return classifier()


@pytest.fixture(scope="module")
def running(fitted: Fitted) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "find_spec", lambda name: None)  # converting for OpenVINO takes longer than all that is asked
        with serving(fitted, max_pixels=10**6) as found:
            yield found


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[httpx.Client]:
    with running.client() as found:
        yield found


@pytest.fixture(scope="module")
def pictures(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, Prediction]]:
    """Sound files of many kinds and their answers offline."""
    root = tmp_path_factory.mktemp("pictures")
    files = [*(case.data for case in valid()[::9]), *(png(seed) for seed in range(24))]
    paths = [root / f"{number}.png" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    answers = fitted.predict(paths, top_k=len(CLASSES))
    assert all(answer.status == "ok" for answer in answers)
    return list(zip(files, answers, strict=True))


def ask_at_once(running: Running, bodies: list[bytes], clients: int = 16) -> list[httpx.Response]:
    with running.client(limits=httpx.Limits(max_connections=clients)) as client, ThreadPoolExecutor(clients) as pool:
        return list(pool.map(lambda body: client.post("/predict?top_k=4", content=body), bodies))


def test_sixteen_clients_get_what_predict_says_with_broken_images_between(
    running: Running, pictures: list[tuple[bytes, Prediction]]
) -> None:
    broken = [file.data for file in hostile() if len(file.data) < 200_000][::3]
    mixed = [item for pair in zip(pictures, broken, strict=False) for item in ((pair[0][0], pair[0][1]), (pair[1], None))]
    before = running.service.meters.text()
    for (_, expected), answer in zip(mixed, ask_at_once(running, [data for data, _ in mixed]), strict=True):
        if expected is None:
            assert 400 <= answer.status_code < 500
        else:
            assert answer.status_code == 200, answer.text
            assert close_to(answer.json(), expected.top)
            assert answer.json()["abstained"] == expected.abstained
    batches = [counted(text)["regraft_batch_images_count"] for text in (before, running.service.meters.text())]
    assert batches[1] - batches[0] < sum(expected is not None for _, expected in mixed), "no two images went together"


@pytest.mark.parametrize("batching", [True, False])
def test_openvino_gives_the_same_in_batches_side_by_side_and_one_at_a_time(
    batching: bool, fitted: Fitted, pictures: list[tuple[bytes, Prediction]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(engine, "find_spec", find_spec)
    # Whatever the clock says, the other engine is taken where its answers are the same.
    monkeypatch.setattr(engine, "TorchEngine", _slow_torch())
    with serving(fitted, batching=batching) as one:
        assert one.service.model.batch == (8 if batching else 1)
        assert one.service.model.threads == one.service.model._engine.streams  # type: ignore[attr-defined]
        assert "OpenVino" in str(one.service.model._engine)
        for (_, expected), answer in zip(pictures, ask_at_once(one, [data for data, _ in pictures]), strict=True):
            assert close_to(answer.json(), expected.top)


def _slow_torch() -> Any:
    import time

    from regraft.cache.engines import TorchEngine

    class SlowTorch(TorchEngine):
        def run(self, pixels: Any) -> Any:
            time.sleep(0.2)
            return super().run(pixels)

    return SlowTorch


@pytest.mark.parametrize("file", [one for one in hostile() if len(one.data) < 10**6][::4], ids=lambda one: one.name)
def test_broken_images_are_refused_by_code_and_nothing_else_is_told(client: httpx.Client, file: Any) -> None:
    answer = client.post("/predict", content=file.data)
    assert 400 <= answer.status_code < 500
    error = answer.json()["error"]
    assert error["code"] == {"too_many_pixels": "image_too_large"}.get(file.code, file.code)
    assert not TELLTALE.search(answer.text)
    assert not TELLTALE.search(str(answer.headers))


def test_a_limit_of_pixels_is_met_before_anything_is_decoded(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("regraft.serve.models.load_pixels", decode)
    buffer = io.BytesIO()
    Image.new("L", (1001, 1000)).save(buffer, "PNG")
    answer = client.post("/predict", content=buffer.getvalue())
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "image_too_large")


def test_a_form_gives_what_a_raw_body_gives_and_each_of_several_fails_alone(client: httpx.Client) -> None:
    good, other = png(1), png(2)
    raw = client.post("/predict?top_k=2", content=good).json()
    assert len(raw["predictions"]) == 2
    assert client.post("/predict?top_k=2", files={"image": ("a.png", good)}, data={"note": "x"}).json() == raw
    files = [("image", ("a.png", good)), ("image", ("<img src=x>.png", b"no image")), ("other", ("b.png", other))]
    results = client.post("/predict?top_k=2", files=files).json()["results"]
    assert results[0] == {"name": "a.png", **raw}
    assert (results[1]["name"], results[1]["status"], results[1]["error"]["code"]) == (
        "<img src=x>.png",
        "failed",
        "not_an_image",
    )
    assert results[2] == {"name": "b.png", **client.post("/predict?top_k=2", content=other).json()}
    schemas.SeveralAnswers.model_validate({"results": results})


@pytest.mark.parametrize(
    ("kind", "body", "status", "code"),
    [
        ("multipart/form-data; boundary=x", b"--x\r\n", 400, "bad_multipart"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n',
            400,
            "empty",
        ),
        ("multipart/form-data", b"--x--\r\n", 400, "bad_multipart"),
        ("multipart/mixed; boundary=x", b"--x--\r\n", 400, "bad_multipart"),
        ("multipart/form-data; boundary=" + "x" * 300, b"--x--\r\n", 400, "bad_multipart"),
        ("text/plain", b"", 400, "empty"),
    ],
)
def test_bodies_that_cannot_be_taken_apart(client: httpx.Client, kind: str, body: bytes, status: int, code: str) -> None:
    answer = client.post("/predict", content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_no_more_images_at_once_than_allowed(client: httpx.Client, running: Running) -> None:
    files = [("image", (f"{number}.png", b"x")) for number in range(running.service.settings.max_images + 1)]
    answer = client.post("/predict", files=files)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_images")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/predict", 405, "method_not_allowed"),
        ("POST", "/predict?top_k=0", 422, "bad_argument"),
        ("POST", "/predict?top_k=many", 422, "bad_argument"),
        ("GET", "/predict/http://127.0.0.1/x", 404, "not_found"),
        ("GET", "/model/..%2f..%2fetc%2fpasswd", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/model%00", 404, "not_found"),
        ("GET", "/" + "a" * 8000, 404, "not_found"),
        ("DELETE", "/model", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there(client: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_class_of_every_pixel(tmp_path: Path) -> None:
    fitted, data = segmenter(), png(7, 90)
    (tmp_path / "a.png").write_bytes(data)
    offline = fitted.predict([tmp_path / "a.png"])[0]
    assert offline.labels_HW is not None
    assert len(np.unique(offline.labels_HW)) > 1
    with serving(fitted) as running, running.client() as client:
        answer = client.post("/predict", content=data).json()
        about = client.get("/model").json()
    schemas.PixelsAnswer.model_validate(answer)
    with Image.open(io.BytesIO(base64.b64decode(answer["mask"]))) as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), offline.labels_HW)
        assert mask.getpalette()[:9] == [level for colour in answer["colours"] for level in colour]  # type: ignore[index]
    assert (answer["height"], answer["width"]) == offline.labels_HW.shape
    assert [(one["class"], pytest.approx(one["share"], abs=1e-6)) for one in answer["shares"]] == list(offline.shares)
    assert (about["task"], about["classes"]) == ("semantic", ["background", "cat", "dog"])


def test_the_model_and_its_interface_are_described(client: httpx.Client, running: Running) -> None:
    about = client.get("/model").json()
    schemas.ModelAnswer.model_validate(about)
    assert (about["classes"], about["abstains"], about["multi_label"]) == (list(CLASSES), True, False)
    assert about["limits"] == {"bytes": 32 * 2**20, "pixels": 10**6}
    schemas.ImageAnswer.model_validate(client.post("/predict", content=png(3)).json())
    document = client.get("/openapi.json").json()
    assert {"/predict", "/model", "/healthz", "/readyz", "/metrics"} <= set(document["paths"])
    assert document["openapi"].startswith("3.")
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        place: Any = document
        for step in reference.split("/"):
            place = place[step]
    answers = document["paths"]["/predict"]["post"]["responses"]
    assert {"200", "400", "413", "415", "422", "503"} <= set(answers)
    assert "multipart/form-data" in document["paths"]["/predict"]["post"]["requestBody"]["content"]


def counted(text: bytes) -> dict[str, float]:
    """Sums over labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_requests_are_counted_by_route_and_not_by_what_was_asked_for(client: httpx.Client) -> None:
    before = counted(client.get("/metrics").content)
    client.post("/predict", content=png(4))
    client.post("/predict", content=b"no image")
    client.get("/made-up-12345")
    answer = client.get("/metrics")
    after = counted(answer.content)
    assert after["regraft_images_total"] - before["regraft_images_total"] == 1
    assert after["regraft_requests_total"] - before["regraft_requests_total"] == 4
    assert after["regraft_requests_under_way"] == 0
    assert "made-up" not in answer.text
    assert 'regraft_requests_total{route="/predict",status="415"}' in answer.text


def test_a_server_is_ready_while_it_answers_as_at_the_start(running: Running, client: httpx.Client) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    model, before = running.service.model, running.service._reference
    running.service._reference, running.service._tested = before + 1e-3 * np.arange(len(before)), (0.0, False)
    try:
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert client.get("/healthz").status_code == 200
    finally:
        running.service._reference, running.service._tested = before, (0.0, False)
    assert model.same(before, before)
    assert client.get("/readyz").status_code == 200


def test_alive_and_not_ready_while_the_model_is_made_ready() -> None:
    slow = Slow()
    slow.prepared.clear()
    with serving(slow) as running, running.client() as client:
        assert client.get("/healthz").status_code == 200
        assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (503, {"status": "starting"})
        slow.prepared.set()
        assert client.post("/predict", content=b"waits").json()["body"] == "waits"
        running.service.started.result(timeout=5)
        assert client.get("/readyz").status_code == 200


def test_a_model_that_cannot_answer_never_gets_ready() -> None:
    class Broken(Slow):
        def prepare(self, note: Any) -> None:
            raise ImageRejected(code="x", expected="y", got="z", fix="w")

    service = Service(Broken(), Settings())
    with TestClient(app_of(service), base_url="http://127.0.0.1") as client:
        assert isinstance(service.started.exception(timeout=5), ImageRejected)
        assert client.get("/readyz").status_code == 503
        assert client.post("/predict", content=b"x").status_code == 503


def test_a_mistake_of_ours_is_told_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Slow()) as running, running.client() as client:
        answer = client.post("/predict", content=b"bad one")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
        assert not TELLTALE.search(answer.text)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.post("/predict", content=b"good").status_code == 200


def test_an_item_that_fails_fails_alone_and_a_dropped_one_is_not_run() -> None:
    ran: list[list[int]] = []

    def run(items: Any) -> list[int]:
        ran.append(list(items))
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]

    worker: Worker[int, int] = Worker(run, batch=4, wait=0)
    answers = [worker.submit(item) for item in (1, 13, 2, 3, 4, 5)]
    assert answers[4].cancel()
    worker.start()
    worker.stop()
    assert [answers[place].result() for place in (0, 2, 3, 5)] == [2, 4, 6, 10]
    assert isinstance(answers[1].exception(), ValueError)
    assert ran[0] == [1, 13, 2, 3]
    assert ran[-1] == [5]


def test_waiting_for_a_batch_ends_when_it_is_full_or_nobody_is_coming() -> None:
    sizes: list[int] = []
    worker: Worker[int, int] = Worker(
        lambda items: list(items), batch=3, wait=30.0, coming=lambda: coming, ran=lambda images, _: sizes.append(images)
    )
    coming = 1
    worker.start()
    worker.submit(1).result(timeout=5)
    coming = 9
    first = [worker.submit(item) for item in (1, 2, 3)]
    assert [one.result(timeout=5) for one in first] == [1, 2, 3]
    worker.submit(4)
    worker.stop()
    assert sizes == [1, 3, 1]
