"""How far a worker's wall clock is from ours, learned from its heartbeats. Pure.

A message can only be late: of the last few heartbeats the one that travelled quickest tells the most.
"""

from collections import deque

BEATS = 10


class ClockOffset:
    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=BEATS)

    def hear(self, sent_at_ms: int | None, received_at: float) -> None:
        """A heartbeat, sent at that time of its clock (unix ms) and received at that time of ours (unix s)."""
        if sent_at_ms is not None:
            self._seen.append(sent_at_ms / 1000 - received_at)

    @property
    def seconds(self) -> float:
        """Add this to our time to get theirs; 0 when they never said."""
        return max(self._seen, default=0.0)
