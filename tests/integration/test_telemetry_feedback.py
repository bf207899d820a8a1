"""`infer.feedback`: `stored` is said when it is, and whoever is wrong is told where."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from bus import Bus, BusSettings
from bus.service import EndpointStats
from contracts import subjects as s
from outbox.privacy_filter import PrivacyFilter
from telemetry.recording import feedback
from telemetry.recording.feedback import serve_feedback
from tests.books import Books
from tests.mesh import SERVER_BACK_WITHIN
from tests.support import eventually


@pytest.fixture(autouse=True)
def patient_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stands still for some seconds has not refused anything."""
    monkeypatch.setattr(feedback, "ACK_WITHIN", SERVER_BACK_WITHIN)


@pytest.fixture
async def books(nats_server: str, database_url: str) -> AsyncIterator[Books]:
    async with Books(nats_server, database_url) as books:
        books.start()
        await eventually(books.booked(0))
        yield books


async def judge(bus: Bus, body: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    reply = await bus.request(s.INFER_FEEDBACK, body, timeout=20)
    return from_json(reply.data), reply.headers


async def test_a_judgement_is_booked(books: Books) -> None:
    answer, headers = await judge(books.bus, b'{"task_id":"t","score":0.5,"source":"user","comment":"fine \\u0000"}')
    assert answer == {"stored": True}
    assert "Nats-Service-Error" not in headers
    await eventually(books.booked(1, "feedback"))
    [row] = await books.rows("feedback")
    assert (row["task_id"], row["score"], row["source"], row["comment"]) == ("t", 0.5, "user", "fine �")


async def test_feedback_without_a_reply_subject_is_booked_too(books: Books) -> None:
    await books.bus.publish(s.INFER_FEEDBACK, b'{"task_id":"t","score":1}')
    await eventually(books.booked(1, "feedback"))


async def test_a_reply_elsewhere_than_an_inbox_is_not_served(books: Books) -> None:
    await books.bus.publish(s.INFER_FEEDBACK, b'{"task_id":"evil","score":1}', reply=s.INFER_AUTO)
    await judge(books.bus, b'{"task_id":"good","score":1}')
    await eventually(books.booked(1, "feedback"))
    assert [row["task_id"] for row in await books.rows("feedback")] == ["good"]


BAD: list[tuple[bytes, str | None]] = [
    (b'{"task_id":"t","score":1,"source":"verifier:judge"}', "source"),
    (b"", None),
    (b"rubbish", None),
    (b"[]", None),
    (b"null", None),
    (b"\xff\xfe{}", None),
    (b'{"task_id":"t","score":1} trailing', None),
    (b'{"task_id":"\\ud800","score":1}', None),
    (b'{"task_id":' + b"[" * 5000 + b"]" * 5000 + b',"score":1}', None),
    (b'{"score":1}', "task_id"),
    (b'{"task_id":"","score":1}', "task_id"),
    (b'{"task_id":7,"score":1}', "task_id"),
    (to_json({"task_id": "x" * 129, "score": 1}), "task_id"),
    (b'{"task_id":"t"}', "score"),
    (b'{"task_id":"t","score":null}', "score"),
    (b'{"task_id":"t","score":1.01}', "score"),
    (b'{"task_id":"t","score":-0.01}', "score"),
    (b'{"task_id":"t","score":"1"}', "score"),
    (b'{"task_id":"t","score":true}', "score"),
    (b'{"task_id":"t","score":NaN}', "score"),
    (b'{"task_id":"t","score":1e999}', "score"),
    (b'{"task_id":"t","score":1,"comment":7}', "comment"),
    (b'{"task_id":"t","score":1,"sorce":"typo"}', "sorce"),
    (b'{"task_id":"t","score":1,"a\\r\\nEvil: header":1}', "a\r\nEvil: header"),
    (b'{"task_id":"t","score":1,"na\xc3\xafve":1}', "naïve"),
    (to_json({"task_id": "t", "score": 1, "x" * 5_000_000: 1}), "x" * 100),
]


async def test_a_bad_one_is_told_the_field(nats_server: str) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats_server,)), patience=20)
    await serve_feedback(bus, EndpointStats("feedback", s.INFER_FEEDBACK, s.INFER_QUEUE), PrivacyFilter())
    for body, field in BAD:
        answer, headers = await judge(bus, body)
        about = body[:80]
        assert (answer["schema"], answer["error"]["code"]) == ("bullpen.error.v1", "invalid_request"), about
        assert (answer["error"]["field"], answer["error"]["retryable"]) == (field, False), about
        assert headers["Nats-Service-Error-Code"] == "400", about
        assert headers["Nats-Service-Error"], about
        assert "Evil" not in headers, about
    await bus.close()


async def test_stored_is_not_said_when_it_is_not(nats_server: str) -> None:
    """No stream is there: the caller is told to try again."""
    bus = await Bus.connect("test", BusSettings(servers=(nats_server,)), patience=20)
    stats = EndpointStats("feedback", s.INFER_FEEDBACK, s.INFER_QUEUE)
    await serve_feedback(bus, stats, PrivacyFilter())
    answer, headers = await judge(bus, b'{"task_id":"t","score":1}')
    assert (answer["error"]["status"], answer["error"]["retryable"]) == (503, True)
    assert "not stored" in answer["error"]["message"]
    assert headers["Nats-Service-Error-Code"] == "503"
    assert (stats.num_requests, stats.num_errors) == (1, 1)
    await bus.close()


async def test_one_that_fits_a_message_but_not_with_its_date_is_told_so(books: Books) -> None:
    shell = len(to_json({"task_id": "t", "score": 1, "comment": ""}))
    body = to_json({"task_id": "t", "score": 1, "comment": "x" * (books.bus.max_payload - shell)})
    answer, _ = await judge(books.bus, body)
    assert answer["error"]["code"] == "payload_too_large"
