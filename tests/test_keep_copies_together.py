"""Images that show the same stay on one side of the split and in one fold."""

from pathlib import Path

import numpy as np
import pytest

from regraft.data.split import keep_together, split_samples
from regraft.recipe import Data
from regraft.values import Sample, Samples, Split


def samples_of(count: int, *, groups: dict[int, str] | None = None, part: str | None = None) -> Samples:
    """Images of three classes in turn."""
    found = tuple(
        Sample(
            path=Path(f"/data/{i:04}.png"),
            name=f"{i:04}.png",
            labels=("abc"[i % 3],),
            group=(groups or {}).get(i),
            part="test" if part and i % 5 == 0 else "train" if part else None,  # type: ignore[arg-type]
        )
        for i in range(count)
    )
    return Samples(root=Path("/data"), samples=found, classes=("a", "b", "c"))


def alike_of(split: Split, sets: list[list[int]]) -> np.ndarray:
    """The numbering of `keep_together` for sets of image numbers."""
    number = {f"{i:04}.png": n for n, members in enumerate(sets) for i in members}
    return np.array([number.get(sample.name, -1) for sample in (*split.train, *split.test)], np.int64)


def sides_of(split: Split) -> dict[str, tuple[str, int]]:
    """Of each image where it stands: its part, and its fold where it trains."""
    train = {s.name: ("train", int(fold)) for s, fold in zip(split.train, split.folds_N, strict=True)}
    return train | {s.name: ("test", -1) for s in split.test}


DATA = Data(path=Path("/data"))


@pytest.mark.parametrize("seed", range(50))
def test_copies_share_their_side_and_their_fold(seed: int) -> None:
    random = np.random.default_rng(seed)
    sets = [list(random.choice(120, 3, replace=False)) for _ in range(12)]
    split = split_samples(samples_of(120), DATA, seed)
    kept = keep_together(split, DATA, seed, alike_of(split, [sets[i] for i in range(12)]))
    where = sides_of(kept)
    assert len(where) == 120
    for number in range(12):
        # An image drawn twice stands in the last of its sets.
        members = [i for i in sets[number] if all(i not in later for later in sets[number + 1 :])]
        assert len({where[f"{i:04}.png"] for i in members}) <= 1
    assert 0.1 < len(kept.test) / 120 < 0.3


def test_a_copy_ties_two_groups_into_one() -> None:
    groups = {i: f"g{i // 4}" for i in range(60)}
    split = split_samples(samples_of(60, groups=groups), DATA, 0)
    kept = keep_together(split, DATA, 0, alike_of(split, [[0, 59], [10, 30]]))
    where = sides_of(kept)
    for tied in ([0, 1, 2, 3, 56, 57, 58, 59], [8, 9, 10, 11, 28, 29, 30, 31]):
        assert len({where[f"{i:04}.png"] for i in tied}) == 1


def test_without_copies_nothing_changes() -> None:
    split = split_samples(samples_of(30), DATA, 0)
    assert keep_together(split, DATA, 0, np.full(30, -1, np.int64)) is split


def test_a_test_set_of_the_data_itself_is_left_as_it_is() -> None:
    split = split_samples(samples_of(60, part="own"), DATA, 0)
    kept = keep_together(split, DATA, 0, alike_of(split, [[0, 1], [7, 8]]))
    assert [s.name for s in kept.test] == [s.name for s in split.test]
    where = sides_of(kept)
    assert where["0007.png"] == where["0008.png"]
    assert where["0000.png"][0] == "test"
    assert where["0001.png"][0] == "train"


def test_the_order_of_the_files_does_not_matter() -> None:
    whole = samples_of(60)
    split = split_samples(whole, DATA, 3)
    again = split_samples(Samples(root=whole.root, samples=whole.samples[::-1], classes=whole.classes), DATA, 3)
    sets = [[4, 5], [20, 40, 41]]
    one, other = (keep_together(s, DATA, 3, alike_of(s, sets)) for s in (split, again))
    assert sides_of(one) == sides_of(other)
    assert "copies of an image kept together" in one.how
