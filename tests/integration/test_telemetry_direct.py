"""A NATS server without JetStream: events are booked as they come, and whoever tells keeps them until they are."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic_core import from_json
from structlog.testing import capture_logs

from contracts import subjects as s
from telemetry.recording import direct
from tests.books import Books, attempt, response
from tests.servers import PlainNats, PostgresServer
from tests.support import eventually


@pytest.fixture
async def bare(tmp_path: Path) -> AsyncIterator[PlainNats]:
    """As a stranger would start it."""
    server = PlainNats(tmp_path)
    await server.start()
    yield server
    server.kill()


def with_jetstream(server: PlainNats, directory: Path) -> None:
    """From its next start on."""
    server.config = f'jetstream {{store_dir: "{directory / "jetstream"}"}}'


async def test_without_jetstream_events_are_booked_as_they_come(bare: PlainNats, database_url: str) -> None:
    async with Books(bare.url, database_url) as books:
        with capture_logs() as logs:
            books.start("t-1", retry_at_most=0.1)
            books.start("t-2", retry_at_most=0.1)
            await books.ready("t-1")
            await books.ready("t-2")
            books.tell(attempt())
            told = await books.tell_until_all_book("t-1", "t-2")
            await eventually(lambda: not books.outbox.pending, timeout=40)
        assert (await books.count(), await books.count("attempts")) == (len(told), 1)
        said = [entry["event"] for entry in logs if entry["event"] == "no_jetstream"]
        assert len(said) == 2  # once by each


async def test_a_jetstream_without_room_for_any_stream_is_as_good_as_none(
    bare: PlainNats, tmp_path: Path, database_url: str
) -> None:
    bare.stop()
    bare.config = f'jetstream {{store_dir: "{tmp_path / "small"}", max_file_store: 1MB}}'
    await bare.start()
    async with Books(bare.url, database_url) as books:
        books.start(retry_at_most=0.1)
        books.tell(*(response() for _ in range(30)))
        await eventually(lambda: not books.outbox.pending)
        assert await books.count() == 30
        assert books.statuses["t-1"].why_not() == ""


async def test_stored_is_said_after_the_commit_and_never_before(bare: PlainNats, postgres: PostgresServer) -> None:
    await postgres.start()
    async with Books(bare.url, postgres.url) as books:
        books.start()
        books.tell(response())
        await eventually(lambda: not books.outbox.pending)
        postgres.stop()
        books.tell(*(response() for _ in range(10)))
        await eventually(lambda: books.latest.database_away)
        reply = await books.bus.request(s.TELEMETRY_RESPONSE, response().to_bytes(), timeout=20)
        assert "the database is away" in from_json(reply.data)["error"]["description"]
        assert books.outbox.pending
        await postgres.start()
        await eventually(lambda: not books.outbox.pending)
        assert await books.count() == 11
        reply = await books.bus.request(s.TELEMETRY_RESPONSE, response().to_bytes(), timeout=20)
        assert from_json(reply.data) == {"stored": True}
        assert await books.count() == 12


async def test_what_cannot_be_booked_is_laid_aside_and_not_told_for_ever(bare: PlainNats, database_url: str) -> None:
    async with Books(bare.url, database_url) as books:
        books.start()
        books.tell(response())
        await eventually(lambda: not books.outbox.pending)
        for subject, body in ((s.TELEMETRY_RESPONSE, b"rubbish"), ("telemetry.else", b"{}")):
            reply = await books.bus.request(subject, body, timeout=20)
            assert from_json(reply.data) == {"stored": True}
        await books.bus.publish(s.TELEMETRY_RESPONSE, b"evil", reply=s.INFER_AUTO)
        await books.bus.request(s.TELEMETRY_RESPONSE, response().to_bytes(), timeout=20)
        assert {letter["body"] for letter in await books.rows("dead_letters")} == {b"rubbish", b"{}"}


async def test_too_much_at_once_is_refused_and_told_again(
    bare: PlainNats, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "MAX_BYTES", 5_000)
    async with Books(bare.url, database_url) as books:
        books.start()
        await books.ready()
        with capture_logs() as logs:
            books.tell(*(response(output="x" * 1000) for _ in range(500)))
            await eventually(lambda: not books.outbox.pending, timeout=40)
        assert await books.count() == 500
        reasons = {entry["reason"] for entry in logs if entry["event"] == "telemetry_waits"}
        assert any("too many events wait" in reason for reason in reasons)


async def test_when_jetstream_comes_the_stream_takes_over(bare: PlainNats, database_url: str, tmp_path: Path) -> None:
    async with Books(bare.url, database_url) as books:
        books.start(retry_at_most=0.1)
        books.tell(*(response() for _ in range(100)))
        await eventually(lambda: not books.outbox.pending)
        bare.stop()
        with_jetstream(bare, tmp_path)
        books.tell(*(response() for _ in range(100)))
        with capture_logs() as logs:
            await bare.start()
            await eventually(lambda: "direct_books_closed" in str(logs), timeout=40)
            books.tell(*(response() for _ in range(100)))
            await eventually(books.booked(300), timeout=40)
        assert await books.count() == 300
        one = response().to_bytes()
        reply = await books.bus.request(s.TELEMETRY_RESPONSE, one, timeout=20)
        assert from_json(reply.data)["stream"] == s.TELEMETRY_STREAM  # nobody answers in its place
        await eventually(books.booked(301))


async def test_when_jetstream_goes_the_books_stay_open(bare: PlainNats, database_url: str, tmp_path: Path) -> None:
    bare.stop()
    with_jetstream(bare, tmp_path)
    await bare.start()
    async with Books(bare.url, database_url) as books:
        books.start(retry_at_most=0.1)
        books.tell(*(response() for _ in range(50)))
        await eventually(books.booked(50))
        bare.stop()
        bare.config = ""
        await bare.start()
        books.tell(*(response() for _ in range(50)))
        await eventually(lambda: not books.outbox.pending)
        assert await books.count() == 100


async def test_who_leaves_books_what_it_has_taken(bare: PlainNats, database_url: str) -> None:
    async with Books(bare.url, database_url) as books:
        books.start(batch_size=10)
        books.tell(*(response() for _ in range(200)))
        await eventually(lambda: books.metrics and books.latest.stored)
        await books.stop()
        books.start()
        await eventually(lambda: not books.outbox.pending)
        assert await books.count() == 200
