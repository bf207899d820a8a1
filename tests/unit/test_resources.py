"""What a worker says it may use: the container's figures, from trees as kernels show them; and when it says stop."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from contracts import Gpu
from workers.base.host import gpus
from workers.base.host.cgroup import Cgroup, Memory
from workers.base.host.gpus import Gpus
from workers.base.host.resources import ResourceMeter
from workers.base.runtime.memory_guard import REST, MemoryPressure

MIB = 1 << 20
V2 = "35 23 0:28 {root} /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MEMORY = "91 87 0:32 {root} /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory"
V1_CPU = "88 87 0:29 {root} /sys/fs/cgroup/cpu,cpuacct ro,relatime - cgroup cgroup rw,cpu,cpuacct"
HYBRID = "41 31 0:38 {root} /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
NO_LIMIT = str(2**63 - 4096)


def tree(root: Path, groups: str, mounts: list[str], files: dict[str, str], mounted: str = "/") -> Cgroup:
    """A machine whose `/proc` and `/sys` say so."""
    told = {
        "proc/self/cgroup": groups,
        "proc/self/mountinfo": "\n".join(["23 1 0:21 / / rw - ext4 /dev/root rw", *mounts]).replace("{root}", mounted),
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }
    for name, text in told.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return Cgroup.ours(root)


def test_a_container_on_version_2(tmp_path: Path) -> None:
    files = {
        "memory.max": str(256 * MIB),
        "memory.current": str(200 * MIB),
        "memory.stat": f"anon 1\nfile 2\ninactive_file {40 * MIB}\nactive_file {20 * MIB}\nslab_reclaimable {10 * MIB}",
        "cpu.max": "150000 100000",
        "memory.pressure": "some avg10=7.50 avg60=1.00 total=5\nfull avg10=3.25 avg60=0.50 avg300=0.10 total=4",
    }
    cgroup = tree(tmp_path, "0::/", [V2], files)
    assert cgroup.memory() == Memory(130 * MIB, 256 * MIB)
    assert cgroup.cores() == 1.5
    assert cgroup.pressure() == 3.25


def test_a_container_on_version_1_that_sees_the_machines_path(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": str(256 * MIB),
        "memory/memory.usage_in_bytes": str(100 * MIB),
        "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {30 * MIB}\ntotal_active_file {20 * MIB}",
        "cpu,cpuacct/cpu.cfs_quota_us": "50000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    groups = "4:memory:/docker/8ea8\n2:cpu,cpuacct:/docker/8ea8\n1:name=systemd:/docker/8ea8\n0::/docker/8ea8"
    cgroup = tree(tmp_path, groups, [V1_CPU, V1_MEMORY], files, mounted="/docker/8ea8")
    assert cgroup.memory() == Memory(50 * MIB, 256 * MIB)
    assert cgroup.cores() == 0.5
    assert cgroup.pressure() == 0.0


def test_of_nested_groups_the_tightest_counts(tmp_path: Path) -> None:
    files = {
        "kubepods/memory.max": str(1000 * MIB),
        "kubepods/memory.current": str(950 * MIB),
        "kubepods/cpu.max": "50000 100000",
        "kubepods/pod/memory.max": str(400 * MIB),
        "kubepods/pod/memory.current": str(100 * MIB),
        "kubepods/pod/cpu.max": "max 100000",
        "kubepods/pod/main/memory.max": "max",
        "kubepods/pod/main/memory.current": str(90 * MIB),
        "kubepods/pod/main/cpu.max": "200000 100000",
    }
    cgroup = tree(tmp_path, "0::/kubepods/pod/main", [V2], files)
    assert cgroup.memory() == Memory(950 * MIB, 1000 * MIB)
    assert cgroup.cores() == 0.5


def test_where_the_kernel_slows_down_is_a_limit_too(tmp_path: Path) -> None:
    files = {"memory.max": str(300 * MIB), "memory.high": str(200 * MIB), "memory.current": str(10 * MIB)}
    assert tree(tmp_path, "0::/", [V2], files).memory() == Memory(10 * MIB, 200 * MIB)


def test_a_hybrid_machine_has_its_limits_on_version_1(tmp_path: Path) -> None:
    files = {
        "memory/jobs/memory.limit_in_bytes": str(64 * MIB),
        "memory/jobs/memory.usage_in_bytes": str(32 * MIB),
        "memory/memory.limit_in_bytes": NO_LIMIT,
        "memory/memory.usage_in_bytes": str(9999 * MIB),
        "unified/cgroup.procs": "",
    }
    cgroup = tree(tmp_path, "4:memory:/jobs\n0::/", [HYBRID, V1_MEMORY], files)
    assert cgroup.memory() == Memory(32 * MIB, 64 * MIB)
    assert cgroup.cores() is None


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"memory.max": "max", "memory.current": "1", "cpu.max": "max 100000"},
        {"memory.max": "", "memory.current": "", "cpu.max": ""},
        {"memory.max": "0", "memory.current": "1", "cpu.max": "0 0"},
        {"memory.max": "-1", "memory.current": "1", "cpu.max": "-1 100000"},
        {"memory.max": "many", "memory.current": "1", "cpu.max": "lots of it"},
        {"memory.max": "²", "memory.current": "1", "cpu.max": "١ ١"},
        {"memory.max": "1000", "memory.current": "some", "cpu.max": "100000"},
        {"memory.max": str(2**200), "memory.current": "1", "memory.pressure": "full avg10=much"},
    ],
    ids=["none", "unlimited", "empty", "zero", "negative", "words", "digits of others", "half", "beyond all"],
)
def test_what_is_no_limit_limits_nothing(tmp_path: Path, files: dict[str, str]) -> None:
    cgroup = tree(tmp_path, "0::/", [V2], files)
    assert (cgroup.memory(), cgroup.cores(), cgroup.pressure()) == (None, None, 0.0)
    told = ResourceMeter(tmp_path).read()
    assert told.memory_limit == psutil.virtual_memory().total
    assert told.cpu_limit == len(os.sched_getaffinity(0))
    assert 0 < told.memory_used < psutil.virtual_memory().total


@pytest.mark.parametrize("group", ["/../elsewhere", "/gone", "relative", ""])
def test_a_group_out_of_sight_leaves_what_is_in_sight(tmp_path: Path, group: str) -> None:
    files = {"memory.max": "1000", "memory.current": "500"}
    assert tree(tmp_path, f"0::{group}", [V2], files).memory() == Memory(500, 1000)


def test_a_machine_without_groups_is_its_own_limit(tmp_path: Path) -> None:
    assert ResourceMeter(tmp_path).read().memory_limit == psutil.virtual_memory().total


def test_what_a_start_uses_of_the_processor_says_nothing_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heartbeats in a row made a worker look busy, or not, by chance, and all work went to the other one."""
    told = iter([700.0, 20.0, 30.0])  # the first of them from before the meter was made
    monkeypatch.setattr(psutil.Process, "cpu_percent", lambda process, interval: next(told))
    times = iter([100.0, 100.0, 100.9, 101.0, 101.01, 102.5])
    meter = ResourceMeter(clock=lambda: next(times))
    assert [meter.read().cpu_percent for _ in range(5)] == [0.0, 0.0, 20.0, 20.0, 30.0]


