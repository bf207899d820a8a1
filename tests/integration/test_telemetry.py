"""The books over real NATS and real Postgres: what was told is booked once, whatever dies on the way."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import from_json

from bus import Bus, BusSettings
from bus.jetstream import PullConsumer
from bus.outbox import Outbox
from contracts import AttemptRecord, ErrorCode, Outcome, Price, ResponseRecord, new_id
from contracts import subjects as s
from telemetry import queries
from telemetry.config import TelemetryConfig
from telemetry.migrate import SchemaMismatch, migrate
from telemetry.service import run as run_telemetry
from telemetry.store import DatabaseAway, Store
from tests.servers import NatsServer, PostgresServer
from tests.support import eventually

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
QUICK = TelemetryConfig(command_timeout=2, retry_at_most=0.3)


def response(**changes: Any) -> ResponseRecord:
    values: dict[str, Any] = {
        "request_id": new_id(),
        "task_id": "t",
        "created_at": NOW,
        "status": "ok",
        "model_id": "m",
        "worker_id": "w",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "tokens_used": 30,
        "cost_usd": Decimal("0.000123456789"),
        "price": Price(input_per_mtok=Decimal("0.1"), output_per_mtok=Decimal("0.2")),
        "duration_ms": 100.0,
        "confidence": 0.9,
        "confidence_source": "logprobs",
        "attempts": 1,
        "prompt": "hi",
        "output": "ho",
    }
    return ResponseRecord(**{**values, **changes})


def attempt(**changes: Any) -> AttemptRecord:
    values: dict[str, Any] = {
        "request_id": new_id(),
        "attempt": 1,
        "task_id": "t",
        "created_at": NOW,
        "worker_id": "w",
        "backend": "b",
        "model_id": "m",
        "outcome": Outcome.OK,
        "duration_ms": 100.0,
        "cost_usd": Decimal("0.5"),
    }
    return AttemptRecord(**{**values, **changes})


class Books:
    """A running accountant, and a way to tell it things."""

    def __init__(self, nats_url: str, database_url: str) -> None:
        self.settings = BusSettings(servers=(nats_url,))
        self.database_url = database_url
        self.store = Store(database_url, 5)
        self.bus: Bus
        self.outbox: Outbox
        self._running: list[tuple[asyncio.Event, asyncio.Task[None]]] = []

    async def open(self) -> None:
        self.bus = await Bus.connect("test", self.settings)
        self.outbox = await Outbox.open("test", self.settings)

    def start(self, name: str = "t-1") -> None:
        stop = asyncio.Event()
        running = run_telemetry(self.settings, self.database_url, QUICK, instance_id=name, stop=stop)
        self._running.append((stop, asyncio.create_task(running)))

    async def stop(self) -> None:
        while self._running:
            stop, running = self._running.pop()
            stop.set()
            await running

    async def close(self) -> None:
        await self.stop()
        await self.outbox.close()
        await self.store.close()
        await self.bus.close()

    def tell(self, *records: ResponseRecord | AttemptRecord) -> None:
        for record in records:
            subject = s.TELEMETRY_RESPONSE if isinstance(record, ResponseRecord) else s.TELEMETRY_ATTEMPT
            self.outbox.put(subject, record, new_id())

    async def rows(self, table: str) -> list[dict[str, Any]]:
        async def work(connection: Any) -> list[dict[str, Any]]:
            return [dict(row) for row in await connection.fetch(f"SELECT * FROM {table}")]

        return await self.store.perform(work)

    async def count(self, table: str) -> int:
        with suppress(DatabaseAway):
            return len(await self.rows(table))
        return -1

    def booked(self, count: int, table: str = "responses") -> Callable[[], Any]:
        async def check() -> bool:
            return await self.count(table) >= count

        return check


@pytest.fixture
async def books(nats_server: str, database_url: str) -> AsyncIterator[Books]:
    books = Books(nats_server, database_url)
    await books.open()
    yield books
    await books.close()


async def test_a_row_is_what_was_told_to_the_last_digit(books: Books) -> None:
    books.start()
    told = response(
        output="naïve ☃ \U0001f600 \\u0000 and a NUL: \0.",
        tokens_used=2**62,
        metadata={"tenant": "acme'; DROP TABLE responses; --"},
        context={"deep": [1, {"x": None}]},
    )
    books.tell(told)
    await eventually(books.booked(1), timeout=10)
    row = (await books.rows("responses"))[0]
    assert str(row["request_id"]) == told.request_id
    assert row["cost_usd"] == Decimal("0.000123456789")
    assert row["created_at"] == NOW
    assert row["output"] == "naïve ☃ \U0001f600 \\u0000 and a NUL: �."
    assert row["tokens_used"] == 2**62
    assert from_json(row["metadata"]) == told.metadata
    assert from_json(row["context"]) == told.context


async def test_an_unknown_cost_stays_unknown(books: Books) -> None:
    books.start()
    books.tell(response(cost_usd=None, price=None))
    await eventually(books.booked(1), timeout=10)
    assert (await books.rows("responses"))[0]["cost_usd"] is None


async def test_told_twice_is_booked_once(books: Books) -> None:
    books.start()
    books.start("t-2")
    one, other = response(), response()
    books.tell(one, one, other, one)
    tried = attempt()
    books.tell(tried, tried)
    await eventually(books.booked(2), timeout=10)
    await eventually(books.booked(1, "attempts"), timeout=10)
    consumer = await PullConsumer.open(books.bus, stream=s.TELEMETRY_STREAM, durable="books")
    await eventually(lambda: _empty(consumer), timeout=10)
    assert (await books.count("responses"), await books.count("attempts")) == (2, 1)


async def _empty(consumer: PullConsumer) -> bool:
    return await consumer.pending() == 0


async def test_one_bad_row_does_not_take_the_others_with_it(books: Books) -> None:
    good = [response() for _ in range(199)]
    bad = response().model_copy(update={"request_id": "not-a-uuid"})
    books.tell(*good[:100], bad, *good[100:])
    books.outbox.put(s.TELEMETRY_RESPONSE, Price(input_per_mtok=Decimal(1), output_per_mtok=Decimal(1)), new_id())
    books.start()
    await eventually(books.booked(199), timeout=10)
    await eventually(books.booked(2, "dead_letters"), timeout=10)
    letters = await books.rows("dead_letters")
    assert {letter["body"] for letter in letters} == {
        bad.to_bytes(),
        b'{"input_per_mtok":1.0,"output_per_mtok":1.0,"currency":"USD"}',
    }
    consumer = await PullConsumer.open(books.bus, stream=s.TELEMETRY_STREAM, durable="books")
    await eventually(lambda: _empty(consumer), timeout=10)
    assert await books.count("responses") == 199


async def test_a_database_killed_under_load_loses_nothing(nats_server: str, tmp_path: Path) -> None:
    database = PostgresServer(tmp_path)
    await database.start()
    books = Books(nats_server, database.url)
    await books.open()
    try:
        books.start()
        books.tell(*(response() for _ in range(300)))
        await eventually(books.booked(1), timeout=10)
        database.kill()
        books.tell(*(response() for _ in range(300)))
        await eventually(lambda: books.outbox.pending == 0)
        await database.start()
        await eventually(books.booked(600), timeout=15)
        assert await books.count("responses") == 600
    finally:
        await books.close()
        database.stop()


async def test_a_frozen_database_is_left_alone_until_it_wakes(nats_server: str, tmp_path: Path) -> None:
    database = PostgresServer(tmp_path)
    await database.start()
    books = Books(nats_server, database.url)
    await books.open()
    try:
        books.start()
        books.tell(response())
        await eventually(books.booked(1), timeout=10)
        _signal_all(database, signal.SIGSTOP)
        frozen = Store(database.url, 0.5)
        async with asyncio.timeout(5):
            with pytest.raises(DatabaseAway):
                await frozen.fetch("recent_responses", 1, None, None, None, None)
        books.tell(*(response() for _ in range(20)))
        await eventually(lambda: books.outbox.pending == 0)
        _signal_all(database, signal.SIGCONT)
        await eventually(books.booked(21), timeout=15)
        assert await books.count("responses") == 21
    finally:
        _signal_all(database, signal.SIGCONT)
        await books.close()
        database.stop()


def _signal_all(database: PostgresServer, number: signal.Signals) -> None:
    import psutil

    assert database.process is not None
    postmaster = psutil.Process(database.process.pid)
    for process in (postmaster, *postmaster.children(recursive=True)):
        process.send_signal(number)


async def test_nats_killed_under_load_loses_nothing(nats: NatsServer, database_url: str) -> None:
    books = Books(nats.url, database_url)
    await books.open()
    try:
        books.start()
        books.tell(*(response() for _ in range(500)))
        await eventually(books.booked(1), timeout=10)
        nats.kill()
        books.tell(*(response() for _ in range(200)))
        await nats.start()
        await eventually(books.booked(700), timeout=18)
        assert await books.count("responses") == 700
    finally:
        await books.close()


async def test_events_wait_for_an_accountant_that_starts_later(books: Books) -> None:
    books.tell(response())
    await asyncio.sleep(0.1)
    assert books.outbox.pending == 1  # no stream yet: kept, not lost
    books.start()
    await eventually(books.booked(1), timeout=10)
    assert books.outbox.pending == 0


async def test_feedback_is_stored_and_bad_feedback_is_told(books: Books) -> None:
    books.start()
    await eventually(books.booked(0, "feedback"), timeout=10)
    good = await books.bus.request(s.INFER_FEEDBACK, b'{"task_id":"t","score":0.5,"comment":"fine"}', timeout=2)
    assert from_json(good.data) == {"stored": True}
    for bad, field in ((b'{"task_id":"t","score":2}', "score"), (b'{"score":1}', "task_id"), (b"rubbish", None)):
        reply = await books.bus.request(s.INFER_FEEDBACK, bad, timeout=2)
        assert from_json(reply.data)["error"]["code"] == "invalid_request"
        assert from_json(reply.data)["error"]["field"] == field
    await eventually(books.booked(1, "feedback"), timeout=10)
    assert (await books.rows("feedback"))[0]["score"] == 0.5


async def test_the_views_add_up(books: Books) -> None:
    books.start()
    books.tell(*(response(duration_ms=float(ms), completion_tokens=10) for ms in (100, 200, 300)))
    books.tell(response(status="error", error_code=ErrorCode.NO_WORKER, model_id=None, cost_usd=None))
    books.tell(attempt(), attempt(), attempt(outcome=Outcome.FAILED), attempt(outcome=Outcome.REFUSED, cost_usd=None))
    await eventually(books.booked(4), timeout=10)
    await eventually(books.booked(4, "attempts"), timeout=10)
    performance = (await books.rows("model_performance"))[0]
    assert (performance["answers"], performance["p50_ms"]) == (3, 200.0)
    assert performance["p95_ms"] == pytest.approx(290.0)
    assert performance["tokens_per_second"] == pytest.approx(30 / 0.6)
    errors = (await books.rows("model_error_rate"))[0]
    assert (errors["failures"], errors["error_rate"]) == (1, pytest.approx(1 / 3))
    cost = (await books.rows("model_cost"))[0]
    assert (cost["cost_usd"], cost["unpriced"]) == (Decimal("1.5"), 1)
    card = (await books.rows("model_scorecard"))[0]
    assert (card["answers"], card["confidence"], card["cost_per_answer"]) == (3, pytest.approx(0.9), Decimal("0.5"))


async def test_the_command_lines_questions(books: Books) -> None:
    books.start()
    books.tell(response(metadata={"tenant": "a"}), response(metadata={"tenant": "b"}, cost_usd=None))
    books.tell(response(status="error", error_code=ErrorCode.NO_WORKER, model_id=None, cost_usd=None))
    await eventually(books.booked(3), timeout=10)
    assert len(await queries.recent_responses(books.store)) == 3
    assert [r.status for r in await queries.recent_responses(books.store, failed=True)] == ["error"]
    assert len(await queries.recent_responses(books.store, tenant="a", model="m")) == 1
    assert not await queries.recent_responses(books.store, since=datetime(2027, 1, 1, tzinfo=UTC))
    by_tenant = {row.key: row for row in await queries.cost_by(books.store, "tenant")}
    assert by_tenant["a"].cost_usd == Decimal("0.000123456789")
    assert (by_tenant["b"].cost_usd, by_tenant["b"].unpriced) == (None, 1)
    assert [row.key for row in await queries.cost_by(books.store, "day")] == ["2026-03-01"]
    assert (await queries.cost_by(books.store, "model"))[0].requests == 2


async def test_migrations_run_once_also_side_by_side(database_url: str) -> None:
    stores = [Store(database_url, 10) for _ in range(4)]
    versions = await asyncio.gather(*(migrate(store) for store in stores))
    assert len(set(versions)) == 1
    for store in stores:
        await store.close()


async def test_a_newer_database_and_a_changed_migration_are_errors(database_url: str, tmp_path: Path) -> None:
    store = Store(database_url, 10)
    (tmp_path / "0001_one.sql").write_text("CREATE TABLE one (id int)")
    (tmp_path / "0002_two.sql").write_text("CREATE TABLE two (id int)")
    assert await migrate(store, tmp_path) == 2
    (tmp_path / "0002_two.sql").write_text("CREATE TABLE three (id int)")
    with pytest.raises(SchemaMismatch, match="0002_two"):
        await migrate(store, tmp_path)
    (tmp_path / "0002_two.sql").unlink()
    with pytest.raises(SchemaMismatch, match="newer"):
        await migrate(store, tmp_path)
    await store.close()


@pytest.mark.parametrize(
    ("query", "values", "index"),
    [
        ("SELECT * FROM responses ORDER BY created_at DESC LIMIT 20", (), "responses_created_at"),
        ("SELECT * FROM responses WHERE task_id = 't7'", (), "responses_task_id"),
        ("SELECT * FROM responses WHERE status = 'error' ORDER BY created_at DESC LIMIT 20", (), "responses_failed"),
    ],
)
async def test_hot_queries_use_their_index(books: Books, query: str, values: tuple[Any, ...], index: str) -> None:
    await migrate(books.store)
    rows = [response(task_id=f"t{n}", status="error" if n % 50 == 0 else "ok").to_bytes() for n in range(3000)]
    await books.store.save({"responses": rows})

    async def explain(connection: Any) -> str:
        await connection.execute("ANALYZE responses")
        return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {query}", *values))

    assert index in await books.store.perform(explain)
