"""Every image is looked at before work starts; what cannot be used is set aside, with the reason."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from image_files import PNG, put, put_classes, tree_hash

from regraft.data.read import read_evaluation, read_samples
from regraft.data.scan import CHUNK, scan_images
from regraft.errors import DataUnusable, TooFewImages, TooManyUnreadable
from regraft.recipe import Data
from regraft.values import Rejected, Sample

SAMPLES = [Sample(path=Path(f"{i:04}.png"), name=f"{i:04}.png", labels=("x",)) for i in range(3 * CHUNK + 7)]


def reject(numbers: set[int]):  # type: ignore[no-untyped-def]
    def check(path: Path, name: str) -> Rejected | None:
        bad = int(path.stem) in numbers
        return Rejected(path=path, name=name, code="truncated", reason="ends early") if bad else None

    return check


def test_all_are_checked_and_keep_their_order() -> None:
    bad = {0, 5, CHUNK, 3 * CHUNK + 6}
    good, rejected = scan_images(SAMPLES, check=reject(bad))
    assert [r.name for r in rejected] == [f"{i:04}.png" for i in sorted(bad)]
    assert list(good) == [s for i, s in enumerate(SAMPLES) if i not in bad]


def test_more_than_a_tenth_stops_and_lists_the_first_ten() -> None:
    count = len(SAMPLES) // 10
    assert len(scan_images(SAMPLES, check=reject(set(range(count))))[1]) == count
    with pytest.raises(TooManyUnreadable) as caught:
        scan_images(SAMPLES, check=reject(set(range(count + 1))))
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert f"{count + 1} of {len(SAMPLES)} (10 %) unreadable" in message
    assert message.count("ends early") == 10
    assert "0009.png: ends early" in message
    assert f"and {count + 1 - 10} more" in message
    assert "--skip-bad" in message


def test_skip_bad_goes_on_but_not_without_images() -> None:
    good, rejected = scan_images(SAMPLES, check=reject(set(range(200))), skip_bad=True)
    assert (len(good), len(rejected)) == (len(SAMPLES) - 200, 200)
    with pytest.raises(DataUnusable, match="images that can be read"):
        scan_images(SAMPLES, check=reject(set(range(len(SAMPLES)))), skip_bad=True)


def test_no_images_need_no_check() -> None:
    assert scan_images([]) == ((), ())


class Watcher:
    """Notes what it is told; with `stop` it behaves like a person who presses Ctrl-C at the first news."""

    def __init__(self, *, stop: bool = False) -> None:
        self.told: list[tuple[str, int]] = []
        self.stop = stop

    @contextmanager
    def task(self, name: str, total: int, unit: str) -> Iterator["Watcher"]:
        self.told.append((name, total))
        yield self

    def advance(self, count: int = 1) -> None:
        self.told.append(("", count))
        if self.stop:
            raise KeyboardInterrupt

    def note(self, text: str) -> None: ...


def test_progress_is_told_of_every_image() -> None:
    watcher = Watcher()
    scan_images(SAMPLES, check=reject(set()), progress=watcher)
    assert watcher.told[0] == ("checking images", len(SAMPLES))
    assert sum(count for _, count in watcher.told[1:]) == len(SAMPLES)


def test_interrupted_it_does_not_finish_the_rest() -> None:
    many = [Sample(path=Path("0.png"), name="0.png")] * (100 * CHUNK)
    seen: list[str] = []

    def check(path: Path, name: str) -> Rejected | None:
        time.sleep(1e-5)
        seen.append(name)
        return None

    with pytest.raises(KeyboardInterrupt):
        scan_images(many, check=check, progress=Watcher(stop=True))
    assert len(seen) < len(many)


def test_a_third_unreadable_stops_and_skip_bad_leaves_the_files_alone(tmp_path: Path) -> None:
    put_classes(tmp_path, cat=4, dog=4)
    put(tmp_path, "cat/text.jpg", content=b"<html>not found</html>")
    put(tmp_path, "cat/short.png", content=PNG[:40])
    put(tmp_path, "dog/empty.gif", content=b"")
    before = tree_hash(tmp_path)
    with pytest.raises(TooManyUnreadable, match=r"3 of 11 \(27 %\)[\s\S]*cat/short.png[\s\S]*cat/text.jpg[\s\S]*dog/empty.gif"):
        read_samples(Data(path=tmp_path))
    samples = read_samples(Data(path=tmp_path, skip_bad=True))
    assert [(r.name, bool(r.reason)) for r in samples.rejected] == [
        ("cat/short.png", True),
        ("cat/text.jpg", True),
        ("dog/empty.gif", True),
    ]
    assert len(samples.samples) == 8
    assert any(note.startswith("3 unreadable images set aside: ") for note in samples.notes)
    assert tree_hash(tmp_path) == before


def test_a_class_that_loses_its_images_is_an_error(tmp_path: Path) -> None:
    put(put_classes(tmp_path, cat=40, dog=1), "dog/bad.png", content=b"x")
    with pytest.raises(TooFewImages, match=r"dog 1; 1 unreadable image not counted"):
        read_samples(Data(path=tmp_path))


def test_evaluation_sets_unreadable_images_aside(tmp_path: Path) -> None:
    put(put_classes(tmp_path, cat=9, dog=9), "dog/bad.png", content=b"x")
    samples = read_evaluation(tmp_path, ("cat", "dog"))
    assert ([r.name for r in samples.rejected], len(samples.samples)) == (["dog/bad.png"], 18)
    put(tmp_path, "dog/bad2.png", "dog/bad3.png", content=b"x")
    with pytest.raises(TooManyUnreadable):
        read_evaluation(tmp_path, ("cat", "dog"))
    assert len(read_evaluation(Data(path=tmp_path, skip_bad=True), ("cat", "dog")).rejected) == 3
