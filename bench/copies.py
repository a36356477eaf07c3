"""Copies planted among real images, and how many of them the audit finds.

    python bench/copies.py DATA [--seed 0] [--share 0.05] [--most 4000] [--kinds plain|combined] [--sheet PAIRS.png]

DATA is a folder of images, at any depth. A share of them is copied exactly (half of those byte for byte, half written anew with
the same pixels), another share altered: as a JPEG of quality 40 to 95, resized by 0.5 to 2, flipped from left to right, or
cropped to 95 % of both sides at a random place; with `--kinds combined` several of these at once, upside down, by a quarter.
Nothing is written to DATA. Prints one JSON line: what was planted and found by kind, seconds, and the pairs among the images
themselves, which are real copies or mistakes: `--sheet` draws them to be looked at.
"""

import argparse
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.audits.copies import copies_of, find_copies
from regraft.data.decode import decode_image, load_pixels_and_look
from regraft.data.preprocess import Preprocess
from regraft.errors import ImageRejected
from regraft.findings import Alike

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
INPUT = Preprocess(height=224, width=224, crop_share=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
Alteration = Callable[[Image.Image, np.random.Generator], Image.Image]


@dataclass(frozen=True)
class Entry:
    """One image of the mixture: `original` is the name of what it was made from, `kind` how."""

    name: str
    data: bytes
    original: str
    kind: str


def flipped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The mirror image."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def upside_down(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Mirrored at the horizontal axis."""
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


def turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turned by a quarter."""
    return image.transpose(Image.Transpose.ROTATE_90)


def resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Half to twice as large, by any of three filters."""
    factor = 2.0 ** rng.uniform(-1, 1)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, FILTERS[rng.integers(len(FILTERS))])


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """95 % of both sides, from a random place."""
    width, height = (max(1, round(0.95 * side)) for side in image.size)
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


def as_jpeg(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Of quality 40 to 95."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=int(rng.integers(40, 96)))
    return out.getvalue()


def as_png(image: Image.Image, rng: np.random.Generator) -> bytes:
    """The same pixels; the compression is not that of most files."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


PLAIN: dict[str, tuple[tuple[Alteration, ...], bool]] = {
    "jpeg": ((), True),
    "resize": ((resized,), False),
    "flip": ((flipped,), False),
    "crop": ((cropped,), False),
}
COMBINED: dict[str, tuple[tuple[Alteration, ...], bool]] = {
    "crop, jpeg": ((cropped,), True),
    "resize, jpeg": ((resized,), True),
    "flip, jpeg": ((flipped,), True),
    "flip, crop": ((flipped, cropped), False),
    "all": ((flipped, cropped, resized), True),
    "upside down": ((upside_down,), False),
    "quarter turn": ((turned,), False),
}


def alter(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """The bytes of an image file, changed as `kind` says."""
    image = decode_image(data).pixels
    changes, jpeg = (PLAIN | COMBINED)[kind]
    for change in changes:
        image = change(image, rng)
    return (as_jpeg if jpeg else as_png)(image, rng)


def read(root: Path, most: int | None, rng: np.random.Generator) -> list[Entry]:
    """The images below `root` that can be decoded; at most so many, drawn at random."""
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if most is not None and len(paths) > most:
        paths = [paths[i] for i in sorted(rng.choice(len(paths), most, replace=False))]
    names = [path.relative_to(root).as_posix() for path in paths]
    return [Entry(name, path.read_bytes(), name, "original") for name, path in zip(names, paths, strict=True)]


def plant(entries: Sequence[Entry], share: float, kinds: Sequence[str], rng: np.random.Generator) -> list[Entry]:
    """Copies of `share` of the entries, exact, and of as many others, altered; an image is copied once."""
    count = round(share * len(entries))
    chosen = rng.permutation(len(entries))[: 2 * count]
    planted = []
    for place, index in enumerate(chosen):
        entry = entries[index]
        if place < count:
            kind = ("file", "pixels")[place % 2]
            data = entry.data if kind == "file" else as_png(decode_image(entry.data).pixels, rng)
        else:
            kind = kinds[place % len(kinds)]
            data = alter(entry.data, kind, rng)
        planted.append(Entry(f"copy/{place:05}-{entry.name}", data, entry.name, kind))
    return planted


def looks_of(entries: Sequence[Entry]) -> tuple[list[Entry], NDArray[np.void]]:
    """The records of all that can be decoded, and those."""

    def look(entry: Entry) -> NDArray[np.void] | None:
        try:
            return load_pixels_and_look(entry.data, INPUT, entry.name)[1]
        except ImageRejected:
            return None

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(look, entries))
    kept = [entry for entry, record in zip(entries, found, strict=True) if record is not None]
    return kept, np.stack([record for record in found if record is not None])


def judge(entries: Sequence[Entry], alike: Sequence[Alike]) -> tuple[dict[str, str], list[Alike]]:
    """How many planted copies of each kind are in one component with their original; pairs of different originals."""
    original = {entry.name: entry.original for entry in entries}
    names = [entry.name for entry in entries]
    together: dict[str, int] = {}
    for index, copies in enumerate(copies_of(alike, names, [""] * len(names), [""] * len(names))):
        together |= dict.fromkeys(copies.names, index)
    planted, found = Counter[str](), Counter[str]()
    for entry in entries:
        if entry.kind != "original":
            planted[entry.kind] += 1
            found[entry.kind] += together.get(entry.name, -1) == together.get(entry.original, -2)
    strange: dict[tuple[str, str], Alike] = {}
    for pair in alike:
        one, other = sorted((original[pair.one], original[pair.other]))
        if one != other:
            strange.setdefault((one, other), pair)
    return {kind: f"{found[kind]} of {planted[kind]}" for kind in sorted(planted)}, list(strange.values())


def draw(pairs: Sequence[Alike], entries: Sequence[Entry], target: Path, side: int = 96) -> None:
    """The pairs beside each other, six to a row."""
    data = {entry.name: entry.data for entry in entries}
    rows = -(-len(pairs) // 6)
    sheet = Image.new("RGB", (6 * (2 * side + 12), max(1, rows) * (side + 6)), (160, 160, 200))
    for place, pair in enumerate(pairs):
        for second, name in enumerate((pair.one, pair.other)):
            image = decode_image(data[name]).pixels.convert("RGB")
            image = image.resize((side, side)) if max(image.size) < side else image
            image.thumbnail((side, side))
            sheet.paste(image, ((place % 6) * (2 * side + 12) + second * (side + 2), place // 6 * (side + 6)))
    sheet.save(target)


def main() -> None:
    """Plant, search, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--most", type=int)
    parser.add_argument("--kinds", choices=["plain", "combined"], default="plain")
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    entries = read(options.data, options.most, rng)
    entries += plant(entries, options.share, list(PLAIN if options.kinds == "plain" else COMBINED), rng)
    start = time.perf_counter()
    entries, looks = looks_of(entries)
    looked = time.perf_counter()
    digests = [hashlib.sha256(entry.data).digest() for entry in entries]
    alike = find_copies(looks, digests, [entry.name for entry in entries])
    searched = time.perf_counter()
    found, strange = judge(entries, alike)
    if options.sheet:
        draw(strange, entries, options.sheet)
    print(
        json.dumps(
            {
                "data": options.data.name,
                "seed": options.seed,
                "images": len(entries),
                "found": found,
                "other_pairs": len(strange),
                "other_kinds": dict(Counter(f"{pair.sameness}: {pair.change}" for pair in strange)),
                "decoding_s": round(looked - start, 2),
                "search_s": round(searched - looked, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
