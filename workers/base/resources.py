"""What this worker uses and may use: its cgroup's word where there is one, else the machine's.

Bytes; percent of one core. Files that are not there (no cgroup, another system) mean no limit.
"""

from pathlib import Path

import psutil

from contracts import Resources

CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60
"""cgroup v1 says "no limit" with a number near 2^63."""


class ResourceMeter:
    """Reads the figures, cheap enough for every heartbeat."""

    def __init__(self, cgroup: Path = CGROUP) -> None:
        self._cgroup = cgroup
        self._process = psutil.Process()
        self._process.cpu_percent(None)

    def read(self) -> Resources:
        return Resources(
            cpu_percent=self._process.cpu_percent(None),
            cpu_limit=self._cpu_limit() or float(psutil.cpu_count() or 1),
            memory_used=self._process.memory_info().rss,
            memory_limit=self._memory_limit() or psutil.virtual_memory().total,
        )

    def _memory_limit(self) -> int | None:
        for name in ("memory.max", "memory/memory.limit_in_bytes"):
            text = self._text(name)
            if text.isdigit() and int(text) < UNLIMITED:
                return int(text)
        return None

    def _cpu_limit(self) -> float | None:
        quota, _, period = self._text("cpu.max").partition(" ")
        if not period:
            quota, period = self._text("cpu/cpu.cfs_quota_us"), self._text("cpu/cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            return int(quota) / int(period)
        return None

    def _text(self, name: str) -> str:
        try:
            return (self._cgroup / name).read_text(encoding="ascii").strip()
        except OSError:
            return ""
