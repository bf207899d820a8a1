"""The client against a real server and a Manager that speaks the wire to the letter."""

import asyncio
import json
import time
from contextlib import aclosing

import pytest

from bus import Message
from bus.service import Service, serve_info
from client import Bullpen, BullpenError, Options, RequestFailed
from contracts import Chunk, ControlReply, ErrorCode, FinalResponse, Resumed
from contracts import subjects as s
from tests.client import cancelled, text_of
from tests.fake_manager import ATTEMPT, FakeManager, heartbeat, response
from tests.support import eventually

# Asking


async def test_ask_gets_the_answer_and_says_everything_the_wire_wants(manager: FakeManager, bp: Bullpen) -> None:
    answer = await bp.ask("Where?", model="m", policy="cheapest", context={"system": "brief"}, max_tokens=None)
    assert answer.output == "Paris"
    [(message, request)] = manager.requests
    assert {key: request[key] for key in ("prompt", "model", "policy", "context")} == {
        "prompt": "Where?",
        "model": "m",
        "policy": "cheapest",
        "context": {"system": "brief"},
    }
    assert answer.task_id == request["task_id"]
    assert request.keys() == {"prompt", "model", "policy", "context", "task_id", "idempotency_key"}
    assert int(message.headers["Bullpen-Deadline"]) / 1000 - time.time() == pytest.approx(120, abs=5)
    assert message.reply.startswith("_INBOX.")
    assert await cancelled(manager, bp) == []


async def test_ask_keeps_the_caller_s_names(manager: FakeManager, bp: Bullpen) -> None:
    messages = [{"role": "user", "content": "hi"}]
    answer = await bp.ask(messages=messages, task_id="mine", idempotency_key="once")
    assert answer.task_id == "mine"
    assert manager.requests[0][1] == {"messages": messages, "task_id": "mine", "idempotency_key": "once"}


async def test_many_questions_at_once_get_each_their_own_answer(manager: FakeManager, bp: Bullpen) -> None:
    async def repeat(message: Message, task_id: str) -> None:
        await manager.bus.publish(message.reply, response(task_id, json.loads(message.data)["prompt"]).to_bytes())

    manager.script = repeat
    answers = await asyncio.gather(*(bp.ask(f"question {n}") for n in range(100)))
    assert [answer.output for answer in answers] == [f"question {n}" for n in range(100)]


async def test_an_error_reply_is_raised_with_everything_it_says(manager: FakeManager, bp: Bullpen) -> None:
    told = BullpenError(ErrorCode.OVERLOADED, "everybody is full", retry_after_ms=250)
    manager.script = lambda message, task_id: manager.fail(message, task_id, told)
    with pytest.raises(RequestFailed) as caught:
        await bp.ask("hi", task_id="mine")
    error = caught.value
    assert (error.code, error.retry_after_ms, error.retryable) == (ErrorCode.OVERLOADED, 250, True)
    assert (error.reply.task_id, error.reply.attempts) == ("mine", (ATTEMPT,))
    assert await cancelled(manager, bp) == []


async def test_no_manager_is_told_soon_with_what_to_do(bp: Bullpen, impatient: None) -> None:
    began = time.monotonic()
    with pytest.raises(RequestFailed, match="bullpen up") as caught:
        await bp.ask("hi", task_id="mine")
    assert (caught.value.code, caught.value.reply.task_id) == (ErrorCode.NO_WORKER, "mine")
    assert time.monotonic() - began < 60, "it waited for the deadline"
    with pytest.raises(RequestFailed, match="bullpen up"):
        await text_of(bp)


async def test_no_manager_until_the_deadline_is_told_as_that(bp: Bullpen) -> None:
    with pytest.raises(RequestFailed, match="no Manager listens"):
        await bp.ask("hi", deadline_ms=2000)  # and a second, in which the server's word has to come


async def test_silence_ends_at_the_deadline_and_a_second_and_stops_the_work(manager: FakeManager, bp: Bullpen) -> None:
    manager.script = manager.silence
    with pytest.raises(BullpenError, match=r"no answer within 1\.05 s:") as caught:
        await bp.ask("hi", task_id="mine", deadline_ms=50)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    await eventually(lambda: manager.cancelled == ["mine"])


