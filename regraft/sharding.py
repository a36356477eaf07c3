"""`regraft.shard`: labelled images, from wherever they are, into tar archives that regraft, WebDataset and others read.

    shards/train-000000.tar    cat/1.cls  cat/1.json  cat/1.jpg  cat/2.cls ...
    shards/test-000000.tar
    shards/classes.json        ["cat", "dog"]: the names of the numbers in .cls

Images are kept byte for byte and in the order of their names; the same images give the same bytes. The folder is there when
it is whole, and not before.
"""

import io
import json
import os
import re
import shutil
import tarfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

from regraft.artifact.durable import sync_folder
from regraft.cache.store import default_folder
from regraft.data.container import in_memory, inspect
from regraft.data.decode import read_image
from regraft.data.materialise import on_disk
from regraft.data.problem import Problem
from regraft.data.read import read_more
from regraft.data.scan import rejection_notes
from regraft.data.walk import IMAGE_SUFFIXES, suffix_of
from regraft.errors import DataUnusable, ImageRejected, OutputExists, UsageError
from regraft.place import is_inside
from regraft.progress import Progress, Silent
from regraft.recipe import Data, is_url
from regraft.replacing import cannot_write
from regraft.values import Rejected, Sample

SIZE: Final = 10**9
CLASSES_FILE: Final = "classes.json"
_PLAIN: Final = "shards"
_SMALLEST: Final = 10_240  # a tar archive is a multiple of so many bytes
_LONGEST_KEY: Final = 180  # bytes; with the ending, all file systems and the old format of tar take it
_ENDINGS: Final = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif"}
_UNSAFE = re.compile(r"[^\w/-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharded:
    """What was written: the names of the `shards` in `folder`, how many `images` and `bytes`, the sorted `classes`.

    `rejected` were set aside, as a fit would; `notes` are what a fit would say of the data.
    """

    folder: Path
    shards: tuple[str, ...]
    images: int
    bytes: int
    classes: tuple[str, ...]
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()


def shard(
    data: str | Path | Data,
    out: str | Path,
    *,
    size: int = SIZE,
    cache: str | Path | None = None,
    progress: Progress = Silent(),
) -> Sharded:
    """Write labelled images into tar archives of at most about `size` bytes each, in the new folder `out`.

    `data` is whatever `fit` takes: a folder of class folders, a table, torchvision:NAME, other shards. Images of a part (train,
    val, test) go into shards whose names begin with it. Each image has a `.cls` beside it, the number of its class in
    classes.json (none where images have several labels), and a `.json` with `label`, `name` and, where there is one, `group`.
    Images that cannot be read are set aside. Nothing is left behind where it fails.

    Raises OutputExists where `out` is there and not empty, DataUnusable, TooManyUnreadable, UsageError, OutOfSpace.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < _SMALLEST:
        raise UsageError(expected=f"a size of {_SMALLEST:,} bytes or more", got=repr(size), fix="give for example 1GB")
    folder = _checked(data.path if isinstance(data, Data) else data, out)
    chosen = data if isinstance(data, Data) else Data(path=data)
    chosen = on_disk(chosen, default_folder() if cache is None else Path(cache), progress=progress)
    samples = read_more(chosen, multi_label=None, progress=progress)
    with _whole(folder) as work, progress.task("writing shards", len(samples.samples), "image") as task:
        writer = _Writer(work, samples.classes, samples.multi_label, size)
        for sample, key in _by_part(samples.samples):
            writer.add(sample, key)
            task.advance()
        written = writer.close()
        if not writer.images:
            raise DataUnusable(
                expected="images that can be read", got="none any more", fix="run the same command again; see what changed"
            )
    return Sharded(
        folder=folder,
        shards=tuple(written),
        images=writer.images,
        bytes=writer.bytes,
        classes=samples.classes,
        rejected=(*samples.rejected, *writer.rejected),
        notes=(*samples.notes, *rejection_notes(writer.rejected)),
    )


def _checked(given: str | Path, out: str | Path) -> Path:
    if is_url(out):
        raise UsageError(
            expected="a folder on this machine for the shards",
            got=str(out),
            fix="write them here, then copy the folder with the tool of that store",
        )
    folder = Path(out)
    if (folder.exists() and not folder.is_dir()) or (folder.is_dir() and any(folder.iterdir())):
        raise OutputExists(
            expected=f"{folder} to be new or empty", got=f"{folder}: something is there already", fix="give another folder"
        )
    if is_inside(given, folder):
        source = Path(given).resolve()
        raise UsageError(
            expected="a folder outside of the images for the shards",
            got=f"{folder}, which is inside of {given}: the next fit would take it for a class",
            fix=f"give another folder, for example {source.with_name(f'{source.name}-shards')}",
        )
    return folder


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder`, which gets its name at the end, with all its bytes on the disk; else it is removed."""
    work = folder.absolute().parent / f".{folder.name}.{uuid.uuid4().hex}"
    try:
        work.mkdir(parents=True)
        yield work
        sync_folder(work)
        work.replace(folder.absolute())
        sync_folder(folder.absolute().parent)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _by_part(samples: Sequence[Sample]) -> Iterable[tuple[Sample, str]]:
    """Every sample with its key, part after part."""
    pairs = zip(samples, _keys([sample.name for sample in samples]), strict=True)
    return sorted(pairs, key=lambda pair: pair[0].part or "")  # keeps the order of the names


def _keys(names: Sequence[str]) -> list[str]:
    """The key of each name: its letters, digits, - and _, and no dot, at which WebDataset would end it; all different."""
    plain = [_key(name) for name in names]
    given, used, out = Counter(plain), set[str](), list[str]()
    for key in plain:
        number, free = 1, key
        while free in used or (number > 1 and free in given):
            number += 1
            free = f"{key}-{number}"
        used.add(free)
        out.append(free)
    return out


def _key(name: str) -> str:
    stem = name[: -len(suffix_of(name))] if suffix_of(name) in IMAGE_SUFFIXES else name
    key = "/".join(part for part in _UNSAFE.sub("_", stem).split("/") if part) or "image"
    if len(key.encode()) <= _LONGEST_KEY:
        return key
    return f"{key.encode()[: _LONGEST_KEY - 17].decode(errors='ignore')}-{sha256(name.encode()).hexdigest()[:16]}"


class _Writer:
    """Writes samples in their order, and begins another archive for another part, or where one is full."""

    def __init__(self, folder: Path, classes: Sequence[str], multi_label: bool, size: int) -> None:
        self.images, self.bytes = 0, 0
        self.rejected: list[Rejected] = []
        self._folder, self._classes, self._several, self._size = folder, classes, multi_label, size
        self._number = {name: number for number, name in enumerate(classes)}
        self._written: list[str] = []
        self._count = Counter[str]()
        self._prefix, self._filled = "", 0
        self._file: BinaryIO | None = None
        self._tar: tarfile.TarFile | None = None

    def add(self, sample: Sample, key: str) -> None:
        try:
            image = read_image(sample.path, sample.name)
            # An image elsewhere has not been looked at before.
            header = inspect(in_memory(image), len(image))
        except ImageRejected as error:
            reason = error.got.removeprefix(f"{sample.name}: ")
            self.rejected.append(Rejected(path=sample.path, name=sample.name, code=error.code, reason=reason))
            return
        except Problem as problem:
            self.rejected.append(Rejected(path=sample.path, name=sample.name, code=problem.code, reason=problem.got))
            return
        ending = suffix_of(sample.name) if suffix_of(sample.name) in IMAGE_SUFFIXES else _ENDINGS[header.format]
        files = [(f"{key}.json", _told(sample, self._several)), (f"{key}{ending}", image)]
        if not self._several:
            files.insert(0, (f"{key}.cls", str(self._number[sample.labels[0]]).encode()))
        needed = sum(tarfile.BLOCKSIZE * (1 + -(-len(data) // tarfile.BLOCKSIZE)) for _, data in files)
        tar = self._room(sample.part or _PLAIN, needed)
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
        self._filled += needed
        self.images += 1

    def _room(self, prefix: str, needed: int) -> tarfile.TarFile:
        """The archive that takes the next sample."""
        full = self._filled + needed + tarfile.RECORDSIZE > self._size and self._filled > 0
        if self._tar is None or prefix != self._prefix or full:
            self._end()
            name = f"{prefix}-{self._count[prefix]:06}.tar"
            self._count[prefix] += 1
            self._written.append(name)
            self._prefix, self._filled = prefix, 0
            self._file = (self._folder / name).open("xb")
            self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 (until it is full)
        return self._tar

    def _end(self) -> None:
        if self._tar is not None and self._file is not None:
            self._tar.close()
            _synced(self._file)
            self.bytes += self._file.tell()
            self._file.close()
        self._tar = self._file = None

    def close(self) -> list[str]:
        """Write what is left, and the list of classes; the names of the archives."""
        self._end()
        with (self._folder / CLASSES_FILE).open("xb") as file:
            file.write(json.dumps([*self._classes], ensure_ascii=False, indent=1).encode() + b"\n")
            _synced(file)
        return self._written


def _synced(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _told(sample: Sample, several: bool) -> bytes:
    """What is known of an image, as JSON."""
    told: dict[str, object] = {"label": [*sample.labels] if several else sample.labels[0], "name": sample.name}
    if sample.group is not None:
        told["group"] = sample.group
    return json.dumps(told, ensure_ascii=False).encode()
