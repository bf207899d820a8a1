"""How long a provider asks callers to wait, wherever it says so. Pure: the caller passes the time in, or it is now.

The order is: `retry-after-ms`, `Retry-After` (seconds, a duration, a date), the error's body, its words, and last the
headers that say when a limit is reset. Of several limits, the used-up one counts.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite, isnan

MAX_RETRY_AFTER_MS = 60_000
"""Milliseconds: the longest wait that is respected. A provider that names a longer one is asked again after a minute:
it may mean a limit per day that was raised since, and one request a minute does no harm.
"""
UNTOLD_RETRY_AFTER_MS = 1000

IN_MS = ("retry-after-ms", "x-ms-retry-after-ms", "x-retry-after-ms")
IN_SECONDS = ("retry-after", "x-retry-after")
EPOCH_SECONDS, EPOCH_MS = 1e9, 1e12
"""Values from which a reset is a time since 1970 (in seconds, in milliseconds) instead of a duration."""

_UNIT = r"milliseconds?|ms|hours?|h|minutes?|mins?|m|seconds?|secs?|s"
_PART = re.compile(rf"(\d+(?:\.\d+)?)\s*({_UNIT})?(?![a-z])\s*", re.IGNORECASE)
_IN_WORDS = re.compile(
    rf"(?:again|retry|wait|reset)\w*\D{{0,40}}?((?:\d+(?:\.\d+)?\s*(?:{_UNIT})(?![a-z])\s*)+)", re.IGNORECASE
)
_RESET = re.compile(r"ratelimit.*reset|ratelimit.*timeremaining")
_RESET_FIELD = re.compile(r"(?:^|[\s,;])(?:reset|t)=(\d+(?:\.\d+)?)")
_LEFT_FIELD = re.compile(r"(?:^|[\s,;])(?:remaining|r)=(\d+)")


def retry_after_ms(headers: Mapping[str, str], body_ms: float | None = None) -> int:
    """Milliseconds to wait, 0 to 60,000; 1,000 when the provider does not say."""
    told = told_retry_after_ms(headers, body_ms)
    return UNTOLD_RETRY_AFTER_MS if told is None else told


def told_retry_after_ms(
    headers: Mapping[str, str], body_ms: float | None = None, now: datetime | None = None
) -> int | None:
    """Milliseconds to wait, 0 to 60,000. None: the provider does not say. `body_ms`: what the body of its error
    says.
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    now = now or datetime.now(UTC)
    told = next(_told(lower, body_ms, now), None)
    return None if told is None or isnan(told) else round(min(max(told, 0), MAX_RETRY_AFTER_MS))


def _told(headers: Mapping[str, str], body_ms: float | None, now: datetime) -> Iterator[float]:
    for name in IN_MS:
        if (number := _number(headers.get(name, ""))) is not None:
            yield number
    for name in IN_SECONDS:
        if (wait := duration(headers.get(name, ""), now)) is not None:
            yield wait * 1000
    if body_ms is not None:
        yield body_ms
    if (reset := _reset(headers, now)) is not None:
        yield reset * 1000


def in_words_ms(text: str) -> float | None:
    """The wait in a sentence ("Please try again in 6m0s."), in milliseconds."""
    found = _IN_WORDS.search(text[:2000])
    wait = _added(found[1].strip()) if found else None
    return None if wait is None else wait * 1000


def duration(told: str, now: datetime | None = None) -> float | None:
    """Seconds from a number, from "6m0s" or "20ms", or until a time (RFC 3339, or in HTTP's form). None: it is none of
    these.
    """
    told, now = told.strip(), now or datetime.now(UTC)
    if (number := _number(told)) is not None:
        return number
    if (added := _added(told)) is not None:
        return added
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return (read(told).astimezone(UTC) - now).total_seconds()
        except (TypeError, ValueError, OverflowError):
            continue
    return None


def _reset(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds until the used-up limit is reset; if none is known to be used up, until the nearest reset."""
    used_up: list[float] = []
    others: list[float] = []
    for left, reset in _limits(headers, now):
        (used_up if left == 0 else others).append(reset)
    return max(used_up) if used_up else min(others, default=None)


def _limits(headers: Mapping[str, str], now: datetime) -> Iterator[tuple[float | None, float]]:
    """For each limit, the amount left and the seconds until its reset."""
    for name, value in headers.items():
        if name in ("ratelimit", "x-ratelimit"):
            reset, left = _RESET_FIELD.search(value), _LEFT_FIELD.search(value)
            if reset:
                yield (float(left[1]) if left else None), float(reset[1])
        elif _RESET.search(name) and (wait := _until(value, now)) is not None:
            yield _number(headers.get(name.replace("reset", "remaining"), "")), wait


def _until(told: str, now: datetime) -> float | None:
    number = _number(told)
    if number is not None and number >= EPOCH_MS:
        return number / 1000 - now.timestamp()
    if number is not None and number >= EPOCH_SECONDS:
        return number - now.timestamp()
    return duration(told, now)


def _added(told: str) -> float | None:
    """The seconds of a duration with units."""
    parts = [*_PART.finditer(told)] if len(told) <= 64 else []
    if not parts or "".join(part[0] for part in parts) != told:
        return None
    return sum(float(part[1]) * _unit(part[2]) for part in parts)


def _unit(name: str | None) -> float:
    match (name or "s").lower():
        case "ms" | "millisecond" | "milliseconds":
            return 0.001
        case "m" | "min" | "mins" | "minute" | "minutes":
            return 60.0
        case "h" | "hour" | "hours":
            return 3600.0
        case _:
            return 1.0


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) or number > 0 else None