async def test_a_cancelled_ask_stops_the_work(manager: FakeManager, bp: Bullpen) -> None:
    manager.script = manager.silence
    asking = asyncio.create_task(bp.ask("hi", task_id="mine"))
    await eventually(lambda: manager.requests)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await eventually(lambda: manager.cancelled == ["mine"])


async def test_a_question_too_large_for_the_server_never_leaves(manager: FakeManager, bp: Bullpen) -> None:
    with pytest.raises(BullpenError) as caught:
        await bp.ask("x" * bp.bus.max_payload)
    assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    assert str(bp.bus.max_payload) in caught.value.message
    assert (await bp.ask("small")).output == "Paris"
    assert len(manager.requests) == 1


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [("", {}, "prompt"), ("hi", {"temperature": 9.0}, "temperature"), ("hi", {"task_id": "a\nb"}, "task_id")],
)
async def test_a_wrong_question_never_leaves(
    manager: FakeManager, bp: Bullpen, prompt: str, options: Options, field: str
) -> None:
    with pytest.raises(BullpenError) as caught:
        await bp.ask(prompt, **options)
    assert (caught.value.code, caught.value.field) == (ErrorCode.INVALID_REQUEST, field)
    assert manager.requests == []


@pytest.mark.parametrize("body", [b"", b"plain", b"{}", b'{"task_id": 1}', b"\xff"])
async def test_an_answer_that_cannot_be_read_is_an_error(manager: FakeManager, bp: Bullpen, body: bytes) -> None:
    manager.script = lambda message, task_id: manager.bus.publish(message.reply, body)
    with pytest.raises(RequestFailed, match="cannot be read") as caught:
        await bp.ask("hi")
    assert caught.value.code is ErrorCode.INTERNAL


# Streaming


async def test_a_stream_comes_in_pieces_and_ends_with_the_answer(manager: FakeManager, bp: Bullpen) -> None:
    events = [event async for event in bp.stream("Where?", task_id="mine")]
    assert [event.delta for event in events if isinstance(event, Chunk)] == ["Pa", "ri", "s"]
    assert isinstance(events[-1], FinalResponse)
    assert events[-1].output == "Paris"
    assert manager.requests[0][1]["stream"] is True
    assert await cancelled(manager, bp) == []


async def test_a_stream_that_goes_on_elsewhere_says_so(manager: FakeManager, bp: Bullpen) -> None:
    async def resume(message: Message, task_id: str) -> None:
        await manager.chunks(message, task_id, "Pa")
        resumed = Resumed(task_id=task_id, seq=1, from_="a", to="b", mode="restarted")
        await manager.bus.publish(message.reply, resumed.to_bytes())
        await manager.chunks(message, task_id, "Paris", first=2)
        await manager.final(message, task_id)

    manager.script = resume
    events = [event async for event in bp.stream("hi")]
    assert [type(event) for event in events] == [Chunk, Resumed, Chunk, FinalResponse]


async def test_an_error_in_mid_stream_is_raised(manager: FakeManager, bp: Bullpen) -> None:
    async def break_off(message: Message, task_id: str) -> None:
        await manager.chunks(message, task_id, "Pa")
        await manager.fail(message, task_id, BullpenError(ErrorCode.UPSTREAM_ERROR, "it died"))

    manager.script = break_off
    heard: list[object] = []
    with pytest.raises(RequestFailed, match="it died"):
        async for event in bp.stream("hi"):
            heard.append(event)  # noqa: PERF401 — what came before the error counts
    assert len(heard) == 1
    assert await cancelled(manager, bp) == []


@pytest.mark.parametrize("seqs", [(1,), (0, 2), (0, 0), (0, 1, 1)])
async def test_a_gap_in_a_stream_is_an_error_and_stops_the_work(
    manager: FakeManager, bp: Bullpen, seqs: tuple[int, ...]
) -> None:
    async def skip(message: Message, task_id: str) -> None:
        for seq in seqs:
            await manager.chunks(message, task_id, "x", first=seq)

    manager.script = skip
    with pytest.raises(RequestFailed, match="was lost"):
        await text_of(bp, task_id="mine")
    await eventually(lambda: manager.cancelled == ["mine"])


async def test_a_stream_that_ends_without_an_answer_is_an_error(manager: FakeManager, bp: Bullpen) -> None:
    async def stop_short(message: Message, task_id: str) -> None:
        await manager.chunks(message, task_id, "Pa")
        await manager.bus.publish(message.reply, b"")

    manager.script = stop_short
    with pytest.raises(RequestFailed, match="without an answer"):
        await text_of(bp)


