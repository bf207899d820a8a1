"""What this worker uses and may use: its cgroup's word where there is one, else the machine's.

Bytes; percent of one core.
"""

import os
from pathlib import Path

import psutil

from contracts import Resources
from workers.base.cgroup import Cgroup, Memory
from workers.base.gpus import Gpus


class ResourceMeter:
    """Reads the figures, cheap enough for every heartbeat."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root` is where `/proc` and `/sys` are to be found."""
        self._cgroup = Cgroup.ours(root)
        self._gpus = Gpus()
        self._process = psutil.Process()
        self._process.cpu_percent(None)

    def read(self) -> Resources:
        memory = self.memory()
        return Resources(
            cpu_percent=self._process.cpu_percent(None),
            cpu_limit=min(self._cgroup.cores() or float("inf"), float(_processors())),
            memory_used=memory.used,
            memory_limit=memory.limit,
            gpus=self._gpus.read(),
        )

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
