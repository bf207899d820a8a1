"""Books that were filled by an older version stay as they are when they move to the newest schema, and so do roles."""

import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from contracts import new_id
from telemetry.config import TelemetryConfig
from telemetry.reading import queries
from telemetry.store import Connection, DatabaseAway, DeadLetter, Store
from telemetry.upkeep.migrate import FOLDER, available, migrate
from telemetry.upkeep.retention import Housekeeper
from tests.books import attempt, feedback, response, worker_event

FILL = (Path(__file__).parent / "older_books.sql").read_text(encoding="utf-8")
VIEWS = {
    "model_performance": "model_id, hour, answers, p50_ms, p95_ms, tokens_per_second",
    "model_error_rate": "model_id, attempts, failures, error_rate",
    "model_cost": "model_id, day, answers, prompt_tokens, completion_tokens, cost_usd, unpriced",
    "model_scorecard": "model_id, answers, attempts, error_rate, feedback, judgements, cost_usd, unpriced, last_answer",
}
TABLES = ("responses", "attempts", "feedback", "worker_events", "grades", "dead_letters")
NOW = datetime(2026, 6, 15, tzinfo=UTC)


@pytest.fixture
async def store(empty_database_url: str) -> AsyncIterator[Store]:
    store = Store(empty_database_url, 60)
    yield store
    await store.close()


async def fetch(store: Store, text: str, *values: Any) -> list[tuple[Any, ...]]:
    async def work(connection: Connection) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await connection.fetch(text, *values)]

    return await store.perform(work)


async def execute(store: Store, text: str) -> None:
    await store.perform(lambda connection: connection.execute(text))


async def columns(store: Store) -> dict[str, str]:
    """Each table's, as a list for SELECT."""
    told = "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = $1::text::regclass "
    return {table: (await fetch(store, told + "AND attnum > 0", table))[0][0] for table in TABLES}


async def contents(store: Store, columns: dict[str, str]) -> dict[str, list[tuple[Any, ...]]]:
    """What every table and view says, of these columns."""
    sums = {
        table: await fetch(store, f"SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM ({one}) AS t")
        for table, names in columns.items()
        for one in [f"SELECT {names} FROM {table}"]
    }
    views = {name: await fetch(store, f"SELECT {names} FROM {name} ORDER BY {names}") for name, names in VIEWS.items()}
    return sums | views


@pytest.mark.timeout(180)
async def test_a_filled_older_database_says_the_same_afterwards(store: Store, tmp_path: Path) -> None:
    """Twenty thousand requests of three months: failed ones, unpriced ones, and ids that nobody of ours made."""
    for number in (1, 2):
        shutil.copy(available(FOLDER)[number], tmp_path)
    assert await migrate(store, tmp_path) == 2
    await execute(store, FILL)
    known = await columns(store)
    before = await contents(store, known)
    assert before["responses"][0][0] == 20_010
    assert await migrate(store) == max(available())
    assert await contents(store, known) == before
    placed = await fetch(store, "SELECT tableoid::regclass::text, count(*) FROM responses GROUP BY 1 ORDER BY 1")
    assert [name for name, _ in placed] == [
        f"responses_{where}" for where in ("2026_03", "2026_04", "2026_05", "after", "before")
    ]
    assert await fetch(store, "SELECT DISTINCT content, tenant FROM responses ORDER BY 2") == [
        ("full", tenant) for tenant in ("", "a", "b")
    ]
    assert {row.key: row.requests for row in await queries.cost_by(store, "tenant")} == {"": 6670, "a": 6670, "b": 6670}
    assert len(await queries.cost_by(store, "day", since=NOW.replace(month=5))) == 2
    assert await store.save({"responses": [response().to_bytes()], "attempts": [attempt().to_bytes()]}) == 2


