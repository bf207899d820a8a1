"""Our own servers find a port, also when somebody else is quicker."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from bullpen.embedded import EmbeddedError, nats_server, postgres
from bullpen.supervision import ports
from bullpen.supervision.servers import Servers
from bullpen.supervision.supervisor import Supervisor
from bus import Bus, BusSettings


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
async def servers(tmp_path: Path, told: list[str]) -> AsyncIterator[Servers]:
    (tmp_path / "logs").mkdir()
    supervisor = Supervisor(lambda name: None, lambda death: None)
    yield Servers(tmp_path, supervisor, told.append, lambda step: None)
    await supervisor.stop(list(supervisor.pids), within=5)


@pytest.fixture
def lost_race(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A standard port that looked free a moment ago and is taken now."""
    monkeypatch.setattr(ports, "is_free", lambda _: True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        monkeypatch.setattr(nats_server, "STANDARD_PORT", port)
        monkeypatch.setattr(postgres, "STANDARD_PORT", port)
        yield port


async def test_nats_goes_on_to_another_port(servers: Servers, lost_race: int, told: list[str]) -> None:
    url = await servers.start_nats()
    assert not url.endswith(f":{lost_race}")
    assert told[0].startswith(f"port {lost_race} is taken: nats listens on ")
    assert told[-1].endswith(f"nats listens on {url.rpartition(':')[2]}")  # whoever is quick takes that one too
    bus = await Bus.connect("test", BusSettings(servers=(url,)), patience=20)
    await bus.close()


async def test_postgres_goes_on_to_another_port(servers: Servers, lost_race: int) -> None:
    url = await servers.start_postgres()
    assert f":{lost_race}/" not in url
    connection = await asyncpg.connect(url)
    await connection.close()


async def test_a_server_that_cannot_start_shows_why(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.conf"
    broken.write_text("max_payload: plenty")
    monkeypatch.setattr(nats_server, "CONFIG", broken)
    with pytest.raises(EmbeddedError, match=r"nats does not start; it said:\n.*broken\.conf:1"):
        await servers.start_nats()
