"""What several tests need: small coloured pictures in class folders, and a cache of their own."""

import gc
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# The longest first: a file is one worker's, and the one that begins last should not be the longest.
LONG = ("test_readme", "test_every_backbone", "test_train_network", "test_examples", "test_predict_on_ray", "test_build_docs")
# Small matrices run slower on many threads than on one, and pytest may share the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

COLOURS = {"amber": (230, 160, 20), "blue": (30, 60, 200), "cyan": (20, 190, 190)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def paint(path: Path, colour: tuple[int, int, int], *, side: int = 40) -> Path:
    """A noisy picture mostly of one colour; the noise follows from the path's last two parts, so that no two are equal."""
    seed = int.from_bytes(hashlib.sha256("/".join(path.parts[-2:]).encode()).digest()[:4], "big")
    noise = np.random.default_rng(seed).normal(0, 40, (side, side, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def paint_classes(root: Path, counts: dict[str, int]) -> Path:
    """Class folders of coloured pictures; a class without a colour of its own has grey ones."""
    for name, count in counts.items():
        for index in range(count):
            paint(root / name / f"{index:03}.png", COLOURS.get(name, (120, 120, 120)))
    return root


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_frozen() -> Iterator[None]:
    """Commands keep the garbage collector off the modules they import; at the end of the tests some of those would complain."""
    yield
    gc.unfreeze()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder that is also the default one."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REGRAFT_CACHE", str(folder))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """36 pictures in 3 classes that colour tells apart."""
    return paint_classes(tmp_path / "photos", dict.fromkeys(COLOURS, 12))