def test_a_limit_beyond_the_machine_is_no_limit(tmp_path: Path) -> None:
    tree(tmp_path, "0::/", [V2], {"memory.max": str(1 << 58), "memory.current": "1", "cpu.max": "99900000 100000"})
    told = ResourceMeter(tmp_path).read()
    assert told.memory_limit == psutil.virtual_memory().total
    assert told.cpu_limit == len(os.sched_getaffinity(0))


def test_a_limit_changed_while_we_run_counts_from_then_on(tmp_path: Path) -> None:
    cgroup = tree(tmp_path, "0::/", [V2], {"memory.max": "1000", "memory.current": "500"})
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("2000\n")
    assert cgroup.memory() == Memory(500, 2000)


# MemoryPressure


def at(share: float) -> Memory:
    return Memory(round(share * 1000) * MIB, 1000 * MIB)


def test_near_the_limit_it_says_so_with_the_cure_and_comes_back_lower_down() -> None:
    strain = MemoryPressure()
    assert strain.look(at(0.89), 0, now=0) == ""
    assert "uses 910 of 1000 MiB of memory" in strain.look(at(0.91), 0, now=1)
    assert "max_concurrency" in strain.reason
    assert strain.look(at(0.89), 0, now=2), "it came back at the mark where it left"
    assert strain.look(at(0.79), 0, now=3) == ""


