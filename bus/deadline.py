"""The deadline on the wire: absolute, in unix milliseconds, so that its receiver knows how old a message is.

Hosts' clocks differ. A deadline that differs from the request's own `deadline_ms` by no more than clocks may differ is
treated as a fresh one. A Manager writes the deadline in the clock of the worker that it sends the request to.
"""

from collections.abc import Mapping
from time import time

from contracts import Envelope
from contracts.envelope import MAX_DEADLINE_MS
from contracts.headers import DEADLINE, number

CLOCKS_MAY_DIFFER = 5.0
"""Seconds by which the clocks of two hosts may differ."""


def seconds_left(headers: Mapping[str, str], request: Envelope, *, own_clock: bool = False) -> float:
    """Seconds until the deadline in the headers, or else the request's own `deadline_ms`; negative when it has passed.

    `own_clock`: the sender of the header knew this host's clock.
    """
    allowed = request.deadline_ms / 1000
    deadline = number(headers.get(DEADLINE), -1)
    if deadline < 0:
        return allowed
    left = min(deadline / 1000 - time(), MAX_DEADLINE_MS / 1000)
    if own_clock or "deadline_ms" not in request.model_fields_set:
        return left
    return allowed if abs(left - allowed) <= CLOCKS_MAY_DIFFER else min(left, allowed)


def header(seconds: float, offset: float = 0.0) -> str:
    """The header's value for a deadline in `seconds`, by a clock that is `offset` seconds ahead of this process's."""
    return str(round((time() + seconds + offset) * 1000))
