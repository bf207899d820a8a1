"""Dead letters: laid aside only for a fault of their own, and booked again by a command."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from bullpen import doctor
from bullpen.doctor import postgres_finding
from contracts import subjects as s
from outbox.batch import BETWEEN
from tests.books import Books, response
from tests.cli import bullpen
from tests.mesh import SERVER_BACK_WITHIN
from tests.support import eventually

REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON responses FOR EACH ROW EXECUTE FUNCTION refuse();
"""
REFUSE_NO_MORE = "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
"""Locks no table, which dropping it would do in the middle of an insert."""
LETTERS_TOO = "CREATE TRIGGER refuse BEFORE INSERT ON dead_letters FOR EACH ROW EXECUTE FUNCTION refuse();"


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize("code", ["54000", "22000", "23514"])
async def test_a_database_that_takes_nothing_at_all_blames_no_row(
    books: Books, owner: "asyncpg.Connection[asyncpg.Record]", code: str
) -> None:
    """54000 is also what one says that ran out of transaction ids."""
    await owner.execute(REFUSE.format(code=code) + LETTERS_TOO)
    books.start(retry_at_most=0.05)
    books.tell(*(response() for _ in range(5)))
    await eventually(lambda: "no row at all" in books.latest.database_away)
    await owner.execute(REFUSE_NO_MORE)
    await eventually(books.booked(5))
    assert await owner.fetchval("SELECT count(*) FROM dead_letters") == 0


async def test_a_letter_is_booked_again_when_its_reason_has_passed_and_only_then(
    books: Books, owner: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    env = {"DATABASE_URL": database_url}
    await owner.execute(REFUSE.format(code="22000"))
    books.start(retry_at_most=0.05)
    await books.ready()
    books.tell(*(response(prompt="a secret") for _ in range(3)))
    await books.bus.publish(s.TELEMETRY_CHECK, b"{}")
    await books.bus.publish("telemetry.unheard_of", b"{}")
    await eventually(lambda: books.latest.dead == 4)
    listed = await bullpen("dead-letters", "--json", env=env)
    assert sorted(letter["subject"] for letter in listed.json()) == ["telemetry.response"] * 3 + [
        "telemetry.unheard_of"
    ]
    assert "a secret" not in listed.out
    early = await bullpen("rebook", env=env)
    assert (early.code, early.out.splitlines()[0]) == (1, "booked 0, 4 stay in dead_letters")
    assert "  3: DataError: not now" in early.out
    await owner.execute(REFUSE_NO_MORE)
    late, again = await bullpen("rebook", env=env), await bullpen("rebook", env=env)
    assert late.out == "booked 3, 1 stay in dead_letters\n  1: no such subject\n"
    assert again.out.startswith("booked 0, 1 stay")
    assert await owner.fetchval("SELECT count(*) FROM responses WHERE prompt = 'a secret'") == 3
    assert await owner.fetchval("SELECT count(*) FROM dead_letters") == 1
    plain = await bullpen("dead-letters", env=env)
    assert "no such subject" in plain.out


async def test_an_event_that_is_in_the_books_already_leaves_the_letters_and_is_not_booked_twice(
    books: Books, owner: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    told = response()
    books.start()
    books.tell(told)
    await eventually(books.booked(1))
    await owner.execute(
        "INSERT INTO dead_letters (stream_seq, subject, reason, body) VALUES (7, $1, 'long ago', $2)",
        s.TELEMETRY_RESPONSE,
        told.to_bytes(),
    )
    again = await bullpen("rebook", env={"DATABASE_URL": database_url})
    assert again.out == "booked 1, 0 stay in dead_letters\n"
    assert await owner.fetchval("SELECT count(*) FROM responses") == 1
    await eventually(lambda: books.statuses["t-1"].why_not() == "")


async def test_many_events_that_an_older_accountant_laid_aside_as_one_are_all_booked(
    books: Books, owner: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    books.start()
    await books.ready()
    many = b"[" + BETWEEN.join(response().to_bytes() for _ in range(3)) + b"]"
    spoilt = b"[" + BETWEEN.join([response().to_bytes(), b'{"output": 1}']) + b"]"
    for body in (many, spoilt):
        await owner.execute(
            "INSERT INTO dead_letters (stream_seq, subject, reason, body) VALUES (7, $1, 'an array', $2)",
            s.TELEMETRY_RESPONSE,
            body,
        )
    again = await bullpen("rebook", env={"DATABASE_URL": database_url})
    assert again.out.startswith("booked 1, 1 stay in dead_letters\n  1: ")
    assert await owner.fetchval("SELECT count(*) FROM responses") == 3


async def test_doctor_writes_and_leaves_nothing(
    owner: "asyncpg.Connection[asyncpg.Record]", database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "WITHIN", SERVER_BACK_WITHIN)
    assert (await postgres_finding(database_url)).state == "ok"
    assert await owner.fetchval("SELECT count(*) FROM dead_letters") == 0
    name = await owner.fetchval("SELECT current_database()")
    await owner.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    found = await postgres_finding(database_url)
    assert found.state == "warn"
    assert "nothing can be written" in found.detail


async def test_a_wrong_password_names_both_cures(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WITHIN", SERVER_BACK_WITHIN)
    user, _, rest = database_url.partition("@")
    found = await postgres_finding(f"{user.rpartition(':')[0]}:another@{rest}")
    assert found.state == "fail"
    assert "bullpen init --rotate postgres" in found.detail
    assert "ALTER ROLE" in found.detail
