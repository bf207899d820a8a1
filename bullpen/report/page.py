"""From figures to the page: its drawings, its tables, and its remarks.

Names of models and tenants come from strangers. They reach the page only through the template, which escapes them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bullpen.cli.show import UNKNOWN, clean, counted, duration
from bullpen.report import charts
from telemetry.reading.figures import Figures, Period

OTHERS = "all others"
NO_TENANT = "no tenant named"
COURSES_OF_GRADES = 8
GRADES_LISTED = 50
ZERO = Decimal(0)
UNITS = {"hour": "%d %b %H:%M", "day": "%d %b %Y", "week": "week of %d %b %Y"}


class LegendLine(NamedTuple):
    """One line of a legend."""

    colour: int
    name: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, what its colours mean, and its figures as text."""

    drawing: Markup
    legend: Sequence[LegendLine]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Spending(NamedTuple):
    """All money of the period."""

    known: Decimal
    simulated: Decimal
    unpriced: int


CALLERS_OWN = frozenset({"cancelled", "no_such_model", "invalid_request", "payload_too_large", "conflict"})
"""Error codes of requests that no worker could answer, or that the caller cancelled: no failures of the mesh."""


class Asking(NamedTuple):
    """All requests of the period."""

    all: int
    failed: int
    """Failed requests, without `callers_own`."""
    callers_own: int
    simulated: int

    @property
    def answered(self) -> int:
        return self.all - self.failed - self.callers_own

    @property
    def error_rate(self) -> float | None:
        """Share of failures among the requests that could have been answered."""
        return self.failed / (self.failed + self.answered) if self.failed + self.answered else None


def page(figures: Figures) -> str:
    """The whole page, ready to be written to a file."""
    return (
        _templates()
        .get_template("report.html")
        .render(
            figures=figures,
            spending=_spending(figures),
            asking=_asking(figures),
            overall=next((row for row in figures.latency if row.start is None), None),
            cost=_cost(figures),
            latency=_latency(figures),
            errors=_errors(figures),
            grades=_grades(figures),
            codes=_codes(figures),
            dearest=max((row.cost_usd or ZERO for row in figures.tenants), default=ZERO),
            grades_listed=GRADES_LISTED,
        )
    )


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("bullpen.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "usd": usd,
        "cents": lambda amount: usd(amount) if 0 < amount < 1 else f"${amount:,.2f}",
        "count": lambda number: UNKNOWN if number is None else f"{number:,}",
        "percent": percent,
        "counted": counted,
        "ms": lambda ms: UNKNOWN if ms is None else duration(ms),
        "share": lambda number: UNKNOWN if number is None else f"{number:.2f}",
        "moment": lambda when: f"{when:%Y-%m-%d %H:%M}",
        "tenant": lambda name: clean(name) or NO_TENANT,
        "clean": clean,
    }
    return environment


def usd(amount: Decimal | None) -> str:
    """Money with four digits after the point, or more where these would show a zero. An unknown amount is not zero."""
    if amount is None:
        return "unknown"
    if amount == 0:
        return "$0"
    return f"${amount:,.{max(4, 1 - amount.adjusted())}f}"


def percent(part: float | None) -> str:
    return UNKNOWN if part is None else f"{part:.2%}"


def _spending(figures: Figures) -> Spending:
    return Spending(
        sum((row.cost_usd or ZERO for row in figures.spend), ZERO),
        sum((row.simulated_usd or ZERO for row in figures.spend), ZERO),
        sum(row.unpriced for row in figures.spend),
    )


def _asking(figures: Figures) -> Asking:
    return Asking(
        sum(row.requests for row in figures.requests),
        sum(row.requests for row in figures.requests if row.error_code and row.error_code not in CALLERS_OWN),
        sum(row.requests for row in figures.requests if row.error_code in CALLERS_OWN),
        sum(row.simulated for row in figures.requests),
    )


def _codes(figures: Figures) -> list[tuple[str, int]]:
    """The number of each error, the most frequent first."""
    counted: dict[str, int] = defaultdict(int)
    for row in figures.requests:
        if row.error_code:
            counted[row.error_code] += row.requests
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def _cost(figures: Figures) -> Chart | None:
    layers = _Layers(figures.period, ((row.model_id, row.start, row.cost_usd or ZERO) for row in figures.spend))
    if not layers.total:
        return None
    title = f"Cost by {figures.period.unit}, models upon each other; {usd(layers.total)} in all"
    heights = [[float(amount) for amount in layer] for layer in layers.values]
    return Chart(
        charts.stacked("cost", title, figures.period, heights, "$"),
        layers.legend,
        [figures.period.unit.capitalize(), *layers.names, "All"],
        layers.rows(usd),
    )


