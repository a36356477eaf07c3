"""A class more, or more images, from the cached features of a run's own images."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, paint_classes

import regraft
from regraft.errors import DataUnusable, SavedModelRefused, UsageError
from regraft.kept import IMAGES_FILE, KeptImages, read_images, write_images
from regraft.values import Sample


@pytest.fixture
def old(tmp_path: Path, cache: Path) -> Path:
    """A run of two classes whose images are gone."""
    photos = paint_classes(tmp_path / "photos", {"amber": 15, "blue": 15})
    regraft.fit(photos, out=tmp_path / "old", size=64, device="cpu", cache=cache)
    shutil.rmtree(photos)
    return tmp_path / "old"


def test_a_class_is_added_without_the_old_images(old: Path, tmp_path: Path, cache: Path) -> None:
    more = paint_classes(tmp_path / "more", {"cyan": 10})
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    run = regraft.extend(old, more, device="cpu", cache=cache)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert run.folder == tmp_path / "old-2"
    assert run.classes == ("amber", "blue", "cyan")
    assert run.summary is not None
    assert (run.summary.train, run.summary.test) == (24 + 8, 6 + 2)
    assert run.summary.cache_misses == 10
    assert run.summary.test_scores is not None
    assert run.summary.test_scores.accuracy.value == 1.0
    answers = regraft.load(run.folder).predict(sorted(more.rglob("*.png")), top_k=1)
    assert {answer.top[0][0] for answer in answers} == {"cyan"}


def test_it_is_the_head_that_all_images_together_give(tmp_path: Path, cache: Path) -> None:
    whole = paint_classes(tmp_path / "photos", dict.fromkeys(COLOURS, 10))
    regraft.fit(whole, out=tmp_path / "whole", size=64, device="cpu", cache=cache, test="none")
    part = tmp_path / "part"
    for name in ("amber", "blue"):
        shutil.copytree(whole / name, part / name)
    regraft.fit(part, out=tmp_path / "old", size=64, device="cpu", cache=cache, test="none")
    shutil.copytree(whole / "cyan", tmp_path / "more" / "cyan")
    run = regraft.extend(tmp_path / "old", tmp_path / "more", device="cpu", cache=cache)
    together = regraft.load(tmp_path / "whole")
    assert run.head is not None
    # The folds differ, and with them what is chosen by them; the classes are told apart alike.
    paths = sorted(whole.rglob("*.png"))
    for one, other in zip(run.predict(paths, top_k=1), together.predict(paths, top_k=1), strict=True):
        assert one.top[0][0] == other.top[0][0]
    assert run.summary is not None
    assert run.summary.test == 0


def test_a_copy_of_an_old_image_stays_on_its_side(old: Path, tmp_path: Path, cache: Path) -> None:
    kept = read_images(old)
    more = paint_classes(tmp_path / "more", {"cyan": 10})
    # The pictures follow from their names, so that they can be painted again.
    for sample in (*kept.train[:5], *kept.test):
        (more / sample.labels[0]).mkdir(exist_ok=True)
        again = paint_classes(tmp_path / "again", {"amber": 15, "blue": 15})
        shutil.copy(again / sample.name, more / sample.labels[0] / f"copy-{Path(sample.name).name}")
    regraft.extend(old, more, out=tmp_path / "new", device="cpu", cache=cache)
    found = read_images(tmp_path / "new")
    parts = ["train"] * len(found.train) + ["test"] * len(found.test)
    pairs = list(zip(found.digests, parts, strict=True))
    assert len(pairs) == 30 + 10 + 11
    assert all(dict(pairs)[digest] == part for digest, part in pairs)


def test_copies_share_a_fold_and_names_are_told_apart(old: Path, tmp_path: Path, cache: Path) -> None:
    kept = read_images(old)
    again = paint_classes(tmp_path / "again", {"amber": 15, "blue": 15})
    more = paint_classes(tmp_path / "more", {"cyan": 10})
    first = kept.train[0]
    (more / first.name).parent.mkdir(parents=True)
    shutil.copy(again / first.name, more / first.name)
    regraft.extend(old, more, out=tmp_path / "new", device="cpu", cache=cache)
    found = read_images(tmp_path / "new")
    twins = [s for s, digest in zip(found.train, found.digests, strict=False) if digest == kept.digests[0]]
    assert len(twins) == 2
    assert len({sample.group for sample in twins}) == 1
    assert twins[0].group is not None
    names = [sample.name for sample in (*found.train, *found.test)]
    assert len(set(names)) == len(names) == 30 + 10 + 1


def test_features_that_are_gone_are_named(old: Path, tmp_path: Path) -> None:
    more = paint_classes(tmp_path / "more", {"cyan": 4})
    with pytest.raises(UsageError, match="30 of 30 images"):
        regraft.extend(old, more, device="cpu", cache=tmp_path / "elsewhere")


def test_a_trained_network_is_refused(photos: Path, tmp_path: Path, cache: Path) -> None:
    strategy = regraft.Partial(stages=1, epochs=1)
    regraft.fit(photos, out=tmp_path / "old", size=32, device="cpu", cache=cache, strategy=strategy)
    with pytest.raises(UsageError, match="solved head"):
        regraft.extend(tmp_path / "old", photos, cache=cache)


def test_a_folder_without_labels_is_refused(old: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "more").mkdir()
    with pytest.raises(DataUnusable):
        regraft.extend(old, tmp_path / "more", cache=cache)


def test_the_list_of_images_reads_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    train = tuple(
        Sample(path=Path(name), name=name, labels=labels, part="train", group=group)
        for name, labels, group in (("a/1.png", ("a",), None), ("ü\n.png", ("b", "c"), "g"), ("=x", (), None))
    )
    test = (Sample(path=Path("t"), name="t", labels=("a",), part="test"),)
    kept = KeptImages(
        train=train, test=test, digests=tuple(random.bytes(32) for _ in range(4)), table="ab", engine="torch cpu fp32"
    )
    write_images(tmp_path, kept)
    assert read_images(tmp_path) == kept


def test_a_damaged_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / IMAGES_FILE).write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(SavedModelRefused, match=IMAGES_FILE):
        read_images(tmp_path)
    with pytest.raises(UsageError, match=IMAGES_FILE):
        read_images(tmp_path / "nowhere")
