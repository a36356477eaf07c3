"""Images in memory, as files: each array and each of Pillow's images once, a PNG named by the digest of its pixels.

So they are found in the caches by their content, as images on disk are, and go through the one way to read images.
"""

import hashlib
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from regraft.data.colour import to_rgb_or_grey
from regraft.data.problem import Problem
from regraft.errors import InputUnusable
from regraft.replacing import cannot_write

FOLDER: Final = "arrays"
_END: Final = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk of every PNG
_WANTED: Final = "images as paths, uint8 arrays (H, W), (H, W, 3) or (H, W, 4), or Pillow's images"


def files_of(images: object, cache: Path) -> list[Path]:
    """The file of each image: its path as it is given, or for pixels a PNG below `cache`, written where it is not there yet.

    `images` is a sequence of paths, of uint8 arrays (H, W), (H, W, 3) or (H, W, 4), and of Pillow's images, in any mixture,
    or one array (N, H, W), (N, H, W, 3) or (N, H, W, 4). Files are not opened. Raises InputUnusable, OutOfSpace, UsageError.
    """
    folder, new = cache / FOLDER, dict[Path, Path]()
    try:
        files = [_file_of(item, at, folder, new) for at, item in enumerate(_listed(images))]
        for path, temporary in new.items():
            temporary.replace(path)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        for temporary in new.values():
            temporary.unlink(missing_ok=True)
    return files


def _file_of(item: object, at: int, folder: Path, new: dict[Path, Path]) -> Path:
    """The file of one image; one that is not there yet is written under another name, and both are noted in `new`."""
    if isinstance(item, str | os.PathLike):
        return Path(item)
    pixels = _pixels(item, at)
    path = folder / _name(pixels)
    if path not in new and not _is_whole(path):
        folder.mkdir(parents=True, exist_ok=True)
        new[path] = path.with_name(f".{uuid.uuid4().hex}.png")
        Image.fromarray(pixels).save(new[path], compress_level=1)
    return path


def _is_whole(path: Path) -> bool:
    """Whether the file is there to its end: a power cut may leave one that is empty, or holds nothing but zeros."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            return file.read() == _END
    except OSError:
        return False


def _listed(images: object) -> list[Any]:
    """The images one by one."""
    single = isinstance(images, str | bytes | os.PathLike | Image.Image | dict)
    # A data frame would give the names of its columns.
    if single or not isinstance(images, Iterable) or hasattr(images, "columns"):
        raise _refused(f"a {type(images).__name__}", "put a single image in a list; of a data frame give the column of paths")
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OUS" and images.ndim < 3:
        raise _refused(
            f"an array {images.shape} of {images.dtype}",
            "make images of rows of pixels first: X.reshape(len(X), height, width)",
        )
    items = list(images)
    if not items:
        raise _refused("no image", "give at least one")
    return items


def _pixels(item: object, at: int) -> NDArray[np.uint8]:
    """The pixels (H, W) or (H, W, C) of one image."""
    if isinstance(item, Image.Image):
        item = _upright(item, at)
    if not isinstance(item, np.ndarray):
        raise _refused(f"a {type(item).__name__} as image {at}", "convert it, for example with np.asarray")
    if item.ndim == 3 and item.shape[2] == 1:
        item = item[:, :, 0]
    if item.dtype != np.uint8:
        raise _refused(
            f"an array of {item.dtype} as image {at}",
            "scale it to 0..255 and convert it: (255 * x).round().astype(np.uint8) for values from 0 to 1",
        )
    if item.ndim not in (2, 3) or item.size == 0 or (item.ndim == 3 and item.shape[2] not in (3, 4)):
        raise _refused(f"an array of shape {item.shape} as image {at}", "bring the channels last, 1, 3 or 4 of them")
    return np.ascontiguousarray(item)


def _upright(image: Image.Image, at: int) -> NDArray[np.uint8]:
    try:
        shown, _ = to_rgb_or_grey(ImageOps.exif_transpose(image), None)
        return np.asarray(shown.convert("RGBA") if shown.mode == "LA" else shown)
    except Problem as problem:
        raise _refused(f"image {at}: {problem.got}", problem.fix) from None
    except Exception as error:  # what Pillow raises for a file that it opened and cannot read to its end
        raise _refused(f"image {at}: {type(error).__name__}: {error}", "take it out") from error


def _name(pixels: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.data)
    return f"{digest.hexdigest()[:40]}.png"


def kept_arrays(cache: Path) -> tuple[int, int]:
    """How many images in memory are kept as files, and their bytes."""
    sizes = [path.stat().st_size for path in (cache / FOLDER).glob("[!.]*.png")]
    return len(sizes), sum(sizes)


def _refused(got: str, fix: str) -> InputUnusable:
    return InputUnusable(expected=_WANTED, got=got, fix=fix)
