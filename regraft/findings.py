"""What an audit finds in the images and their labels: frozen values, in the words of a report. NumPy-free, torch-free."""

from dataclasses import dataclass
from typing import Literal

from regraft.values import Interval, Scores

# How two images are the same: byte for byte; pixel for pixel in another file; or one is an altered copy of the other.
Sameness = Literal["file", "pixels", "altered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Two images that show the same.

    `change` says what was done to one of them ("flipped, cropped", "resized", "encoded anew", "the same file"); `similarity` is
    the correlation of their thumbnails once that is undone, 1 for equal ones.
    """

    one: str
    other: str
    sameness: Sameness
    change: str
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Images that all show the same, directly or through one another.

    `names`, `labels` (each the labels of that image, joined) and `parts` ("train", "test") are in the same order. `sameness` is
    the loosest of the pairs that tie them together, `change` what most of those underwent.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    parts: tuple[str, ...]
    sameness: Sameness
    change: str

    @property
    def across_classes(self) -> bool:
        """Whether the same picture has two labels."""
        return len(set(self.labels)) > 1

    @property
    def across_parts(self) -> bool:
        """Whether the same picture is learned from and judged with."""
        return len(set(self.parts)) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """Images that are almost the same to the network, though none was found to be a copy: a burst, frames of one video.

    `names`, `labels` and `parts` as in Copies; `cosine` is the least of those between the features of a pair that ties them.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    parts: tuple[str, ...]
    cosine: float

    @property
    def across_parts(self) -> bool:
        """Whether almost the same is learned from and judged with."""
        return len(set(self.parts)) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """An image whose label does not look right: heads that had not seen it give the `label` the probability `given`.

    They think rather of `suggested`, with the probability `instead`. `wrong` is the probability that the label is wrong, in the
    light of how many labels are. Several labels per image: `label` and `suggested` are all that it has and should have, joined
    with commas ("none" without any), and the probabilities are those of the most doubtful one.
    """

    name: str
    label: str
    suggested: str
    given: float
    instead: float
    part: str
    wrong: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Two classes that are told apart little better than by guessing.

    Shown an image of each, heads that had not seen them say with `accuracy` which is which; 1/2 is guessing. `accuracy.n`
    counts the images of both.
    """

    one: str
    other: str
    accuracy: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """An image unlike all others: its `distance` is so many times the usual one."""

    name: str
    label: str
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """An image that may be of little use: `code` is stable ("tiny", "blank", "blurred", "extreme shape"), `reason` in words."""

    name: str
    label: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcut:
    """A side of the files that gives their class away without a look at the picture, such as its size or format.

    `accuracy` is that of answering from it alone, cross-validated; `baseline` that of always answering the largest class.
    `words` say it in a report, and whether it is likely to be a leak.
    """

    what: str
    accuracy: Interval
    baseline: float
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imbalance:
    """The largest and the smallest class, where they are far apart in size."""

    largest: str
    most: int
    smallest: str
    fewest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Test images that show the same as a training image, and the test scores on the others alone."""

    names: tuple[str, ...]
    twins: tuple[str, ...]
    scores_without: Scores | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All that was found, the worst first within each kind.

    `kept_together` counts images whose copies share a side or fold. `wrong` is the expected share of wrong labels.
    """

    images: int
    copies: tuple[Copies, ...] = ()
    leak: Leak | None = None
    suspects: tuple[Suspect, ...] = ()
    wrong: Interval | None = None
    mixed: tuple[Mixed, ...] = ()
    outliers: tuple[Outlier, ...] = ()
    odd: tuple[Odd, ...] = ()
    shortcuts: tuple[Shortcut, ...] = ()
    imbalance: Imbalance | None = None
    kept_together: int = 0
    seconds: float = 0.0
    similar: tuple[Similar, ...] = ()
