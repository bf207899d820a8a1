"""What the kernel's control groups allow this process: a container's limits, not the machine's.

Both versions are read, and both at once, as hybrid machines have them: `/proc/self/cgroup` says in which group we are,
`/proc/self/mountinfo` where it can be seen (a container without a namespace of its own is told the machine's path and
sees only the end of it). A limit counts wherever it stands between our group and the outermost one we see, and limits
are read anew each time, because they may change while we run.

Memory in use is what could not be taken back: page cache is left out, since the kernel drops it before it kills.
What that costs is told by the pressure, on version 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

UNLIMITED = 1 << 60
"""Version 1 says "no limit" with a number near 2^63."""
RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")
"""Parts of `memory.stat`; version 1 puts `total_` before them and has no slab there."""


class Memory(NamedTuple):
    """Bytes."""

    used: int
    limit: int

    @property
    def share(self) -> float:
        return self.used / self.limit


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Our groups, each from our own to the outermost in sight."""

    unified: tuple[Path, ...] = ()
    memory_v1: tuple[Path, ...] = ()
    cpu_v1: tuple[Path, ...] = ()

    @classmethod
    def ours(cls, root: Path = Path("/")) -> "Cgroup":
        """Where this process is. `root` is where `/proc` and `/sys` are to be found."""
        groups = {controller: path for line in _lines(root / "proc/self/cgroup") for controller, path in _group(line)}
        mounts = [mount for line in _lines(root / "proc/self/mountinfo") if (mount := _Mount.read(line))]

        def seen(controller: str) -> tuple[Path, ...]:
            mount = next((mount for mount in mounts if mount.has(controller)), None)
            return mount.levels(groups.get(controller, "/"), root) if mount else ()

        return cls(unified=seen(""), memory_v1=seen("memory"), cpu_v1=seen("cpu"))

    def memory(self) -> Memory | None:
        """The group that is nearest to its limit; None without a limit."""
        return max(self._memories(), key=lambda memory: memory.share, default=None)

    def cores(self) -> float | None:
        """How many processors we may keep busy; None without a limit."""
        return min(self._quotas(), default=None)

    def pressure(self) -> float:
        """Percent of the last ten seconds in which all of us waited for memory. 0 where the kernel does not tell."""
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
    """The empty one is version 2."""

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
        """From the group up to the mount's own; only that one when the group lies outside of what is mounted."""
        top = root / self.at.relative_to("/")
        path = PurePosixPath(group)
        inside = path.relative_to(self.root) if path.is_relative_to(self.root) and ".." not in path.parts else None
        own = top / inside if inside else top
        return tuple(level for level in (own, *own.parents) if level.is_relative_to(top))


def _group(line: str) -> Iterator[tuple[str, str]]:
    """`4:memory:/path`, `2:cpu,cpuacct:/path`, and `0::/path` of version 2."""
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
    """`full avg10=1.23 avg60=…` among the lines."""
    for line in text.splitlines():
        if line.startswith("full avg10="):
            try:
                return float(line.split()[1].partition("=")[2])
            except ValueError:
                return 0.0
    return 0.0


def _number(text: str) -> int | None:
    """None for `max`, `-1` and whatever else is no count."""
    return int(text) if text.isascii() and text.isdigit() else None


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


def _text(path: Path) -> str:
    """Nothing when it cannot be read: another system, another version, a group that is gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
