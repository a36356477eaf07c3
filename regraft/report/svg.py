"""Drawing with escaped text, in a page's own colours.

Figures are SVG made by hand and not by Matplotlib, for three reasons: lines and text take the page's CSS variables, so one
figure serves light, dark and print; text stays text (crisp, selectable, read aloud, found by a search); and the import alone
would take longer than the rest of the report.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

Point = tuple[float, float]


@dataclass
class Drawing:
    """An SVG picture under construction. Styles are CSS classes of the page; coordinates are user units of the view box."""

    width: float
    height: float
    label: str
    parts: list[Markup] = field(default_factory=list)

    def line(self, start: Point, end: Point, style: str) -> None:
        shape = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
        self.parts.append(shape.format(*start, *end, style))

    def path(self, corners: Sequence[Point], style: str) -> None:
        shape = Markup('<polyline points="{}" class="{}"/>')
        self.parts.append(shape.format(" ".join(f"{x:.1f},{y:.1f}" for x, y in corners), style))

    def area(self, corners: Sequence[Point], style: str) -> None:
        shape = Markup('<polygon points="{}" class="{}"/>')
        self.parts.append(shape.format(" ".join(f"{x:.1f},{y:.1f}" for x, y in corners), style))

    def dot(self, at: Point, radius: float, style: str, title: str = "") -> None:
        shape = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" class="{}">{}</circle>')
        self.parts.append(shape.format(*at, radius, style, _title(title)))

    def box(self, corner: Point, size: Point, style: str, *, title: str = "", opacity: float = 1.0) -> None:
        shape = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}" fill-opacity="{:.2f}">{}</rect>')
        self.parts.append(shape.format(*corner, *size, style, opacity, _title(title)))

    def text(self, at: Point, words: str, style: str = "", *, anchor: str = "start", turn: float = 0) -> None:
        turned = Markup(' transform="rotate({:g} {:.1f} {:.1f})"').format(turn, *at) if turn else ""
        shape = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}"{}>{}</text>')
        self.parts.append(shape.format(*at, anchor, style, turned, words))

    def render(self, *, fixed: bool = False) -> Markup:
        """The element; `fixed` keeps its size in pixels (for scrolling), else it follows the width of its column."""
        size = Markup(' width="{:.0f}" height="{:.0f}"').format(self.width, self.height) if fixed else ""
        start = Markup('<svg viewBox="0 0 {:.0f} {:.0f}"{} role="img" aria-label="{}">').format(
            self.width, self.height, size, self.label
        )
        return start + Markup("").join(self.parts) + Markup("</svg>")


def linear(domain: Point, range_: Point) -> Callable[[float], float]:
    """The straight map that takes the ends of `domain` to those of `range_`."""
    (low, high), (start, end) = domain, range_
    width = (high - low) or 1.0
    return lambda value: start + (value - low) / width * (end - start)


def _title(words: str) -> Markup:
    return Markup("<title>{}</title>").format(words) if words else Markup("")
