"""Rows of predictions: written whole, kept when cut short, gone on with to the same bytes."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from regraft.errors import OutOfSpace, OutputExists, UsageError
from regraft.row_file import Kept, RowFile, RowKind, Target, check_target, choose_target, read_kept
from regraft.rows import CsvRows, JsonRows, records
from regraft.values import Prediction

NASTY = ["=cmd|' /C calc'!A0.jpg", "-a.jpg", "+1", "@x", "\tt.jpg", "a\nb.jpg", "c\r.jpg", 'q".jpg', "k,l.jpg", "＝x", "ü.jpg"]
KINDS: list[RowKind] = ["csv", "jsonl", "parquet"]


def answer(path: str) -> Prediction:
    """A row that depends on the path alone: every third one failed."""
    number = sum(map(ord, path))
    if number % 3 == 0:
        return Prediction(path=path, status="failed", reason='truncated, at "byte" 7')
    return Prediction(path=path, status="ok", top=(("=cat", 0.1 + number / 1e4), ("dog\u202e", 1e-9)))


INPUTS = [*NASTY, os.fsdecode(b"caf\xe9.jpg"), *(f"{n}.jpg" for n in range(40))]


def run(target: Target, inputs: list[str], *, resume: bool = False, most: int | None = None) -> list[str]:
    """What a command does; returns the inputs that were worked on."""
    kept, rest = read_kept(target, 2, iter(inputs), align=4, most=most) if resume else (Kept(), iter(inputs))
    worked = []
    with RowFile(target, 2, kept) as rows:
        for path in rest:
            worked.append(path)
            rows.write(answer(path))
        rows.finish()
    assert rows.rows == len(inputs)
    assert rows.failed == sum(answer(path).status == "failed" for path in inputs)
    return worked


def test_csv_reads_back_and_holds_no_formula() -> None:
    form = CsvRows(2)
    text = (form.header + b"".join(form.encode(answer(path)) for path in NASTY)).decode()
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    assert len(rows) == len(NASTY)
    for row, path in zip(rows, NASTY, strict=True):
        assert row["path"].removeprefix("'") == path
        for cell in row.values():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    assert {row["class_1"] for row in rows} <= {"'=cat", ""}
    assert float(next(row["probability_2"] for row in rows if row["status"] == "ok")) == 1e-9


def test_json_lines_keep_every_name() -> None:
    names = [*NASTY, os.fsdecode(b"caf\xe9.jpg"), "\u2028.jpg"]
    lines = b"".join(JsonRows().encode(answer(name)) for name in names).decode("ascii").splitlines()
    assert [json.loads(line)["path"] for line in lines] == names
    assert set(json.loads(lines[0])) == {"path", "status", "reason", "predictions", "abstained", "why", "distance"}


def test_undefined_probabilities_are_null_not_nan() -> None:
    row = Prediction(path="a", status="ok", top=(("cat", math.nan),))
    line = JsonRows().encode(row)
    assert json.loads(line)["predictions"] == [{"class": "cat", "probability": None}]
    assert CsvRows(1).encode(row) == b"a,ok,,cat,,,\n"
    assert math.isnan(JsonRows().decode(line).top[0][1])
    assert math.isnan(CsvRows(1).decode(b"a,ok,,cat,,,\n").top[0][1])


@pytest.mark.parametrize("form", [CsvRows(1), CsvRows(2), JsonRows()])
@pytest.mark.parametrize("why", ["", "not sure enough", 'unlike, "them"'])
def test_a_withheld_answer_reads_back(form: CsvRows | JsonRows, why: str) -> None:
    row = Prediction(path="a.jpg", status="ok", top=(("cat", 0.5),), abstained=bool(why), why=why)
    assert form.decode(form.encode(row)) == row


@pytest.mark.parametrize("form", [CsvRows(2), JsonRows()])
def test_rows_read_back(form: CsvRows | JsonRows, tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"".join(form.encode(answer(path)) for path in INPUTS))
    with (tmp_path / "rows").open("rb") as file:
        back = [form.decode(record) for record, _ in records(file, quoted=form.quoted)]
    assert [row.path for row in back] == [form.shown_path(path) for path in INPUTS]
    assert len({row.path for row in back}) == len(INPUTS)
    assert [row.status for row in back] == [answer(path).status for path in INPUTS]
    assert [len(row.top) for row in back] == [len(answer(path).top) for path in INPUTS]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_resuming_from_any_byte_gives_the_same_bytes(kind: RowKind, tmp_path: Path) -> None:
    target, short = Target(tmp_path / "whole", kind), Target(tmp_path / "short", kind)
    run(target, INPUTS)
    whole = target.path.read_bytes()
    for end in [*range(0, 200), *range(200, len(whole), 37), len(whole) - 1]:
        short.path.write_bytes(whole[:end])
        assert run(short, INPUTS, resume=True), end
        assert short.path.read_bytes() == whole, end


def test_resuming_keeps_whole_batches_and_no_more_than_told(tmp_path: Path) -> None:
    target = Target(tmp_path / "rows.jsonl", "jsonl")
    run(target, INPUTS)
    lines = target.path.read_bytes().splitlines(keepends=True)
    target.path.write_bytes(b"".join(lines[:30]))
    kept, rest = read_kept(target, 2, iter(INPUTS), align=4)
    assert [*INPUTS[: kept.rows], *rest] == INPUTS
    assert sum(answer(path).status == "ok" for path in INPUTS[: kept.rows]) % 4 == 0
    assert 30 - 7 < kept.rows <= 30
    fewer, _ = read_kept(target, 2, iter(INPUTS), align=4, most=10)
    assert 0 < fewer.rows <= 10


def test_resuming_a_finished_file_does_nothing(tmp_path: Path) -> None:
    for kind in KINDS:
        target = Target(tmp_path / f"rows.{kind}", kind)
        run(target, INPUTS)
        before = target.path.read_bytes()
        assert run(target, INPUTS, resume=True, most=0) == []
        assert target.path.read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_with_more_inputs_appends_them(kind: RowKind, tmp_path: Path) -> None:
    target, other = Target(tmp_path / "some", kind), Target(tmp_path / "all", kind)
    run(target, INPUTS[:21])
    assert len(run(target, INPUTS, resume=True)) < len(INPUTS)
    run(other, INPUTS)
    assert target.path.read_bytes() == other.path.read_bytes()


def test_a_table_cut_short_leaves_its_rows_and_gives_the_same_bytes(tmp_path: Path) -> None:
    target, other = Target(tmp_path / "rows.parquet", "parquet"), Target(tmp_path / "other.parquet", "parquet")
    run(other, INPUTS)
    with RowFile(target, 2, Kept()) as rows:
        for path in INPUTS[:25]:
            rows.write(answer(path))
    assert not target.path.exists()
    with pytest.raises(OutputExists, match=r"rows\.parquet\.partial"):
        check_target(target, resume=False, overwrite=False)
    assert len(run(target, INPUTS, resume=True)) < len(INPUTS)
    assert target.path.read_bytes() == other.path.read_bytes()
    assert not target.journal.exists()


def test_a_table_has_numbers_and_nulls(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    target = Target(tmp_path / "rows.parquet", "parquet")
    run(target, ["1.jpg", "2.jpg", "3.jpg"])
    rows = pq.read_table(target.path).to_pylist()
    assert [row["path"] for row in rows] == ["1.jpg", "2.jpg", "3.jpg"]
    assert [row["status"] for row in rows] == [answer(f"{n}.jpg").status for n in (1, 2, 3)]
    failed = next(row for row in rows if row["status"] == "failed")
    assert (failed["class_1"], failed["probability_1"], failed["reason"]) == (None, None, 'truncated, at "byte" 7')
    assert {type(row["probability_2"]) for row in rows if row["status"] == "ok"} == {float}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_another_run_are_refused_and_left_alone(kind: RowKind, tmp_path: Path) -> None:
    target = Target(tmp_path / "rows", kind)
    run(target, INPUTS)
    for inputs in (INPUTS[::-1], INPUTS[:5]):
        with pytest.raises(UsageError, match="same order"):
            read_kept(target, 2, iter(inputs), align=4)
    if kind != "parquet":
        target.path.write_bytes(b"a file of somebody else\n")
        with pytest.raises(UsageError):
            read_kept(target, 2, iter(INPUTS), align=4)
        assert target.path.read_bytes() == b"a file of somebody else\n"


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    target = Target(tmp_path / "rows.csv", "csv")
    run(target, INPUTS)
    with pytest.raises(UsageError, match="top-k"):
        read_kept(target, 3, iter(INPUTS), align=4)


def test_a_file_that_exists_is_not_replaced_unasked(tmp_path: Path) -> None:
    target = choose_target(tmp_path / "rows.csv", None)
    check_target(target, resume=False, overwrite=False)
    target.path.write_text("mine")
    with pytest.raises(OutputExists, match="--overwrite"):
        check_target(target, resume=False, overwrite=False)
    check_target(target, resume=False, overwrite=True)
    run(target, INPUTS)
    assert b"mine" not in target.path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_fails_before_the_first_row_leaves_nothing(kind: RowKind, tmp_path: Path) -> None:
    target = Target(tmp_path / "rows", kind)
    with pytest.raises(UsageError), RowFile(target, 2, Kept()):
        raise UsageError(expected="a Ray cluster at nonsense", got="none", fix="check the address")
    assert [*tmp_path.iterdir()] == []
    # One that was killed at that point has left its header.
    target.journal.write_bytes(target.rows(2).header)
    check_target(target, resume=False, overwrite=False)
    run(target, INPUTS)
    before = target.path.read_bytes()
    with pytest.raises(OutputExists):
        check_target(target, resume=False, overwrite=False)
    with pytest.raises(UsageError), RowFile(target, 2, Kept()):
        raise UsageError(expected="a Ray cluster at nonsense", got="none", fix="check the address")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_the_ending_says_the_format(tmp_path: Path) -> None:
    assert choose_target(tmp_path / "a.PARQUET", None).kind == "parquet"
    assert choose_target(tmp_path / "a.txt", "csv").kind == "csv"
    for path, kind in (("a.txt", None), ("a.csv", "jsonl"), ("a.parquet", "csv")):
        with pytest.raises(UsageError):
            choose_target(tmp_path / path, kind)  # type: ignore[arg-type]


WRITER = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from regraft.row_file import Kept, RowFile, Target
from regraft.errors import OutOfSpace
from test_write_rows import INPUTS, answer
path, kind, limit = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with RowFile(Target(path, kind), 2, Kept()) as rows:
        for number, name in enumerate(INPUTS):
            if not limit and number == 33:
                import os
                os.kill(os.getpid(), signal.SIGKILL)
            rows.write(answer(name))
        rows.finish()
except OutOfSpace as error:
    print(error.got)
    sys.exit(error.exit_code)
"""


