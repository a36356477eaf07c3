"""How numbers and names are written in the report: the same everywhere, with units, and nothing invisible in a name."""

import math
import unicodedata

from regraft.values import Interval

NBSP, MINUS, DASH = "\u00a0", "\u2212", "\u2013"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
JOINERS = "\u200c\u200d"  # visible in effect: several scripts and emoji need them


def percent(share: float) -> str:
    """0.9237 as "92.4 %"; a dash where undefined. Never rounds a share short of 1 up to 100 %, nor one above 0 down to 0 %."""
    if math.isnan(share):
        return DASH
    shown = round(share * 100, 1)
    if shown >= 100 and share < 1:
        shown = 99.9
    elif shown == 0 and share > 0:
        return f"under{NBSP}0.1{NBSP}%"
    return f"{shown:.1f}{NBSP}%"


def span(interval: Interval) -> str:
    """The ends of an interval of shares: "89.3 to 94.7 %"."""
    if math.isnan(interval.low) or math.isnan(interval.high):
        return DASH
    return f"{interval.low * 100:.1f} to {interval.high * 100:.1f}{NBSP}%"


def ends(interval: Interval) -> str:
    """The ends of an interval of a plain score: "0.241 to 0.389"."""
    return f"{figure(interval.low)} to {figure(interval.high)}" if math.isfinite(interval.low + interval.high) else DASH


def points(difference: float) -> str:
    """A difference of shares in percentage points, unsigned."""
    return f"{abs(difference) * 100:.1f}{NBSP}points"


def count(n: int) -> str:
    """1524 as "1,524"."""
    return f"{n:,}"


def counted(n: int, noun: str, plural: str = "") -> str:
    """ "1 image", "1,524 images"."""
    return f"{count(n)}{NBSP}{noun if n == 1 else plural or noun + 's'}"


def seconds(value: float) -> str:
    """A duration with three digits at most: "0.42 s", "18.3 s", "4 min 05 s"."""
    if value >= 100:
        whole = round(value)
        return f"{whole // 60}{NBSP}min {whole % 60:02d}{NBSP}s"
    return f"{value:.2f}{NBSP}s" if value < 9.995 else f"{value:.1f}{NBSP}s"


def figure(value: float) -> str:
    """A plain score with three decimals; a dash where undefined."""
    return DASH if math.isnan(value) else f"{value:.3f}"


def power(value: float) -> str:
    """A strength or a norm: "3.2 × 10⁻⁴", "10⁻³"; "0" for zero."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    factor, exponent = f"{value:.1e}".split("e")
    raised = f"10{str(int(exponent)).translate(SUPERSCRIPT)}"
    return raised if factor == "1.0" else f"{factor.removesuffix('.0')}{NBSP}×{NBSP}{raised}"


def plain(text: str) -> str:
    """A name with what cannot be seen (controls, direction marks, broken bytes) as escapes, so that it cannot deceive."""
    return "".join(_visible(letter) for letter in text)


def _visible(letter: str) -> str:
    if letter.isprintable() or letter in JOINERS or unicodedata.category(letter) == "Zs":
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def lines(text: str) -> str:
    """`plain` for text of several lines."""
    return "\n".join(plain(line.replace("\t", "    ")) for line in text.split("\n"))


def short(text: str, letters: int) -> str:
    """At most `letters` letters, cut in the middle: both ends of a name tell it apart."""
    if len(text) <= letters:
        return text
    tail = (letters - 1) // 2
    return f"{text[: letters - 1 - tail]}…{text[-tail:] if tail else ''}"
