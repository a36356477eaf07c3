"""What was found in images is not looked for twice, and a damaged memory is none."""

from pathlib import Path

import numpy as np
import pytest

from regraft.findings import Alike
from regraft.memo import key_of, remembered

FOUND = (Alike(one="a\udcff", other="b", sameness="altered", change="flipped", similarity=0.75),)


def test_an_answer_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> tuple[Alike, ...]:
        made.append(1)
        return FOUND

    assert [remembered(tmp_path, "one", tuple[Alike, ...], make) for _ in range(3)] == [FOUND] * 3
    assert remembered(tmp_path, "other", tuple[Alike, ...], make) == FOUND
    assert len(made) == 2


@pytest.mark.parametrize("end", [0, 10, 64, 70, -1])
def test_a_damaged_memory_is_made_again(end: int, tmp_path: Path) -> None:
    remembered(tmp_path, "one", tuple[Alike, ...], lambda: FOUND)
    (kept,) = (tmp_path / "found").iterdir()
    kept.write_bytes(kept.read_bytes()[:end])
    assert remembered(tmp_path, "one", tuple[Alike, ...], lambda: ()) == ()
    assert remembered(tmp_path, "one", tuple[Alike, ...], lambda: FOUND) == ()


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "found").write_text("a file in the way")
    assert remembered(tmp_path, "one", tuple[Alike, ...], lambda: FOUND) == FOUND


def test_keys_tell_everything_apart() -> None:
    array = np.arange(6)
    parts: list[tuple[object, ...]] = [
        (),
        ("a",),
        ("a", "b"),
        ("ab",),
        (("a", "b"),),
        (1,),
        ("1",),
        (None,),
        (array,),
        (array.reshape(2, 3),),
        (array.astype(np.float64),),
        (array.tobytes(),),
        ([array.tobytes()],),
        (FOUND,),
        (FOUND[0],),
    ]
    assert len({key_of(*part) for part in parts}) == len(parts)
    assert key_of(array[::2]) == key_of(np.array([0, 2, 4]))