@pytest.fixture
async def login(store: Store, empty_database_url: str) -> AsyncIterator[str]:
    """The address for a user who is only what a role is; to be granted one."""
    await migrate(store)
    name = f"login_{new_id()[-12:]}"
    await execute(store, f"CREATE ROLE {name} LOGIN PASSWORD 'p'")
    parts = urlsplit(empty_database_url)
    yield parts._replace(netloc=f"{name}:p@{parts.hostname}:{parts.port}").geturl()
    await execute(store, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


async def grant(store: Store, role: str, url: str) -> None:
    await execute(store, f"GRANT {role} TO {urlsplit(url).username}")


async def refused(url: str, *texts: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for text in texts:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(text)
    finally:
        await connection.close()


async def test_a_recorder_can_do_its_work_and_no_more(store: Store, login: str) -> None:
    await grant(store, "bullpen_recorder", login)
    recorder = Store(login, 10)
    assert await migrate(recorder) == max(available())
    await queries.check_schema(recorder)
    id_of_2031 = "01c1a9d0-0000-7000-8000-000000000000"
    rows = {
        "responses": [response(cost_usd=None, request_id=id_of_2031).to_bytes()],
        "attempts": [attempt().to_bytes()],
        "feedback": [feedback(comment="said").to_bytes()],
        "worker_events": [worker_event().to_bytes()],
    }
    assert await recorder.save(rows, [DeadLetter(1, "telemetry.x", "why", b"?")]) == 4
    assert (
        await recorder.save({"responses": [response(request_id=id_of_2031).to_bytes()]}) == 1
    )  # its cost is known now
    keeper = Housekeeper(recorder, TelemetryConfig(retention=1, content_retention=1))
    assert await keeper.tidy(NOW.replace(year=2040))
    assert await fetch(store, "SELECT content, comment FROM responses, feedback") == [("none", None)]
    assert await fetch(store, "SELECT to_regclass('responses_2040_09') IS NOT NULL") == [(True,)]
    await recorder.close()
    await refused(
        login,
        "DELETE FROM responses",
        "TRUNCATE attempts",
        "DROP TABLE responses_before",
        "UPDATE feedback SET score = 1",
        "DELETE FROM dead_letters",
        "INSERT INTO schema_migrations VALUES (99, 'x', 'x')",
        "CREATE TABLE mine (id int)",
    )


async def test_a_reader_reads_everything_and_writes_nothing(store: Store, login: str) -> None:
    await grant(store, "bullpen_reader", login)
    await store.save({"responses": [response(task_id="t").to_bytes()], "attempts": [attempt().to_bytes()]})
    reader = Store(login, 10)
    await queries.check_schema(reader)
    assert len(await queries.recent_responses(reader)) == len(await queries.scorecard(reader)) == 1
    assert await queries.response(reader, "t") is not None
    assert {table: len(await fetch(reader, f"SELECT * FROM {table}")) for table in (*TABLES, *VIEWS)}
    with pytest.raises(DatabaseAway, match="permission denied"):
        await reader.save({"responses": [response().to_bytes()]})
    await reader.close()
    await refused(
        login,
        "UPDATE responses SET prompt = NULL",
        "DELETE FROM attempts",
        "INSERT INTO grades (model_id, worker_id, grade) VALUES ('m', 'w', 'senior')",
        "SELECT make_partitions(ARRAY[now()])",
        "SELECT grant_books()",
    )


async def test_who_is_neither_sees_nothing(login: str) -> None:
    await refused(login, "SELECT 1 FROM responses", "SELECT 1 FROM model_cost", "SELECT make_partitions('{}')")


async def test_who_may_not_make_roles_has_books_all_the_same(store: Store, login: str) -> None:
    """And may grant the rights later, when somebody else has made the roles."""

    async def renamed(ending: str, new_ending: str) -> None:
        for role in ("bullpen_recorder", "bullpen_reader"):
            await execute(store, f"ALTER ROLE {role}{ending} RENAME TO {role}{new_ending}")

    await execute(store, f"DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION {urlsplit(login).username}")
    await renamed("", "_away")
    poor = Store(login, 10)
    try:
        assert await migrate(poor) == max(available())
        assert await poor.save({"responses": [response().to_bytes()]}) == 1
    finally:
        await renamed("_away", "")
    granted = "SELECT has_table_privilege('bullpen_reader', 'responses', 'SELECT')"
    assert await fetch(store, granted) == [(False,)]
    await fetch(poor, "SELECT grant_books()")
    assert await fetch(store, granted) == [(True,)]
    await poor.close()
