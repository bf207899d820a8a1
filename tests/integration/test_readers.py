"""Those who only read the books: the dashboards of compose.yaml."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from contracts import ErrorCode, Outcome
from telemetry.store import Store
from telemetry.upkeep.migrate import migrate
from tests.books import attempt, response
from tests.servers import PostgresServer

Reader: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PANELS: dict[str, str] = {
    panel["title"]: panel["targets"][0]["rawSql"]
    for panel in json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())["panels"]
}


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = Store(database_url, 10)
    await migrate(store)
    yield store
    await store.close()


@pytest.fixture
async def reader(store: Store, postgres_server: PostgresServer, database_url: str) -> AsyncIterator[Reader]:
    """Made as the containers make it: twice, because it may be."""
    psql = Path(postgres_server.cluster.command(0)[0]).with_name("psql")
    for password in ("old", "s4f1c0ffee"):
        await asyncio.to_thread(make_reader, psql, database_url, password)
    own_url = re.sub("//[^@]+@", "//reader:s4f1c0ffee@", database_url)
    connection = await asyncpg.connect(own_url)
    yield connection
    await connection.close()


def make_reader(psql: Path, database_url: str, password: str) -> None:
    command = [str(psql), "--quiet", "--no-psqlrc", "--file", str(DEPLOY / "reader.sql"), database_url]
    told = subprocess.run(
        command, env={**os.environ, "READER_PASSWORD": password}, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stderr) == (0, "")


async def test_a_reader_reads_and_can_do_nothing_else(reader: Reader) -> None:
    assert await reader.fetchval("SELECT count(*) FROM responses") == 0
    for forbidden in ("DELETE FROM responses", "CREATE TABLE t ()", "CREATE ROLE r", "DROP VIEW model_cost"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(forbidden)


@pytest.mark.parametrize("title", PANELS)
async def test_a_dashboard_shows_what_is_in_the_books(store: Store, reader: Reader, title: str) -> None:
    now = datetime.now(UTC)
    told = {
        "responses": [response(created_at=now, backend="local", queue_ms=10.0).to_bytes()],
        "attempts": [
            attempt(created_at=now, cost_usd=Decimal("0.5")).to_bytes(),
            attempt(created_at=now, outcome=Outcome.FAILED, error_code=ErrorCode.UPSTREAM_ERROR).to_bytes(),
        ],
    }
    assert await store.save(told) == 3
    assert await reader.fetch(_as_grafana_asks(PANELS[title])) or title in (
        "Worker events",
        "Promoted and demoted",
    )


def _as_grafana_asks(query: str) -> str:
    query = query.replace("$__timeFilter(created_at)", "created_at BETWEEN now() - interval '6 h' AND now()")
    assert "$" not in query
    return query
