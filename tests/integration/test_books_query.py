"""What telemetry answers about the books over NATS: pages, conditions, one tenant's part, and errors that say why."""

from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from contracts import BooksQuery, BooksReply, BullpenError, OpenModel, Outcome, new_id
from contracts import subjects as s
from telemetry.reading.searching import search
from telemetry.reading.service import BooksService
from telemetry.store import Store
from telemetry.upkeep.migrate import migrate
from tests.books import NOW, attempt, response
from tests.mesh import SmallMesh

TEN = [new_id() for _ in range(10)]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """Ten requests of two tenants, in turn; the last one failed."""
    store = Store(database_url, 30)
    await migrate(store)
    rows: list[OpenModel] = []
    for number, request_id in enumerate(TEN):
        own: dict[str, Any] = {
            "request_id": request_id,
            "task_id": f"t-{number}",
            "created_at": NOW + timedelta(seconds=number // 2),  # two at a time: the id decides then
            "metadata": {"tenant": ("acme", "rival")[number % 2]},
            "prompt": f"100% of question {number}",
            "cost_usd": None if number == 0 else Decimal("0.5"),
        }
        if number == 9:
            own |= {"status": "error", "error_code": "overloaded", "model_id": None}
        rows.append(response(**own))
    await store.save({"responses": [row.to_bytes() for row in rows]})
    tried = [
        attempt(request_id=TEN[0], attempt=1, worker_id="lost", outcome=Outcome.FAILED, cost_usd=None),
        *(attempt(request_id=one, attempt=2, cost_usd=Decimal("0.25")) for one in TEN),
    ]
    await store.save({"attempts": [row.to_bytes() for row in tried]})
    yield store
    await store.close()


async def tasks(store: Store, **asked: Any) -> list[str]:
    return [row["task_id"] for row in (await search(store, BooksQuery(what="requests", **asked))).rows]


async def test_pages_follow_each_other_without_a_gap_or_a_repeat(store: Store) -> None:
    found: list[str] = []
    after: str | None = None
    while True:
        page = await search(store, BooksQuery(what="requests", limit=3, after=after))
        found += [row["task_id"] for row in page.rows]
        if (after := page.next) is None:
            break
    assert found == [f"t-{number}" for number in reversed(range(10))]


async def test_every_condition_has_to_hold(store: Store) -> None:
    assert await tasks(store, status="error") == ["t-9"]
    assert await tasks(store, code="overloaded", tenant="acme") == []
    assert await tasks(store, name=TEN[3]) == await tasks(store, name="t-3") == ["t-3"]
    assert await tasks(store, text="0% OF question 4") == ["t-4"]
    assert await tasks(store, text="1_0") == []
    assert len(await tasks(store, since=NOW + timedelta(seconds=4))) == 2
    assert await tasks(store, model="other") == []
    with pytest.raises(BullpenError, match="after"):
        await tasks(store, after="yesterday")


async def test_a_tenant_is_answered_about_nothing_but_its_own(store: Store) -> None:
    assert await tasks(store, tenant="acme") == ["t-8", "t-6", "t-4", "t-2", "t-0"]
    for name in (TEN[1], "t-1"):
        assert (await search(store, BooksQuery(what="request", name=name, tenant="acme"))).rows == ()
    day = {"since": NOW - timedelta(hours=1), "until": NOW + timedelta(hours=1)}
    [totals] = (await search(store, BooksQuery(what="totals", tenant="acme", **day))).rows
    assert (totals["requests"], totals["errors"], totals["cost_usd"], totals["unpriced"]) == (5, 0, 2.0, 1)
    costs = (await search(store, BooksQuery(what="cost", tenant="rival", **day))).rows
    assert {row["tenant"] for row in costs} == {"rival"}
    assert sum(row["cost_usd"] for row in costs) == 1.25
    [models] = (await search(store, BooksQuery(what="models", tenant="acme", **day))).rows
    assert [(row["answers"], row["failures"]) for row in models["over_time"]] == [(5, 1)]
    assert (await search(store, BooksQuery(what="grades", tenant="acme"))).rows == ()


async def test_one_request_comes_with_its_attempts(store: Store) -> None:
    [told] = (await search(store, BooksQuery(what="request", name="t-0"))).rows
    assert told["response"]["prompt"] == "100% of question 0"
    assert (told["attempts"][0]["worker_id"], told["attempts"][0]["outcome"]) == ("lost", "failed")


async def test_telemetry_answers_on_the_bus_and_says_what_is_wrong(nats_server: str, store: Store) -> None:
    async with SmallMesh(nats_server) as mesh:
        await BooksService(mesh.bus, store).serve()

        async def ask(subject: str, body: Any) -> Any:
            return from_json((await mesh.bus.request(subject, to_json(body), timeout=30)).data)

        told = BooksReply(**await ask(s.BOOKS_QUERY, {"what": "requests", "limit": 1}))
        assert told.rows[0]["task_id"] == "t-9"
        assert (await ask(s.BOOKS_QUERY, {"what": "secrets"}))["error"]["code"] == "invalid_request"
        assert (await ask(s.BOOKS_GRADE, {"model": "m", "grade": "benched"})) == {"rows": [], "next": None}
        away = Store("postgresql://nobody@127.0.0.1:1/none", 1)
        service = BooksService(mesh.bus, away)
        with pytest.raises(BullpenError, match="cannot be read"):
            await service._in_turn(service._query, b'{"what": "totals"}')
