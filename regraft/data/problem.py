"""What can be wrong with one image file, and the limits that one must keep to."""

from collections.abc import Callable

Reader = Callable[[int, int], bytes]  # (offset, count) -> at most count bytes, fewer at the end of the file

# 2**28 / 3: as RGB such an image takes 256 MB. Pillow has the same limit; it is twice what common cameras give (45 MP).
MAX_PIXELS = 89_478_485
# Text, profiles and thumbnails of real photographs stay below 2 MB; a file with more is carrying something else.
MAX_METADATA = 8 * 2**20
# Encoders write about 10 scans. Each scan costs a pass over all pixels, so 1 MB of scans can hold a processor for minutes.
MAX_SCANS = 100
# Padding between JPEG markers is legal; crawling through megabytes of it one byte at a time is not worth it.
MAX_JUNK = 4096
BLOCK = 2**16


class Problem(Exception):
    """Why a file cannot be used: a stable `code`, and what was `expected` and `got`, without the file's name."""

    def __init__(self, code: str, *, expected: str, got: str, fix: str = "") -> None:
        super().__init__(got)
        self.code, self.expected, self.got = code, expected, got
        self.fix = fix or "get a sound copy of the file, or remove it"


def truncated(got: str) -> Problem:
    return Problem("truncated", expected="a complete image file", got=got)


def damaged(got: str) -> Problem:
    return Problem("damaged", expected="a well-formed image file", got=got)


def check_size(width: int, height: int) -> None:
    """Raise Problem unless the image has pixels, and no more than MAX_PIXELS."""
    if width < 1 or height < 1:
        raise damaged(f"an image of {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise Problem(
            "too_many_pixels",
            expected=f"at most {MAX_PIXELS:,} pixels",
            got=f"a claim of {width} x {height}",
            fix="reduce the image, or remove it if it is not what you think it is",
        )
