"""The limits that a provider reports in the headers of its answers: what is left, and when there is more.

Most providers send `x-ratelimit-remaining-requests` and `-tokens`, with `x-ratelimit-reset-…` as "6m0s", "1.2s" or
"20ms". Some put their name and the kind first, `…-ratelimit-requests-remaining`, with `…-reset` as an RFC 3339 time.
"""

from collections.abc import Mapping

from workers.base.provider.retry_after import duration

KINDS = ("requests", "tokens")
LONGEST = 60.0
"""Seconds after which a reported limit no longer counts, even when the provider names a later reset."""


class ProviderLimits:
    def __init__(self) -> None:
        self._left: dict[str, tuple[int, float]] = {}
        """By kind, the amount left, and until when it holds (loop's clock)."""
        self._alone_until = 0.0

    def hear(self, headers: Mapping[str, str], now: float) -> None:
        """Reads the headers of an answer; headers that are missing or not understood change nothing."""
        for kind in KINDS:
            left, reset = _told(headers, kind)
            if left is not None:
                self._left[kind] = left, now + min(LONGEST, max(0.0, reset))

    def leave_alone(self, seconds: float, now: float) -> None:
        self._alone_until = max(self._alone_until, now + seconds)

    def left(self, now: float) -> tuple[int | None, int | None]:
        """Requests and tokens left; None: unknown."""
        if now < self._alone_until:
            return 0, None
        requests, tokens = (self._known(kind, now) for kind in KINDS)
        return requests, tokens

    def rest(self, tokens: int, now: float) -> float:
        """Seconds until a request of this many tokens may be sent."""
        wait = max(0.0, self._alone_until - now)
        for kind, need in zip(KINDS, (1, tokens), strict=True):
            left = self._known(kind, now)
            if left is not None and left < min(need, 1):
                wait = max(wait, self._left[kind][1] - now)
        return wait

    def _known(self, kind: str, now: float) -> int | None:
        left, until = self._left.get(kind, (0, 0.0))
        return left if now < until else None


def _told(headers: Mapping[str, str], kind: str) -> tuple[int | None, float]:
    """The amount left of a kind, and the seconds until there is more."""
    named = next((name for name in headers if name.lower().endswith(f"-ratelimit-{kind}-remaining")), "")
    for left, reset in (
        (f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}"),
        (named, named[: -len("remaining")] + "reset"),
    ):
        told = headers.get(left, "").strip()
        if told.isdigit():
            return int(told), duration(headers.get(reset, "")) or 0.0
    return None, 0.0
