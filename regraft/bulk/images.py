"""Which images there are, in order and none left out, with labels where the source has any."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from regraft.data.folder import list_images, read_folder
from regraft.data.materialise import on_disk
from regraft.data.names import printable, sample_names
from regraft.data.table import read_listed
from regraft.data.tabular import is_table
from regraft.errors import DataUnusable
from regraft.inputs import checked_paths
from regraft.progress import Progress
from regraft.recipe import Data
from regraft.values import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Images in order. `multi_label`: of a source that gives some images several labels or none."""

    samples: tuple[Sample, ...]
    multi_label: bool = False
    notes: tuple[str, ...] = ()

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
    data = on_disk(replace(data, path=Path(data.path), test="none"), cache, progress=progress)
    if data.path.is_dir():
        found = _in_folder(data.path)
    elif is_table(data.path) and data.path.is_file():
        table = read_listed(data)
        found = Images(samples=table.samples, multi_label=table.multi_label)
    else:
        samples = (Sample(path=data.path, name=str(data.path)),)  # an image; where it is none, its row says so
        found = Images(samples=samples)
    return _not_empty(found, printable(data.path))


def _in_folder(root: Path) -> Images:
    """All images below a folder; their labels where its layout is one of class folders."""
    paths = list_images(root)
    names = sample_names([path.relative_to(root).as_posix() for path in paths])
    try:
        found = read_folder(root)
    except DataUnusable:  # a layout that cannot be fitted on has images all the same
        return Images(samples=tuple(Sample(path=path, name=name) for path, name in zip(paths, names, strict=True)))
    known = {sample.path: sample for sample in found.samples}
    samples = tuple(known.get(path, Sample(path=path, name=name)) for path, name in zip(paths, names, strict=True))
    return Images(samples=samples, notes=tuple(note for note in found.notes if "in no class folder" not in note))


def _not_empty(found: Images, where: str) -> Images:
    if not found.samples:
        raise DataUnusable(
            expected="at least one image",
            got=f"{where}: none; {'; '.join(found.notes)}" if found.notes else f"{where}: none",
            fix="check the path; images are found by their endings: .jpg .png .webp .bmp .gif .tif",
        )
    return found
