"""Which images to label next: what is chosen on made-up features, and the command on a small run."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, paint
from numpy.typing import NDArray
from PIL import Image
from test_show_augmentation import Tiny

import regraft
from regraft.cli.main import main
from regraft.errors import DataUnusable, UsageError
from regraft.evaluate.probability import probabilities
from regraft.train.path import choose_l2
from regraft.train.suggest import SHARPNESS, choose_next, doubts, gather, residuals, standardised
from regraft.values import Rejected


def blobs(each: int, blobs: int = 5, width: int = 20) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(2)
    of = np.repeat(np.arange(blobs), each)
    return (rng.normal(size=(blobs, width))[of] * 3 + rng.normal(size=(len(of), width))).astype(np.float32), of


def test_doubt_is_the_lead_of_the_best_answer() -> None:
    shares = np.array([[0.5, 0.5, 0.0], [0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(doubts(shares, False), [1.0, 0.5, 0.0])
    np.testing.assert_allclose(doubts(np.array([[0.5, 1.0], [0.9, 0.2], [1.0, 0.0]]), True), [1.0, 0.4, 0.0])


def test_distances_are_those_of_whole_gradients() -> None:
    """The factors r and x give the same choice as the outer products themselves, drawn by the same lots."""
    rng = np.random.default_rng(0)
    features, shares = rng.normal(size=(40, 30)), rng.dirichlet(np.ones(3), 40)
    whole = (residuals(shares, False)[:, :, None] * standardised(features)[:, None, :]).reshape(40, -1)
    order = choose_next(features, shares, 8, seed=5).chosen
    weight = doubts(shares, False) ** SHARPNESS
    assert order[0] == np.argmax(weight * (whole**2).sum(axis=1))
    lots, chosen = np.random.default_rng((5, 7)), [order[0]]
    for row in order[1:]:
        sums = np.cumsum(weight * np.min([((whole - whole[taken]) ** 2).sum(axis=1) for taken in chosen], axis=0))
        assert row == np.searchsorted(sums, lots.random() * sums[-1])
        chosen.append(row)


def test_suggestions_repeat_themselves_and_differ_between_seeds() -> None:
    features, _ = blobs(40)
    shares = np.random.default_rng(1).dirichlet(np.ones(4), len(features))
    one, again, other = (choose_next(features, shares, 20, seed=seed).chosen for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert len(set(one)) == 20


def test_no_cluster_takes_all_suggestions() -> None:
    """All are as doubtful between the same two classes; doubt alone would take one blob, for ties go by place."""
    features, of = blobs(60)
    shares = np.tile([0.5, 0.5, 0.0], (len(features), 1))
    chosen = of[list(choose_next(features, shares, 10).chosen)]
    assert len(set(chosen.tolist())) >= 4


def test_certain_images_are_not_suggested() -> None:
    features, _ = blobs(40)
    shares = np.tile([0.98, 0.02], (200, 1))
    unsure = np.arange(0, 200, 3)
    shares[unsure] = 0.55, 0.45
    assert set(choose_next(features, shares, 12).chosen) <= set(unsure.tolist())


def test_near_copies_are_suggested_once() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 60)).astype(np.float32)
    copied = np.concatenate([features, features + rng.normal(scale=0.02, size=features.shape), features])
    shares = np.tile([0.5, 0.5], (150, 1))
    order = choose_next(copied, shares, 100)
    assert len(order.chosen) == 50
    assert len({row % 50 for row in order.chosen}) == 50
    assert order.alike == 100


def test_what_is_suggested_teaches_more_than_chance() -> None:
    """Rare classes in a large pool: a head learns more from suggested images than from as many drawn at random."""
    lead = []
    for draw in range(4):
        rng = np.random.default_rng(draw)
        means = rng.normal(size=(6, 16)) * 0.9
        of = rng.choice(6, 1500, p=[0.4, 0.4, 0.05, 0.05, 0.05, 0.05])
        pool = (means[of] + rng.normal(size=(1500, 16))).astype(np.float32)
        test_of = np.arange(1200) % 6
        test = (means[test_of] + rng.normal(size=(1200, 16))).astype(np.float32)
        known = np.concatenate([np.flatnonzero(of == k)[:4] for k in range(6)])
        rest = np.setdiff1d(np.arange(1500), known)

        def accuracy(rows: NDArray[np.int64], pool=pool, of=of, test=test, test_of=test_of) -> float:  # type: ignore[no-untyped-def]
            head = choose_l2(pool[rows], of[rows], np.arange(len(rows)) % 4, classes=6, grid=(0.3, 0.1, 0.03)).head
            return float((head.logits(test).argmax(axis=1) == test_of).mean())

        start = choose_l2(pool[known], of[known], np.arange(24) % 4, classes=6, grid=(0.3, 0.1, 0.03)).head
        shares = probabilities(start.logits(pool[rest]), False)
        suggested = rest[list(choose_next(pool[rest], shares, 60, seed=draw).chosen)]
        by_chance = rng.permutation(rest)[:60]
        lead.append(accuracy(np.concatenate([known, suggested])) - accuracy(np.concatenate([known, by_chance])))
    assert np.mean(lead) > 0.01


def test_the_most_doubtful_are_kept_while_reading() -> None:
    rng = np.random.default_rng(0)
    rows = [np.concatenate([[place, -place], rng.normal(size=3)]).astype(np.float32) for place in range(100)]
    bad = Rejected(path=Path("b.png"), name="b.png", code="truncated", reason="ends early")
    found = gather([*rows[:50], bad, *rows[50:]], 3, False, most=10)
    unsure = doubts(probabilities(np.stack(rows)[:, 2:], False), False)
    expected = np.sort(np.argsort(-unsure)[:10])
    np.testing.assert_array_equal(found.features_PD[:, 0], expected)
    np.testing.assert_array_equal(found.places_P, expected + (expected >= 50))
    assert found.images == 100
    assert found.rejected == (bad,)


def test_several_labels_are_suggested_by_the_least_certain() -> None:
    features, _ = blobs(10)
    shares = np.full((50, 3), 0.97)
    shares[[4, 17, 33], 1] = 0.5
    assert set(choose_next(features, shares, 3, multi_label=True).chosen) <= set(range(50))
    assert choose_next(features, shares, 1, multi_label=True).chosen[0] in (4, 17, 33)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small network on coloured pictures, and a folder of unlabelled ones."""
    home = tmp_path_factory.mktemp("suggest")
    for name, colour in COLOURS.items():
        for index in range(12):
            paint(home / "photos" / name / f"{index:03}.png", colour)
    between = tuple((a + b) // 2 for a, b in zip(COLOURS["amber"], COLOURS["blue"], strict=True))
    for index in range(4):
        paint(home / "new" / f"clear{index}.png", COLOURS["cyan"])
        paint(home / "new" / f"mixed{index}.png", between)
    (home / "new" / "bad.png").write_bytes(b"\x89PNG\r\n")
    # The same network whatever was drawn before: some random ones take noise for copies of noise.
    torch.manual_seed(0)
    own = regraft.Own(module=Tiny(), input_shape=(3, 32, 32))
    regraft.fit(home / "photos", out=home / "run", backbone=own, cache=home / "cache")
    return home


def fitted(run: Path) -> regraft.Fitted:
    return regraft.load(run / "run", backbone=regraft.Own(module=Tiny(), input_shape=(3, 32, 32)))


def pictures(run: Path) -> list[Path]:
    return sorted((run / "new").glob("*.png"))


def test_a_run_suggests_what_it_is_unsure_of(run: Path) -> None:
    found = fitted(run).suggest(pictures(run), 2)
    assert len(found.chosen) == 2
    assert found.images == 8
    assert [Path(one.name).name for one in found.rejected] == ["bad.png"]
    answers = {row.path: row for row in fitted(run).predict(pictures(run), top_k=3)}
    for one in found.chosen:
        assert dict(one.top) == pytest.approx(dict(answers[one.path].top[:3]), abs=1e-4)
        assert one.doubt == pytest.approx(1 - (one.top[0][1] - one.top[1][1]), abs=1e-6)
    assert fitted(run).suggest(pictures(run), 2) == found


def test_both_sides_of_an_image_count_where_they_do_in_predicting(run: Path) -> None:
    from dataclasses import replace

    model = replace(fitted(run), mirrored=True)
    one = model.suggest(pictures(run), 1).chosen[0]
    (row,) = model.predict([one.path], top_k=3)
    assert dict(one.top) == pytest.approx(dict(row.top), abs=1e-4)


def test_what_cannot_be_suggested_from_is_said(run: Path) -> None:
    with pytest.raises(DataUnusable, match=r"none of 1.*bad\.png"):
        fitted(run).suggest([run / "new" / "bad.png"])
    with pytest.raises(UsageError, match="count"):
        fitted(run).suggest(pictures(run), 0)
    with pytest.raises(UsageError, match="a run"):
        regraft.pretrained("efficientnet_lite0", size=64).suggest(pictures(run))


def test_the_command_prints_writes_and_says_what_failed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("regraft.cli.options.open_run", lambda *_, **__: fitted(run))
    out = tmp_path / "next.csv"
    arguments = ["suggest", str(run / "run"), str(run / "new"), "--count", "3"]
    assert main([*arguments, "--json", "--out", str(out)]) == 5
    printed = capsys.readouterr()
    fields = json.loads(printed.out)
    assert fields["images"] == 8
    assert fields["rejected_images"][0]["path"].endswith("bad.png")
    assert "bad.png" in printed.err
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [one["path"] for one in fields["suggestions"]]
    assert float(rows[0]["doubt"]) == pytest.approx(fields["suggestions"][0]["doubt"], rel=1e-4)
    assert main(arguments) == 5
    # Pictures of noise are near copies of one another to some engines, and not to others.
    assert f"suggested  {len(fields['suggestions'])} of 8 images" in capsys.readouterr().out
    assert main([*arguments, "--out", str(out)]) == 2
    assert main([*arguments, "--out", str(tmp_path / "next.txt")]) == 2
    for path in [*out.parent.glob(".*")]:
        pytest.fail(f"left behind: {path}")


def test_copies_in_a_folder_are_suggested_once(run: Path, tmp_path: Path) -> None:
    first = run / "new" / "mixed0.png"
    for index in range(3):
        with Image.open(first) as image:
            image.save(tmp_path / f"copy{index}.png", optimize=bool(index))
    found = fitted(run).suggest([*sorted(tmp_path.glob("*.png")), *(p for p in pictures(run) if p.name.startswith("clear"))], 7)
    assert sum("copy" in one.path for one in found.chosen) == 1
    assert found.alike >= 2
