"""From the stream to the books over real NATS and real Postgres: booked once, whatever dies on the way."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel
from pydantic_core import from_json, to_json
from structlog.testing import capture_logs

from bus import Bus, BusError, Message
from bus.jetstream import PullConsumer
from bus.pull import ACK, StoredMessage, settle
from contracts import ErrorCode, OpenModel
from contracts import subjects as s
from outbox.batch import unpacked
from telemetry import stream
from telemetry.recording import recorder
from telemetry.recording.entries import TABLES
from telemetry.store import Store
from tests.books import NOW, SUBJECTS, Books, attempt, feedback, response, worker_event
from tests.mesh import SERVER_BACK_WITHIN
from tests.servers import PostgresServer
from tests.support import eventually

pytestmark = pytest.mark.timeout(120)  # servers of their own, on a busy machine
NASTY = "naïve ☃ \U0001f600 \\u0000 'quoted'; DROP TABLE responses; -- \u2028 and a NUL: \0."


def in_a_row(value: Any) -> Any:
    """A record's value as its column has it."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return value.replace("\0", "�")
    return value


def from_a_row(name: str, value: Any, record: OpenModel) -> Any:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(getattr(record, name), dict | BaseModel) and value is not None:
        return from_json(value)
    return value


@pytest.mark.parametrize(
    "record",
    [
        response(
            output=NASTY,
            task_id=NASTY[:60],
            tokens_used=2**63 - 1,
            cost_usd=Decimal("123456789012345678901234567890.123456789012345678901"),
            duration_ms=0.1 + 0.2,
            metadata={"tenant": "acme'; DROP TABLE responses; --"},
            context={"deep": [1, {"x": None, "y": 1.5, "☃": [True]}]},
        ),
        response(
            status="error",
            error_code=ErrorCode.NO_WORKER,
            error_message="nobody\nthere",
            **dict.fromkeys(
                ("cost_usd", "price", "model_id", "worker_id", "confidence", "confidence_source", "prompt", "output")
            ),
            **dict.fromkeys(("prompt_tokens", "completion_tokens", "tokens_used")),
        ),
        attempt(epoch="e", error_code=ErrorCode.INTERNAL, error_message=NASTY, ttft_ms=1.25, queue_ms=0.0),
        attempt(cost_usd=None, confidence=None, prompt_tokens=None),
        feedback(comment=NASTY, source="user", score=1 / 3),
        worker_event(previous="starting", reason=NASTY, detail={"a": [1, 2]}),
    ],
    ids=["response", "failed-response", "attempt", "attempt-unknown", "feedback", "worker-event"],
)
async def test_a_row_is_what_was_told_to_the_last_digit(books: Books, record: OpenModel) -> None:
    table = TABLES[SUBJECTS[type(record)]][0]
    books.start()
    books.tell(record)
    await eventually(books.booked(1, table))
    [row] = await books.rows(table)
    told = from_json(record.to_bytes())
    for name in type(record).model_fields:
        value = getattr(record, name)
        expected = told[name] if isinstance(value, dict | BaseModel) else in_a_row(value)
        assert from_a_row(name, row[name], record) == expected, name
    assert await books.count("dead_letters") == 0


async def test_a_time_without_its_zone_is_utc_whatever_the_database_thinks(books: Books, database_url: str) -> None:
    async def elsewhere(connection: Any) -> None:
        await connection.execute(f"ALTER DATABASE {database_url.rpartition('/')[2]} SET timezone TO 'Asia/Kolkata'")

    await books.store.perform(elsewhere)
    told = response()
    books.start()
    await eventually(books.booked(0))
    await books.publish(s.TELEMETRY_RESPONSE, told.to_bytes().replace(b'12:30:00Z"', b'12:30:00"'))
    await eventually(books.booked(1))
    assert (await books.rows("responses"))[0]["created_at"] == told.created_at


async def test_told_twice_is_booked_once(books: Books) -> None:
    one, other, tried = response(), response(), attempt()
    books.tell(one, one, other, one, tried, tried, tried.model_copy(update={"attempt": 2}))
    books.start("t-1")
    books.start("t-2")
    await eventually(books.booked(2))
    assert (await books.count("responses"), await books.count("attempts")) == (2, 2)


async def test_two_accountants_share_the_work(books: Books) -> None:
    books.start("t-1", batch_size=10)
    books.start("t-2", batch_size=10)
    told = await books.tell_until_all_book("t-1", "t-2")
    await eventually(books.booked(len(told)), timeout=40)
    assert await books.count() == len(told)


async def test_what_is_stored_side_by_side_is_counted_once_and_wholly(books: Books) -> None:
    await books.make_stream()
    books.tell(*(response() for _ in range(500)))
    await books.told()
    books.start(batch_size=10)
    await eventually(books.booked(500))
    await eventually(lambda: books.latest.stored == 500)
    assert min(metrics.per_second for metrics in books.metrics) >= 0


