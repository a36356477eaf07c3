"""Archives and tables with images inside, written byte by byte, for tests that read shards."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"amber": (230, 160, 20), "blue": (30, 60, 200), "cyan": (20, 190, 190)}


def picture(seed: int, colour: tuple[int, int, int] = (120, 120, 120), side: int = 24, form: str = "PNG") -> bytes:
    """A noisy picture of one colour; no two seeds give the same."""
    noise = np.random.default_rng(seed).normal(0, 40, (side, side, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(buffer, form)
    return buffer.getvalue()


def pictures(counts: Mapping[str, int], parts: tuple[str, ...] = ()) -> dict[str, bytes]:
    """By the path below a folder a picture for each: cat/000.png, or train/cat/000.png."""
    made = dict[str, bytes]()
    for part in parts or ("",):
        for name, count in counts.items():
            for index in range(count):
                path = "/".join(filter(None, (part, name, f"{index:03}.png")))
                made[path] = picture(len(made), COLOURS.get(name, (120, 120, 120)))
    return made


def as_folder(root: Path, made: Mapping[str, bytes]) -> Path:
    """The pictures as files."""
    for path, data in made.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def tar_of(files: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def header(
    name: str = "a.png", size: int = 0, kind: bytes = b"0", *, mode: int = 0o644, link: str = "", raw: str = ""
) -> bytes:
    """One header, right or wrong; `raw` stands in place of the size's digits."""
    fields = [
        name.encode()[:100].ljust(100, b"\0"), b"%07o\0" % mode, b"0000000\0", b"0000000\0",
        raw.encode().ljust(12, b"\0") if raw else b"%011o\0" % size, b"00000000000\0", b" " * 8, kind,
        link.encode().ljust(100, b"\0"), b"ustar\x0000", bytes(64), b"0000000\0", b"0000000\0", bytes(155), bytes(12),
    ]  # fmt: skip
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def entry(name: str, data: bytes, kind: bytes = b"0", **options: object) -> bytes:
    """A header and its bytes, filled up to whole blocks."""
    return header(name, len(data), kind, **options) + data + bytes(-len(data) % 512)  # type: ignore[arg-type]


def labelled(key: str, label: object, image: bytes) -> bytes:
    """The entries of one good sample."""
    return entry(f"{key}.json", json.dumps({"label": label}).encode()) + entry(f"{key}.png", image)


END = bytes(1024)


def good(count: int = 12) -> bytes:
    """Samples of two classes, without an end mark: hostile entries may come behind them."""
    return b"".join(labelled(f"ok/{i:03}", ("cat", "dog")[i % 2], picture(i)) for i in range(count))
