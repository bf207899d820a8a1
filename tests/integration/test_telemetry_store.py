"""Postgres itself: the schema comes into being, calls end in time, and whatever is wrong is said."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from contracts import Outcome
from telemetry.database_url import VARIABLES
from telemetry.store import Connection, DatabaseAway, DeadLetter, RowsRefused, Store
from telemetry.upkeep import migrate as migrations
from telemetry.upkeep.migrate import SchemaMismatch, available, migrate
from tests.books import attempt, response, signal_all
from tests.servers import PostgresServer
from tests.support import eventually

pytestmark = pytest.mark.timeout(120)  # servers of their own, on a busy machine
NEWEST = max(available())
SILENCE = 4.0
"""Seconds after which a database that does not answer counts as away: longer than a busy machine stands still."""
TABLES = {"responses", "attempts", "feedback", "worker_events", "grades", "dead_letters", "decisions"}
VIEWS = {"model_performance", "model_error_rate", "model_cost", "model_scorecard"}


@pytest.fixture
async def store(empty_database_url: str) -> AsyncIterator[Store]:
    store = Store(empty_database_url, 10)
    yield store
    await store.close()


async def query(store: Store, text: str) -> list[Any]:
    async def work(connection: Connection) -> list[Any]:
        return [row[0] for row in await connection.fetch(text)]

    return await store.perform(work)


async def relations(store: Store) -> set[str]:
    """Without the partitions."""
    names = "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p', 'v') AND NOT relispartition"
    return set(await query(store, f"{names} AND relnamespace = 'public'::regnamespace"))


async def test_tables_and_views_bear_the_names_of_the_contract(store: Store) -> None:
    assert await migrate(store) == NEWEST
    assert await relations(store) == TABLES | VIEWS | {"schema_migrations"}


async def test_migrating_again_changes_nothing(store: Store) -> None:
    await migrate(store)
    before = await query(store, "SELECT applied_at FROM schema_migrations")
    assert await migrate(store) == NEWEST
    assert await query(store, "SELECT applied_at FROM schema_migrations") == before


async def test_migrations_run_once_also_side_by_side(empty_database_url: str) -> None:
    stores = [Store(empty_database_url, 10) for _ in range(5)]
    assert await asyncio.gather(*(migrate(store) for store in stores)) == [NEWEST] * 5
    assert await query(stores[0], "SELECT version FROM schema_migrations ORDER BY 1") == list(available())
    for store in stores:
        await store.close()


async def test_who_migrates_slowly_is_waited_for(empty_database_url: str) -> None:
    """Longer than a database may be silent otherwise: it works, it is not away."""
    store = Store(empty_database_url, SILENCE)
    other = await asyncpg.connect(empty_database_url)
    await other.execute("BEGIN")
    await other.execute("SELECT pg_advisory_xact_lock($1)", migrations.LOCK)
    migrating = asyncio.create_task(migrate(store))
    await eventually(lambda: other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
    done, _ = await asyncio.wait({migrating}, timeout=1.5 * SILENCE)
    assert not done
    await other.execute("COMMIT")
    assert await migrating == NEWEST
    await other.close()
    await store.close()


@pytest.mark.parametrize("failure", ["SELECT 1 / 0;", "ALTER TABLE schema_migrations RENAME name TO unknown;"])
async def test_one_that_fails_leaves_nothing_of_itself_and_all_before_it(
    store: Store, tmp_path: Path, failure: str
) -> None:
    """Whether it fails itself or cannot be recorded."""
    (tmp_path / "0001_good.sql").write_text("CREATE TABLE good (id int);")
    (tmp_path / "0002_bad.sql").write_text(f"CREATE TABLE half (id int); {failure}")
    with pytest.raises((RowsRefused, DatabaseAway)):
        await migrate(store, tmp_path)
    assert await relations(store) == {"good", "schema_migrations"}
    (tmp_path / "0002_bad.sql").write_text("CREATE TABLE whole (id int);")
    assert await migrate(store, tmp_path) == 2
    assert await relations(store) == {"good", "whole", "schema_migrations"}


async def test_a_newer_database_and_a_changed_migration_are_errors(store: Store, tmp_path: Path) -> None:
    (tmp_path / "0001_one.sql").write_text("CREATE TABLE one (id int)")
    (tmp_path / "0002_two.sql").write_text("CREATE TABLE two (id int)")
    assert await migrate(store, tmp_path) == 2
    (tmp_path / "0002_two.sql").write_text("CREATE TABLE three (id int)")
    with pytest.raises(SchemaMismatch, match=r"0002_two\.sql was changed after it ran"):
        await migrate(store, tmp_path)
    (tmp_path / "0002_two.sql").unlink()
    with pytest.raises(SchemaMismatch, match="migration 0002, which this version does not know: run a newer"):
        await migrate(store, tmp_path)


async def test_rows_and_dead_letters_are_stored_together_or_not_at_all(store: Store) -> None:
    await migrate(store)
    letter = DeadLetter(1, "telemetry.x", "why", b"\0raw\xff")
    bad = response().model_copy(update={"request_id": "x"})
    with pytest.raises(RowsRefused, match="uuid"):
        await store.save({"attempts": [attempt().to_bytes()], "responses": [bad.to_bytes()]}, [letter])
    assert await query(store, "SELECT 1 FROM attempts UNION ALL SELECT 1 FROM dead_letters") == []
    one = response().to_bytes()
    assert await store.save({"responses": [one, one, response().to_bytes()]}, [letter, letter]) == 2
    assert await store.save({"responses": [one]}, [letter]) == 0
    assert await query(store, "SELECT body FROM dead_letters") == [b"\0raw\xff"]


async def test_a_refusal_does_not_quote_the_row(store: Store) -> None:
    await migrate(store)
    row = response(prompt="canary").to_bytes().replace(b'"status":"ok"', b'"status":"fine"')
    with pytest.raises(RowsRefused, match="responses_status_check") as told:
        await store.save({"responses": [row]})
    assert "canary" not in str(told.value)


async def test_a_frozen_database_is_away_in_time_and_comes_back(postgres: PostgresServer) -> None:
    await postgres.start()
    store, other = Store(postgres.url, 0.5), Store(postgres.url, 0.5)
    await eventually(lambda: answers(store))
    try:
        signal_all(postgres, signal.SIGSTOP)
        for frozen in (store, store, other):  # with a connection, after it was thrown away, and without any
            async with asyncio.timeout(20):
                with pytest.raises(DatabaseAway, match=r"has not answered for 0\.5 s"):
                    await query(frozen, "SELECT 1")
    finally:
        signal_all(postgres, signal.SIGCONT)
    await eventually(lambda: answers(store))
    await eventually(lambda: answers(other))
    async with asyncio.timeout(20):
        await store.close()
        await other.close()


async def answers(store: Store) -> bool:
    """For `eventually`: an impatient store finds a database away that has only to wait for a processor."""
    with suppress(DatabaseAway):
        return await query(store, "SELECT 1") == [1]
    return False


async def test_closing_does_not_wait_for_a_frozen_database(postgres: PostgresServer) -> None:
    await postgres.start()
    store = Store(postgres.url, 600)
    assert await query(store, "SELECT 1") == [1]
    try:
        signal_all(postgres, signal.SIGSTOP)
        async with asyncio.timeout(20):
            await store.close()
    finally:
        signal_all(postgres, signal.SIGCONT)


async def test_a_restarted_database_is_used_again(postgres: PostgresServer) -> None:
    await postgres.start()
    store = Store(postgres.url, 15)
    assert await query(store, "SELECT 1") == [1]
    postgres.kill()

    async def is_away() -> bool:
        """Its processes notice one after the other that the postmaster is gone."""
        try:
            await query(store, "SELECT 1")
        except DatabaseAway:
            return True
        return False

    await eventually(is_away)
    await postgres.start()
    assert await query(store, "SELECT 1") == [1]
    await store.close()


async def test_a_database_that_cannot_write_is_away_and_its_rows_are_not_poison(store: Store) -> None:
    await migrate(store)
    [name] = await query(store, "SELECT current_database()::text")
    await query(store, f"ALTER DATABASE {name} SET default_transaction_read_only TO on")
    await store.close()
    with pytest.raises(DatabaseAway, match="read-only"):
        await store.save({"responses": [response().to_bytes()]})


@pytest.mark.parametrize(
    ("asked", "variable"),
    [
        ({"sslmode": "require"}, "PGSSLMODE wants TLS"),
        ({"target_session_attrs": "standby"}, "PGTARGETSESSIONATTRS asks"),
    ],
)
async def test_a_variable_that_keeps_the_database_away_is_named(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], variable: str
) -> None:
    [(parameter, value)] = asked.items()
    monkeypatch.setenv(VARIABLES[parameter], value)
    store = Store(empty_database_url.partition("?")[0], 10)
    with pytest.raises(DatabaseAway, match=variable):
        await query(store, "SELECT 1")
    await store.close()


async def test_a_connection_that_breaks_in_the_middle_of_a_commit_is_away(store: Store) -> None:
    async def work(connection: Connection) -> None:
        raise asyncpg.InternalClientError("got result for unknown protocol state")

    with pytest.raises(DatabaseAway, match="unknown protocol state"):
        await store.perform(work)
    assert await query(store, "SELECT 1") == [1]


async def test_an_attempt_that_was_given_up_on_may_turn_out_to_have_been_computed(store: Store) -> None:
    await migrate(store)
    given_up = attempt(outcome=Outcome.UNCERTAIN, confidence=None, completion_tokens=None)
    late = given_up.model_copy(update={"outcome": Outcome.LATE_DISCARDED, "confidence": 0.9, "completion_tokens": 7})
    told = "SELECT outcome || ' ' || coalesce(completion_tokens, 0) FROM attempts"
    await store.save({"attempts": [given_up.to_bytes()]})
    assert await query(store, told) == ["uncertain 0"]
    for rows in ([late], [given_up, late, given_up], [given_up]):
        await store.save({"attempts": [row.to_bytes() for row in rows]})
        assert await query(store, told) == ["late_discarded 7"]


async def test_what_an_attempt_turned_out_to_be_may_come_first(store: Store) -> None:
    await migrate(store)
    given_up = attempt(outcome=Outcome.UNCERTAIN, confidence=None)
    late = given_up.model_copy(update={"outcome": Outcome.LATE_DISCARDED, "confidence": 0.9})
    await store.save({"attempts": [late.to_bytes(), given_up.to_bytes()]})
    await store.save({"attempts": [given_up.to_bytes()]})
    assert await query(store, "SELECT outcome FROM attempts") == ["late_discarded"]


async def test_an_answer_that_counted_stays_as_it_is(store: Store) -> None:
    await migrate(store)
    answered = attempt()
    await store.save({"attempts": [answered.to_bytes()]})
    await store.save({"attempts": [answered.model_copy(update={"outcome": Outcome.LATE_DISCARDED}).to_bytes()]})
    assert await query(store, "SELECT outcome FROM attempts") == ["ok"]


async def test_many_at_once_share_one_pool(store: Store) -> None:
    await asyncio.gather(*(query(store, "SELECT pg_sleep(0.05)") for _ in range(20)))
    ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bullpen' AND datname = current_database()"
    assert (await query(store, ours))[0] <= 4


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "mysql://user:secret@127.0.0.1/db",
        "postgresql://user:se/secret@127.0.0.1/db",
        "postgresql://user:secret@127.0.0.1:port/db",
    ],
)
async def test_an_unusable_address_is_reported_without_its_password(address: str) -> None:
    with pytest.raises(DatabaseAway, match="DATABASE_URL is not the address of a Postgres") as told:
        await query(Store(address, 1), "SELECT 1")
    assert "secret" not in str(told.value)
    assert told.value.__suppress_context__


async def test_variables_about_another_postgres_do_not_reach_our_own(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/none/ca.pem",
        "PGSSLNEGOTIATION": "direct",
        "PGTARGETSESSIONATTRS": "standby",
        "PGHOST": "db.example.org",
        "PGPASSWORD": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    store = Store(postgres_server.url, 15)
    assert await query(store, "SELECT 1") == [1]
    await store.close()


async def test_a_wrong_password_and_a_closed_port_are_told(postgres_server: PostgresServer) -> None:
    wrong = postgres_server.url.replace(postgres_server.cluster.password, "secret")
    for address, reason in (
        (wrong, "password authentication failed"),
        ("postgresql://u:secret@127.0.0.1:1/d", "Connect"),
    ):
        with pytest.raises(DatabaseAway, match=reason) as told:
            await query(Store(address, 15), "SELECT 1")
        assert "secret" not in str(told.value)
