"""What more workers are started by: the two queues that deploy/kubernetes/autoscaling has looked at."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts import ErrorCode
from telemetry.migrate import migrate
from telemetry.store import Connection, Store
from tests.books import response

FILE = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "autoscaling" / "scaledobject.yaml"
TRIGGERS: dict[str, dict[str, str]] = {
    trigger["type"]: trigger["metadata"]
    for document in yaml.safe_load_all(FILE.read_text())
    for trigger in document["spec"].get("triggers", ())
}


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = Store(database_url, 10)
    await migrate(store)
    yield store
    await store.close()


async def waiting(store: Store) -> float:
    async def work(connection: Connection) -> float:
        return float(await connection.fetchval(TRIGGERS["postgresql"]["query"]))

    return await store.perform(work)


async def test_as_many_wait_as_the_books_say(store: Store) -> None:
    """Sixty requests that waited 5 s each within half a minute: ten at any moment."""
    assert await waiting(store) == 0

    def asked(**changes: Any) -> bytes:
        return response(created_at=datetime.now(UTC), backend="local", **changes).to_bytes()

    rows = [asked(queue_ms=5000.0) for _ in range(60)]
    others = [asked(queue_ms=None), response(created_at=datetime.now(UTC), backend="openai", queue_ms=9e9).to_bytes()]
    assert await store.save({"responses": rows + others}) == 62
    assert await waiting(store) == 10
    turned_away = asked(status="error", error_code=ErrorCode.OVERLOADED, model_id=None, worker_id=None)
    assert await store.save({"responses": [turned_away]}) == 1
    assert await waiting(store) == 11
