"""How much may be tried twice. Pure; `now` is the loop's clock in seconds.

Failover must not become the storm that brings the rest down: repeated attempts are a share of all requests, plus a
floor that covers the death of a whole worker. On workers that bill, duplicates may be a small share of what is spent.
"""

from collections import deque
from decimal import Decimal

DUPLICATES_WITHIN = 600.0
"""Seconds over which spending is watched."""


class RetryBudget:
    """A token bucket that every request fills a little: a share of the requests, plus a floor, up to a burst."""

    def __init__(self, share: float, *, per_second: float = 0.0, burst: float, filled: bool) -> None:
        self._share = share
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst if filled else 0.0
        self._filled_at: float | None = None

    def reconfigure(self, share: float, *, per_second: float = 0.0, burst: float) -> None:
        """Keeps the balance, capped at the new burst."""
        self._share, self._per_second, self._burst = share, per_second, burst
        self._tokens = min(self._tokens, burst)

    def asked(self) -> None:
        """Adds one request's share."""
        self._tokens = min(self._burst, self._tokens + self._share)

    def allows(self, now: float) -> bool:
        """Whether `take` would succeed."""
        if self._filled_at is not None:
            self._tokens = min(self._burst, self._tokens + self._per_second * (now - self._filled_at))
        self._filled_at = now
        return self._tokens >= 1.0

    def take(self, now: float) -> bool:
        """Takes one token; False when there is none."""
        if not self.allows(now):
            return False
        self._tokens -= 1.0
        return True


class DuplicateSpendCap:
    """US dollars of the last ten minutes, and how much of them bought nothing."""

    def __init__(self, duplicate_share: float, floor_usd: float) -> None:
        self.reconfigure(duplicate_share, floor_usd)
        self._entries: deque[tuple[float, Decimal, Decimal]] = deque()
        self._spent = self._duplicate = Decimal(0)

    def reconfigure(self, duplicate_share: float, floor_usd: float) -> None:
        self._share = Decimal(str(duplicate_share))
        self._floor = Decimal(str(floor_usd))

    def record(self, now: float, spent: Decimal, duplicate: Decimal) -> None:
        """Adds a finished request: its whole cost, and the part that other attempts' answers made useless."""
        self._forget(now)
        if not spent:
            return
        self._entries.append((now, spent, duplicate))
        self._spent += spent
        self._duplicate += duplicate

    def allows(self, now: float, expected: Decimal) -> bool:
        """Whether another `expected` dollars may be spent on a request that may have been paid for already."""
        self._forget(now)
        return self._duplicate + expected <= max(self._floor, self._share * self._spent)

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0][0] < now - DUPLICATES_WITHIN:
            _, spent, duplicate = self._entries.popleft()
            self._spent -= spent
            self._duplicate -= duplicate