def write_in_process(target: Target, limit: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(target.path), target.kind, str(limit)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Target, bytes]:
    whole = Target(tmp_path / "whole", request.param)
    run(whole, INPUTS)
    return Target(tmp_path / "rows", request.param), whole.path.read_bytes()


def test_a_killed_process_is_resumed_to_the_same_bytes(pair: tuple[Target, bytes]) -> None:
    target, whole = pair
    assert write_in_process(target, 0).returncode == -signal.SIGKILL
    assert 0 < len(run(target, INPUTS, resume=True)) < 20
    assert target.path.read_bytes() == whole


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_full_disk_keeps_the_rows_written(pair: tuple[Target, bytes]) -> None:
    target, whole = pair
    done = write_in_process(target, 1500)
    assert done.returncode == 6, done.stderr
    assert "rows before it are kept" in done.stdout
    data = target.journal.read_bytes()
    assert 500 < len(data) <= 1500
    assert data.endswith(b"\n")
    assert len(run(target, INPUTS, resume=True)) < len(INPUTS)
    assert target.path.read_bytes() == whole


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no such device")
def test_a_device_that_is_full_is_out_of_space() -> None:
    with pytest.raises(OutOfSpace), RowFile(Target(Path("/dev/full"), "csv"), 2, Kept()) as rows:
        rows.write(answer("a.jpg"))
