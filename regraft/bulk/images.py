"""Which images there are, in order and none left out, with labels where the source has any."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from regraft.data.folder import list_images, read_folder
from regraft.data.found import Found
from regraft.data.materialise import on_disk
from regraft.data.names import printable, sample_names
from regraft.data.shards.places import find_shards
from regraft.data.shards.read import list_members, read_shards
from regraft.data.table import read_listed
from regraft.data.tabular import is_table
from regraft.errors import DataUnusable
from regraft.inputs import checked_paths
from regraft.progress import Progress
from regraft.recipe import Data
from regraft.values import ImagePath, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Images in order. `multi_label`: of a source that gives some images several labels or none.

    `cut` names archives that end too early, whose other images are missing.
    """

    samples: tuple[Sample, ...]
    multi_label: bool = False
    notes: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether any image has a label."""
        return any(sample.labels for sample in self.samples)


def read_images(data: Data | Sequence[str | Path], cache: Path, progress: Progress) -> Images:
    """The images of a folder (sorted by name), a table (in its order), a named data set, or a list of paths (as given).

    Labels are those of a table's column, or the names of class folders. Raises DataUnusable where there is no image.
    """
    if not isinstance(data, Data):
        return _not_empty(Images(samples=tuple(Sample(path=path, name=name) for path, name in checked_paths(data))), "the list")
    data = on_disk(replace(data, test="none"), cache, progress=progress)
    return _not_empty(_in_source(data, progress), printable(data.path))


def _in_source(data: Data, progress: Progress) -> Images:
    if shards := find_shards(data.path):
        listed = list_members(data.path)
        names = [member.name for member in listed.members]
        found = _all_of(listed.members, names, lambda: read_shards(data, shards, progress=progress))
        return replace(found, notes=tuple(dict.fromkeys((*found.notes, *listed.cut))), cut=listed.cut)
    path = data.local
    if path.is_dir():
        paths = list_images(path)
        return _all_of(paths, [one.relative_to(path).as_posix() for one in paths], lambda: read_folder(path))
    if is_table(path) and path.is_file():
        table = read_listed(data)
        return Images(samples=table.samples, multi_label=table.multi_label)
    return Images(samples=(Sample(path=path, name=str(path)),))  # an image; where it is none, its row says so


def _all_of(paths: Sequence[ImagePath], names: Sequence[str], read: Callable[[], Found]) -> Images:
    """All images; their labels where `read` finds any."""
    plain = [Sample(path=path, name=name) for path, name in zip(paths, sample_names(names), strict=True)]
    try:
        found = read()
    except DataUnusable:  # what cannot be fitted on has images all the same
        return Images(samples=tuple(plain))
    known = {sample.path: sample for sample in found.samples}
    samples = tuple(known.get(sample.path, sample) for sample in plain)
    notes = tuple(note for note in found.notes if "in no class folder" not in note)
    return Images(samples=samples, multi_label=found.multi_label, notes=notes)


def _not_empty(found: Images, where: str) -> Images:
    if not found.samples:
        raise DataUnusable(
            expected="at least one image",
            got=f"{where}: none; {'; '.join(found.notes)}" if found.notes else f"{where}: none",
            fix="check the path; images are found by their endings: .jpg .png .webp .bmp .gif .tif",
        )
    return found
