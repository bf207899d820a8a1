"""What several files stand on: a connection, a small mesh, a Manager and workers that are played, and books."""

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from bus import Bus, BusSettings
from client import Bullpen, watch
from contracts import AttemptRecord, ResponseRecord, new_id, utc_now
from telemetry.recording import recorder
from telemetry.store import Store
from telemetry.upkeep.migrate import migrate
from tests.books import Books
from tests.fake_manager import FakeManager, FakeWorkers
from tests.mesh import SERVER_BACK_WITHIN, SmallMesh
from tests.servers import NatsServer
from workers.base.runtime import reply_channel


@pytest.fixture(autouse=True)
def patient_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker does not give up on its Manager because this process, or the server, stood still for some seconds."""
    monkeypatch.setattr(reply_channel, "GO_WITHIN", SERVER_BACK_WITHIN)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that run in this process give everybody the time that a busy machine takes to answer."""
    for method in (Bullpen._order, Bullpen._request):
        monkeypatch.setattr(method, "__defaults__", (30.0,))
    for limit in ("client.client.REPLY_WITHIN", "bullpen.doctor.WITHIN", "bullpen.doctor.EVENT_WITHIN"):
        monkeypatch.setattr(limit, 20.0)


@pytest.fixture
async def manager(nats_server: str) -> AsyncIterator[FakeManager]:
    manager = await FakeManager.start(nats_server)
    yield manager
    await manager.bus.close()


@pytest.fixture
async def workers(manager: FakeManager) -> AsyncIterator[FakeWorkers]:
    workers = FakeWorkers(manager)
    await workers.listen()
    yield workers
    await workers.stop()


def booked(**changes: Any) -> bytes:
    told: dict[str, Any] = {
        "request_id": new_id(),
        "task_id": "t",
        "created_at": utc_now(),
        "status": "ok",
        "model_id": "m",
        "backend": "b",
        "worker_id": "w-1",
        "tokens_used": 10,
        "cost_usd": Decimal("0.0012"),
        "duration_ms": 53.2,
        "attempts": 1,
        "prompt": "Where is\n it?",
        "output": "Paris",
        **changes,
    }
    return ResponseRecord(**told).to_bytes()


def attempt(**changes: Any) -> bytes:
    told: dict[str, Any] = {
        "request_id": new_id(),
        "attempt": 1,
        "task_id": "t",
        "created_at": utc_now(),
        "worker_id": "w-1",
        "backend": "b",
        "model_id": "m",
        "outcome": "ok",
        "duration_ms": 50.0,
        "cost_usd": Decimal("0.0012"),
        **changes,
    }
    return AttemptRecord(**told).to_bytes()


@pytest.fixture
async def some_books(database_url: str) -> str:
    """Four requests, of which one failed, and two attempts."""
    store = Store(database_url, 5)
    await migrate(store)
    rows = [
        booked(created_at=utc_now() - timedelta(days=3), model_id="old"),
        booked(created_at=utc_now() - timedelta(minutes=5), cost_usd=None, metadata={"tenant": "acme"}),
        booked(created_at=utc_now() - timedelta(minutes=1)),
        booked(
            status="error", error_code="overloaded", error_message="all full", model_id=None, output=None, cost_usd=0
        ),
    ]
    tries = [attempt(), attempt(cost_usd=None)]
    assert await store.save({"responses": rows, "attempts": tries}) == len(rows) + len(tries)
    await store.close()
    return database_url


@pytest.fixture
async def bus(nats_server: str) -> AsyncIterator[Bus]:
    bus = await Bus.connect("test", BusSettings(servers=(nats_server,)))
    yield bus
    await bus.close()


@pytest.fixture
async def bp(nats_server: str) -> AsyncIterator[Bullpen]:
    async with Bullpen.connect(nats_server) as bullpen:
        yield bullpen
        assert not bullpen._open, "an exchange was left open"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a tenth of the time the Manager is asked whether it has the task; it has as long as ever to say so."""
    for name in ("QUIET", "HELD", "WITHOUT_MANAGER"):
        monkeypatch.setattr(watch, name, getattr(watch, name) / 10)


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Manager that is asked whether it has the task may take its time: it is not lost, only the machine is busy."""
    monkeypatch.setattr(watch, "REPLY_WITHIN", 30.0)


@pytest.fixture
async def books(nats_server: str, database_url: str) -> AsyncIterator[Books]:
    async with Books(nats_server, database_url) as books:
        yield books


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an accountant that was killed held is given to the next one after 1 s."""
    monkeypatch.setattr(recorder, "ACK_WAIT", 1.0)


@pytest.fixture
def long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an accountant holds, and does not give back, nobody else gets in the time of a test."""
    monkeypatch.setattr(recorder, "ACK_WAIT", 600.0)


@pytest.fixture
async def mesh(nats: NatsServer) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats.url) as mesh:
        yield mesh
