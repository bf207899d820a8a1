"""A mesh with a Manager, and a gateway before it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from contracts import OpenModel, new_id, utc_now
from telemetry.reading.service import BooksService
from telemetry.store import Store
from telemetry.upkeep.migrate import migrate
from tests.books import attempt, response
from tests.browser import EVIL, browser
from tests.gateway import Door, door_of
from tests.mesh import SmallMesh


@pytest.fixture
async def mesh(nats_server: str) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats_server) as mesh:
        await mesh.manager()
        yield mesh


@pytest.fixture
async def simulated(mesh: SmallMesh) -> AsyncIterator[Door]:
    await mesh.worker("w-1")
    async with door_of(mesh) as door:
        yield door


@pytest.fixture
async def chromium() -> AsyncIterator[Any]:
    async with browser() as chromium:
        yield chromium


@pytest.fixture
async def books(mesh: SmallMesh, database_url: str) -> AsyncIterator[None]:
    store = Store(database_url, 30)
    await migrate(store)
    rows: list[OpenModel] = [
        response(request_id=new_id(), task_id=f"t-{n}", created_at=utc_now(), prompt=f"question {n}", output=EVIL)
        for n in range(150)
    ]
    tries = [attempt(request_id=new_id(), created_at=utc_now()).to_bytes()]
    await store.save({"responses": [row.to_bytes() for row in rows], "attempts": tries})
    await BooksService(mesh.bus, store).serve()
    yield
    await store.close()
