"""What this worker uses and may use: its cgroup's word where there is one, else the machine's.

Bytes; percent of one core.
"""

import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import psutil

from contracts import Resources
from workers.base.host.cgroup import Cgroup, Memory
from workers.base.host.gpus import Gpus

CPU_OVER = 1.0
"""Seconds over which the processor's use is taken, at least: the system counts it in hundredths."""


class ResourceMeter:
    """Reads the figures, cheap enough for every heartbeat."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = monotonic) -> None:
        """`root` is where `/proc` and `/sys` are to be found; `clock` tells seconds."""
        self._cgroup = Cgroup.ours(root)
        self._gpus = Gpus()
        self._process = psutil.Process()
        self._clock = clock
        self._process.cpu_percent(None)
        self._cpu_at, self._cpu_percent = clock(), 0.0

    def read(self) -> Resources:
        memory = self.memory()
        return Resources(
            cpu_percent=self._cpu(),
            cpu_limit=min(self._cgroup.cores() or float("inf"), float(_processors())),
            memory_used=memory.used,
            memory_limit=memory.limit,
            gpus=self._gpus.read(),
        )

    def _cpu(self) -> float:
        """Of the last second or more. Two heartbeats may follow each other at once, and one tells of no use at all."""
        now = self._clock()
        if now - self._cpu_at >= CPU_OVER:
            self._cpu_at, self._cpu_percent = now, self._process.cpu_percent(None)
        return self._cpu_percent

    def memory(self) -> Memory:
        """Of the cgroup that is nearest to its limit; without one, what this process has of the machine's."""
        machine = psutil.virtual_memory().total
        told = self._cgroup.memory()
        if told is not None and told.limit <= machine:
            return told
        return Memory(self._process.memory_info().rss, machine)

    def pressure(self) -> float:
        """Percent of the last ten seconds spent waiting for memory."""
        return self._cgroup.pressure()


def _processors() -> int:
    """Those this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1
