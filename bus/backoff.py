"""How long to wait before another try."""

import random
from dataclasses import dataclass

MOST_DOUBLINGS = 30
"""Doublings of the ceiling: after these it is the cap in any case, and a float could overflow."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter under a ceiling that doubles with each failure: clients that failed together do not return together.

    `first` is the ceiling after the first failure, `cap` the highest one; seconds.
    """

    first: float
    cap: float

    def ceiling(self, failures: int) -> float:
        """The longest wait after this many failures, in seconds; 0 before the first."""
        return min(self.cap, self.first * 2.0 ** min(failures - 1, MOST_DOUBLINGS)) if failures > 0 else 0.0

    def wait(self, failures: int) -> float:
        """Seconds to wait after this many failures, drawn anew each time."""
        return random.uniform(0.0, self.ceiling(failures))  # noqa: S311 — jitter, not a secret
