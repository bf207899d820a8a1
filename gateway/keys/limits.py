"""Limits of one key per minute. Pure; the clock is passed in, in seconds.

There is a bucket for requests and one for tokens, both full at first: a minute's worth may come at once. The tokens of
an answer are known only afterwards. They are taken then, and the next request waits until the bucket is above zero.
"""

from dataclasses import dataclass, field

MINUTE = 60.0


@dataclass(slots=True)
class PerMinute:
    limit: int
    left: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.left = float(self.limit)

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until the bucket holds the amount; 0: it does."""
        self._refill(now)
        missing = min(amount, self.limit) - self.left
        return max(0.0, missing) * MINUTE / self.limit if self.limit else MINUTE

    def take(self, amount: float, now: float) -> None:
        """Takes the amount; the bucket may fall below zero."""
        self._refill(now)
        self.left -= amount

    def _refill(self, now: float) -> None:
        self.left = min(float(self.limit), self.left + max(0.0, now - self.at) * self.limit / MINUTE)
        self.at = now


class Limits:
    """The limits of one key: requests and tokens per minute."""

    def __init__(self, rpm: int | None, tpm: int | None) -> None:
        self._requests = None if rpm is None else PerMinute(rpm)
        self._tokens = None if tpm is None else PerMinute(tpm)

    def admit(self, requests: int, now: float) -> float:
        """Takes the requests and returns 0, or takes nothing and returns the seconds to wait."""
        wait = max(
            0.0 if self._requests is None else self._requests.wait_for(requests, now),
            0.0 if self._tokens is None else self._tokens.wait_for(1, now),
        )
        if not wait and self._requests is not None:
            self._requests.take(requests, now)
        return wait

    def used_elsewhere(self, requests: int, tokens: int, now: float) -> None:
        """Takes what the key has used at another gateway."""
        if self._requests is not None:
            self._requests.take(requests, now)
        self.used(tokens, now)

    def used(self, tokens: int, now: float) -> None:
        """Takes the tokens of an answer."""
        if self._tokens is not None:
            self._tokens.take(tokens, now)
