"""The deadline as it travels: absolute, in unix milliseconds, so that a message that waited knows its age."""

from collections.abc import Mapping
from time import time

from contracts.headers import DEADLINE


def seconds_left(headers: Mapping[str, str], deadline_ms: int) -> float:
    """Until the deadline in the headers if there is one, else the request's own; negative when it has passed."""
    deadline = headers.get(DEADLINE, "")
    return int(deadline) / 1000 - time() if deadline.isdigit() else deadline_ms / 1000


def header(seconds: float) -> str:
    """The header's value for a deadline in so many seconds."""
    return str(round((time() + seconds) * 1000))
