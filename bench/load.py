"""Many clients at once against a server on the loopback, good ones and hostile ones; one line of JSON on standard output.

    python bench/load.py PLAN.json

The plan: `address`, `clients`, `requests` (of each client), `hostile` (the share of them), `seed`, `good`: files with their
answers offline, `odd`: the same for unusual, broken and mutated ones, whose answer may be null: refused. Every answer is
compared with the one offline.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAUSE = 0.05
CLOSE_TO = 1e-5
LIMIT = 32 * 2**20
# Wrong on purpose, and what has to come back.
WRONG: tuple[tuple[str, dict[str, str], tuple[int, ...]], ...] = (
    ("host", {"Host": "evil.com"}, (403,)),
    ("origin", {"Origin": "null"}, (403,)),
    ("encoding", {"Content-Encoding": "gzip"}, (415,)),
    ("length", {"Content-Length": "-5"}, (400,)),
    ("two lengths", {"Content-Length": "3\r\nContent-Length: 4"}, (400,)),
)


@dataclass
class Found:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    busy: int = 0


class Client:
    """One connection, opened again whenever the server has closed it."""

    def __init__(self, plan: dict[str, Any], number: int, found: Found) -> None:
        host, port = plan["address"].removeprefix("http://").rsplit(":", 1)
        self._host, self._port, self._plan, self._found = host, int(port), plan, found
        self._random = random.Random(f"{plan['seed']} {number}")
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        hostile: list[Callable[[], Awaitable[None]]] = [self._odd, self._odd, self._oversized, self._slow, self._headers]
        for _ in range(self._plan["requests"]):
            kind = self._random.choice(hostile) if self._random.random() < self._plan["hostile"] else self._good
            await kind()
        await self._close()

    async def _good(self) -> None:
        path, expected = self._random.choice(self._plan["good"])
        start = time.perf_counter()
        status, body = await self._ask([self._request(Path(path).read_bytes())])
        self._found.seconds.append(time.perf_counter() - start)
        self._judge("good", path, status, body, expected)

    async def _odd(self) -> None:
        path, expected = self._random.choice(self._plan["odd"])
        status, body = await self._ask([self._request(Path(path).read_bytes())])
        self._judge("odd", path, status, body, expected)

    async def _oversized(self) -> None:
        status, _ = await self._ask([self._request(b"x" * 100_000, {"Content-Length": str(LIMIT + 1)})])
        self._expect("oversized", status, (413,))

    async def _slow(self) -> None:
        path, expected = self._random.choice(self._plan["good"])
        whole = self._request(Path(path).read_bytes())
        step = -(-len(whole) // 6)
        status, body = await self._ask([whole[at : at + step] for at in range(0, len(whole), step)], pause=PAUSE)
        self._judge("slow", path, status, body, expected)

    async def _headers(self) -> None:
        name, headers, expected = self._random.choice(WRONG)
        status, _ = await self._ask([self._request(b"abc", headers)])
        self._expect(f"wrong {name}", status, expected)

    def _expect(self, kind: str, status: int, expected: tuple[int, ...]) -> None:
        self._found.statuses[f"{kind} {status}"] += 1
        if status not in (*expected, 503):
            self._found.wrong.append(f"{kind}: {status} in place of {expected}")

    def _judge(self, kind: str, path: str, status: int, body: bytes, expected: list[tuple[str, float]] | None) -> None:
        self._found.statuses[f"{kind} {status}"] += 1
        if status == 503:
            self._found.busy += 1
        elif expected is None:
            if not 400 <= status < 500:
                self._found.wrong.append(f"{path}: {status} for what cannot be read")
        elif status != 200 or not _same(json.loads(body), expected):
            self._found.wrong.append(f"{path}: {status} {body[:200].decode(errors='replace')}, offline {expected[:1]}")

    def _request(self, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        given = {"Host": f"{self._host}:{self._port}", "Content-Length": str(len(body)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        return f"POST /predict HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body

    async def _ask(self, pieces: list[bytes], pause: float = 0.0) -> tuple[int, bytes]:
        """Status and body of the answer; once more where the server had closed the connection meanwhile."""
        for attempt in range(3):
            fresh = self._writer is None
            try:
                reader, writer = await self._open()
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    if pause:
                        await asyncio.sleep(pause)
                return await self._hear(reader)
            except (ConnectionError, asyncio.IncompleteReadError):
                await self._close()
                if fresh and attempt:
                    break
        return 0, b""

    async def _hear(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        lines = head.split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        if fields.get("connection") == "close":
            await self._close()
        return int(lines[0].split()[1]), body

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self._reader, self._writer

    async def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


def _same(answer: dict[str, Any], expected: list[tuple[str, float]]) -> bool:
    """The same best class, and probabilities as offline, best first: classes that are equally likely may change places."""
    said = [(one["class"], one["probability"]) for one in answer["predictions"]]
    close = all(abs(ours[1] - theirs[1]) <= CLOSE_TO for ours, theirs in zip(said, expected, strict=False))
    return bool(said) and said[0][0] == expected[0][0] and close


async def load(plan: dict[str, Any]) -> dict[str, Any]:
    """Run all clients; what they found."""
    found = Found()
    start = time.perf_counter()
    await asyncio.gather(*(Client(plan, number, found).run() for number in range(plan["clients"])))
    seconds = time.perf_counter() - start
    ordered = sorted(found.seconds) or [0.0]
    total = sum(found.statuses.values())
    return {
        "requests": total,
        "seconds": seconds,
        "rate": total / seconds,
        "wrong": len(found.wrong),
        "examples": found.wrong[:5],
        "errors_5xx": sum(count for name, count in found.statuses.items() if name[-3] == "5" and not name.endswith("503")),
        "unanswered": sum(count for name, count in found.statuses.items() if name.endswith(" 0")),
        "busy": found.busy,
        "p50_ms": 1000 * ordered[len(ordered) // 2],
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "statuses": dict(sorted(found.statuses.items())),
    }


def main() -> None:
    """Read the plan, run it, print one line."""
    print(json.dumps(asyncio.run(load(json.loads(Path(sys.argv[1]).read_text())))))


if __name__ == "__main__":
    main()
