"""What the kernel's control groups allow this process: a container's limits, not the machine's.

Both versions are read, and both together, as some machines mix them. `/proc/self/cgroup` says in which group this
process is, and `/proc/self/mountinfo` where that group can be read. (A container without a cgroup namespace gets the
machine's path and sees only its end.) Every limit between this group and the outermost visible one counts. Limits are
read anew each time, because they may change.

Memory in use is memory that the kernel cannot take back: page cache is left out, since the kernel drops it before it
kills a process. On version 2, the pressure shows what dropping costs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

UNLIMITED = 1 << 60
"""Bytes from which a limit means "no limit": version 1 writes a number near 2^63."""
RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")
"""Fields of `memory.stat` that the kernel can take back; version 1 puts `total_` before them and has no slab there."""


class Memory(NamedTuple):
    """Memory in use and its limit, in bytes."""

    used: int
    limit: int

    @property
    def share(self) -> float:
        return self.used / self.limit


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The groups of this process, each from its own to the outermost visible one."""

    unified: tuple[Path, ...] = ()
    memory_v1: tuple[Path, ...] = ()
    cpu_v1: tuple[Path, ...] = ()

    @classmethod
    def ours(cls, root: Path = Path("/")) -> "Cgroup":
        """The groups of this process. `root` is the folder with `/proc` and `/sys`."""
        groups = {controller: path for line in _lines(root / "proc/self/cgroup") for controller, path in _group(line)}
        mounts = [mount for line in _lines(root / "proc/self/mountinfo") if (mount := _Mount.read(line))]

        def seen(controller: str) -> tuple[Path, ...]:
            mount = next((mount for mount in mounts if mount.has(controller)), None)
            return mount.levels(groups.get(controller, "/"), root) if mount else ()

        return cls(unified=seen(""), memory_v1=seen("memory"), cpu_v1=seen("cpu"))

    def memory(self) -> Memory | None:
        """The memory of the group that is nearest to its limit; None without a limit."""
        return max(self._memories(), key=lambda memory: memory.share, default=None)

    def cores(self) -> float | None:
        """How many processors this process may keep busy; None without a limit."""
        return min(self._quotas(), default=None)

    def pressure(self) -> float:
        """Percent of the last ten seconds in which all processes of the group waited for memory. 0 where the kernel
        does not report it.
        """
        return _full_avg10(_text(self.unified[0] / "memory.pressure")) if self.unified else 0.0

    def _memories(self) -> Iterator[Memory]:
        for level in self.unified:
            limits = [limit for name in ("memory.max", "memory.high") if (limit := _limit(level / name))]
            if limits and (used := _used(level, "memory.current", "")) is not None:
                yield Memory(used, min(limits))
        for level in self.memory_v1:
            limit = _limit(level / "memory.limit_in_bytes")
            if limit and (used := _used(level, "memory.usage_in_bytes", "total_")) is not None:
                yield Memory(used, limit)

    def _quotas(self) -> Iterator[float]:
        for level in self.unified:
            quota, _, period = _text(level / "cpu.max").partition(" ")
            yield from _quota(quota, period)
        for level in self.cpu_v1:
            yield from _quota(_text(level / "cpu.cfs_quota_us"), _text(level / "cpu.cfs_period_us"))


class _Mount(NamedTuple):
    """A line of mountinfo: `36 35 0:32 /group /sys/fs/cgroup/memory rw … - cgroup cgroup rw,memory`."""

    root: PurePosixPath
    at: PurePosixPath
    controllers: frozenset[str]
    """The controllers of this mount; the empty name stands for version 2."""

    @classmethod
    def read(cls, line: str) -> "_Mount | None":
        before, _, after = line.partition(" - ")
        where, kind = before.split(), after.split()
        if len(where) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            return None
        controllers = frozenset(kind[2].split(",")) if kind[0] == "cgroup" else frozenset([""])
        return cls(PurePosixPath(where[3]), PurePosixPath(where[4].replace(r"\040", " ")), controllers)

    def has(self, controller: str) -> bool:
        return controller in self.controllers

    def levels(self, group: str, root: Path) -> tuple[Path, ...]:
        """The folders from the group's own up to the mount point; only the mount point when the group lies outside of
        the mount.
        """
        top = root / self.at.relative_to("/")
        path = PurePosixPath(group)
        inside = path.relative_to(self.root) if path.is_relative_to(self.root) and ".." not in path.parts else None
        own = top / inside if inside else top
        return tuple(level for level in (own, *own.parents) if level.is_relative_to(top))


def _group(line: str) -> Iterator[tuple[str, str]]:
    """The controllers and paths of a line: `4:memory:/path`, `2:cpu,cpuacct:/path`, or `0::/path` on version 2."""
    _, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if path.startswith("/"):
        yield from ((controller, path) for controller in controllers.split(","))


def _used(level: Path, name: str, prefix: str) -> int | None:
    whole = _number(_text(level / name))
    if whole is None:
        return None
    stat = dict(line.split(" ", 1) for line in _lines(level / "memory.stat") if " " in line)
    return max(0, whole - sum(_number(stat.get(prefix + part, "")) or 0 for part in RECLAIMABLE))


def _limit(path: Path) -> int | None:
    limit = _number(_text(path))
    return limit if limit and limit < UNLIMITED else None


def _quota(quota: str, period: str) -> Iterator[float]:
    allowed, of = _number(quota), _number(period)
    if allowed and of:
        yield allowed / of


def _full_avg10(text: str) -> float:
    """The number in the line `full avg10=1.23 avg60=…`; 0 without one."""
    for line in text.splitlines():
        if line.startswith("full avg10="):
            try:
                return float(line.split()[1].partition("=")[2])
            except ValueError:
                return 0.0
    return 0.0


def _number(text: str) -> int | None:
    """The number in a text; None for `max`, `-1` and anything else that is not a count."""
    return int(text) if text.isascii() and text.isdigit() else None


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _text(path: Path) -> str:
    """The file's text; empty when it cannot be read: another system, another version, a group that is gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
