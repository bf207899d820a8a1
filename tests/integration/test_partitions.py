"""Months come before they are needed and go when they are too old, and neither readers nor writers notice."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import asyncpg
import pytest

from contracts import OpenModel, new_id, utc_now
from telemetry.config import TelemetryConfig
from telemetry.store import Connection, Store
from telemetry.upkeep import partitions, retention
from telemetry.upkeep.migrate import LOCK, migrate
from telemetry.upkeep.retention import BATCH, Housekeeper
from tests.books import Books, attempt, feedback, response
from tests.support import eventually

NOW = datetime(2026, 11, 23, 15, tzinfo=UTC)
Reader: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

EARLY, LATE = UUID("0000aaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"), UUID("f000aaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")


@pytest.fixture
async def store(empty_database_url: str) -> AsyncIterator[Store]:
    store = Store(empty_database_url, 10)
    await migrate(store)
    yield store
    await store.close()


@pytest.fixture
async def reader(empty_database_url: str, store: Store) -> AsyncIterator[Reader]:
    connection = await asyncpg.connect(empty_database_url)
    yield connection
    await connection.close()


def id_of(moment: datetime) -> str:
    """A UUIDv7 as it would have been made then."""
    return str(UUID(int=int(moment.timestamp() * 1000) << 80 | UUID(new_id()).int & (1 << 80) - 1))


async def save(store: Store, *moments: datetime) -> None:
    ids = [id_of(moment) for moment in moments]
    asked = [response(request_id=i, created_at=at, cost_usd=1) for i, at in zip(ids, moments, strict=True)]
    tried = [attempt(request_id=i, created_at=at) for i, at in zip(ids, moments, strict=True)]
    rows = {"responses": [row.to_bytes() for row in asked], "attempts": [row.to_bytes() for row in tried]}
    assert await store.save(rows) == 2 * len(moments)


async def months(store: Store, table: str = "responses") -> list[str]:
    """The partitions' names without the table's, those for foreign ids not among them."""

    async def work(connection: Connection) -> list[str]:
        rows = await connection.fetch(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass", table
        )
        return sorted(row[0].removeprefix(f"{table}_") for row in rows)

    return [name for name in await store.perform(work) if name not in {"before", "after"}]


async def value(store: Store, text: str, *values: object) -> Any:
    return await store.perform(lambda connection: connection.fetchval(text, *values))


def housekeeper(store: Store, **config: int | None) -> Housekeeper:
    return Housekeeper(store, TelemetryConfig(**{"retention": None, "content_retention": None, **config}))


async def test_the_smallest_id_of_a_moment_is_below_every_id_made_since(store: Store) -> None:
    before = utc_now()
    made = UUID(new_id())
    after = utc_now()
    floor = "SELECT uuidv7_floor($1)"
    assert await value(store, floor, before) <= made < await value(store, floor, utc_now() + timedelta(seconds=1))
    second = timedelta(seconds=1)
    assert before - second < await value(store, "SELECT uuidv7_time($1)", made) < after + second
    assert await value(store, "SELECT uuidv7_floor('-infinity')") == UUID(int=0)
    assert await value(store, "SELECT uuidv7_floor('infinity')") == UUID(int=(1 << 128) - (1 << 80))


async def test_months_are_made_ahead_once_by_however_many(empty_database_url: str, store: Store) -> None:
    others = [Store(empty_database_url, 10) for _ in range(4)]
    later = NOW + timedelta(days=400)
    made = await asyncio.gather(*(partitions.ensure(one, [later, later]) for one in (store, *others)))
    assert sorted(name for names in made for name in names) == ["attempts_2027_12", "responses_2027_12"]
    assert await housekeeper(store).tidy(NOW + timedelta(days=300))
    assert {"2027_09", "2027_10", "2027_11", "2027_12"} <= set(await months(store))
    assert await months(store) == await months(store, "attempts")
    for one in others:
        await one.close()


async def test_a_month_is_made_while_somebody_writes_and_somebody_reads(store: Store, reader: Reader) -> None:
    async with reader.transaction():
        await reader.execute("SELECT count(*) FROM responses")
        await reader.execute("LOCK TABLE responses, attempts IN ROW EXCLUSIVE MODE")  # as an insert does
        assert await partitions.ensure(store, [datetime(2031, 2, 3, tzinfo=UTC)])


async def test_a_row_that_meets_no_month_gets_one(store: Store) -> None:
    past, future = datetime(2024, 2, 29, tzinfo=UTC), datetime(2049, 12, 31, 23, 59, tzinfo=UTC)
    await save(store, past, NOW, future)
    assert {"2024_02", "2049_12"} <= set(await months(store))


async def test_ids_of_any_other_making_have_a_home_too(store: Store) -> None:
    ids = [EARLY, LATE, UUID(int=0), UUID(int=(1 << 128) - 1), *(uuid4() for _ in range(50))]
    assert await store.save({"responses": [response(request_id=str(i)).to_bytes() for i in ids]}) == len(ids)
    assert await store.save({"attempts": [attempt(request_id=str(i)).to_bytes() for i in ids]}) == len(ids)
    assert await value(store, "SELECT count(*) FROM responses_before") >= 2
    assert await value(store, "SELECT count(*) FROM responses_after") >= 2


async def test_a_month_goes_when_it_ended_longer_ago_than_retention(store: Store) -> None:
    await save(store, *(datetime(2025, month, 28, tzinfo=UTC) for month in (8, 9, 10, 11)), NOW)
    assert await housekeeper(store, retention=13).tidy(NOW)
    assert [month for month in await months(store) if month < "2026"] == ["2025_10", "2025_11"]
    assert await months(store) == await months(store, "attempts")
    assert await value(store, "SELECT count(*) FROM responses") == 3
    assert await value(store, "SELECT to_regclass('responses_2025_09')") is None
    assert await housekeeper(store).tidy(NOW)
    assert "2025_10" in await months(store)  # without retention they stay for ever


async def test_dropping_waits_for_readers_and_nobody_waits_for_it(
    store: Store, empty_database_url: str, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "50s")  # longer than `store` waits for anything
    await save(store, datetime(2025, 1, 15, tzinfo=UTC))
    apart = Store(empty_database_url, 55)
    reading = reader.transaction(isolation="repeatable_read")
    await reading.start()
    assert await reader.fetchval("SELECT count(*) FROM responses") == 1
    dropping = asyncio.create_task(housekeeper(apart, retention=13).tidy(NOW))
    await eventually(lambda: _is_waiting(store))
    for _ in range(20):
        await save(store, NOW)
        await value(store, "SELECT count(*) FROM attempts")
    assert not dropping.done()
    assert await reader.fetchval("SELECT count(*) FROM responses") == 1  # as when it began
    await reading.rollback()
    assert await dropping
    assert "2025_01" not in await months(store)
    assert await value(store, "SELECT to_regclass('responses_2025_01')") is None
    assert await value(store, "SELECT count(*) FROM responses") == 20
    await apart.close()


async def test_what_is_read_for_long_is_dropped_another_time(
    store: Store, empty_database_url: str, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "100ms")
    await save(store, datetime(2025, 1, 15, tzinfo=UTC))
    apart = Store(empty_database_url, 55)
    async with reader.transaction(isolation="repeatable_read"):
        await reader.execute("SELECT count(*) FROM responses; SELECT count(*) FROM attempts")
        assert await housekeeper(apart, retention=13).tidy(NOW)
        assert await value(store, "SELECT to_regclass('responses_2025_01')") is not None
        await save(store, NOW)
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "30s")
    assert await housekeeper(apart, retention=13).tidy(NOW)
    assert await value(store, "SELECT to_regclass('responses_2025_01')") is None
    assert await value(store, "SELECT to_regclass('attempts_2025_01')") is None
    await apart.close()


async def test_one_accountant_tidies_at_a_time(store: Store, reader: Reader) -> None:
    await reader.execute("SELECT pg_advisory_lock($1, 2)", LOCK)
    assert not await housekeeper(store).tidy(NOW)
    await reader.execute("SELECT pg_advisory_unlock_all()")
    assert await housekeeper(store).tidy(NOW)
    assert await housekeeper(store).tidy(NOW)  # the first gave its lock back


async def test_words_go_before_figures_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.upkeep.retention.BATCH", 7)
    assert BATCH > 7
    old, new = NOW - timedelta(days=31), NOW - timedelta(days=29)
    await save(store, *(old - timedelta(hours=hour) for hour in range(20)), new, NOW)
    rows = [response(request_id=str(one), created_at=old, context={"a": 1}).to_bytes() for one in (EARLY, LATE)]
    await store.save({"responses": rows})
    assert await housekeeper(store, content_retention=30).tidy(NOW)
    empty = "prompt IS NULL AND output IS NULL AND context = '{}' AND content = 'none'"
    assert await value(store, f"SELECT count(*) FROM responses WHERE {empty} AND tokens_used = 30") == 22
    whole = "prompt = 'hi' AND output = 'ho' AND content = 'full'"
    assert await value(store, f"SELECT count(*) FROM responses WHERE {whole}") == 2


async def test_words_go_wherever_they_stand(store: Store) -> None:
    old, asked = NOW - timedelta(days=31), id_of(NOW - timedelta(days=31))
    told = {"created_at": old, "error_message": "the provider says: 400 'my secret'"}
    failed = response(**told, request_id=asked, status="error", metadata={"tenant": "acme", "user": "Ada Lovelace"})
    tries = [attempt(**told, request_id=asked, attempt=number) for number in (1, 2)]
    judged = feedback(created_at=old, comment="Ada's was better", score=0.25)
    rows: dict[str, list[OpenModel]] = {"responses": [failed], "attempts": [*tries], "feedback": [judged]}
    await store.save({table: [row.to_bytes() for row in records] for table, records in rows.items()})
    assert await housekeeper(store, content_retention=30).tidy(NOW)
    assert await value(store, "SELECT count(*) FROM responses WHERE error_message IS NOT NULL") == 0
    assert await value(store, "SELECT metadata::text || tenant FROM responses") == '{"tenant": "acme"}acme'
    assert await value(store, "SELECT count(*) FROM attempts WHERE error_message IS NULL") == 2
    assert await value(store, "SELECT count(*) FROM feedback WHERE comment IS NULL AND score = 0.25") == 1


async def test_words_that_come_late_go_with_the_next_days_round(store: Store) -> None:
    keeper = housekeeper(store, content_retention=30)
    await save(store, NOW - timedelta(days=40))
    assert await keeper.tidy(NOW)
    await save(store, NOW - timedelta(days=50))
    assert await keeper.tidy(NOW + timedelta(days=1))
    assert await value(store, "SELECT count(*) FROM responses WHERE prompt IS NOT NULL") == 0


async def test_emptying_waits_for_nobody(store: Store, reader: Reader) -> None:
    await save(store, NOW - timedelta(days=40), NOW - timedelta(days=41))
    async with reader.transaction():
        held = await reader.fetchval("SELECT request_id FROM responses ORDER BY request_id LIMIT 1 FOR UPDATE")
        assert await housekeeper(store, content_retention=30).tidy(NOW)
        assert await value(store, "SELECT request_id FROM responses WHERE prompt IS NOT NULL") == held


async def test_an_accountant_keeps_house(
    nats_server: str, empty_database_url: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FIRST_AFTER", 0.0)
    await save(store, datetime(2024, 5, 6, tzinfo=UTC))
    async with Books(nats_server, empty_database_url) as books:
        books.start()
        await eventually(lambda: _is_gone(store, "responses_2024_05"))
        books.tell(response(request_id=id_of(datetime(2024, 5, 7, tzinfo=UTC))))
        await eventually(books.booked(1))


async def _is_gone(store: Store, name: str) -> bool:
    return await value(store, "SELECT to_regclass($1::text)", name) is None


async def _is_waiting(store: Store) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%CONCURRENTLY' AND wait_event_type = 'Lock'"
    return bool(await value(store, waiting))
