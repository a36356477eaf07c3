"""Every command and line of Python in README.md is run, in a folder like a reader's, on a few of the demo drawings.

Those for pixels are run on painted discs with their masks.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mask_files import save

ROOT = Path(__file__).resolve().parent.parent

EACH = 8


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The lines a reader would type; installing is `make demo`'s to prove."""
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [line for line in lines if not line.startswith("pip ")]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, test/, new/ and a few drawings of each class in examples/clipart/."""
    home = tmp_path_factory.mktemp("reader")
    for folder in sorted((ROOT / "examples/clipart").iterdir()):
        files = sorted(folder.iterdir())
        # The README names this drawing.
        files.sort(key=lambda file: file.name != "banana.png")
        for target, chosen in (("photos", files[:EACH]), ("examples/clipart", files[:EACH]), ("test", files[EACH : EACH + 2])):
            (home / target / folder.name).mkdir(parents=True)
            for file in chosen:
                shutil.copy(file, home / target / folder.name)
        (home / "new").mkdir(exist_ok=True)
        shutil.copy(files[-1], home / "new" / f"{folder.name}.png")
    for images, masks, count in (("scans", "masks", 10), ("more", "more-masks", 4), ("scenes/images", "scenes/masks", 10)):
        discs(home / images, home / masks, count, level=1 if images.startswith("scenes") else 255)
    (home / "classes.txt").write_text("paper\ndisc\n")
    return home


def discs(images: Path, masks: Path, count: int, level: int) -> None:
    """Bright discs on noise, 64 x 48 pixels, each with a mask that has `level` where the disc is."""
    y, x = np.mgrid[:48, :64]
    for number in range(count):
        rng = np.random.default_rng([count, number])
        inside = (y - rng.uniform(12, 36)) ** 2 + (x - rng.uniform(12, 52)) ** 2 < rng.uniform(7, 12) ** 2
        save(images / f"{number}.png", rng.integers(0, 90, (48, 64, 3)) + 140 * inside[..., None])
        save(masks / f"{number}.png", level * inside)


def run(command: list[str] | str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(folder / ".cache"), "MPLCONFIGDIR": str(folder / ".mpl")}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, shell=isinstance(command, str))
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"


def test_readme_shows_the_whole_way_in_its_first_lines() -> None:
    start = "\n".join((ROOT / "README.md").read_text().splitlines()[:20])
    assert "regraft fit photos/" in start
    assert "pip install" in start


@pytest.mark.timeout(1800)
def test_commands_of_the_readme_work(reader: Path) -> None:
    # In one test and in order: the later ones use the runs of the earlier.
    assert len(commands()) >= 7
    for command in commands():
        run(command, reader)
    assert (reader / "runs/photos/report.html").exists()
    _, _, listed = (ROOT / "README.md").read_text().partition("## What is in the run folder")
    names = re.findall(r"^\| `([\w.]+)` \|", listed.partition("\n## ")[0], re.MULTILINE)
    assert len(names) >= 4
    for name in names:
        assert (reader / "runs/photos" / name).exists(), name


def test_python_of_the_readme_works(reader: Path) -> None:
    assert blocks("python")
    for block in blocks("python"):
        run([sys.executable, "-c", block], reader)
