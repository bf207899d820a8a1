"""What a role counts for `/metrics` while it works. Counting is an increment; names and labels are joined only when the
page is read.

The client library of Prometheus would take a lock and look up the labels for each count: 2.4 to 3.6 µs where this takes
0.4 µs, and a request makes a dozen counts. Names follow OpenTelemetry's conventions for generative models where it has
one (`gen_ai_…`), and begin with `bullpen_` where it has none.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from bus.role_status import Figure, Labels
from contracts.subjects import Kind

MOST_NAMES = 100
"""Values of a family's first label, such as models or tenants, that have their own measure; all others share
`OTHER`.
"""
OTHER = "other"
OPERATION: dict[Kind, str] = {"infer": "chat", "embed": "embeddings"}
"""OpenTelemetry's name of each kind of request."""
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Histogram bounds for whole operations, in seconds, as OpenTelemetry defines them."""
STANDARD_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
FIRST_TOKEN_SECONDS = (*STANDARD_FIRST_TOKEN, 20.0, 40.0, 80.0)
"""Histogram bounds for the time to the first token, in seconds, as OpenTelemetry defines them, and more for models that
think first.
"""
TOKENS = tuple(4**power for power in range(14))
"""Histogram bounds for tokens, as OpenTelemetry defines them."""


class Measure(Protocol):
    def figures(self, name: str, help_: str, labels: Labels) -> Iterator[Figure]: ...


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, more: float = 1) -> None:
        self.value += more

    def figures(self, name: str, help_: str, labels: Labels) -> Iterator[Figure]:
        yield Figure(name, help_, self.value, "counter", labels)


class Histogram:
    """How many values fell into each range."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: the upper end of each range, in order; a value equal to a bound belongs to its range. One more
        range is beyond the last bound.
        """
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def figures(self, name: str, help_: str, labels: Labels) -> Iterator[Figure]:
        total = 0
        for bound, count in zip((*map(_plain, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield Figure(name, help_, total, "histogram", (*labels, ("le", bound)), "_bucket")
        yield Figure(name, help_, self._sum, "histogram", labels, "_sum")
        yield Figure(name, help_, total, "histogram", labels, "_count")


M = TypeVar("M", bound=Measure)


class Family(Generic[M]):
    """Measures of one name: one for each set of labels that occurs.

    The first label is a name from outside, so only `most` of its values have a measure of their own; the rest share
    one. Other labels must have few values, which this program chooses.
    """

    def __init__(
        self, name: str, help_: str, labels: tuple[str, ...], make: Callable[[], M], *, most: int = MOST_NAMES
    ) -> None:
        self._name = name
        self._help = help_
        self._labels = labels
        self._make = make
        self.most = most
        """The number of first labels that have their own measure."""
        self._names: set[str] = set()
        self._of: dict[tuple[str, ...], M] = {}

    def of(self, *values: str) -> M:
        """The measure with these labels."""
        return self._of.get(values) or self._first(values)

    def figures(self) -> Iterator[Figure]:
        for values, measure in list(self._of.items()):
            yield from measure.figures(self._name, self._help, tuple(zip(self._labels, values, strict=True)))

    def _first(self, values: tuple[str, ...]) -> M:
        name = values[0] if values else ""
        if name not in self._names and len(self._names) >= self.most:
            values = (OTHER, *values[1:])
        else:
            self._names.add(name)
        return self._of.setdefault(values, self._make())


def counters(name: str, help_: str, *labels: str, most: int = MOST_NAMES) -> Family[Counter]:
    return Family(name, help_, labels, Counter, most=most)


def histograms(name: str, help_: str, bounds: Sequence[float], *labels: str) -> Family[Histogram]:
    return Family(name, help_, labels, lambda: Histogram(bounds))


def _plain(bound: float) -> str:
    return str(int(bound)) if float(bound).is_integer() else repr(bound)
