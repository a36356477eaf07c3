"""regraft serve as a process: it says where it listens, ends without a broken answer, and refuses what cannot be meant."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from servers import png

from regraft.cli.main import main

TESTS = Path(__file__).parent
# The command with a small model in place of a run, whose network takes its time where it is told to.
CHILD = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
import regraft.cli.serve as command
from regraft.cli.main import main
from regraft.serve import engine, models

def slow(*given):
    engine = fastest(*given)
    run = engine.run
    def answer(pixels):
        time.sleep(float(sys.argv[1]))
        return run(pixels)
    engine.run = answer
    return engine

fastest, models.fastest = models.fastest, slow
engine.find_spec = lambda name: None

def model(*given):
    from servers import classifier
    return classifier()

command._open = model
sys.exit(main(["serve", "a run", *sys.argv[2:]]))
"""


@contextmanager
def child(*arguments: str, pause: float = 0.0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the first line that it printed."""
    command = [sys.executable, "-c", CHILD, str(pause), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, line
    finally:
        process.kill()
        process.communicate()


def test_told_to_end_it_answers_what_is_under_way_says_so_and_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "an-unlikely-secret-word"
    monkeypatch.setenv("REGRAFT_TOKEN", token)
    headers = {"authorization": f"Bearer {token}"}
    with child("--host", "0.0.0.0", "--port", "0", "--json", pause=1.0) as (process, line):
        told = json.loads(line)
        port = told["address"].rpartition(":")[2]
        assert told == {"address": f"http://0.0.0.0:{port}", "model": "a run", "token": True}
        address = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{address}/model", trust_env=False).status_code == 401
        answers: list[httpx.Response] = []

        def ask(number: int) -> None:
            answers.append(httpx.post(f"{address}/predict", content=png(number), headers=headers, trust_env=False, timeout=20))

        with httpx.Client(base_url=address, trust_env=False, timeout=20, headers=headers) as client:
            assert client.get("/readyz").status_code == 200
            asking = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
            for thread in asking:
                thread.start()
            while "regraft_requests_under_way 3.0" not in client.get("/metrics").text:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            start = time.monotonic()
            time.sleep(0.05)
            ready, late = client.get("/readyz"), client.post("/predict", content=png(9))
            assert (ready.status_code, ready.json()) == (503, {"status": "stopping"})
            assert (late.status_code, late.json()["error"]["code"]) == (503, "stopping")
            for thread in asking:
                thread.join(timeout=15)
        assert process.wait(timeout=15) == 143
        assert time.monotonic() - start < 15
        assert [answer.json().get("status") for answer in answers] == ["ok", "ok", "ok"]
        assert process.stderr is not None
        error = process.stderr.read()
        assert "engine: torch cpu fp32" in error
        assert "told to end" in error
        assert "Traceback" not in error
        assert token not in line + error
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/healthz", trust_env=False)


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "no-such-run/", "--port", port]) == 2
    said = capsys.readouterr().err
    assert f"a free port {port} at 127.0.0.1" in said
    assert "--port" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-run/", "--port", "0"], "no such folder"),
        (["efficientnet_lite0", "--host", "0.0.0.0"], "--token-file"),
        (["efficientnet_lite0", "--host", "no.such.host.invalid"], "--token-file"),
        (["efficientnet_lite0", "--token-file", "no-such-file"], "no-such-file"),
        (["efficientnet_lite0", "--backbone", "x", "--port", "0"], "leave --backbone out"),
    ],
)
def test_what_cannot_be_meant(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err
    assert not said.out


def test_a_token_that_can_be_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "token.txt"
    file.write_text("letmein\n")
    assert main(["serve", "efficientnet_lite0", "--token-file", str(file)]) == 2
    said = capsys.readouterr().err
    assert "16 or more" in said
    assert "letmein" not in said


def test_a_missing_package_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("regraft.needs.find_spec", lambda name: None if name == "uvicorn" else True)
    assert main(["serve", "efficientnet_lite0"]) == 2
    said = capsys.readouterr().err
    assert "uvicorn not installed" in said
    assert "pip install 'regraft[serve]'" in said
