"""The figure of how the regularisation was chosen."""

import math
from collections.abc import Callable, Iterable

from markupsafe import Markup

from regraft.report.figures import SERIES, WIDTH
from regraft.report.svg import Drawing, Point, linear
from regraft.report.text import SUPERSCRIPT, figure, percent, plain, power
from regraft.values import HeadChoice, Strength

LEFT, RIGHT, TOP, BOTTOM = 62.0, WIDTH - 14, 14.0, 268.0
LOGARITHMIC_FROM = 5.0  # largest over smallest NLL: above it the minimum would be a flat line on a linear axis
Scale = Callable[[float], float]


def feature_sets(head: HeadChoice) -> tuple[str, ...]:
    """The feature sets tried, in the order of trial."""
    return tuple(dict.fromkeys(strength.features for strength in head.tried))


def is_chosen(strength: Strength, head: HeadChoice) -> bool:
    return strength.features == head.features and math.isclose(strength.l2, head.l2, rel_tol=1e-6)


def at_edge(head: HeadChoice) -> bool:
    """Whether the chosen strength is the smallest or the largest tried, so that a better one may lie beyond."""
    tried = [strength.l2 for strength in head.tried if strength.features == head.features]
    return len(tried) > 1 and any(math.isclose(head.l2, end, rel_tol=1e-6) for end in (min(tried), max(tried)))


def regularisation_figure(head: HeadChoice) -> Markup | None:
    """Cross-validated NLL against the strength, one line per feature set, with standard errors; the chosen one is ringed.

    None where there was nothing to choose: fewer than two strengths with a finite NLL.
    """
    tried = [strength for strength in head.tried if math.isfinite(strength.nll) and strength.l2 > 0]
    if len({strength.l2 for strength in tried}) < 2:
        return None
    drawing = Drawing(WIDTH, 330, f"Cross-validated NLL against l2; chosen: {plain(head.features)} with l2 {power(head.l2)}")
    exponents = [math.log10(strength.l2) for strength in tried]
    x = linear((min(exponents), max(exponents)), (LEFT + 12, RIGHT - 12))
    y = _nll_axis(drawing, tried)
    _decades(drawing, min(exponents), max(exponents), x)
    drawing.line((x(math.log10(head.l2)), TOP), (x(math.log10(head.l2)), BOTTOM), "base")
    for i, features in enumerate(feature_sets(head)):
        _curve(drawing, [s for s in tried if s.features == features], x, y, head, SERIES[i % len(SERIES)])
    drawing.text(((LEFT + RIGHT) / 2, 323), "regularisation strength l2", "title", anchor="middle")
    drawing.text((13, (TOP + BOTTOM) / 2), "NLL, nats", "title", anchor="middle", turn=-90)
    return drawing.render()


def _curve(drawing: Drawing, line: list[Strength], x: Scale, y: Scale, head: HeadChoice, series: str) -> None:
    points = [((x(math.log10(s.l2)), y(s.nll)), s) for s in sorted(line, key=lambda strength: strength.l2)]
    drawing.path([at for at, _ in points], f"curve {series}")
    for at, s in points:
        words = f"{plain(s.features)}, l2 {power(s.l2)}: NLL {figure(s.nll)} ± {figure(s.nll_se)}, {percent(s.accuracy)} right"
        if math.isfinite(s.nll_se):
            drawing.line((at[0], y(s.nll - s.nll_se)), (at[0], y(s.nll + s.nll_se)), f"whisker {series} thin")
        drawing.dot(at, 3.2, f"dot {series}", words)
        if is_chosen(s, head):
            drawing.dot(at, 8.5, f"ring {series}", f"chosen: {words}")


def _nll_axis(drawing: Drawing, tried: list[Strength]) -> Scale:
    """Draw the vertical axis; returns the map from nats to height, held within the axis."""
    low, high = min(s.nll for s in tried), max(s.nll for s in tried)
    logarithmic = low > 0 and high / low > LOGARITHMIC_FROM
    transform: Scale = math.log if logarithmic else float
    room = 0.06 * (transform(high) - transform(low)) or 0.05
    ends: Point = (transform(low) - room, transform(high) + room)
    place = linear(ends, (BOTTOM, TOP))

    def height(nll: float) -> float:
        if logarithmic and nll <= 0:
            return BOTTOM
        return min(max(place(transform(nll)), TOP), BOTTOM)

    for tick in _log_ticks(low, high) if logarithmic else linear_ticks(*ends):
        drawing.line((LEFT, height(tick)), (RIGHT, height(tick)), "grid")
        drawing.text((LEFT - 8, height(tick) + 4), f"{tick:.3g}", "tick", anchor="end")
    return height


def _decades(drawing: Drawing, low: float, high: float, x: Scale) -> None:
    whole = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    for exponent in whole[:: 1 + len(whole) // 8]:
        drawing.line((x(exponent), BOTTOM), (x(exponent), BOTTOM + 5), "axis")
        drawing.text((x(exponent), BOTTOM + 22), f"10{str(exponent).translate(SUPERSCRIPT)}", "tick", anchor="middle")
    drawing.line((LEFT, BOTTOM), (RIGHT, BOTTOM), "axis")


def _log_ticks(low: float, high: float) -> Iterable[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]


def linear_ticks(low: float, high: float, wanted: int = 5) -> Iterable[float]:
    """About so many round numbers between the ends of an axis."""
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
