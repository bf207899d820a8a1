"""Ports, the lock of a data directory, and how a command finds its mesh."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bullpen.supervision import background, endpoints
from bullpen.supervision.endpoints import Endpoints
from bullpen.supervision.lock import AlreadyRunning, Holder, Lock, holder
from bullpen.supervision.ports import Ports, any_free, is_free
from bus import BusUnreachable

NO_PROCESS = 1 << 30
"""A process id that no system gives."""
HERE = Endpoints(nats_url="nats://127.0.0.1:7", database_url="postgresql://here", pids={"nats": 1})


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NATS_URL", "DATABASE_URL", "DATABASE_URL_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        yield squatter.getsockname()[1]


def soon(check: Callable[[], bool]) -> bool:
    """Somebody else on this machine may take a port between two looks, but not five times."""
    return any(check() for _ in range(5))


def test_the_standard_port_when_it_is_free(tmp_path: Path) -> None:
    def first(standard: int) -> bool:
        return next(Ports(tmp_path).candidates("nats", standard)) == standard

    assert soon(lambda: first(any_free()))


def test_a_free_port_when_the_standard_one_is_taken_and_the_same_one_next_time(tmp_path: Path, taken: int) -> None:
    def free_and_remembered() -> bool:
        port = next(Ports(tmp_path).candidates("nats", taken))
        assert port != taken
        free = is_free(port)
        Ports(tmp_path).remember("nats", port)
        Ports(tmp_path).remember("postgres", taken)
        same = next(Ports(tmp_path).candidates("nats", taken)) == port
        assert next(Ports(tmp_path).candidates("postgres", taken)) not in (port, taken)
        return free and same

    assert soon(free_and_remembered)


def test_broken_memory_is_no_obstacle(tmp_path: Path, taken: int) -> None:
    (tmp_path / "ports.json").write_text("{")
    assert next(Ports(tmp_path).candidates("nats", taken)) != taken


def test_a_data_directory_has_one_mesh(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    lock = Lock(tmp_path)
    lock.sign()
    assert holder(tmp_path) == os.getpid()
    with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        Lock(tmp_path)
    lock.release()
    assert holder(tmp_path) is None
    Lock(tmp_path).release()


def test_reading_the_lock_does_not_take_it(tmp_path: Path) -> None:
    Lock(tmp_path).release()
    with (tmp_path / "up.lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        assert holder(tmp_path) is None


@pytest.mark.parametrize("signed", ["", str(NO_PROCESS), "rubbish"])
def test_what_the_last_mesh_left_is_not_the_one_that_begins(tmp_path: Path, signed: str) -> None:
    endpoints.write(HERE, tmp_path)  # as after a kill -9
    (tmp_path / "up.lock").write_text(signed)
    with (tmp_path / "up.lock").open() as begins:
        fcntl.flock(begins, fcntl.LOCK_EX)
        assert holder(tmp_path) == 0
        assert endpoints.running(tmp_path) is None
    Lock(tmp_path).release()


def test_a_running_mesh_is_found_by_its_data_directory(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    lock.sign()
    endpoints.write(HERE, tmp_path)
    assert endpoints.running(tmp_path) == HERE
    assert endpoints.resolve_nats_url(tmp_path) == HERE.nats_url
    assert endpoints.resolve_database_url(tmp_path) == HERE.database_url
    lock.release()
    assert endpoints.running(tmp_path) is None
    assert endpoints.resolve_nats_url(tmp_path) == "nats://127.0.0.1:4222"
    assert endpoints.resolve_database_url(tmp_path) is None


def test_a_named_mesh_that_is_down_is_not_mistaken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULLPEN_DATA_DIR", str(tmp_path))
    with pytest.raises(BusUnreachable, match=r"no mesh runs on .*BULLPEN_DATA_DIR.*bullpen up"):
        endpoints.resolve_nats_url()
    monkeypatch.setenv("NATS_URL", "nats://elsewhere:1")
    assert endpoints.resolve_nats_url() == "nats://elsewhere:1"
    monkeypatch.delenv("NATS_URL")
    monkeypatch.delenv("BULLPEN_DATA_DIR")
    monkeypatch.chdir(tmp_path)
    assert endpoints.resolve_nats_url() == "nats://127.0.0.1:4222"


def test_the_lock_is_for_its_owner_only(tmp_path: Path) -> None:
    (tmp_path / "up.lock").touch(mode=0o666)
    lock = Lock(tmp_path)
    assert (tmp_path / "up.lock").stat().st_mode & 0o777 == 0o600
    lock.release()


@pytest.mark.parametrize("change", [{"started": 1.0}, {"command": ("bullpen", "up")}])
def test_a_process_that_only_has_the_number_of_the_mesh_is_left_alone(tmp_path: Path, change: dict[str, Any]) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as bystander:
        lock = Lock(tmp_path)  # somebody holds it
        stale = Holder.of(psutil.Process(bystander.pid)).model_copy(update=change)
        (tmp_path / "up.lock").write_text(stale.model_dump_json())
        with pytest.raises(ProcessLookupError, match=f"process {bystander.pid} is not the one"):
            background.stop(tmp_path)
        assert bystander.poll() is None
        (tmp_path / "up.lock").write_text(str(bystander.pid))  # as it was written before
        with pytest.raises(ProcessLookupError, match="does not say"):
            background.stop(tmp_path)
        assert bystander.poll() is None
        lock.release()
        bystander.kill()


def test_the_environment_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = Lock(tmp_path)
    lock.sign()
    endpoints.write(HERE, tmp_path)
    monkeypatch.setenv("NATS_URL", "nats://elsewhere:1")
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere")
    assert endpoints.resolve_nats_url(tmp_path) == "nats://elsewhere:1"
    assert endpoints.resolve_database_url(tmp_path) == "postgresql://elsewhere"
    lock.release()


def test_the_data_directory_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULLPEN_DATA_DIR", str(tmp_path))
    endpoints.write(HERE, tmp_path)
    assert endpoints.read() == HERE
    endpoints.forget(tmp_path)
    assert endpoints.read() is None


def test_the_file_is_for_its_owner_only_and_whole(tmp_path: Path) -> None:
    endpoints.write(HERE, tmp_path)
    file = tmp_path / "endpoints.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
    file.write_text(file.read_text()[:20])
    assert endpoints.read(tmp_path) is None
