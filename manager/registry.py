"""Who sits in the bullpen: heartbeats and departures in, members out.

Pure: no clock of its own, no network. `now` is the loop's monotonic time in seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from contracts import Heartbeat

FORGET_AFTER = 60.0
"""Seconds after which a silent worker is no longer even listed."""
PANIC_SHARE = 0.5
"""When more than this share goes silent at once, it is probably we who are deaf."""


@dataclass(slots=True)
class Member:
    """One worker, as this Manager knows it."""

    heartbeat: Heartbeat
    heard: float
    gone: str = ""
    """Why it counts as gone; empty while it is with us."""
    assigned: int = 0
    """Our own requests at this worker right now."""
    assigned_at_beat: int = 0
    paused_until: float = 0.0
    """It asked to be left alone until then (rate limit, overload)."""
    answered: int = 0
    failed: int = 0
    tried_at: float = field(default=0.0)

    @property
    def worker_id(self) -> str:
        return self.heartbeat.worker_id

    @property
    def load(self) -> int:
        """Requests running and waiting there, as far as we know: the heartbeat's word, plus what we sent since."""
        beat = self.heartbeat
        return max(self.assigned, beat.inflight + beat.queued + self.assigned - self.assigned_at_beat)

    @property
    def free(self) -> int:
        return max(0, self.heartbeat.capacity - self.load)

    @property
    def obstacle(self) -> str:
        """Why it can't take work at all; empty when it can."""
        if self.gone:
            return self.gone
        beat = self.heartbeat
        return "" if beat.state == "ready" else f"{beat.state}: {beat.reason}".rstrip(": ")


class Registry:
    def __init__(self, silent_after_beats: float) -> None:
        self._members: dict[str, Member] = {}
        self._silent_after = silent_after_beats
        self._swept: float | None = None

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def get(self, worker_id: str) -> Member | None:
        return self._members.get(worker_id)

    def hear(self, beat: Heartbeat, now: float) -> str | None:
        """Takes a heartbeat in. Returns a worker id whose running work is void: it restarted, or it left."""
        member = self._members.get(beat.worker_id)
        if member is None:
            self._members[beat.worker_id] = Member(beat, now)
            return None
        known = member.heartbeat
        if beat.epoch < known.epoch or (beat.epoch == known.epoch and beat.seq <= known.seq):
            return None  # an older incarnation, or an older beat
        restarted = beat.epoch != known.epoch
        member.heartbeat, member.heard, member.assigned_at_beat = beat, now, member.assigned
        member.gone = "stopped" if beat.state == "stopped" else ""
        if restarted:
            member.paused_until = 0.0
        return beat.worker_id if restarted or member.gone else None

    def leave(self, worker_id: str, why: str) -> bool:
        """A worker's connection is gone. Returns whether that is news; its next heartbeat brings it back."""
        member = self._members.get(worker_id)
        if member is None or member.gone:
            return False
        member.gone = why
        return True

    def sweep(self, now: float, every: float) -> list[str]:
        """The workers that went silent since the last sweep. Call it every `every` seconds.

        If this process itself was asleep, or most of the pool seems to fall silent in one instant, nobody
        is declared dead: it is our ears.
        """
        slept = 0.0 if self._swept is None else max(0.0, now - self._swept - every)
        self._swept = now
        if slept > every:
            self.excuse(slept)
        present = [m for m in self._members.values() if not m.gone]
        silent = [m for m in present if now - m.heard > self._silent_after * m.heartbeat.interval_ms / 1000]
        if len(silent) > 1 and len(silent) > PANIC_SHARE * len(present):
            overdue = [m for m in silent if now - m.heard > 2 * self._silent_after * m.heartbeat.interval_ms / 1000]
            silent = overdue
        for member in silent:
            member.gone = f"silent for {now - member.heard:.1f} s"
        self._forget(now)
        return [member.worker_id for member in silent]

    def excuse(self, seconds: float) -> None:
        """We could not listen for so long: nobody's silence in that time counts."""
        for member in self._members.values():
            member.heard += seconds

    def _forget(self, now: float) -> None:
        for member in [m for m in self._members.values() if m.gone and now - m.heard > FORGET_AFTER and not m.assigned]:
            del self._members[member.worker_id]
