"""The workers of the mesh: the newest heartbeat of each. Pure; the clock is passed in."""

from collections.abc import Iterator
from dataclasses import dataclass

from config.bounded import Latest
from contracts import Heartbeat

MOST_WORKERS = 5000
SILENT_AFTER = 2.5
"""Heartbeat intervals without a heartbeat after which a worker counts as silent."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A worker's newest heartbeat, and when it was heard (seconds, of the loop's clock)."""

    beat: Heartbeat
    heard: float

    def silent_for(self, now: float) -> float | None:
        """Seconds without a heartbeat, once that is too long; None: the worker is heard, or has stopped."""
        age = now - self.heard
        overdue = age > SILENT_AFTER * self.beat.interval_ms / 1000
        return age if overdue and self.beat.state != "stopped" else None


class Roster:
    def __init__(self) -> None:
        self._seen: Latest[str, Sighting] = Latest(MOST_WORKERS)

    def hear(self, beat: Heartbeat, now: float) -> None:
        """Takes a heartbeat; one that is older than the newest changes nothing."""
        known = self._seen.get(beat.worker_id)
        if known is None or (beat.epoch, beat.seq) >= (known.beat.epoch, known.beat.seq):
            self._seen[beat.worker_id] = Sighting(beat, now)

    def forget(self, heard_before: float) -> None:
        """Drops the workers whose newest heartbeat came before that time."""
        for name in [name for name, seen in self._seen.items() if seen.heard < heard_before]:
            del self._seen[name]

    def __iter__(self) -> Iterator[Sighting]:
        """The workers, by id."""
        return iter(sorted(self._seen.values(), key=lambda seen: seen.beat.worker_id))

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def beats(self) -> list[Heartbeat]:
        return [seen.beat for seen in self]