async def endless(manager: FakeManager, message: Message, task_id: str) -> None:
    await manager.chunks(message, task_id, "Pa")
    await manager.silence(message, task_id)


async def test_leaving_a_stream_early_stops_the_work(manager: FakeManager, bp: Bullpen) -> None:
    manager.script = lambda message, task_id: endless(manager, message, task_id)
    async for _ in bp.stream("hi", task_id="broken off"):
        break
    await eventually(lambda: manager.cancelled == ["broken off"])
    async with aclosing(bp.stream("hi", task_id="closed")) as events:
        await anext(events)
    await eventually(lambda: manager.cancelled == ["broken off", "closed"])


async def test_leaving_the_client_stops_what_still_runs(manager: FakeManager, nats_server: str) -> None:
    manager.script = lambda message, task_id: endless(manager, message, task_id)
    async with Bullpen.connect(nats_server) as bullpen:
        events = bullpen.stream("hi", task_id="forgotten")
        await anext(events)
    await eventually(lambda: manager.cancelled == ["forgotten"])
    await events.aclose()


# The rest


async def test_cancel_names_the_task(manager: FakeManager, bp: Bullpen) -> None:
    await bp.cancel("somebody's")
    await eventually(lambda: manager.cancelled == ["somebody's"])


async def test_feedback_is_stored_or_refused(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bullpen._request, "__defaults__", (30.0,))
    with pytest.raises(BullpenError, match="bullpen telemetry") as caught:
        await bp.feedback("mine", 1.0)
    assert caught.value.code is ErrorCode.NO_WORKER
    stored: list[dict[str, object]] = []

    async def store(message: Message) -> None:
        stored.append(json.loads(message.data))
        await manager.bus.publish(message.reply, b'{"stored": true}')

    await manager.bus.subscribe(s.INFER_FEEDBACK, store, queue=s.INFER_QUEUE)
    await manager.bus.flush(30)
    await bp.feedback("mine", 0.5, comment="so so")
    assert stored == [{"task_id": "mine", "score": 0.5, "source": None, "comment": "so so"}]
    with pytest.raises(BullpenError, match="score"):
        await bp.feedback("mine", 7)


async def test_workers_are_those_that_beat_and_those_that_answer_a_ping(manager: FakeManager, bp: Bullpen) -> None:
    bus = manager.bus

    async def status(message: Message) -> None:
        reply = ControlReply(ok=True, worker_id="slow", heartbeat=heartbeat("slow"))
        await bus.publish(message.reply, reply.to_bytes())

    await serve_info(bus, Service("bullpen-worker", "slow", "1.0.0", "beats once a minute"))
    await serve_info(bus, Service("bullpen-worker", "deaf", "1.0.0", "says nothing"))
    await bus.subscribe(s.worker_control("slow"), status)
    await bus.flush(30)  # or the server may hear the question first
    beats = [heartbeat("quick", seq=seq, inflight=seq) for seq in (1, 2)]
    beats += [heartbeat("restarted", seq=9, inflight=9), heartbeat("restarted", epoch="e2", seq=0)]

    async def found() -> bool:
        looking = asyncio.create_task(bp.workers(1.5))
        while not looking.done():
            for beat in beats:
                await bus.publish(s.WORKER_HEARTBEAT, beat.to_bytes())
            await bus.publish(s.WORKER_HEARTBEAT, b"rubbish")
            await asyncio.wait({looking}, timeout=0.1)
        told = [(beat.worker_id, beat.inflight) for beat in await looking]
        return told == [("quick", 2), ("restarted", 0), ("slow", 0)]

    await eventually(found)


async def test_control_of_a_worker_that_is_not_there(bp: Bullpen) -> None:
    with pytest.raises(BullpenError, match="no worker nobody is running"):
        await bp.control("nobody", "drain")
    with pytest.raises(BullpenError, match="not a worker's id"):
        await bp.control("w.>", "drain")


async def test_services_are_found_by_name(manager: FakeManager, bp: Bullpen) -> None:
    assert [service.id for service in await bp.services("bullpen-manager")] == ["fake"]
    assert await bp.services("bullpen-nobody") == []
