"""The deadline as it travels: absolute, in unix milliseconds, so that a message that waited knows its age.

Hosts' clocks differ. A deadline that disagrees with the request's own `deadline_ms` by no more than clocks may
is taken for a fresh one; a Manager writes it in the clock of the worker it sends to.
"""

from collections.abc import Mapping
from time import time

from contracts import Envelope
from contracts.envelope import MAX_DEADLINE_MS
from contracts.headers import DEADLINE, number

CLOCKS_MAY_DIFFER = 5.0
"""Seconds."""


def seconds_left(headers: Mapping[str, str], request: Envelope, *, own_clock: bool = False) -> float:
    """Until the deadline in the headers if there is one, else the request's own; negative when it has passed.

    `own_clock`: the header's sender knew this host's clock.
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
    """The header's value for a deadline in so many seconds, in a clock that is `offset` seconds ahead of ours."""
    return str(round((time() + seconds + offset) * 1000))
