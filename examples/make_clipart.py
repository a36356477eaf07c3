"""How the demo set examples/clipart/ was chosen; running it again gives the same drawings.

    python bench/data.py bench/out/data clipart
    python examples/make_clipart.py bench/out/data/clipart examples/clipart

50 drawings of each class, in the order of a hash of their names, so that nobody's taste chose them; see CLIPART.md.
"""

import hashlib
import shutil
import sys
from pathlib import Path

from PIL import Image

EACH = 50
SIDE = 192
COLOURS = 128
# Left out: a broken file, and characters and logos that are somebody's mark although the drawing is public domain.
LEFT_OUT = ("stylized_yoga", "cartoon_vgcats", "gameboy", "t-shirt_03", "einstein", "shelby_cobra", "schermo_macintos")


def choose(paths: list[Path], name: str) -> list[Path]:
    """EACH of the drawings of class `name`, in hash order; a file name counts once."""
    by_name = {path.name: path for path in paths if not path.name.lower().startswith(LEFT_OUT)}
    return sorted(by_name.values(), key=lambda path: hashlib.sha256(f"{name}/{path.name}".encode()).hexdigest())[:EACH]


def shrink(source: Path, target: Path) -> None:
    """A smaller copy with a palette: 400 drawings have to fit in 4 MB."""
    image = Image.open(source).convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def main(source: Path, target: Path) -> None:
    """Write the demo set: one folder per class, no train/ and test/, as most people's folders are."""
    shutil.rmtree(target, ignore_errors=True)
    for name in sorted({path.name for path in source.glob("*/*") if path.is_dir()}):
        (target / name).mkdir(parents=True)
        for path in choose(sorted(source.glob(f"*/{name}/*.png")), name):
            shrink(path, target / name / path.name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
