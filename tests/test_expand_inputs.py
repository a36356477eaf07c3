"""What is given to predict becomes one path per row."""

import io
import os
from pathlib import Path

import pytest

from regraft.errors import DataUnusable
from regraft.inputs import expand_inputs, read_list


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "Thumbs.db", "deep/c.jpeg", ".ipynb_checkpoints/a.jpg"):
        path = tmp_path / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(*arguments: str, listed: bytes | None = None, null: bool = False) -> list[str]:
    stream = None if listed is None else io.BytesIO(listed)
    return list(expand_inputs(arguments, listed=stream, null=null).paths)


def test_a_folder_gives_its_images_and_no_junk(here: Path) -> None:
    assert paths("new") == ["new/a.PNG", "new/b.jpg", "new/deep/c.jpeg"]


def test_order_and_repetition_are_those_of_the_arguments(here: Path) -> None:
    assert paths("new/b.jpg", "new/a.PNG", "new/b.jpg") == ["new/b.jpg", "new/a.PNG", "new/b.jpg"]


def test_a_missing_file_keeps_its_row(here: Path) -> None:
    assert paths("gone.jpg", "new/b.jpg") == ["gone.jpg", "new/b.jpg"]


def test_patterns_are_expanded_and_sorted(here: Path) -> None:
    assert paths("new/*.*") == ["new/a.PNG", "new/b.jpg", "new/notes.txt"]
    assert paths("new/**/*.jp*g") == ["new/b.jpg", "new/deep/c.jpeg"]
    assert paths(str(here / "new/?.jpg")) == [str(here / "new/b.jpg")]
    assert paths("n*") == ["new/a.PNG", "new/b.jpg", "new/deep/c.jpeg"]


def test_a_file_whose_name_is_a_pattern_is_itself(here: Path) -> None:
    (here / "x[1].jpg").write_bytes(b"")
    (here / "x1.jpg").write_bytes(b"")
    assert paths("x[1].jpg") == ["x[1].jpg"]


def test_a_pattern_without_a_match_is_seen_among_others(here: Path) -> None:
    inputs = expand_inputs(["new/b.jpg", "none/*.jpg"])
    assert list(inputs.paths) == ["new/b.jpg", "none/*.jpg"]
    assert inputs.notes == ("none/*.jpg: nothing matches this pattern",)


@pytest.mark.parametrize("arguments", [["empty"], ["none*"], ["empty", "none*"]])
def test_nothing_at_all_is_an_error(here: Path, arguments: list[str]) -> None:
    (here / "empty").mkdir()
    with pytest.raises(DataUnusable, match=r"no image in this folder|nothing matches"):
        expand_inputs(arguments)


def test_an_empty_list_is_an_error_and_a_list_beside_an_empty_folder_is_not(here: Path) -> None:
    with pytest.raises(DataUnusable, match="empty list"):
        paths("-", listed=b"\n\n")
    (here / "empty").mkdir()
    assert paths("empty", "-", listed=b"q.jpg\n") == ["q.jpg"]


def test_a_list_stands_where_its_dash_is(here: Path) -> None:
    assert paths("z.jpg", "-", "new/b.jpg", listed=b"new\n*.jpg\r\n\nlast.jpg") == [
        "z.jpg", "new", "*.jpg", "last.jpg", "new/b.jpg",
    ]  # fmt: skip


def test_names_with_line_feeds_come_with_null() -> None:
    assert paths("-", listed=b"a\nb.jpg\0c.jpg\0", null=True) == ["a\nb.jpg", "c.jpg"]


def test_names_that_are_not_utf8_name_the_same_file() -> None:
    (name,) = paths("-", listed=b"caf\xe9.jpg\n")
    assert os.fsencode(name) == b"caf\xe9.jpg"


def test_a_list_is_read_as_it_comes_and_in_any_pieces() -> None:
    class Slow(io.RawIOBase):
        pieces = iter([b"a.j", b"pg\nb.jpg", b"\n", b"c.jpg\n"])
        read_so_far = 0

        def read1(self, size: int) -> bytes:
            self.read_so_far += 1
            return next(self.pieces, b"")

    slow = Slow()
    names = read_list(slow, null=False)  # type: ignore[arg-type]
    assert next(names) == "a.jpg"
    assert slow.read_so_far == 2
    assert list(names) == ["b.jpg", "c.jpg"]
