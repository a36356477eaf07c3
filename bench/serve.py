"""The server under load: are its answers those of `predict`, does its memory stay level, and what are batches worth.

python bench/serve.py RUN         the peer alone: a server as tutorials write it, one image at a time, in plain torch
"""

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import data as image_sets
import psutil
from figures import Bench, Row, fit, number
from measure import ROOT, BenchmarkFailed, Spread, run_process, spread

from regraft.fitted import Fitted
from regraft.inputs import expand_inputs
from regraft.saved import load_classifier

CLIENTS, HOSTILE = 16, 0.3
Answers = list[tuple[str, list[tuple[str, float]] | None]]


def serving(bench: Bench) -> list[Row]:
    """16 clients against `regraft serve` of a run on clipart, 30 % of their requests hostile; then good ones alone."""
    # All of it in a quick trial, too: a head that was fitted on a few images makes much of how engines round.
    data = image_sets.make("clipart", bench.data)
    fit(bench, data, "serve")
    run = bench.scratch / "runs" / data.name
    fitted = load_classifier(run)
    good = [one for one in offline(fitted, list(expand_inputs([str(data / "test")]).paths)) if one[1]]
    unusual = list(expand_inputs([str(image_sets.make("odd-images", bench.data))]).paths)[:: 8 if bench.quick else 1]
    odd = offline(fitted, [*unusual, *mutated(good, bench.scratch / "mutated", 24 if bench.quick else 200)])
    plan = {"clients": CLIENTS, "requests": 50 if bench.quick else 1000, "seed": 0, "good": good, "odd": odd}
    hostile, slope = under_fire(run, {**plan, "hostile": HOSTILE}, bench.scratch)
    alone = {**plan, "hostile": 0.0, "requests": 10 if bench.quick else 100}
    batched, single, plain = [], [], []
    for _ in range(bench.pairs):
        batched.append(rate(serve_command(run), alone, bench.scratch))
        single.append(rate(serve_command(run, "--no-batching"), alone, bench.scratch))
        plain.append(rate([sys.executable, str(ROOT / "bench/serve.py"), str(run)], alone, bench.scratch))
    return [*rows_of_faults(hostile, slope), *rows_of_speed(batched, single, plain)]


def rows_of_faults(found: dict[str, Any], slope: float) -> list[Row]:
    """What came of the hostile load."""
    also = {
        "requests": f"{found['requests']:,}",
        "sent away with 503": str(found["busy"]),
        "good ones p50": f"{number(found['p50_ms'])} ms",
        "p99": f"{number(found['p99_ms'])} ms",
    }
    unit = " MB per 1,000 requests"
    lost = found["errors_5xx"] + found["unanswered"]
    what = f"answers unlike those offline (another class, or 1e-5 in probability), {CLIENTS} clients, 30 % hostile"
    return [
        Row(what=what, measured=one(found["wrong"]), at_most=0, also=also),
        Row(
            what="answers 5xx but 503, and requests without one",
            measured=one(lost),
            at_most=0,
        ),
        Row(
            what="growth of memory after a fifth more such requests",
            measured=one(slope),
            at_most=1,
            unit=unit,
        ),
    ]


def rows_of_speed(batched: Sequence[Any], single: Sequence[Any], plain: Sequence[Any]) -> list[Row]:
    """Requests per second beside a server that shows the network one image at a time."""
    said = {
        "with batches": told(batched),
        "`--no-batching`": told(single),
        "one at a time in plain torch": told(plain),
        "batches against `--no-batching` on the same engine": f"{number(middle(batched, 'rate') / middle(single, 'rate'))} x",
    }
    ratios = [ours["rate"] / theirs["rate"] for ours, theirs in zip(batched, plain, strict=True)]
    what = f"requests per second with {CLIENTS} clients, as a multiple of a server that answers one at a time in plain torch"
    return [Row(what=what, measured=spread(ratios), at_least=3, unit=" x", also=said)]


def one(value: float) -> Spread:
    """A single figure."""
    return spread([float(value)])


def middle(found: Sequence[dict[str, Any]], name: str) -> float:
    """The median of some runs."""
    return spread([line[name] for line in found]).centre


def told(found: Sequence[dict[str, Any]]) -> str:
    """'160 requests/s, p50 90 ms, p99 130 ms'."""
    rate_, p50, p99 = (number(middle(found, name)) for name in ("rate", "p50_ms", "p99_ms"))
    return f"{rate_} requests/s, p50 {p50} ms, p99 {p99} ms"