def test_who_stays_below_the_mark_comes_back_although_nothing_more_is_freed() -> None:
    strain = MemoryPressure()
    strain.look(at(0.95), 0, now=0)
    assert strain.look(at(0.85), 0, now=REST / 2)
    assert strain.look(at(0.91), 0, now=REST - 1)
    assert strain.look(at(0.85), 0, now=REST + 1), "it was full a moment ago"
    assert strain.look(at(0.85), 0, now=2 * REST) == ""


@pytest.mark.parametrize(("limit", "mark"), [(128, 96), (256, 192), (512, 448), (4000, 3600)])
def test_of_little_memory_a_larger_share_is_kept_free(limit: int, mark: int) -> None:
    assert MemoryPressure().look(Memory((mark - 1) * MIB, limit * MIB), 0, now=0) == ""
    assert MemoryPressure().look(Memory(mark * MIB, limit * MIB), 0, now=0)


def test_a_worker_that_waits_for_memory_counts_as_full() -> None:
    strain = MemoryPressure()
    assert strain.look(at(0.5), 19, now=0) == ""
    assert "waits for memory 40 % of the time" in strain.look(at(0.5), 40, now=1)
    assert strain.look(at(0.5), 6, now=2)
    assert strain.look(at(0.5), 4, now=3) == ""


# GPUs, as NVIDIA's library tells of them


class NVMLError(Exception):
    pass


class Library(ModuleType):
    """Stands where the real library would; two GPUs, the second a slice that does not tell everything."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        super().__init__(gpus.LIBRARY)
        self.driver = True

    def nvmlInit(self) -> None:  # noqa: N802 — its own names
        self.nvmlDeviceGetCount()

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 — its own name
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 — its own name
        if index == 2:
            raise NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetName(self, device: int) -> Any:  # noqa: N802 — its own name
        return b"Tesla T4" if device == 0 else "NVIDIA A100 MIG 1g.5gb"

    def nvmlDeviceGetMemoryInfo(self, device: int) -> SimpleNamespace:  # noqa: N802 — its own name
        return SimpleNamespace(used=device + 1, total=16)

    def nvmlDeviceGetUtilizationRates(self, device: int) -> SimpleNamespace:  # noqa: N802 — its own name
        if device == 1:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=42)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setitem(sys.modules, gpus.LIBRARY, made)
    return made


def test_gpus_without_figures_are_left_out(library: Library) -> None:
    whole = Gpu(name="Tesla T4", memory_used=1, memory_total=16, utilization=42)
    piece = Gpu(name="NVIDIA A100 MIG 1g.5gb", memory_used=2, memory_total=16, utilization=0)
    assert ResourceMeter().read().gpus == (whole, piece)


def test_a_driver_that_goes_away_takes_only_the_gpus_along(library: Library) -> None:
    seen = Gpus()
    assert len(seen.read()) == 2
    library.driver = False
    assert seen.read() == ()
    assert seen.read() == ()


def test_without_a_driver_there_are_no_gpus(library: Library) -> None:
    library.driver = False
    assert Gpus().read() == ()


def test_without_the_library_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, gpus.LIBRARY, None)
    assert Gpus().read() == ()
