"""Charts as SVG text for a page: unique ids, no words from the wire, no colours of their own.

A name that a stranger chose (a model, a tenant) never enters a drawing: the page writes the legends itself. Colours are
placeholders that the page's style sheet fills in (`--c0` …), so one drawing suits light, dark and paper.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bullpen.cli.show import duration
from telemetry.reading.figures import Period

SERIES = 8
"""Colours; further series share the last one."""
NOTHING = float("nan")
"""A point that is not drawn."""
GRADES = ("benched", "probation", "regular", "senior")
SPAN_FOR_LOG = 20
"""The ratio of the highest to the lowest value above which the scale is logarithmic."""

_COLOUR = re.compile(r"#0a0b([0-9a-f]{2})")
_ID = re.compile(r'(\bid="|url\(#|href="#)')
_SIZE = (9.2, 2.9)
_TIMES = ["%Y", "%b %Y", "%d %b", "%H:%M", "%H:%M", "%S"]
_DAYS = ["%Y", "%Y", "%d %b", "%d %b", "%H:%M", "%H:%M"]
"""Formats of the marks at which a new year, month, day, hour or minute begins."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bullpen",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": "#0a0b21",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#0a0b21",
    "grid.linewidth": 0.6,
    "xtick.color": "#0a0b21",
    "ytick.color": "#0a0b21",
    "xtick.labelcolor": "#0a0b20",
    "ytick.labelcolor": "#0a0b20",
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


def stacked(name: str, title: str, period: Period, layers: Sequence[Sequence[float]], unit: str) -> Markup:
    """Stacked bars, one for each piece of the period. `unit`: "$" or "%"."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(period)
        width = _width(period)
        below = [0.0] * len(period.starts)
        for number, layer in enumerate(layers):
            axes.bar(_middles(period), layer, width * 0.82, below, color=series(number), linewidth=0)
            below = [low + high for low, high in zip(below, layer, strict=True)]
        axes.set_ylim(0, max(below, default=0) * 1.08 or 1)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value, unit)))
        return _svg(figure, name, title)


def lines(name: str, title: str, period: Period, courses: Sequence[Sequence[float]]) -> Markup:
    """Milliseconds over time; `NOTHING` is not drawn."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(period)
        for number, course in enumerate(courses):
            axes.plot(_middles(period), course, color=series(number), linewidth=1.6, marker="o", markersize=3)
        known = [ms for course in courses for ms in course if ms == ms]  # noqa: PLR0124 — NaN is not equal to itself
        _scale(axes, min(known, default=0), max(known, default=1))
        return _svg(figure, name, title)


def steps(name: str, title: str, period: Period, courses: Sequence[Sequence[tuple[datetime, str]]]) -> Markup:
    """Grades that hold until the next change, side by side where they are equal."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(period)
        for number, course in enumerate(courses):
            aside = (number - (len(courses) - 1) / 2) * 0.08
            times = [max(when, period.since) for when, _ in course] + [period.until]
            heights = [GRADES.index(grade) + aside for _, grade in course]
            axes.step(_days(times), [*heights, *heights[-1:]], where="post", color=series(number), linewidth=1.8)
        axes.set_ylim(-0.5, len(GRADES) - 0.5)
        axes.set_yticks(range(len(GRADES)), GRADES)
        return _svg(figure, name, title)


def series(number: int) -> str:
    """The placeholder of a colour."""
    return f"#0a0b{min(number, SERIES - 1):02x}"


def _canvas(period: Period) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.subplots()
    axes.patch.set_visible(False)
    axes.set_xlim(*_days([period.starts[0], period.starts[-1] + timedelta(days=_width(period))]))
    locator = AutoDateLocator(tz=UTC, minticks=4, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, UTC, _TIMES, zero_formats=_DAYS, show_offset=False))
    return figure, axes


def _scale(axes: Axes, lowest: float, highest: float) -> None:
    if lowest > 0 and highest / lowest > SPAN_FOR_LOG:
        axes.set_yscale("log")
        axes.set_ylim(lowest / 1.3, highest * 1.3)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0, highest * 1.08 or 1)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: duration(ms)))


def _amount(value: float, unit: str) -> str:
    return f"{value:g} %" if unit == "%" else f"{unit}{value:,.10g}"


def _width(period: Period) -> float:
    """The length of a piece in days."""
    return period.step / timedelta(days=1)


def _middles(period: Period) -> list[float]:
    return [start + _width(period) / 2 for start in _days(period.starts)]


def _days(times: Sequence[datetime]) -> list[float]:
    return [float(date2num(time)) for time in times]


def _svg(figure: Figure, name: str, title: str) -> Markup:
    """The drawing with a title for people who cannot see it; its ids begin with `name`."""
    written = StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawing = written.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    _, _, inside = drawing.partition(">")
    inside = _COLOUR.sub(r"var(--c\1)", _ID.sub(rf"\g<1>{name}-", inside))
    width, height = (round(inches * 72) for inches in _SIZE)
    head = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(head) + Markup(f'<title id="{name}-title">{escape(title)}</title>') + Markup(inside)  # noqa: S704 — our own drawing
