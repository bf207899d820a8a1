"""Accountants when Postgres or NATS is killed, frozen or late, and when they leave: nothing is lost or doubled."""

import signal

import pytest
from structlog.testing import capture_logs

from tests.books import Books, response, signal_all
from tests.servers import NatsServer, PostgresServer
from tests.support import eventually

pytestmark = pytest.mark.timeout(120)  # servers of their own, on a busy machine


async def test_a_database_killed_under_load_loses_nothing(nats_server: str, postgres: PostgresServer) -> None:
    await postgres.start()
    async with Books(nats_server, postgres.url) as books:
        books.start(batch_size=50)
        books.tell(*(response() for _ in range(300)))
        await eventually(lambda: books.latest.stored)
        postgres.kill()
        books.tell(*(response() for _ in range(300)))
        await books.told()
        await eventually(lambda: books.latest.database_away and books.latest.waiting)
        await postgres.start()
        await eventually(books.booked(600))
        assert await books.count() == 600
        await eventually(lambda: not books.latest.database_away and books.latest.waiting == 0)


async def test_a_frozen_database_is_left_alone_until_it_wakes(nats_server: str, postgres: PostgresServer) -> None:
    await postgres.start()
    async with Books(nats_server, postgres.url) as books:
        try:
            books.start(command_timeout=0.5)
            books.tell(response())
            await eventually(books.booked(1))
            signal_all(postgres, signal.SIGSTOP)
            books.tell(*(response() for _ in range(20)))
            await eventually(lambda: "0.5 s" in books.latest.database_away)
        finally:
            signal_all(postgres, signal.SIGCONT)
        await eventually(books.booked(21))
        assert await books.count() == 21


@pytest.mark.usefixtures("short_wait")
async def test_nats_killed_under_load_loses_nothing(nats: NatsServer, database_url: str) -> None:
    async with Books(nats.url, database_url) as books:
        books.start(batch_size=50)
        books.tell(*(response() for _ in range(500)))
        await eventually(lambda: books.latest.stored)
        nats.kill()
        books.tell(*(response() for _ in range(200)))
        await nats.start()
        await books.told()
        await eventually(books.booked(700), timeout=40)
        assert await books.count() == 700


async def test_events_wait_in_the_stream_for_a_database_that_starts_later(
    nats_server: str, postgres: PostgresServer
) -> None:
    await postgres.start()
    postgres.stop()
    async with Books(nats_server, postgres.url) as books:
        books.tell(*(response() for _ in range(5)))
        with capture_logs() as logs:
            books.start()
            await books.told()
            await eventually(lambda: books.latest.database_away)
            assert "start Postgres, or check DATABASE_URL" in str(logs)
            await postgres.start()
            await eventually(books.booked(5))
        assert sum(entry["event"] == "database_back" for entry in logs) == 1
        assert await books.count() == 5


@pytest.mark.usefixtures("long_wait")
async def test_who_leaves_hands_over_what_it_holds(nats_server: str, postgres: PostgresServer) -> None:
    """The next accountant need not wait until JetStream gives up the first one."""
    await postgres.start()
    async with Books(nats_server, postgres.url) as books:
        books.start("t-1")
        await eventually(books.booked(0))
        postgres.stop()
        books.tell(*(response() for _ in range(20)))
        await eventually(lambda: books.outbox.pending == 0 and books.latest.database_away)
        await books.stop()
        await postgres.start()
        books.start("t-2")
        await eventually(books.booked(20))
        assert await books.count() == 20
