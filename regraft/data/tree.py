"""The layout of a data set as it was understood, as text for people."""

from collections import Counter
from collections.abc import Sequence

from regraft.data.names import count_of, display_width, padded, shown
from regraft.values import Part, Sample

MOST_LINES = 30
_ORDER: tuple[Part | None, ...] = (None, "train", "val", "test")


def draw_tree(title: str, samples: Sequence[Sample], classes: Sequence[str]) -> str:
    """Title, parts and classes with their numbers of images, in about 30 lines at most.

    photos/  300 images, 2 classes
      train  240 images
        cat  140
        dog  100
      test  60 images
        ...
    """
    parts = [part for part in _ORDER if any(sample.part == part for sample in samples)]
    lines = [f"{title}  {count_of(len(samples), 'image')}, {count_of(len(classes), 'class', 'classes')}"]
    for part in parts:
        own = [sample for sample in samples if sample.part == part]
        depth = 1
        if part is not None:
            lines.append(f"  {part}  {count_of(len(own), 'image')}")
            depth = 2
        room = max(2, (MOST_LINES - 2 * len(parts)) // len(parts))
        lines += [f"{'  ' * depth}{line}" for line in _class_lines(own, room)]
    return "\n".join(lines)


def _class_lines(samples: Sequence[Sample], room: int) -> list[str]:
    counts = Counter(label for sample in samples for label in sample.labels)
    names = sorted(counts)
    if len(names) > room:
        names, rest = names[: room - 1], names[room - 1 :]
    else:
        rest = []
    width = max((display_width(shown(name)) for name in names), default=0)
    number = max((len(f"{counts[name]:,}") for name in names), default=0)
    lines = [f"{padded(shown(name), width)}  {counts[name]:>{number},}" for name in names]
    if rest:
        lines.append(
            f"... and {count_of(len(rest), 'more class', 'more classes')}, {sum(counts[name] for name in rest):,} in all"
        )
    return lines
