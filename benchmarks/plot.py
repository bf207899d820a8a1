"""A plot of a few lines, as SVG: for the pages in docs/, without a library."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 34, 46
INK, GREY, GRID = "#1f2733", "#5b6470", "#e3e6ea"
COLOURS = ("#2f6fde", "#c2410c", "#15803d", "#7c3aed", "#be185d")

Points = Sequence[tuple[float, float]]


class Axis(NamedTuple):
    title: str
    is_log: bool = False


def plot(title: str, x: Axis, y: Axis, lines: Mapping[str, Points]) -> str:
    """SVG of one or more named lines. On a logarithmic axis every value has to be above 0."""
    xs = [at for points in lines.values() for at, _ in points]
    ys = [at for points in lines.values() for _, at in points]
    at_x, x_ticks = _scale(xs, x, LEFT, WIDTH - RIGHT)
    at_y, y_ticks = _scale(ys, y, HEIGHT - BOTTOM, TOP)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 20, title, INK, "start"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x.title, GREY),
        _text(LEFT - 8, TOP - 4, y.title, GREY, "end"),
    ]
    for tick in x_ticks:
        drawn += [
            _rule(at_x(tick), TOP, at_x(tick), HEIGHT - BOTTOM),
            _text(at_x(tick), HEIGHT - 28, f"{tick:g}", GREY),
        ]
    for tick in y_ticks:
        drawn += [
            _rule(LEFT, at_y(tick), WIDTH - RIGHT, at_y(tick)),
            _text(LEFT - 8, at_y(tick) + 4, f"{tick:g}", GREY, "end"),
        ]
    for number, (name, points) in enumerate(lines.items()):
        drawn += _line(name, [(at_x(a), at_y(b)) for a, b in points], number)
    return "\n".join([*drawn, "</svg>", ""])


def _scale(
    values: Sequence[float], axis: Axis, start: float, end: float
) -> tuple[Callable[[float], float], list[float]]:
    """Where a value stands, and the values that are marked. A linear axis begins at 0."""
    if axis.is_log:
        first, last = floor(log10(min(values))), ceil(log10(max(values)))
        last = max(last, first + 1)
        return lambda value: start + (end - start) * (log10(value) - first) / (last - first), [
            10.0**power for power in range(first, last + 1)
        ]
    most = max(values) or 1.0
    size = 10.0 ** floor(log10(most))
    step = next(step for step in (0.1 * size, 0.2 * size, 0.5 * size, size, 2 * size) if most / step <= 6)
    count = ceil(most / step)
    return lambda value: start + (end - start) * value / (count * step), [step * number for number in range(count + 1)]


def _line(name: str, points: Points, number: int) -> Iterator[str]:
    colour = COLOURS[number % len(COLOURS)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for x, y in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    yield _text(WIDTH - RIGHT + 12, TOP + 14 + 18 * number, name, colour, "start")


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{GRID}"/>'


def _text(x: float, y: float, text: str, colour: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'
