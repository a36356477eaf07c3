"""What a folder or a table holds, before any image is opened or any rule about classes is checked."""

from dataclasses import dataclass
from pathlib import Path

from regraft.values import Part, Sample

# Names under which the parts of a data set are found on disk and in tables, lower case.
PARTS: dict[str, Part] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyClass:
    """A class folder without a single image; `holds` says what is in it instead."""

    name: str
    part: Part | None
    holds: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Samples in the order of their names, as a source gives them. `title` heads the printed layout."""

    root: Path
    title: str
    samples: tuple[Sample, ...]
    multi_label: bool = False
    empty: tuple[EmptyClass, ...] = ()
    notes: tuple[str, ...] = ()