def offline(fitted: Fitted, paths: Sequence[str]) -> Answers:
    """What `predict` says of each file; None: it cannot be read."""
    answers = fitted.predict(paths, top_k=len(fitted.classes))
    return [(path, list(answer.top) if answer.status == "ok" else None) for path, answer in zip(paths, answers, strict=True)]


def mutated(good: Answers, folder: Path, count: int) -> list[str]:
    """Good files, each damaged somewhere."""
    sys.path[:0] = [str(ROOT / "tests")]
    from faults.mutate_images import mutate

    folder.mkdir()
    files = [Path(path).read_bytes() for path, _ in good]
    for seed in range(count):
        (folder / f"{seed}.png").write_bytes(mutate(files[seed % len(files)], files[seed * 7919 % len(files)], seed))
    return [str(path) for path in sorted(folder.iterdir())]


def serve_command(run: Path, *flags: str) -> list[str]:
    """The server of a run on any free port."""
    return [sys.executable, "-m", "regraft", "serve", str(run), "--port", "0", "--json", *flags]


@contextmanager
def server(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process and its address. Raises BenchmarkFailed."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise BenchmarkFailed(f"`{' '.join(command[1:])}` did not start")
        yield process, json.loads(line)["address"]
    finally:
        process.terminate()
        process.wait(timeout=30)


def clients(plan: dict[str, Any], address: str, scratch: Path) -> dict[str, Any]:
    """One load from a process of its own."""
    path = scratch / "plan.json"
    path.write_text(json.dumps({**plan, "address": address}))
    return run_process([sys.executable, str(ROOT / "bench/load.py"), str(path)]).line


def rate(command: Sequence[str], plan: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """A short load that is not counted, then the one that is."""
    with server(command) as (_, address):
        clients({**plan, "requests": 3}, address, scratch)
        found = clients(plan, address, scratch)
    if found["wrong"] or found["errors_5xx"] or found["unanswered"]:
        raise BenchmarkFailed(f"wrong answers under a good load: {found}")
    return found


def under_fire(run: Path, plan: dict[str, Any], scratch: Path) -> tuple[dict[str, Any], float]:
    """The hostile load, and the MB that the server gained per 1,000 requests, by a straight line; it was warm before."""
    with server(serve_command(run)) as (process, address):
        # What the C library keeps for decoding many sizes on many threads is there after some hundred of them.
        clients({**plan, "seed": 1, "requests": plan["requests"] // 5}, address, scratch)
        seen: list[tuple[float, float]] = []
        done = threading.Event()
        watching = threading.Thread(target=watch, args=(process.pid, seen, done))
        watching.start()
        try:
            found = clients(plan, address, scratch)
        finally:
            done.set()
            watching.join()
    per_second = slope_of(seen) if len(seen) > 2 else 0.0
    print(
        f"hostile load: {found['statuses']}; {found['examples']}; memory {seen[0][1]:.0f} to {seen[-1][1]:.0f} MB", flush=True
    )
    return found, per_second * 1000 / found["rate"]


def watch(pid: int, seen: list[tuple[float, float]], done: threading.Event) -> None:
    """Seconds and megabytes, twice a second."""
    process = psutil.Process(pid)
    while not done.wait(0.5):
        seen.append((time.perf_counter(), process.memory_info().rss / 1e6))


def slope_of(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line through points with the smallest squared error."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / sum((x - middle_x) ** 2 for x, _ in points)


def tutorial_server(run: str) -> None:
    """What tutorials write: FastAPI, one image a call, the network in plain torch."""
    import torch
    import uvicorn
    from fastapi import FastAPI, Request

    from regraft.backbone.features import FromPixels
    from regraft.data.decode import load_pixels

    fitted = load_classifier(run)
    preprocess = fitted.backbone.preprocess
    network, lock, app = FromPixels(fitted.to_torch(), preprocess).eval(), threading.Lock(), FastAPI()

    def answer(body: bytes) -> dict[str, Any]:
        pixels = torch.from_numpy(load_pixels(body, preprocess))[None]
        with lock, torch.inference_mode():
            shares = network(pixels).double().softmax(dim=1)[0].tolist()
        top = sorted(zip(fitted.classes, shares, strict=True), key=lambda pair: -pair[1])[:5]
        return {"predictions": [{"class": name, "probability": share} for name, share in top]}

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        from starlette.concurrency import run_in_threadpool

        return await run_in_threadpool(answer, await request.body())

    port = random.randrange(20_000, 30_000)
    threading.Timer(1.0, lambda: print(json.dumps({"address": f"http://127.0.0.1:{port}"}), flush=True)).start()
    uvicorn.run(app, port=port, log_level="error")


if __name__ == "__main__":
    tutorial_server(sys.argv[1])
