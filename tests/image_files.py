"""Small files on disk for tests that read folders and tables."""

import hashlib
import io
import os
from pathlib import Path

from PIL import Image


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 90)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()


def put(root: Path, *paths: str, content: bytes = PNG) -> Path:
    """Write a file at each path below `root`; returns `root`."""
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return root


def put_classes(root: Path, **counts: int) -> Path:
    """Write `count` images into each class folder."""
    return put(root, *(f"{name}/{index:03}.png" for name, count in counts.items() for index in range(count)))


def tree_hash(root: Path) -> str:
    """A digest of everything below `root`: names, kinds, sizes, times of change and bytes."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            status = path.lstat()
            digest.update(os.fsencode(path) + f"{status.st_mode} {status.st_size} {status.st_mtime_ns}".encode())
            digest.update(path.read_bytes() if path.is_file() and not path.is_symlink() else b"")
    return digest.hexdigest()