def _errors(figures: Figures) -> Chart | None:
    asked: dict[datetime, int] = defaultdict(int)
    for row in figures.requests:
        asked[row.start] += row.requests
    errors = ((row.error_code, row.start, Decimal(row.requests)) for row in figures.requests if row.error_code)
    layers = _Layers(figures.period, errors)
    if not layers.total:
        return None
    shares = [
        [100 * float(number) / (asked[start] or 1) for number, start in zip(layer, figures.period.starts, strict=True)]
        for layer in layers.values
    ]
    title = f"Requests that ended in an error, in percent of all, by {figures.period.unit} and code"
    rows = zip(layers.rows(lambda number: f"{number:,}"), figures.period.starts, strict=True)
    return Chart(
        charts.stacked("errors", title, figures.period, shares, "%"),
        layers.legend,
        [figures.period.unit.capitalize(), *layers.names, "Errors", "Requests"],
        [[*row, f"{asked[start]:,}"] for row, start in rows],
    )


def _latency(figures: Figures) -> Chart | None:
    measured = {row.start: row for row in figures.latency if row.start is not None}
    if not measured:
        return None
    names = ("p50", "p95", "p99")
    points = [measured.get(start) for start in figures.period.starts]
    courses = [[getattr(row, f"{name}_ms") if row else charts.NOTHING for row in points] for name in names]
    return Chart(
        charts.lines("latency", f"How long callers waited, by {figures.period.unit}", figures.period, courses),
        [LegendLine(number, name) for number, name in enumerate(names)],
        [figures.period.unit.capitalize(), *names],
        [
            [
                _piece(figures.period, start),
                *(duration(getattr(row, f"{name}_ms")) if row else UNKNOWN for name in names),
            ]
            for start, row in zip(figures.period.starts, points, strict=True)
        ],
    )


def _grades(figures: Figures) -> Chart | None:
    """The grades of the models that changed most often."""
    courses: dict[tuple[str, str], list[tuple[datetime, str]]] = defaultdict(list)
    for change in reversed(figures.grades):
        courses[change.model_id, change.worker_id].append((change.created_at, change.grade))
    shown = dict(sorted(courses.items(), key=lambda item: (-len(item[1]), item[0]))[:COURSES_OF_GRADES])
    if not shown:
        return None
    drawing = charts.steps("grades", "The grades of models on workers", figures.period, list(shown.values()))
    legend = [LegendLine(number, clean(f"{model} on {worker}")) for number, (model, worker) in enumerate(shown)]
    return Chart(drawing, legend, (), ())


class _Layers:
    """Amounts by name and piece of the period: the largest names one by one, the others together."""

    def __init__(self, period: Period, amounts: Iterable[tuple[str, datetime, Decimal]]) -> None:
        self._period = period
        found: dict[str, dict[datetime, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        for name, start, amount in amounts:
            found[name][start] += amount
        sums = {name: sum(row.values(), ZERO) for name, row in found.items()}
        ordered = sorted((name for name, whole in sums.items() if whole), key=lambda name: (-sums[name], name))
        first, rest = ordered[: charts.SERIES - 1], ordered[charts.SERIES - 1 :]
        self.total = sum(sums.values(), ZERO)
        self.names = [clean(name) for name in first] + ([OTHERS] if rest else [])
        self.values = [self._course(found[name]) for name in first]
        if rest:
            together = zip(*(self._course(found[name]) for name in rest), strict=True)
            self.values.append([sum(amounts, ZERO) for amounts in together])

    def _course(self, row: Mapping[datetime, Decimal]) -> list[Decimal]:
        return [row.get(start, ZERO) for start in self._period.starts]

    @property
    def legend(self) -> list[LegendLine]:
        return [LegendLine(number, name) for number, name in enumerate(self.names)]

    def rows(self, written: Callable[[Decimal], str]) -> list[list[str]]:
        """One row for each piece, with its sum at the end."""
        pieces = zip(self._period.starts, *self.values, strict=True)
        return [
            [_piece(self._period, start), *map(written, amounts), written(sum(amounts, ZERO))]
            for start, *amounts in pieces
        ]


def _piece(period: Period, start: datetime) -> str:
    return start.strftime(UNITS[period.unit])
