"""How a role is, for those on its own machine: whether it serves, and its figures. Nothing here waits or asks.

The role fills in what it knows; `bullpen/supervision/status_server.py` shows it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

Labels = tuple[tuple[str, str], ...]
"""Names and values."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. `name` has its unit at the end, as Prometheus wants it: `_seconds`, `_bytes`, `_total`."""

    name: str
    help: str
    value: float
    kind: Literal["gauge", "counter", "histogram"] = "gauge"
    labels: Labels = ()
    """What there is one number each for. There must be an end to the values, whoever may choose names."""
    part: Literal["", "_bucket", "_sum", "_count"] = ""
    """Of a histogram."""


@dataclass(slots=True)
class RoleStatus:
    """Of one process. Both are called often and should be quick."""

    why_not: Callable[[], str] = lambda: "it starts"
    """Why the role serves nobody now; empty while it serves."""
    figures: Callable[[], Iterable[Figure]] = field(default=tuple)
    lag: Callable[[], float] = lambda: 0.0
    """Seconds: how late the event loop was at most, in half a minute. Told by who shows the status, to the role."""
