"""What may be away later may be away at the start: the mesh serves, says what is missing, and goes on trying."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bullpen.supervision import mesh as mesh_module
from bullpen.supervision.endpoints import running
from bullpen.supervision.mesh import Mesh
from bus.backoff import Backoff
from client import Bullpen
from tests.servers import PostgresServer
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]


@asynccontextmanager
async def up(place: Path, told: list[str], env: dict[str, str], **options: Any) -> AsyncIterator[Mesh]:
    """A mesh that is ready and answers."""
    async with Mesh(place, workers=[("simulated", 1)], env=env, tell=told.append, **options) as mesh:
        async with Bullpen.connect(mesh.endpoints.nats_url) as client:
            assert (await client.ask("Who is there?")).output
        yield mesh


async def test_a_mesh_whose_database_is_away_serves_and_books_when_it_comes(
    tmp_path: Path, nats_server: str, postgres: PostgresServer
) -> None:
    told: list[str] = []
    await postgres.start()
    postgres.stop()
    env = {"NATS_URL": nats_server, "DATABASE_URL": postgres.url, "BULLPEN_TELEMETRY__RETRY_AT_MOST": "0.2"}
    async with up(tmp_path / "mesh", told, env):
        assert [line for line in told if line.startswith("telemetry-1 cannot book: ")]
        await postgres.start()
        await eventually(lambda: "telemetry-1 books again" in told, timeout=60)


async def test_a_database_of_our_own_that_does_not_start_is_tried_again(
    tmp_path: Path, nats_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something is in its way: here a file in the place of its folder, elsewhere a full disk."""
    monkeypatch.setattr(mesh_module, "DATABASE_AGAIN", Backoff(0.1, 0.2))
    place, told = tmp_path / "mesh", list[str]()
    place.mkdir()
    (place / "postgres").write_text("in the way")
    async with up(place, told, {"NATS_URL": nats_server}) as mesh:
        assert [line for line in told if "No books until it does" in line]
        assert mesh.endpoints.database_url is None
        (place / "postgres").unlink()
        await eventually(lambda: "the database runs now, and the books are kept" in told, timeout=60)
        found = running(place)
        assert found is not None
        assert found.database_url is not None
        assert "telemetry-1" in found.pids


async def test_an_accountant_that_cannot_run_stops_no_mesh(tmp_path: Path, nats_server: str, database_url: str) -> None:
    """A newer version has been here: this one's accountant will not touch its books."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO schema_migrations (version, name, digest) VALUES (9999, 'later', '')")
    await connection.close()
    told: list[str] = []
    async with up(tmp_path / "mesh", told, {"NATS_URL": nats_server, "DATABASE_URL": database_url}):
        assert any("no books yet: telemetry-1 keeps dying" in line for line in told)
        assert any("run a newer bullpen" in line for line in told)
