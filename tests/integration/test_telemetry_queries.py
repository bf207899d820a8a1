"""What the books say, against figures worked out by hand, and that the hot questions are answered quickly."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from contracts import ErrorCode, OpenModel, Outcome, new_id
from telemetry.reading import queries
from telemetry.store import Connection, Store
from telemetry.upkeep.migrate import migrate
from tests.books import NOW, attempt, feedback, response


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = Store(database_url, 10)
    await migrate(store)
    yield store
    await store.close()


async def save(store: Store, table: str, *records: OpenModel) -> None:
    assert await store.save({table: [record.to_bytes() for record in records]}) == len(records)


async def view(store: Store, name: str) -> list[dict[str, Any]]:
    async def work(connection: Connection) -> list[dict[str, Any]]:
        return [dict(row) for row in await connection.fetch(f"SELECT * FROM {name}")]

    return await store.perform(work)


async def test_performance_is_of_answers_by_hour(store: Store) -> None:
    await save(
        store,
        "attempts",
        *(attempt(duration_ms=float(ms), completion_tokens=10) for ms in (100, 200, 300)),
        attempt(duration_ms=900.0, completion_tokens=None),
        attempt(duration_ms=50_000.0, outcome=Outcome.FAILED),
        attempt(duration_ms=700.0, completion_tokens=7, created_at=NOW + timedelta(minutes=30)),
        attempt(duration_ms=1.0, model_id="other"),
    )
    rows = {(row["model_id"], row["hour"]): row for row in await view(store, "model_performance")}
    first, second = datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 13, tzinfo=UTC)
    assert rows.keys() == {("m", first), ("m", second), ("other", first)}
    row = rows["m", first]
    assert (row["answers"], row["p50_ms"], row["p95_ms"]) == (4, 250.0, pytest.approx(810.0))
    assert row["tokens_per_second"] == pytest.approx(30 / 0.6)  # the answer of unknown length is not in it
    assert rows["m", second]["tokens_per_second"] == pytest.approx(10)


async def test_hours_and_days_are_those_of_utc_wherever_the_reader_is(store: Store) -> None:
    await save(store, "attempts", attempt(created_at=datetime(2026, 3, 1, 23, 40, tzinfo=UTC)))

    async def from_india(connection: Connection) -> list[Any]:
        await connection.execute("SET timezone TO 'Asia/Kolkata'")
        hours = await connection.fetchval("SELECT hour FROM model_performance")
        days = await connection.fetchval("SELECT day FROM model_cost")
        await connection.execute("RESET timezone")
        return [hours, days]

    assert await store.perform(from_india) == [
        datetime(2026, 3, 1, 23, tzinfo=UTC),
        datetime(2026, 3, 1, tzinfo=UTC),
    ]


async def test_error_rate_is_of_those_that_ended_one_way_or_the_other(store: Store) -> None:
    bad = (Outcome.FAILED, Outcome.UNCERTAIN, Outcome.TRUNCATED, Outcome.LATE_DISCARDED)
    neither = (Outcome.REFUSED, Outcome.CANCELLED, Outcome.HEDGED_LOSER)
    await save(store, "attempts", *(attempt() for _ in range(6)), *(attempt(outcome=o) for o in (*bad, *neither)))
    await save(store, "attempts", attempt(model_id="idle", outcome=Outcome.REFUSED))
    rows = {row["model_id"]: row for row in await view(store, "model_error_rate")}
    assert (rows["m"]["attempts"], rows["m"]["failures"]) == (13, 4)
    assert rows["m"]["error_rate"] == pytest.approx(0.4)
    assert rows["idle"]["error_rate"] is None


async def test_cost_is_exact_and_what_is_unknown_is_counted_not_added(store: Store) -> None:
    await save(
        store,
        "attempts",
        attempt(cost_usd=Decimal("0.1")),
        attempt(cost_usd=Decimal("0.2")),
        attempt(cost_usd=Decimal("0.000000000001"), outcome=Outcome.FAILED),
        attempt(cost_usd=None),
        attempt(cost_usd=None, outcome=Outcome.REFUSED),
        attempt(cost_usd=Decimal(7), created_at=NOW + timedelta(days=1)),
    )
    first, second = sorted(await view(store, "model_cost"), key=lambda row: row["day"])
    assert (first["cost_usd"], first["unpriced"], first["answers"]) == (Decimal("0.300000000001"), 1, 3)
    assert (second["cost_usd"], second["prompt_tokens"], second["completion_tokens"]) == (Decimal(7), 10, 20)


async def test_scorecard(store: Store) -> None:
    await save(
        store,
        "attempts",
        attempt(confidence=0.8, duration_ms=100.0, cost_usd=Decimal("0.25")),
        attempt(confidence=0.6, duration_ms=300.0, cost_usd=Decimal("0.50")),
        attempt(outcome=Outcome.FAILED, confidence=None, cost_usd=Decimal("0.25")),
        attempt(model_id="never", outcome=Outcome.REFUSED, cost_usd=Decimal(0)),
    )
    before, after = NOW - timedelta(hours=1), NOW + timedelta(hours=1)
    await save(
        store,
        "responses",
        response(task_id="reused", model_id="old", created_at=before - timedelta(hours=1)),
        response(task_id="reused", model_id="m", created_at=before - timedelta(minutes=1)),
        response(task_id="reused", model_id="m", created_at=before),
        response(task_id="reused", status="error", created_at=NOW),
        response(task_id="reused", model_id="later", created_at=after),
        response(task_id="b", model_id="m", created_at=NOW + timedelta(seconds=1)),  # its clock is ahead
    )
    await save(store, "feedback", feedback(task_id="reused", score=1.0), feedback(task_id="b", score=0.5))
    await save(store, "feedback", feedback(task_id="unknown", score=0.0))
    busy, never = await queries.scorecard(store)
    assert (busy.model_id, busy.answers, busy.attempts) == ("m", 2, 3)
    assert busy.error_rate == pytest.approx(1 / 3)
    assert busy.confidence == pytest.approx(0.7)
    assert (busy.feedback, busy.judgements) == (0.75, 2)
    assert (busy.p50_ms, busy.p95_ms, busy.last_answer) == (100.0, 300.0, NOW)
    assert (busy.cost_usd, busy.cost_per_answer, busy.unpriced) == (Decimal(1), Decimal("0.5"), 0)
    assert (never.model_id, never.answers, never.judgements, never.last_answer) == ("never", 0, 0, None)
    assert (never.error_rate, never.feedback, never.cost_per_answer) == (None, None, None)


async def test_recent_responses_by_every_wish(store: Store) -> None:
    ago = [NOW - timedelta(hours=hours) for hours in range(4)]
    await save(
        store,
        "responses",
        response(task_id="0", created_at=ago[0], metadata={"tenant": "a"}),
        response(task_id="1", created_at=ago[1], metadata={"tenant": "b"}, model_id="other"),
        response(task_id="2", created_at=ago[2], status="error", error_code=ErrorCode.NO_WORKER, model_id=None),
        response(task_id="3", created_at=ago[3], metadata={"tenant": "a"}, model_id="other", cost_usd=None),
    )

    async def tasks(**wish: Any) -> str:
        return "".join(row.task_id for row in await queries.recent_responses(store, **wish))

    assert await tasks() == "0123"
    assert await tasks(limit=2) == "01"
    assert await tasks(since=ago[1]) == "01"
    assert await tasks(failed=True) == "2"
    assert await tasks(model="other") == "13"
    assert await tasks(tenant="a") == "03"
    assert await tasks(tenant="a", model="other", failed=False, since=ago[3], limit=1) == "3"
    assert await tasks(tenant="a' OR '1'='1") == ""
    newest, *_, oldest = await queries.recent_responses(store)
    assert (newest.cost_usd, oldest.cost_usd) == (Decimal("0.000123456789"), None)


async def test_one_request_by_either_name_with_its_attempts(store: Store) -> None:
    old, new = response(task_id="reused"), response(task_id="reused", created_at=NOW + timedelta(seconds=1))
    await save(store, "responses", old, new, response(task_id="another"))
    await save(
        store,
        "attempts",
        attempt(request_id=new.request_id, attempt=2),
        attempt(request_id=new.request_id, attempt=1, outcome=Outcome.UNCERTAIN, error_code=ErrorCode.UPSTREAM_ERROR),
        attempt(request_id=old.request_id, attempt=1),
    )
    found = await queries.response(store, "reused")
    assert found is not None
    assert str(found.response.request_id) == new.request_id
    assert [(tried.attempt, tried.outcome) for tried in found.attempts] == [(1, Outcome.UNCERTAIN), (2, Outcome.OK)]
    by_id = await queries.response(store, old.request_id)
    assert by_id is not None
    assert (str(by_id.response.request_id), len(by_id.attempts)) == (old.request_id, 1)
    assert await queries.response(store, "nobody's") is None
    assert await queries.response(store, new_id()) is None


async def test_cost_goes_to_the_tenant_and_model_that_caused_it(store: Store) -> None:
    cheap, dear = Decimal("0.01"), Decimal("0.30")
    await save(
        store,
        "responses",
        response(cost_usd=cheap + dear, metadata={"tenant": "a"}),
        response(cost_usd=None, metadata={"tenant": "b"}, tokens_used=7),
        response(cost_usd=dear, created_at=NOW - timedelta(days=40)),
    )
    request_id = new_id()
    await save(
        store,
        "attempts",
        attempt(request_id=request_id, model_id="dear", outcome=Outcome.UNCERTAIN, cost_usd=dear, prompt_tokens=None),
        attempt(request_id=request_id, attempt=2, cost_usd=cheap),
        attempt(cost_usd=None),
        attempt(cost_usd=None, outcome=Outcome.REFUSED),
        attempt(cost_usd=dear, created_at=NOW - timedelta(days=40)),
    )
    since = NOW - timedelta(days=1)
    by_model = await queries.cost_by(store, "model", since=since)
    assert [(row.key, row.cost_usd, row.requests, row.tokens, row.unpriced) for row in by_model] == [
        ("dear", dear, 1, 20, 0),
        ("m", cheap, 3, 90, 1),
    ]
    by_tenant = {row.key: row for row in await queries.cost_by(store, "tenant", since=since)}
    assert (by_tenant["a"].cost_usd, by_tenant["a"].unpriced) == (cheap + dear, 0)
    assert (by_tenant["b"].cost_usd, by_tenant["b"].unpriced, by_tenant["b"].tokens) == (None, 1, 7)
    days = await queries.cost_by(store, "day")
    assert {row.key: row.cost_usd for row in days} == {"2026-03-01": cheap + dear, "2026-01-20": dear}
