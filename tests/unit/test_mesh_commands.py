"""Role processes import our modules, whatever lies in the directory they are started from; a full disk stops none."""

import errno
import sys
from pathlib import Path

import pytest

from bullpen.supervision import endpoints
from bullpen.supervision.endpoints import Endpoints
from bullpen.supervision.lock import Lock
from bullpen.supervision.mesh import Mesh, MeshError
from bullpen.supervision.process import role_command


def test_a_role_looks_for_modules_where_we_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/usr/lib/python", str(tmp_path)])
    assert role_command() == [sys.executable, "-m", "bullpen"]


def test_a_role_imports_nothing_from_a_foreign_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/usr/lib/python"])
    assert role_command() == [sys.executable, "-P", "-m", "bullpen"]


def test_a_disk_that_is_full_keeps_no_process_from_being_started_again(tmp_path: Path) -> None:
    """What cannot be written is told; the supervisor hears of no error."""
    told: list[str] = []
    mesh = Mesh(tmp_path / "gone", postgres=False, tell=told.append)
    mesh._ready = True
    mesh._on_start("manager-1")
    mesh._on_start("manager-1")
    told.pop(0)
    assert told[0].startswith("endpoints.json is not up to date")
    assert told[1] == "manager-1 was started again"


def test_addresses_that_cannot_be_written_leave_the_old_ones_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints.write(Endpoints(nats_url="nats://127.0.0.1:1"), tmp_path)

    def full(self: Endpoints, **_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Endpoints, "model_dump_json", full)
    with pytest.raises(OSError, match="No space"):
        endpoints.write(Endpoints(nats_url="nats://127.0.0.1:2"), tmp_path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["endpoints.json"]
    found = endpoints.read(tmp_path)
    assert found is not None
    assert found.nats_url == "nats://127.0.0.1:1"


async def test_a_mesh_that_cannot_sign_its_folder_says_so_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Lock) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Lock, "sign", full)
    with pytest.raises(MeshError, match=r"cannot be written \(No space left on device\): free some space"):
        await Mesh(tmp_path, postgres=False).start()
    monkeypatch.undo()
    Lock(tmp_path).release()


async def test_each_worker_is_told_how_many_of_its_backend_run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BULLPEN_CONFIG_DIR", str(tmp_path / "settings"))
    key = tmp_path / "settings" / "keys" / "SOME_API_KEY"
    key.parent.mkdir(parents=True)
    key.write_text("secret")
    config = tmp_path / "box.yaml"
    mesh = Mesh(tmp_path / "data", workers=[("simulated", 2)], added=[("simulated", "box", config)], postgres=False)
    started: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {}

    async def start(name: str, *arguments: str, **environment: str) -> None:
        started[name] = (arguments, environment)

    monkeypatch.setattr(mesh, "_start_role", start)
    for worker_id in sorted(mesh.workers):
        await mesh._start_worker(worker_id)
    assert started.keys() == {"worker-box", "worker-simulated-1", "worker-simulated-2"}
    arguments, environment = started["worker-box"]
    assert arguments == ("worker", "simulated", "--id", "box", "--config", str(config))
    assert environment == {"BULLPEN_SIBLINGS": "3", "SOME_API_KEY_FILE": str(key)}
