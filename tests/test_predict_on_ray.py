"""Ray's workers answer as the plain command does: every image its row, in order, though workers are lost on the way."""

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, paint

import regraft
from regraft.bulk import run
from regraft.bulk.blocks import LOST, Came
from regraft.bulk.cluster import Pool, ray_at
from regraft.bulk.ledger import Ledger
from regraft.bulk.models import PretrainedModel, RunModel
from regraft.bulk.run import answers_of
from regraft.bulk.worker import Setting, begun_too_often
from regraft.cli.main import main
from regraft.errors import BackboneNotFound, SavedModelRefused
from regraft.fitted import Fitted, pretrained
from regraft.recipe import Data
from regraft.row_table import table_rows
from regraft.values import Rejected

ray = pytest.importorskip("ray")

# Each worker imports torch: on a busy machine that takes its time.
pytestmark = pytest.mark.timeout(1800)

WORKERS = 2
IMAGES = 40


class Deadly:
    """A path that ends the process which reads it: the first time only, where `marker` is a file that is not there yet."""

    def __init__(self, path: Path, marker: Path | None) -> None:
        self._path, self._marker = path, marker

    def __reduce__(self) -> tuple[object, ...]:
        # Evaluated in the worker, which cannot import this file.
        once = f"not __import__('os').path.exists({str(self._marker)!r}) and not open({str(self._marker)!r}, 'x').close()"
        kill = f"__import__('os').kill(__import__('os').getpid(), {int(signal.SIGKILL)})"
        path = f"__import__('pathlib').Path({str(self._path)!r})"
        return eval, (f"({once if self._marker else True}) and {kill} or {path}",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures, the eleventh of which is none."""
    root = tmp_path_factory.mktemp("ray")
    for i in range(IMAGES):
        colour = list(COLOURS)[i % 3]
        paint(root / "photos" / colour / f"{i:03}.png", COLOURS[colour])
    sorted((root / "photos").rglob("*.png"))[10].write_bytes(b"nothing of an image")
    return root


@pytest.fixture(scope="module")
def fitted(folder: Path) -> Fitted:
    return regraft.fit(
        Data(path=folder / "photos", test="none"),
        backbone="torchvision:resnet18",
        weights="none",
        size=32,
        strategy=regraft.Head(features="last"),
        out=folder / "run",
        cache=folder / "cache",
        device="cpu",
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with ray_at("local", workers=WORKERS, device="cpu") as pool:
        yield pool


@pytest.fixture(scope="module")
def paths(folder: Path) -> list[Path]:
    return sorted((folder / "photos").rglob("*.png"))


def test_every_image_is_answered_as_without_ray_though_a_worker_is_lost(
    pool: Pool, fitted: Fitted, folder: Path, paths: list[Path]
) -> None:
    assert fitted.folder is not None
    marker = folder / "killed"
    items = [(Deadly(path, marker) if i == 21 else path, path.name) for i, path in enumerate(paths)]
    answers = list(answers_of(items, RunModel.read(fitted.folder), pool, size=8))
    assert marker.exists(), "no worker was killed"
    plain = fitted.predict(paths, device="cpu")
    assert len(answers) == len(plain) == IMAGES
    assert {i: answer.code for i, answer in enumerate(answers) if isinstance(answer, Rejected)} == {10: "not_an_image"}
    assert plain[10].reason == answers[10].reason
    for path, answer, row in zip(paths, answers, plain, strict=True):
        if not isinstance(answer, Rejected):
            mine = fitted.prediction(str(path), answer, 5)
            assert [name for name, _ in mine.top] == [name for name, _ in row.top]
            np.testing.assert_allclose([p for _, p in mine.top], [p for _, p in row.top], atol=1e-5)


def test_images_of_a_block_that_ends_every_worker_are_asked_one_by_one(
    pool: Pool, fitted: Fitted, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fitted.folder is not None

    def rows(blocks: list[object], *_: object) -> Generator[Came]:
        yield from (Came(row, None, LOST.code, LOST.reason) for row in range(3))

    monkeypatch.setattr(run, "_rows_of", rows)
    items = [(paths[0], "0"), (paths[1], "1"), (Deadly(paths[2], None), "2")]
    first, second, lost = answers_of(items, RunModel.read(fitted.folder), pool)
    assert [answer.name for answer in (first, second, lost) if isinstance(answer, Rejected)] == ["2"]
    assert isinstance(lost, Rejected)
    assert lost.code == "lost"
    for path, answer in ((paths[0], first), (paths[1], second)):
        assert fitted.prediction(str(path), answer, 1).top[0][0] == fitted.predict([path], device="cpu")[0].top[0][0]


def test_a_block_that_was_begun_too_often_is_given_back_unread() -> None:
    ledger, setting = Ledger(), Setting(device="cpu", threads=1, images=2, retries=1)
    assert [ledger.begin(8) for _ in range(3)] == [1, 2, 3]
    assert (ledger.begin(0), ledger.again()) == (1, 2)
    assert [begun_too_often(count, setting) for count in (1, 2, 3)] == [False, False, True]


def test_the_command_writes_the_same_table(
    pool: Pool, fitted: Fitted, folder: Path, paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    some = [str(path) for path in paths[5:15]]
    for name, options in (("plain", []), ("ray", ["--ray", "local", "--workers", "1"])):
        out = ["--out", str(folder / f"{name}.parquet")]
        assert main(["predict", str(folder / "run"), *some, "--device", "cpu", *out, *options]) == 5
    plain, rows = (list(table_rows(folder / f"{name}.parquet")) for name in ("plain", "ray"))
    assert [row.path for row in rows] == [row.path for row in plain] == some
    assert [row.status for row in rows] == [row.status for row in plain]
    assert [[name for name, _ in row.top] for row in rows] == [[name for name, _ in row.top] for row in plain]
    assert "10 rows, 1 of them failed" in capsys.readouterr().err


def test_a_network_with_other_weights_is_refused(folder: Path) -> None:
    with pytest.raises(BackboneNotFound, match="others on a worker"):
        PretrainedModel(name="efficientnet_lite0", digest="0" * 64).open()
    with pytest.raises(SavedModelRefused):
        RunModel.read(folder / "photos")


def test_nothing_of_ray_listens_beyond_the_loopback_interface(pool: Pool) -> None:
    mine, listening = _inodes_of_ray(), 0
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in mine:
                listening += 1
                assert local.split(":")[0] in ("0100007F", "0" * 16 + "FFFF00000100007F", "0" * 24 + "01000000"), line
    assert listening > 3, "not those of Ray"


def _inodes_of_ray() -> set[str]:
    """Sockets of this process and of all below it."""
    import psutil

    found = set()
    for process in (me := psutil.Process(os.getpid()), *me.children(recursive=True)):
        for link in Path(f"/proc/{process.pid}/fd").glob("*"):
            try:
                target = os.readlink(link)  # noqa: PTH115 (no path: socket:[123])
            except OSError:
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found


def test_what_is_pretrained_needs_no_run(paths: list[Path]) -> None:
    network = pretrained("efficientnet_lite0")
    from regraft.bulk.models import model_of

    sent = model_of("efficientnet_lite0", network)
    assert isinstance(sent, PretrainedModel)
    module, preprocess = sent.open()
    assert preprocess == network.backbone.preprocess
    assert not module.training
