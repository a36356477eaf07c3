"""The store: rows come back bit for bit, or not at all."""

import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from regraft.cache.store import Table, clear, default_folder, list_tables
from regraft.errors import NotWritable, OutOfSpace

KEY = {"backbone": "net", "engine": "torch"}
WIDTH = 5


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    table = Table.open(tmp_path, KEY, WIDTH)
    yield table
    table.close()


def rows(count: int, seed: int = 0) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def names(*numbers: int) -> list[bytes]:
    return [number.to_bytes(32, "big") for number in numbers]


def test_rows_come_back_as_they_were_stored(table: Table, tmp_path: Path) -> None:
    stored = table.append(names(1, 2, 3), rows(3))
    again = Table.open(tmp_path, KEY, WIDTH)
    assert again.lookup() == dict(zip(names(1, 2, 3), stored, strict=True))
    assert np.array_equal(again.rows(stored)[:], rows(3))


def test_reading_in_any_order_and_some_columns(table: Table) -> None:
    table.append(names(*range(20)), rows(20))
    order = np.array([7, 3, 4, 5, 19, 0, 7])
    chosen = table.rows(order)
    assert np.array_equal(chosen[:], rows(20)[order])
    assert np.array_equal(chosen[2:5], rows(20)[order[2:5]])
    assert np.array_equal(chosen.leading(2)[1:], rows(20)[order[1:], :2])
    assert np.array_equal(chosen.take(np.array([1, 0]))[:], rows(20)[[3, 7]])
    assert table.rows([])[:].shape == (0, WIDTH)


def test_an_image_stored_twice_keeps_its_first_row(table: Table) -> None:
    (first,) = table.append(names(1), rows(1))
    again = table.append(names(1, 2), rows(2, seed=1))
    assert again[0] == first
    assert np.array_equal(table.rows(again)[:], [rows(1)[0], rows(2, seed=1)[1]])


@pytest.mark.parametrize("changed", [{"backbone": "other"}, {"engine": "openvino"}, {"preprocess": {"height": 96}}])
def test_another_key_is_another_table(table: Table, tmp_path: Path, changed: dict[str, object]) -> None:
    table.append(names(1), rows(1))
    assert Table.open(tmp_path, {**KEY, **changed}, WIDTH).lookup() == {}


def test_a_damaged_row_is_no_hit(table: Table) -> None:
    table.append(names(1, 2), rows(2))
    path = table.folder / "rows.f32"
    data = bytearray(path.read_bytes())
    data[WIDTH * 4 + 1] ^= 1
    path.write_bytes(data)
    assert list(table.lookup()) == names(1)


def test_a_row_is_checked_when_it_is_asked_for(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.append(names(1, 2, 3), rows(3))
    path = table.folder / "rows.f32"
    data = bytearray(path.read_bytes())
    data[WIDTH * 4 + 1] ^= 1
    path.write_bytes(data)
    checked: list[bytes] = []
    real = zlib.crc32
    monkeypatch.setattr("regraft.cache.store.zlib.crc32", lambda row: checked.append(row) or real(row))
    known = table.lookup()
    one, two, other = names(1, 2, 9)
    assert not checked
    assert one in known
    assert known[one] == 0
    assert len(checked) == 1
    assert two not in known
    assert other not in known
    assert table.lookup(check=False)[one] == 0
    assert len(checked) == 2
    (again,) = table.append([two], rows(3)[1:2])
    assert known[two] == again
    assert np.array_equal(table.rows([again])[:], rows(3)[1:2])


def test_rows_that_a_crash_cut_off_are_no_hits_and_can_be_stored_again(table: Table) -> None:
    table.append(names(1, 2, 3), rows(3))
    path = table.folder / "rows.f32"
    os.truncate(path, path.stat().st_size - 6)
    assert list(table.lookup()) == names(1, 2)
    stored = table.append(names(3), rows(3)[2:])
    assert np.array_equal(table.rows(stored)[:], rows(3)[2:])
    assert len(table.lookup()) == 3


def test_bytes_that_a_crash_left_behind_are_written_over(table: Table) -> None:
    table.append(names(1), rows(1))
    with (table.folder / "rows.f32").open("ab") as file:
        file.write(b"half a r")
    stored = table.append(names(2), rows(1, seed=2))
    assert np.array_equal(table.rows(stored)[:], rows(1, seed=2))


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    def write(start: int) -> None:
        own = Table.open(tmp_path, KEY, WIDTH)
        for number in range(start, start + 20):
            own.append(names(number), rows(1, seed=number))
        own.close()

    Table.open(tmp_path, KEY, WIDTH).close()
    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    table = Table.open(tmp_path, KEY, WIDTH)
    known = table.lookup()
    assert set(known) == set(names(*range(40)))
    for number in range(40):
        assert np.array_equal(table.rows([known[names(number)[0]]])[:], rows(1, seed=number))


def test_a_full_disk_says_so_and_keeps_what_was_there(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    table.append(names(1), rows(1))
    real = Path.open

    def full(self: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if "a" in mode:
            raise OSError(28, "No space left on device", str(self))
        return real(self, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutOfSpace, match="No space left"):
        table.append(names(2), rows(1))
    monkeypatch.undo()
    assert list(table.lookup()) == names(1)
    assert len(table.append(names(2), rows(1, seed=3))) == 1


def test_listing_and_clearing_leave_other_files_alone(table: Table, tmp_path: Path) -> None:
    table.append(names(1, 2), rows(2))
    (tmp_path / "mine.txt").write_text("keep")
    (info,) = list_tables(tmp_path)
    assert (info.rows, info.bytes >= 2 * WIDTH * 4) == (2, True)
    assert clear(tmp_path) >= 2 * WIDTH * 4
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert list_tables(tmp_path) == []


def test_default_folder_can_be_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("REGRAFT_CACHE")
    assert default_folder().name == "regraft"


def test_a_damaged_index_is_started_again(tmp_path: Path) -> None:
    table = Table.open(tmp_path, KEY, WIDTH)
    table.append(names(1), rows(1))
    table.close()
    (table.folder / "index.sqlite").write_bytes(b"not a database at all" * 500)
    again = Table.open(tmp_path, KEY, WIDTH)
    assert again.lookup() == {}
    assert np.array_equal(again.rows(again.append(names(2), rows(1)))[:], rows(1))


def test_a_damaged_table_is_listed_and_can_be_cleared(table: Table, tmp_path: Path) -> None:
    (table.folder / "table.json").write_text("{")
    assert "damaged" in list_tables(tmp_path)[0].description
    assert clear(tmp_path) > 0


def test_a_cache_that_cannot_be_written_says_which_option_helps(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable, match="--cache"):
        Table.open(tmp_path / "file", KEY, WIDTH)
