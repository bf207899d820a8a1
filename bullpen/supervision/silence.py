"""Silent workers of this machine: noticed by `bullpen up`, shown by every command that lists workers.

A frozen process (SIGSTOP, a debugger, a full disk) keeps its connection, so no event reports it, and a command that
listens for a second cannot tell it from a worker that never ran. `bullpen up` has heard it before, and knows its
process.
"""

import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from bullpen.supervision.endpoints import running
from contracts import Heartbeat

SILENT_AFTER = 3.0
"""Heartbeat intervals without a heartbeat after which a worker counts as silent."""
LOOK_EVERY = 1.0
LATE = 1.0
"""Seconds by which a look may be late. A later one does not count: this process stood still itself."""
STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


@dataclass(frozen=True, slots=True)
class SilentWorker:
    """A worker with a process but without heartbeats."""

    worker_id: str
    pid: int
    seconds: float | None
    """Seconds since its last heartbeat; None: none since it was started."""
    is_stopped: bool
    """Whether a signal stopped its process."""

    @property
    def reason(self) -> str:
        """`silent for 15 s (process 22361 is stopped)`."""
        how = f"silent for {self.seconds:.0f} s" if self.seconds is not None else "no heartbeat now"
        return f"{how} (process {self.pid} {'is stopped' if self.is_stopped else 'runs'})"

    @property
    def cure(self) -> str:
        if self.is_stopped:
            return f"kill -CONT {self.pid} lets it go on; kill -9 {self.pid} has `bullpen up` start it anew"
        return f"its log says more; kill -9 {self.pid} has `bullpen up` start it anew"

    @classmethod
    def of(cls, worker_id: str, pid: int, seconds: float | None) -> "SilentWorker":
        return cls(worker_id, pid, seconds, _is_stopped(pid))


def silent_workers(heard: Collection[str], data_dir: Path | None = None) -> list[SilentWorker]:
    """The workers of the mesh on this data directory that are not in `heard`; none of another mesh."""
    endpoints = running(data_dir)
    if endpoints is None or os.environ.get("NATS_URL") not in (None, "", endpoints.nats_url):
        return []
    now = time.time()
    found = []
    for process, pid in sorted(endpoints.pids.items()):
        role, _, worker_id = process.partition("-")
        if role == "worker" and worker_id not in heard and psutil.pid_exists(pid):
            since = endpoints.silent_since.get(worker_id)
            found.append(SilentWorker.of(worker_id, pid, None if since is None else max(0.0, now - since)))
    return found


def _is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() in STOPPED
    except psutil.Error:
        return False


class SilenceWatch:
    """Finds silent workers. Pure; the clock is passed in, in seconds."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        """The time when the next heartbeat is overdue."""
        self._heard: dict[str, float] = {}
        self._silent: set[str] = set()
        self._looked = 0.0

    def hear(self, beat: Heartbeat, now: float) -> None:
        if beat.state == "stopped":
            self.forget(beat.worker_id)
            return
        self._heard[beat.worker_id] = now
        self._due[beat.worker_id] = now + max(SILENT_AFTER * beat.interval_ms, beat.pause_ms) / 1000

    def forget(self, worker_id: str) -> None:
        """Forgets a worker that has ended or was restarted: its silence is reported elsewhere."""
        for known in (self._due, self._heard):
            known.pop(worker_id, None)
        self._silent.discard(worker_id)

    def since(self, worker_id: str) -> float:
        """The time of its last heartbeat. Raises `KeyError`."""
        return self._heard[worker_id]

    @property
    def silent(self) -> frozenset[str]:
        return frozenset(self._silent)

    def look(self, now: float, *, connected: bool = True) -> Iterator[tuple[str, bool]]:
        """The changes since the last look: workers, each with whether it is silent now.

        When no heartbeat could be heard meanwhile (not `connected`, or this process stood still), every worker gets a
        new interval.
        """
        blind = not connected or now - self._looked > LOOK_EVERY + LATE
        self._looked = now
        for worker_id in self._due:
            if blind and worker_id not in self._silent:
                self._due[worker_id] = max(self._due[worker_id], now + SILENT_AFTER)
            is_silent = now > self._due[worker_id]
            if is_silent != (worker_id in self._silent):
                (self._silent.add if is_silent else self._silent.discard)(worker_id)
                yield worker_id, is_silent
