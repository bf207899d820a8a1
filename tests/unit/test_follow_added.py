"""What `bullpen add` and `remove` change while a mesh runs."""

from pathlib import Path
from typing import Any

import pytest

from bullpen.follow_added import AddedFollower
from bullpen.settings_dir import added_config, marker
from config.loader import ConfigError
from workers.base import Availability
from workers.base.interface.discovery import BackendFolder


class Running:
    """A mesh that only counts its workers."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.workers: set[str] = set()
        self.restarted: list[str] = []

    def workers_of(self, backend: str) -> list[str]:
        return [one for one in self.workers if one.startswith(backend)]

    async def add_worker(self, backend: str, worker_id: str, config: Path | None) -> None:
        self.workers.add(worker_id)

    async def restart(self, name: str) -> None:
        self.restarted.append(name)

    async def remove_worker(self, worker_id: str) -> None:
        self.workers.remove(worker_id)


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    monkeypatch.setenv("BULLPEN_CONFIG_DIR", str(tmp_path / "settings"))
    return Running(tmp_path)


def write(file: Path, text: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def following(mesh: Any) -> AddedFollower:
    return AddedFollower(mesh, lambda line: None)


async def test_an_added_worker_starts_once_and_leaves_when_it_is_removed(mesh: Running) -> None:
    follower, file = following(mesh), added_config("simulated", "box")
    write(file, "models: [{name: m}]")
    await follower.look()
    await follower.look()
    assert mesh.workers == {"box"}
    file.unlink()
    await follower.look()
    assert mesh.workers == set()


async def test_a_backend_that_is_turned_on_again_starts_though_it_could_not_before(
    mesh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its marker was there when the mesh started, and its model or key was not."""
    here: list[Availability] = [Availability.no("no file", "fetch it")]

    async def available(folder: BackendFolder, path: Path | None = None) -> Availability:
        return here[-1]

    monkeypatch.setattr(BackendFolder, "available", available)
    write(marker("simulated"))
    follower = following(mesh)
    await follower.look()
    assert mesh.workers == set()
    write(marker("simulated"))
    with pytest.raises(ConfigError, match="simulated cannot run here: no file; fetch it"):
        await follower.look()
    here.append(Availability.yes("it is here"))
    write(marker("simulated"))
    await follower.look()
    assert mesh.workers == {"simulated-1"}
    marker("simulated").unlink()
    await follower.look()
    assert mesh.workers == set()


async def test_a_new_key_restarts_the_worker_that_has_the_old_one(mesh: Running) -> None:
    follower = following(mesh)
    mesh.workers.add("anthropic-1")
    write(marker("anthropic"))
    await follower.look()
    assert (mesh.workers, mesh.restarted) == ({"anthropic-1"}, ["worker-anthropic-1"])


async def test_a_provider_starts_beside_a_server_that_speaks_its_api(
    mesh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def available(folder: BackendFolder, path: Path | None = None) -> Availability:
        return Availability.yes("it is here")

    monkeypatch.setattr(BackendFolder, "available", available)
    follower = following(mesh)
    write(added_config("openai", "openai-box"), "base_url: http://127.0.0.1:9/v1")
    await follower.look()
    write(marker("openai"))
    await follower.look()
    assert mesh.workers == {"openai-box", "openai-1"}
