"""What this worker uses and may use: the limits of its cgroup if it has one, else the machine's.

Memory in bytes; processor use in percent of one core.
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
"""The least seconds over which processor use is measured: the system counts it in hundredths of a second."""


class ResourceMeter:
    """Measures the worker's use; quick enough for every heartbeat."""

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = monotonic) -> None:
        """`root` is the folder with `/proc` and `/sys`; `clock` returns seconds."""
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
        """Processor use over the last second or more. Two heartbeats may come at once, and the short time between them
        shows no use.
        """
        now = self._clock()
        if now - self._cpu_at >= CPU_OVER:
            self._cpu_at, self._cpu_percent = now, self._process.cpu_percent(None)
        return self._cpu_percent

    def memory(self) -> Memory:
        """The memory of the cgroup that is nearest to its limit; without one, this process's memory and the
        machine's.
        """
        machine = psutil.virtual_memory().total
        told = self._cgroup.memory()
        if told is not None and told.limit <= machine:
            return told
        return Memory(self._process.memory_info().rss, machine)

    def pressure(self) -> float:
        """Percent of the last ten seconds in which the worker waited for memory."""
        return self._cgroup.pressure()


def _processors() -> int:
    """The number of processors on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1
