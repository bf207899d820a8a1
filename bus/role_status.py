"""A role's status for its own machine: whether it serves, and its figures. Nothing here waits.

The role fills the status in; `bullpen/supervision/status_server.py` shows it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

Labels = tuple[tuple[str, str], ...]
"""Label names and values."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. `name` has its unit at the end, as Prometheus wants it: `_seconds`, `_bytes`, `_total`."""

    name: str
    help: str
    value: float
    kind: Literal["gauge", "counter", "histogram"] = "gauge"
    labels: Labels = ()
    """One figure exists for each set of labels. The set of values must be finite, even if callers choose names."""
    part: Literal["", "_bucket", "_sum", "_count"] = ""
    """For a histogram: which of its series this is."""


@dataclass(slots=True)
class RoleStatus:
    """The status of one process. Its functions are called often and must be quick."""

    why_not: Callable[[], str] = lambda: "it starts"
    """Why the role does not serve now; empty while it serves."""
    figures: Callable[[], Iterable[Figure]] = field(default=tuple)
    lag: Callable[[], float] = lambda: 0.0
    """By how many seconds the event loop was late at most, in the last half minute. The status server sets it."""
