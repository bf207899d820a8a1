"""PgBouncer between the accountant and Postgres, each transaction on whatever connection is free."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from telemetry.store import Connection, DatabaseAway, Store
from telemetry.upkeep.migrate import available, migrate
from tests.books import attempt, response
from tests.servers import PgBouncer, PostgresServer

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed here")


@pytest.fixture
async def pooled_url(tmp_path: Path, postgres_server: PostgresServer, empty_database_url: str) -> AsyncIterator[str]:
    """The address of an empty database behind a pooler of two connections."""
    assert PROGRAM is not None
    pooler = PgBouncer(tmp_path, Path(PROGRAM), postgres_server, urlsplit(empty_database_url).path[1:])
    await pooler.start()
    yield pooler.url
    pooler.kill()


async def test_books_are_kept_through_a_pooler(pooled_url: str) -> None:
    stores = [Store(f"{pooled_url}?pgbouncer=true&connect_timeout=10", 10) for _ in range(3)]
    assert await asyncio.gather(*(migrate(store) for store in stores)) == [max(available())] * 3
    rows = [{"responses": [response().to_bytes()], "attempts": [attempt().to_bytes()]} for _ in range(15)]
    booked = await asyncio.gather(*(store.save(row) for store, row in zip(stores * 5, rows, strict=True)))
    assert sum(booked) == 30
    zones = await asyncio.gather(*(store.perform(_zone) for store in stores for _ in range(10)))
    assert set(zones) == {"UTC"}
    for store in stores:
        await store.close()


async def test_a_setting_that_the_pooler_refuses_is_named(pooled_url: str) -> None:
    with pytest.raises(DatabaseAway, match="search_path"):
        await Store(f"{pooled_url}?schema=books", 10).perform(_zone)


async def _zone(connection: Connection) -> str:
    return str(await connection.fetchval("SELECT current_setting('TimeZone') WHERE $1", True))
