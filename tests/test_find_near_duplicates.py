"""Near duplicates among many: an index finds what the search of all pairs finds, and nothing that is not there."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_pictures import drawn
from numpy.typing import NDArray
from PIL import Image

import regraft
from regraft.audits import cells
from regraft.audits.alike import compare_nearest
from regraft.audits.cells import search_for, search_note
from regraft.audits.copies import find_copies
from regraft.audits.similar import Near, floats, near_duplicates, similar_images
from regraft.cache.store import FLOATS, HALVES, FeatureRows
from regraft.data.look import Looks, look_of
from regraft.errors import DataUnusable, UsageError
from regraft.findings import Copies
from regraft.values import Sample

ROWS, WIDTH, PLANTED = 3000, 96, 150
Floats = NDArray[np.float32]


def planted_rows() -> tuple[Floats, set[tuple[int, int]]]:
    """Noise around the means of five classes, of which some rows are others with a little noise; which."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, WIDTH + 1) ** -0.3
    rows = (rng.standard_normal((5, WIDTH))[rng.integers(5, size=ROWS)] + rng.standard_normal((ROWS, WIDTH))) * scale + 3
    pairs = np.sort(rng.permutation(ROWS)[: 2 * PLANTED].reshape(-1, 2), axis=1)
    rows[pairs[:, 1]] = rows[pairs[:, 0]] + 0.15 * scale * rng.standard_normal((PLANTED, WIDTH))
    return rows.astype(np.float32), {(int(one), int(other)) for one, other in pairs}


FEATURES, PAIRS = planted_rows()


def pairs_of(near: Near) -> set[tuple[int, int]]:
    return {(one, other) for one, other in near.pairs_P2.tolist()}


