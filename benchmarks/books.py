"""How fast the books answer when they are big: a million requests of a year, through the queries that people use.

A scratch Postgres with the settings of `bullpen up` is filled (per request a response of about 300 + 800 characters and
its attempts), vacuumed and analysed. Then every question is asked once unmeasured and five times measured, and beside
it `SELECT count(*) FROM responses` as the floor: less than looking at every row once is not possible. Medians.
"""

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks import results
from telemetry.reading import queries
from telemetry.store import Connection, Store
from telemetry.upkeep import partitions
from telemetry.upkeep.migrate import migrate
from tests.servers import PostgresServer

ROUNDS = 5
DAYS = 365
AT_ONCE = 50_000
LONGEST = 3600.0
FILL = Path(__file__).parent / "sql"


async def run(rows: int) -> None:
    """Measures, prints a table, writes `benchmarks/results/books.json`."""
    with tempfile.TemporaryDirectory() as directory:
        taken, medians = await _run(Path(directory), rows)
    _report(rows, taken, medians)


async def _run(directory: Path, rows: int) -> tuple[float, dict[str, float]]:
    postgres = _server(directory)
    await postgres.start()
    store = Store(postgres.url, LONGEST)
    try:
        await migrate(store)
        return await _fill(store, rows), await _measure(store)
    finally:
        await store.close()
        postgres.stop()


def _server(directory: Path) -> PostgresServer:
    directory.chmod(0o755)  # Postgres runs as somebody else when we are root
    return PostgresServer(directory)


async def _fill(store: Store, rows: int) -> float:
    """Seconds that it took."""
    started = time.perf_counter()
    await fill(store, rows, datetime.now(UTC) - timedelta(days=DAYS), timedelta(days=DAYS))
    taken = time.perf_counter() - started
    print(f"{rows} requests made in {taken:.0f} s", flush=True)
    return taken


async def fill(store: Store, rows: int, since: datetime, span: timedelta) -> None:
    """So many requests, evenly in that time, vacuumed and analysed."""
    await partitions.ensure(store, [since + timedelta(days=day) for day in range(0, span.days + 28, 20)])
    for start in range(0, rows, AT_ONCE):
        await store.perform(_filled(since, span / rows, start, min(rows, start + AT_ONCE)))
    await store.perform(lambda connection: connection.execute("VACUUM (ANALYZE) responses, attempts"))


def _filled(since: datetime, step: timedelta, start: int, end: int) -> Callable[[Connection], Awaitable[None]]:
    async def work(connection: Connection) -> None:
        for table in ("responses", "attempts"):
            text = (FILL / f"fill_{table}.sql").read_text(encoding="utf-8")
            await connection.execute(text, since, step, start, end - 1)

    return work


async def _measure(store: Store) -> dict[str, float]:
    """Milliseconds per question."""
    month = datetime.now(UTC) - timedelta(days=30)
    questions: dict[str, Callable[[], Awaitable[Any]]] = {
        "floor: count(*) of responses": lambda: _count(store),
        "cost --by day": lambda: queries.cost_by(store, "day"),
        "cost --by tenant": lambda: queries.cost_by(store, "tenant"),
        "cost --by model": lambda: queries.cost_by(store, "model"),
        "cost --by day, a month": lambda: queries.cost_by(store, "day", since=month),
        "cost --by tenant, a month": lambda: queries.cost_by(store, "tenant", since=month),
        "cost --by model, a month": lambda: queries.cost_by(store, "model", since=month),
        "scorecard": lambda: queries.scorecard(store),
        "responses": lambda: queries.recent_responses(store),
        "responses --failed": lambda: queries.recent_responses(store, failed=True),
        "responses --model": lambda: queries.recent_responses(store, model="model-3"),
        "responses --tenant": lambda: queries.recent_responses(store, tenant="tenant-7"),
        "one by its task id": lambda: queries.response(store, "task-4711"),
    }
    return {name: await _median(ask) for name, ask in questions.items()}


async def _count(store: Store) -> None:
    await store.perform(lambda connection: connection.fetchval("SELECT count(*) FROM responses"))


async def _median(ask: Callable[[], Awaitable[Any]]) -> float:
    taken = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        await ask()
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken[1:])


def _report(rows: int, filled_in: float, medians: dict[str, float]) -> None:
    floor, *_ = medians.values()
    for name, ms in medians.items():
        print(f"{name:30} {ms:8.1f} ms {ms / floor:7.2f}")
    figures = {
        "requests": rows,
        "filled_in_s": round(filled_in),
        "median_ms": {name: round(ms, 1) for name, ms in medians.items()},
        "ratio_to_floor": {name: round(ms / floor, 3) for name, ms in medians.items()},
    }
    limits = [
        "warm, just vacuumed, and nobody writes meanwhile",
        "one person asks at a time",
        "Postgres and this program share the processors and the disk of one machine",
        "the distribution of models, tenants and durations is made up",
    ]
    print(f"written to {results.write('books', figures, does_not_prove=limits)}")