DIES_BEFORE_IT_ACKNOWLEDGES = """
import asyncio, os, signal, sys
from bus import BusSettings
from telemetry.recording import recorder
from telemetry.config import TelemetryConfig
from telemetry.service import run

tell = recorder.settle

async def die(bus, messages, verdict):
    if verdict == recorder.ACK:
        os.kill(os.getpid(), signal.SIGKILL)
    await tell(bus, messages, verdict)

recorder.ACK_WAIT = 1.0
recorder.settle = die
settings = BusSettings(servers=(sys.argv[1],))
asyncio.run(run(settings, sys.argv[2], TelemetryConfig(), instance_id="t-0", stop=asyncio.Event()))
"""


@pytest.mark.usefixtures("short_wait")
async def test_killed_between_commit_and_acknowledgement(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    await books.make_stream()
    books.tell(*(response() for _ in range(100)))
    await books.told()
    command = (sys.executable, "-c", DIES_BEFORE_IT_ACKNOWLEDGES, *books.settings.servers, books.database_url)
    killed = await asyncio.create_subprocess_exec(*command, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    assert await killed.wait() == -signal.SIGKILL
    committed = await books.count()
    assert committed > 0
    again: list[bytes] = []

    async def noted(bus: Bus, messages: Sequence[StoredMessage], verdict: bytes) -> None:
        for message in [message for message in messages if verdict == ACK and message.deliveries > 1]:
            again.extend(unpacked(message.data))
        await settle(bus, messages, verdict)

    monkeypatch.setattr(recorder, "settle", noted)
    books.start()
    await eventually(books.booked(100))
    assert await books.count() == 100
    assert len(again) >= committed  # they came again, and were not booked again


ANOTHER_ACCOUNTANT = """
import asyncio, sys
from bus import BusSettings
from telemetry.recording import recorder
from telemetry.config import TelemetryConfig
from telemetry.service import run

recorder.ACK_WAIT = 1.0
config = TelemetryConfig(batch_size=20)
asyncio.run(run(BusSettings(servers=(sys.argv[1],)), sys.argv[2], config, instance_id="t-0", stop=asyncio.Event()))
"""


@pytest.mark.usefixtures("short_wait")
async def test_one_of_two_accountants_killed_under_load_loses_nothing_and_doubles_nothing(books: Books) -> None:
    command = (sys.executable, "-c", ANOTHER_ACCOUNTANT, *books.settings.servers, books.database_url)
    other = await asyncio.create_subprocess_exec(*command, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    books.start("t-1", batch_size=20)
    await books.ready("t-0")
    await books.ready("t-1")
    before = await books.tell_until_all_book("t-0", "t-1")
    told = [response() for _ in range(800)]
    tried = [attempt(request_id=one.request_id) for one in told]
    books.tell(*told, *tried)
    other.kill()
    await other.wait()
    await eventually(books.booked(len(before) + 800), timeout=40)
    for table, expected in (("responses", [*before, *told]), ("attempts", told)):
        rows = await books.rows(table)
        assert sorted(str(row["request_id"]) for row in rows) == sorted(one.request_id for one in expected), table


async def test_a_row_of_any_month_and_of_any_uuid_finds_its_place(books: Books) -> None:
    made_up = ["01890a5d-ac96-774b-bcce-b302099a8057", "00000000-0000-0000-0000-000000000001", str(uuid4())]
    books.start()
    books.tell(
        *(response(request_id=id_) for id_ in made_up), *(attempt(request_id=id_) for id_ in made_up), response()
    )
    await eventually(books.booked(4))
    assert {str(row["request_id"]) for row in await books.rows("attempts")} == set(made_up)
    assert await books.count("dead_letters") == 0


async def test_a_record_of_a_foreign_writer_is_read(books: Books) -> None:
    """Our own roles write every field, as Postgres reads it. Others may leave some out, or write 1.0 for 1."""
    told = attempt()
    bare = {"request_id": told.request_id, "attempt": 1.0, "task_id": "t", "created_at": NOW.timestamp()}
    bare |= {"worker_id": "w", "backend": "b", "model_id": "m", "outcome": "ok", "duration_ms": 1, "newer": "field"}
    whole = from_json(response().to_bytes()) | {"attempts": 2.0, "created_at": NOW.timestamp(), "stored_at": "never"}
    books.start()
    await eventually(books.booked(0))
    await books.publish(s.TELEMETRY_ATTEMPT, to_json(bare))
    await books.publish(s.TELEMETRY_RESPONSE, to_json(whole), response().to_bytes())
    await eventually(books.booked(2))
    [row] = await books.rows("attempts")
    assert (row["attempt"], row["simulated"], row["created_at"]) == (1, False, NOW)
    assert {row["attempts"] for row in await books.rows("responses")} == {1, 2}
    assert await books.count("dead_letters") == 0


async def test_one_bad_row_does_not_take_the_others_with_it(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    good = [response() for _ in range(199)]
    bad = response().model_copy(update={"request_id": "not-a-uuid"})
    transactions = count_transactions(monkeypatch)
    await books.make_stream()
    books.tell(*good[:100], bad, *good[100:])
    await books.told()
    with capture_logs() as logs:
        books.start(batch_size=200, fetch_wait=5)  # they come as one batch, also from a server that stands still
        await eventually(books.booked(199))
    assert await books.count() == 199
    [letter] = await books.rows("dead_letters")
    assert (letter["body"], letter["subject"]) == (bad.to_bytes(), s.TELEMETRY_RESPONSE)
    assert "uuid" in letter["reason"]
    assert [entry["events"] for entry in logs if entry["event"] == "events_unbookable"] == [1]
    assert sum(transactions) == 199
    assert len(transactions) <= 17 + 1  # of which one is the dead letter's own


def count_transactions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each attempt to store had written."""
    found: list[int] = []
    save = Store.save

    async def counted(store: Store, tables: Any, dead: Any = ()) -> int:
        found.append(0)
        found[-1] = await save(store, tables, dead)
        return found[-1]

    monkeypatch.setattr(Store, "save", counted)
    return found


BAD: dict[str, tuple[str, bytes]] = {
    "no JSON": (s.TELEMETRY_RESPONSE, b"rubbish"),
    "nothing": (s.TELEMETRY_ATTEMPT, b""),
    "not UTF-8": (s.TELEMETRY_FEEDBACK, b'{"task_id":"\xff\0"}'),
    "another record": (s.TELEMETRY_RESPONSE, attempt().to_bytes()),
    "no such subject": ("telemetry.else", response().to_bytes()),
    "beyond bigint": (s.TELEMETRY_RESPONSE, response(tokens_used=2**63).to_bytes()),
    "beyond numeric": (s.TELEMETRY_RESPONSE, response(cost_usd=Decimal("1e200000")).to_bytes()),
    "beyond the calendar": (s.TELEMETRY_ATTEMPT, attempt().to_bytes().replace(b"2026-03-01T", b"2026-02-30T")),
    "too long for an index": (s.TELEMETRY_RESPONSE, response(model_id=os.urandom(6000).hex()).to_bytes()),
    "against a constraint": (s.TELEMETRY_FEEDBACK, feedback().model_copy(update={"score": 7.0}).to_bytes()),
}


async def test_every_kind_of_poison_is_laid_aside_as_it_came(books: Books) -> None:
    books.start()
    await eventually(books.booked(0))
    for subject, body in BAD.values():
        await books.publish(subject, body)
        await books.publish(s.TELEMETRY_RESPONSE, response().to_bytes())
    await eventually(books.booked(len(BAD)))
    letters = await books.rows("dead_letters")
    assert {(letter["subject"], letter["body"]) for letter in letters} == set(BAD.values())
    assert all(letter["reason"] for letter in letters)
    assert await books.count() == len(BAD)
    await eventually(lambda: books.latest.dead == len(BAD))


async def test_what_people_asked_is_in_no_log(books: Books) -> None:
    canary = "canary-prompt"
    refused = response(prompt=canary, output=canary).model_copy(update={"request_id": "not-a-uuid"})
    unreadable = to_json({"prompt": canary, "task_id": [canary]})
    with capture_logs() as logs:
        books.start()
        await eventually(books.booked(0))
        await books.publish(s.TELEMETRY_RESPONSE, unreadable, refused.to_bytes())
        await eventually(books.booked(2, "dead_letters"))
        await eventually(lambda: books.latest.dead == 2)
    assert any(entry["event"] == "events_unbookable" for entry in logs)
    assert canary not in str(logs)
    assert all(canary not in letter["reason"] for letter in await books.rows("dead_letters"))


async def test_a_stream_made_anew_is_booked_like_the_first(books: Books) -> None:
    """Also its poison, though it counts from 1 again, and nobody answers twice for the accountant."""
    books.start()
    await eventually(books.booked(0))
    await books.publish(s.TELEMETRY_RESPONSE, b"one", response().to_bytes())
    await eventually(books.booked(1))
    await books.bus.request(f"$JS.API.STREAM.DELETE.{s.TELEMETRY_STREAM}", b"", timeout=20)
    books.tell(Rubbish(), subject=s.TELEMETRY_RESPONSE)
    await books.told()
    books.tell(response())
    await eventually(books.booked(2))
    assert {(letter["stream_seq"], letter["body"]) for letter in await books.rows("dead_letters")} == {
        (1, b"one"),
        (1, Rubbish().to_bytes()),
    }
    answers: list[Message] = []
    with books.bus.listen(answers.append) as inbox:
        await books.bus.publish("$SRV.PING.bullpen-telemetry", b"", reply=inbox.subject)
        await eventually(lambda: answers)
        await books.bus.request("$SRV.PING.bullpen-telemetry", b"", timeout=20)  # any more would have come before
    assert len(answers) == 1


class Rubbish(OpenModel):
    rubbish: bool = True


async def test_many_bytes_are_stored_in_parts(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_BYTES", 10_000)
    transactions = count_transactions(monkeypatch)
    await books.make_stream()
    books.tell(*(response(output="x" * 3000) for _ in range(30)), response(output="x" * 20_000))
    await books.told()
    books.start()
    await eventually(books.booked(31))
    assert sum(transactions) == 31
    assert max(transactions) == 2


async def test_no_more_is_asked_for_than_can_be_read_in_time(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """NATS cuts off who asks for hundreds of megabytes at once, and gives them to nobody for a minute."""
    fetched: list[list[int]] = []
    fetch = PullConsumer.fetch

    async def noted(consumer: PullConsumer, batch: int, *, timeout: float, max_bytes: int = 0) -> list[StoredMessage]:
        assert max_bytes > books.bus.max_payload  # whatever was stored can be fetched
        messages = await fetch(consumer, batch, timeout=timeout, max_bytes=100_000)
        fetched.append([len(message.data) for message in messages])
        return messages

    monkeypatch.setattr(PullConsumer, "fetch", noted)
    await books.make_stream()
    large = [response(output="x" * 20_000) for _ in range(30)]
    told = [*large, response(output="x" * 200_000), *(response() for _ in range(300))]
    await books.publish(s.TELEMETRY_RESPONSE, *(record.to_bytes() for record in told))
    books.start()
    await eventually(books.booked(331))
    assert max(map(sum, fetched)) < 250_000  # one that alone is larger comes all the same
    assert sorted(map(sum, fetched))[-2] <= 100_000
    assert max(map(len, fetched)) > 50


async def test_a_full_stream_makes_room_for_what_is_new(books: Books) -> None:
    """Three times as much as the stream may hold, told faster than it is booked: nothing is refused for good."""
    books.start(stream_max_bytes=1 << 20)
    await eventually(books.booked(0))
    books.tell(*(response(output="x" * 10_000) for _ in range(300)))
    await eventually(lambda: books.outbox.pending == 0, timeout=40)
    await eventually(books.booked(300))
    assert await books.count() == 300


async def test_making_room_drops_nothing_that_is_not_booked(
    books: Books, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "API_WITHIN", SERVER_BACK_WITHIN)
    await postgres.start()
    async with Books(books.settings.servers[0], postgres.url) as kept:
        kept.start(stream_max_bytes=1 << 20, batch_size=10)
        await eventually(kept.booked(0))
        kept.tell(*(response(output="x" * 10_000) for _ in range(30)))
        await eventually(kept.booked(30))
        postgres.stop()
        kept.tell(*(response(output="x" * 10_000) for _ in range(60)))
        await kept.told()
        room = await stream.make_room(kept.bus, max_bytes=1000)
        assert room > 0
        await postgres.start()
        await eventually(kept.booked(90))
        assert await kept.count() == 90


@pytest.mark.usefixtures("long_wait")
async def test_leaving_in_the_midst_of_work_leaves_nothing_behind(books: Books) -> None:
    books.start("t-1", batch_size=20)
    books.tell(*(response() for _ in range(300)))
    await eventually(lambda: books.latest.stored)
    await books.stop()
    books.start("t-2")
    await eventually(books.booked(300))
    assert await books.count() == 300


async def test_a_connection_lost_for_good_ends_the_process(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    buses: list[Bus] = []
    connect = Bus.connect

    async def noted(name: str, *args: Any, **options: Any) -> Bus:
        buses.append(await connect(name, *args, **options))
        return buses[-1]

    monkeypatch.setattr(Bus, "connect", noted)
    running = books.start()
    await eventually(books.booked(0))
    await buses[0].nats.close()
    books.forget(running)
    async with asyncio.timeout(30):
        with pytest.raises(BusError, match="lost for good"):
            await running


async def test_service_discovery_shows_the_accountant(books: Books) -> None:
    books.start("t-9")
    await eventually(books.booked(0))
    await books.bus.request(s.INFER_FEEDBACK, b'{"task_id":"t","score":1}', timeout=20)
    told = from_json((await books.bus.request("$SRV.STATS.bullpen-telemetry.t-9", b"", timeout=20)).data)
    assert told["endpoints"][0]["subject"] == s.INFER_FEEDBACK
    assert told["endpoints"][0]["num_requests"] == 1
