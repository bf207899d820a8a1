"""How far a worker's wall clock is from the Manager's, learned from the worker's heartbeats. Pure.

A message can arrive late but never early: of the last few heartbeats, the one that travelled fastest shows the offset
best.
"""

from collections import deque

BEATS = 10


class ClockOffset:
    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=BEATS)

    def hear(self, sent_at_ms: int | None, received_at: float) -> None:
        """Takes a heartbeat, sent at `sent_at_ms` by the worker's clock (unix milliseconds) and received at
        `received_at` by the Manager's (unix seconds).
        """
        if sent_at_ms is not None:
            self._seen.append(sent_at_ms / 1000 - received_at)

    @property
    def seconds(self) -> float:
        """Seconds to add to the Manager's time to get the worker's; 0 when its heartbeats carry no time."""
        return max(self._seen, default=0.0)
