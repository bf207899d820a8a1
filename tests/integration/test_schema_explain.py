"""What people often ask is answered from an index, in the months that matter. No timings: those are benchmarks."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any
from uuid import UUID

import pytest
from pydantic_core import from_json

from benchmarks.books import fill
from telemetry.store import Connection, Store, sql
from telemetry.upkeep.migrate import migrate

DAYS = 150
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
"""Not today: on the first days of a month its table has so few rows that reading them all is quicker than an index."""
SINCE = NOW - timedelta(days=3)
ONE = str(UUID(f"{round(NOW.timestamp() * 1000):012x}70008000000000000001"))
"""A request of now that is not in the books."""
AFTER_ALL = datetime(2049, 1, 1, tzinfo=UTC)
MONTHS = 3
"""That three days with a week's grace may touch: this month, the last one, and the one before."""
INDEXES = """
    SELECT child.relname AS name, parent.relname AS parent
    FROM pg_inherits i
    JOIN pg_class child ON child.oid = i.inhrelid
    JOIN pg_class parent ON parent.oid = i.inhparent
    JOIN pg_index x ON x.indexrelid = child.oid
    JOIN pg_class month ON month.oid = x.indrelid
    WHERE month.reltuples > 0
"""
"""Of months that have rows, and what it is called in the table as a whole."""

HOT: list[tuple[str, tuple[Any, ...], set[str]]] = [
    ("recent_responses", (20, None, False, None, None), {"responses_created_at"}),
    ("recent_responses", (20, None, True, None, None), {"responses_failed"}),
    ("recent_responses", (20, None, False, "model-3", None), {"responses_model"}),
    ("recent_responses", (20, None, False, None, "tenant-3"), {"responses_tenant"}),
    ("response", (None, "task-7"), {"responses_task_id"}),
    ("response", (ONE, "task-7"), {"responses_pkey", "responses_task_id"}),
    ("attempts_of", (ONE,), {"attempts_pkey"}),
    ("forget_count_task", ("task-7", AFTER_ALL), {"responses_task_id", "attempts_pkey"}),
    ("forget_find_task", ("task-7", AFTER_ALL, True, 1000, AFTER_ALL), {"responses_task_id"}),
    ("forget_find_tenant", ("tenant-3", AFTER_ALL, True, 1000, AFTER_ALL), {"responses_tenant"}),
]
RECENT: list[tuple[str, tuple[Any, ...], set[str]]] = [
    ("recent_responses", (20, SINCE, False, None, None), {"responses_created_at"}),
    ("cost_by_day", (SINCE,), {"responses_created_at"}),
    ("cost_by_tenant", (SINCE,), {"responses_created_at"}),
    ("cost_by_model", (SINCE,), {"attempts_created_at"}),
]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = Store(database_url, 15)
    await migrate(store)
    await fill(store, 20_000, NOW - timedelta(days=DAYS), timedelta(days=DAYS))
    yield store
    await store.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    yield from chain.from_iterable(nodes(child) for child in plan.get("Plans", ()))


async def test_hot_queries_use_their_index_and_only_the_months_that_matter(store: Store) -> None:
    async def explain(connection: Connection) -> tuple[dict[str, str], list[Any]]:
        names = {row["name"]: row["parent"] for row in await connection.fetch(INDEXES)}
        plans = [
            from_json(await connection.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql(name)}", *values))
            for name, values, _ in HOT + RECENT
        ]
        return names, plans

    names, plans = await store.perform(explain)
    assert len(names) >= 5 * len({*names.values()})
    for (name, values, indexes), [told] in zip(HOT + RECENT, plans, strict=True):
        done = [node for node in nodes(told["Plan"]) if node.get("Actual Loops")]
        used = [names[node["Index Name"]] for node in done if node.get("Index Name") in names]
        assert set(used) == indexes, (name, values)
        assert not [node for node in done if node["Node Type"] == "Seq Scan" and node["Actual Rows"]], (name, values)
        if (name, values, indexes) in RECENT:
            assert len(used) <= MONTHS, (name, values)


async def test_costs_are_added_up_without_reading_what_people_said(store: Store) -> None:
    async def explain(connection: Connection, name: str) -> Any:
        return from_json(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql(name)}", None))

    for name in ("cost_by_day", "cost_by_tenant"):
        [told] = await store.perform(partial(explain, name=name))
        scans = [node for node in nodes(told["Plan"]) if node.get("Actual Rows") and "Relation Name" in node]
        assert {node["Node Type"] for node in scans} == {"Index Only Scan"}
        assert not sum(node["Heap Fetches"] for node in scans)