def of_full_table(rows: Floats, least: float) -> set[tuple[int, int]]:
    units = rows - rows.mean(axis=0, dtype=np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    one, other = np.nonzero(np.triu(units @ units.T, 1) >= least)
    return set(zip(one.tolist(), other.tolist(), strict=True))


def test_all_pairs_are_those_of_a_full_table() -> None:
    near = near_duplicates(FEATURES)
    assert near.search == "all pairs"
    assert pairs_of(near) == of_full_table(FEATURES, 0.95)
    assert len(pairs_of(near) & PAIRS) >= 0.95 * PLANTED
    assert near.pairs_P2.tolist() == sorted(near.pairs_P2.tolist())
    one, other = (FEATURES[side] - FEATURES.mean(axis=0) for side in near.pairs_P2.T)
    cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert np.allclose(near.cosine_P, cosines, atol=1e-5)


def test_cells_find_nearly_all_of_them_and_no_others() -> None:
    everything, some = pairs_of(near_duplicates(FEATURES)), near_duplicates(FEATURES, search="cells")
    assert some.search == "cells"
    assert pairs_of(some) <= everything
    assert len(pairs_of(some)) >= 0.97 * len(everything)
    fewer = pairs_of(near_duplicates(FEATURES, search="cells", probes=1))
    assert len(fewer) < len(pairs_of(some))


def test_the_same_rows_give_the_same_pairs() -> None:
    one, other = (near_duplicates(FEATURES, search="cells") for _ in range(2))
    assert np.array_equal(one.pairs_P2, other.pairs_P2)
    assert np.array_equal(one.cosine_P, other.cosine_P)


def test_rows_are_read_from_wherever_they_are(tmp_path: Path) -> None:
    expected = near_duplicates(FEATURES)
    FEATURES.tofile(tmp_path / "rows.f32")
    kept = FeatureRows(tmp_path / "rows.f32", np.arange(ROWS), WIDTH, dtype=FLOATS)
    mapped = np.memmap(tmp_path / "rows.f32", np.float32, "r", shape=(ROWS, WIDTH))
    for rows in (kept, mapped):
        assert np.array_equal(near_duplicates(rows).pairs_P2, expected.pairs_P2)
    bits = (FEATURES.view(np.uint32) >> 16).astype(np.uint16)
    bits.tofile(tmp_path / "rows.bf16")
    halves = FeatureRows(tmp_path / "rows.bf16", np.arange(ROWS), WIDTH, dtype=HALVES)
    assert np.allclose(floats(bits), FEATURES, rtol=2**-7)
    assert pairs_of(near_duplicates(halves)) == of_full_table(floats(bits), 0.95)


def test_rows_that_say_nothing_are_near_nothing() -> None:
    rows = np.concatenate([FEATURES[:200], np.zeros((50, WIDTH), np.float32)])
    assert all(other < 200 for _, other in pairs_of(near_duplicates(rows, from_mean=False)))
    assert len(near_duplicates(FEATURES[:1]).pairs_P2) == 0
    with pytest.raises(DataUnusable, match="finite"):
        near_duplicates(np.where(rows == 0, np.nan, rows), from_mean=False)
    with pytest.raises(UsageError, match="cosine"):
        near_duplicates(FEATURES, least=1.5)


def test_groups_are_rows_that_pairs_tie() -> None:
    pairs = np.array([[0, 7], [2, 9], [7, 8]])
    groups = Near(pairs_P2=pairs, cosine_P=np.ones(3, np.float32), search="all pairs").groups()
    assert [rows.tolist() for rows in groups] == [[0, 7, 8], [2, 9]]


def test_what_is_known_is_not_told_again() -> None:
    names = [f"{number}.png" for number in range(9)]
    film = {"3.png", "4.png"}
    samples = [Sample(path=Path(name), name=name, labels=("a",), group="film" if name in film else None) for name in names]
    near = Near(
        pairs_P2=np.array([[0, 1], [1, 2], [3, 4], [5, 6], [7, 8]]),
        cosine_P=np.array([0.99, 0.96, 0.97, 0.95, 0.98], np.float32),
        search="all pairs",
    )
    copies = [Copies(names=("0.png", "1.png"), labels=("a", "a"), parts=("train", "train"), sameness="file", change="")]
    across, first, second = similar_images(near, samples, ["train"] * 8 + ["test"], copies)
    assert (across.names, across.across_parts, across.cosine) == (("7.png", "8.png"), True, 0.98)
    assert (first.names, first.cosine) == (("1.png", "2.png"), 0.96)
    assert (second.names, second.across_parts) == (("5.png", "6.png"), False)


FLIP, DOWN, QUARTER = Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_90
CHANGES = (
    lambda image: image.transpose(FLIP),
    lambda image: image.transpose(DOWN),
    lambda image: image.transpose(QUARTER),
    lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    lambda image: image.crop((4, 2, 156, 116)),
)


def looks_of(count: int) -> tuple[Looks, list[str], list[bytes]]:
    """Those of drawn pictures and of an altered copy of every fourth, with their names and stand-ins for digests."""
    images = [drawn(seed) for seed in range(count)]
    copies = [CHANGES[seed // 4 % len(CHANGES)](images[seed]) for seed in range(0, count, 4)]
    looks = [look_of(one, size_on_disk=one.size, format="PNG", file_bytes=1) for one in [*images, *copies]]
    names = [f"{seed:04}" for seed in range(count)] + [f"{seed:04}-copy" for seed in range(0, count, 4)]
    return np.stack(looks), names, [name.encode() for name in names]


def test_copies_found_in_cells_are_those_of_all_pairs() -> None:
    looks, names, digests = looks_of(640)
    everything = find_copies(looks, digests, names)
    assert {(pair.one, pair.other) for pair in everything} >= {(name, f"{name}-copy") for name in names[:640:4][:150]}
    assert find_copies(looks, digests, names, search="cells") == everything
    assert find_copies(looks, digests, names, search="cells") == find_copies(looks, digests, names, search="cells")
    few = compare_nearest(looks, search="cells", probes=2)
    assert 0.9 * len(everything) <= np.count_nonzero(few.copies_P) <= len(everything)
    equal = find_copies(np.concatenate([looks, looks[:1]]), [*digests, digests[0]], [*names, "again"], search="equal")
    assert [(pair.one, pair.other, pair.sameness) for pair in equal] == [("0000", "again", "file")]


def test_without_an_index_all_pairs_are_compared_as_long_as_that_can_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (search_for(50_000), search_for(50_001), search_for(10**6)) == ("all pairs", "cells", "cells")
    assert search_note(10**6) is None
    monkeypatch.setattr(cells, "find_spec", lambda name: None)
    assert (search_for(50_000), search_for(200_000), search_for(200_001)) == ("all pairs", "all pairs", "equal")
    assert search_note(50_000) is None
    for count in (50_001, 200_001):
        assert "pip install 'regraft[scale]'" in (search_note(count) or "")
    monkeypatch.setattr(cells, "CELLS_BEYOND", 100)
    monkeypatch.setattr(cells, "ALL_PAIRS_UP_TO", 1000)
    with pytest.raises(UsageError, match=r"regraft\[scale\]"):
        near_duplicates(FEATURES)


class Noted:
    """Hears notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.task = regraft.progress.Silent().task

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_an_audit_never_fails_for_want_of_an_index(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(24):
        (tmp_path / "data" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        drawn(number, (96, 80)).save(tmp_path / "data" / "ab"[number % 2] / f"{number}.png")
    drawn(3, (96, 80)).transpose(FLIP).save(tmp_path / "data" / "b" / "flipped.png")
    monkeypatch.setattr(cells, "find_spec", lambda name: None)
    monkeypatch.setattr(cells, "CELLS_BEYOND", 10)
    found = []
    for most in (20, 100):
        monkeypatch.setattr(cells, "ALL_PAIRS_UP_TO", most)
        heard = Noted()
        found.append(regraft.audit(tmp_path / "data", device="cpu", cache=cache, progress=heard))
        assert sum("regraft[scale]" in note for note in heard.notes) == 1
    assert [len(audit.copies) for audit in found] == [0, 1]


def test_nothing_is_imported_before_an_index_is_made() -> None:
    code = "import regraft.audits.copies, regraft.audits.similar, sys; assert not {'faiss', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
