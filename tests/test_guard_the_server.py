"""Who may ask a server, and how long and how much: other sites, slow and idle clients, bodies that lie about their size."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from itertools import product

import pytest
from quick import takes_at_most
from servers import Running, Slow, hear, post, serving, status

from regraft.errors import UsageError
from regraft.serve.guard import check_host
from regraft.serve.refusal import Refused
from regraft.serve.settings import Settings, is_loopback

TOKEN = "0123456789abcdef-secret"
LIMIT = 100_000
# Seconds: much longer than anything at once takes on a slow machine, shorter than what would be waited for (5 s).
PROMPT = 4.5
ALLOWED = ("localhost", "127.0.0.1", "[::1]", "LOCALHOST:8000", "127.0.0.1:65535", "[::1]:80", "models.example", "127.0.0.9")
FOREIGN = (
    "evil.com", "", "localhost.evil.com", "127.0.0.1.nip.io", "localhost:8000:1", "localhost:x", "[::1]x", "localhost.",
    "0.0.0.0", "[::1", "user@localhost", "127.0.0.1 evil.com", "models.example.evil.com", "169.254.1.1",
)  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving(Slow(), max_bytes=LIMIT, allow_hosts=("models.example",)) as found:
        yield found


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with serving(Slow(), token=TOKEN) as found:
        yield found


def told(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer, which has the headers of security and none for other origins."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lowered = head.lower()
    assert b"x-content-type-options: nosniff" in lowered
    assert b"content-security-policy: default-src 'none'" in lowered
    assert b"access-control" not in lowered
    assert b"\r\nserver:" not in lowered
    return status(answer), json.loads(body)["error"]["code"] if status(answer) >= 400 else ""


def request(method: str, path: str, headers: dict[str, str | None]) -> bytes:
    """A request whose connection ends with its answer; a header that is None is left out."""
    given = {"Host": "127.0.0.1", "Connection": "close", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value is not None)
    body = b"image" if method == "POST" else b""
    return f"{method} {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode("latin-1") + body


def test_every_host_with_every_origin_method_and_token(running: Running, locked: Running) -> None:
    """A page of another site gets nothing, whatever it sends; what is not even sent to it, it cannot read."""
    origins: dict[str | None, bool] = {None: True, "SAME": True, "https://SAME": True}
    origins |= {"null": False, "http://evil.com": False, "http://127.0.0.1:1": False}
    wrong = f"Bearer {TOKEN[:-1]}T"
    tokens: dict[str | None, bool] = {None: False, f"Bearer {TOKEN}": True, wrong: False, f"Basic {TOKEN}": False, TOKEN: False}
    hosts, asked = ("127.0.0.1:8000", "localhost", "evil.com"), ("GET /model", "POST /predict")
    for host, origin, asking, token, server in product(hosts, origins, asked, tokens, (running, locked)):
        sent = origin and origin.replace("SAME", f"http://{host}" if "://" not in origin else host)
        headers = {"Host": host, "Origin": sent, "Authorization": token, "Cookie": f"token={TOKEN}"}
        answer = server.say(request(*asking.split(), headers))
        if host == "evil.com":
            expected = (403, "host_not_allowed")
        elif not origins[origin]:
            expected = (403, "origin_not_allowed")
        elif server is locked and not tokens[token]:
            expected = (401, "token_wanted")
        else:
            expected = (200, "")
        assert told(answer) == expected, (host, sent, asking, token)


@pytest.mark.parametrize("host", [*ALLOWED, *FOREIGN])
def test_only_names_of_this_machine_pass(running: Running, host: str) -> None:
    answer = running.say(request("GET", "/healthz", {"Host": host}))
    assert told(answer) == ((200, "") if host in ALLOWED else (403, "host_not_allowed"))


def test_where_others_may_ask_they_do_so_by_number_and_by_no_name_but_those_allowed() -> None:
    settings = Settings(host="0.0.0.0", token=TOKEN, allow_hosts=("models.example",))
    for host in ("192.168.1.7:8000", "[fe80::1]", "0.0.0.0:80", "models.example", "localhost"):
        assert check_host([(b"host", host.encode())], settings) == host
    for host in ("evil.com", "192.168.1.7.nip.io", "192.168.1", "[evil.com]"):
        with pytest.raises(Refused):
            check_host([(b"host", host.encode())], settings)


def test_a_host_has_to_be_named_once(running: Running) -> None:
    assert status(running.say(b"GET /healthz HTTP/1.1\r\n\r\n")) == 400
    assert status(running.say(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n")) == 400
    assert told(running.say(b"GET /healthz HTTP/1.0\r\n\r\n")) == (403, "host_not_allowed")


def test_other_sites_cannot_load_what_they_embed_and_may_link_to_the_page(running: Running) -> None:
    def asked(path: str, site: str, mode: str) -> tuple[int, str]:
        return told(running.say(request("GET", path, {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode})))

    assert asked("/model", "cross-site", "no-cors") == (403, "origin_not_allowed")
    assert asked("/model", "same-site", "cors") == (403, "origin_not_allowed")
    assert asked("/model", "cross-site", "navigate") == (403, "origin_not_allowed")
    assert asked("/model", "same-origin", "cors") == (200, "")
    assert asked("/model", "none", "navigate") == (200, "")
    assert asked("/", "cross-site", "navigate")[0] in (200, 404)
    assert asked("/", "cross-site", "no-cors") == (403, "origin_not_allowed")


def test_a_preflight_is_given_nothing(running: Running) -> None:
    headers: dict[str, str | None] = {"Origin": "http://evil.com", "Access-Control-Request-Method": "POST"}
    assert told(running.say(request("OPTIONS", "/predict", headers)))[0] == 403
    assert told(running.say(request("OPTIONS", "/predict", {}))) == (405, "method_not_allowed")


def test_a_token_is_wanted_for_all_but_signs_of_life(locked: Running) -> None:
    for path in ("/model", "/metrics", "/openapi.json", f"/model?token={TOKEN}", "/nothing", "/healthz/", "//healthz"):
        assert told(locked.say(request("GET", path, {}))) == (401, "token_wanted"), path
    for path in ("/healthz", "/readyz"):
        assert told(locked.say(request("GET", path, {}))) == (200, "")
    twice = request("GET", "/model", {"Authorization": f"Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}"})
    assert told(locked.say(twice)) == (401, "token_wanted")
    assert TOKEN not in repr(locked.service.settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "", "example.com", "localhost.evil.com"])
def test_others_are_let_in_with_a_token_alone(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(UsageError) as caught:
        Settings(host=host)
    assert "--token-file" in str(caught.value)
    assert Settings(host=host, token=TOKEN).host == host


@pytest.mark.parametrize("token", ["short", "with a blank in it....", "ümlaut-ümlaut-ümlaut", ""])
def test_tokens_that_can_be_guessed_or_not_be_sent_are_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings(token=token)
    assert not token or token not in str(caught.value)


# -- bodies


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (post(b"", length=LIMIT + 1), 413),
        (post(b"x" * 70_000, length=10 * LIMIT), 413),
        (post(b"x" * (2 * LIMIT)), 413),
        (post(b"x", {"Content-Length": "-1"}), 400),
        (post(b"x", {"Content-Length": "1" * 30}), 400),
        (post(b"x", {"Content-Length": "1\r\nContent-Length: 2"}), 400),
        (post(b"x", {"Content-Length": "one"}), 400),
        (post(b"x", {"Content-Encoding": "gzip"}), 415),
        (post(b"5\r\nimage\r\n0\r\n\r\n", {"Content-Length": "", "Transfer-Encoding": "chunked", "Connection": "close"}), 200),
        (post(b"%x\r\n" % (2 * LIMIT) + b"x" * 2 * LIMIT, {"Content-Length": "", "Transfer-Encoding": "chunked"}), 413),
        (post(b"zz\r\n", {"Content-Length": "", "Transfer-Encoding": "chunked"}), 400),
        (post(b"x", {"Content-Length": "", "Transfer-Encoding": "gzip"}), 501),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 414),
        (b"GET /x HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 30_000 + b"\r\n", 400),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else str(value),
)  # fmt: skip
def test_bodies_that_are_too_large_or_lie_about_it(running: Running, sent: bytes, expected: int) -> None:
    start = time.monotonic()
    answer = running.say(sent)
    assert status(answer) in (expected, 400 if expected == 501 else expected)
    if status(answer) >= 400:
        assert told(answer)
        assert b"connection: close" in answer.lower()
    assert time.monotonic() - start < PROMPT
    assert running.service._bodies.held == 0


def test_a_body_in_crumbs_is_not_taken_apart_to_its_end(running: Running) -> None:
    crumbs = b"6\r\n123456\r\n" * 15_000  # less than the limit in bytes
    head = post(b"", {"Content-Length": "", "Transfer-Encoding": "chunked"})
    takes_at_most(2, lambda: running.say(head + crumbs + b"0\r\n\r\n"))
    assert status(running.say(head + crumbs + b"0\r\n\r\n")) == 400


def test_a_client_that_waits_for_a_word_is_refused_before_it_sends(running: Running) -> None:
    assert status(running.say(post(b"", {"Expect": "100-continue"}, length=10**9))) == 413
    with running.connect() as connection:
        connection.sendall(post(b"", {"Expect": "100-continue", "Connection": "close"}, length=5))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(b"image")
        assert status(hear(connection)) == 200


def test_bodies_held_at_once_are_bounded() -> None:
    with serving(Slow(), max_bytes=LIMIT, memory=2 * LIMIT, body_wait=5.0) as running:
        held = [running.connect() for _ in range(3)]
        for connection in held[:2]:
            connection.sendall(post(b"x" * 90_000, length=LIMIT))
        until = time.monotonic() + PROMPT
        while running.service._bodies.held < 180_000 and time.monotonic() < until:
            time.sleep(0.01)
        held[2].sendall(post(b"x" * 90_000))
        assert status(hear(held[2])) == 503
        for connection in held[:2]:
            connection.sendall(b"x" * (LIMIT - 90_000))
            assert status(hear(connection, PROMPT)) == 200
            connection.close()


# -- time


def test_slow_and_idle_clients_are_let_go_and_good_ones_are_not_kept_waiting(running: Running) -> None:
    slow = {
        "nothing said": b"",
        "half a head": b"GET /healthz HTTP/1.1\r\nHost: loc",
        "half a body": post(b"x", length=1000),
        "idle after an answer": request("GET", "/healthz", {"Connection": "keep-alive"}),
    }
    ends: dict[str, float] = {}
    heard: dict[str, bytes] = {}

    def stay(name: str, said: bytes) -> None:
        with running.connect() as connection:
            connection.sendall(said)
            start = time.monotonic()
            connection.settimeout(5)
            heard[name] = hear(connection)
            ends[name] = time.monotonic() - start

    def drip() -> None:
        """A letter of a further request now and then keeps no connection open."""
        with running.connect() as connection:
            connection.sendall(request("GET", "/healthz", {"Connection": "keep-alive"}))
            start = time.monotonic()
            while time.monotonic() - start < 5:
                try:
                    connection.sendall(b"G" if time.monotonic() - start > 0.2 else b"")
                except OSError:
                    break
                time.sleep(0.1)
            ends["drip"] = time.monotonic() - start

    threads = [threading.Thread(target=stay, args=item) for item in slow.items()] + [threading.Thread(target=drip)]
    for thread in threads:
        thread.start()
    with running.client() as client:
        while any(thread.is_alive() for thread in threads):
            start = time.monotonic()
            assert client.post("/predict", content=b"good").status_code == 200
            assert time.monotonic() - start < PROMPT  # not kept waiting for those that are slow
            time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert all(0.3 < seconds < PROMPT for seconds in ends.values()), ends
    assert heard["nothing said"] == b""
    assert told(heard["half a head"]) == (408, "too_slow")
    assert told(heard["half a body"]) == (408, "too_slow")


def test_a_thousand_idle_connections_leave_room() -> None:
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2500:
        pytest.skip("too few open files are allowed here")
    with serving(Slow(), head_wait=30.0, connections=900) as running:
        idle = [running.connect() for _ in range(1000)]
        try:
            with running.client() as client:
                start = time.monotonic()
                for _ in range(20):
                    assert client.post("/predict", content=b"good").status_code == 200
                assert time.monotonic() - start < 20  # none waited until an idle one was let go
            assert len(running.server.server_state.connections) <= 901
            assert idle[0].recv(1) == b""  # the oldest made room
        except ConnectionResetError:
            pass
        finally:
            for connection in idle:
                connection.close()


def test_what_is_over_the_queue_is_sent_away_at_once_and_the_rest_is_answered() -> None:
    slow = Slow(0.15)
    with serving(slow, queue=4) as running, running.client() as client:
        running.service.started.result(timeout=5)
        answers: list[tuple[int, float, str | None]] = []

        def ask(number: int) -> None:
            start = time.monotonic()
            answer = client.post("/predict", content=b"image %d" % number)
            answers.append((answer.status_code, time.monotonic() - start, answer.headers.get("retry-after")))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        away = [(seconds, retry) for code, seconds, retry in answers if code == 503]
        served = [seconds for code, seconds, _ in answers if code == 200]
        assert sorted({code for code, _, _ in answers}) == [200, 503]
        assert sum(code == 200 for code, _, _ in answers) == len(slow.ran) - slow.ran.count(b"probe")
        assert len(away) >= 4
        assert all(retry == "1" for _, retry in away)
        assert min(seconds for seconds, _ in away) < min(served)
        assert running.service.under_way == running.service.visitors == 0


def await_work(running: Running, count: int) -> None:
    until = time.monotonic() + PROMPT
    while running.service.under_way != count and time.monotonic() < until:
        time.sleep(0.01)
    assert running.service.under_way == count


def test_the_work_of_a_client_that_hangs_up_is_dropped() -> None:
    slow = Slow(1.0)
    with serving(slow) as running, running.client() as client:
        running.service.started.result(timeout=5)
        first = running.connect()
        first.sendall(post(b"first"))
        await_work(running, 1)
        gone = [running.connect() for _ in range(5)]
        for number, connection in enumerate(gone):
            connection.sendall(post(b"gone %d" % number))
        await_work(running, 6)
        for connection in gone:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        assert client.post("/predict", content=b"last").json()["body"] == "last"
        assert [item for item in slow.ran if item != b"probe"] == [b"first", b"last"]
        assert running.service.under_way == 0
        first.close()
