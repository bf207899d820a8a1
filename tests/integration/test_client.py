"""The client against a real server and a Manager that speaks the wire to the letter."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Unpack

import pytest

from bus import Message
from bus.service import Service, serve_info
from client import Bullpen, BullpenError, BusError, BusUnreachable, Options, RequestFailed, watch
from contracts import Chunk, ControlReply, ErrorCode, FinalResponse, Resumed
from contracts import subjects as s
from tests.fake_manager import ATTEMPT, FakeManager, heartbeat, response
from tests.servers import NatsServer, PlainNats
from tests.support import eventually


@pytest.fixture
async def manager(nats_server: str) -> AsyncIterator[FakeManager]:
    manager = await FakeManager.start(nats_server)
    yield manager
    await manager.bus.close()


@pytest.fixture
async def bp(nats_server: str) -> AsyncIterator[Bullpen]:
    async with Bullpen.connect(nats_server) as bullpen:
        yield bullpen
        assert not bullpen._open, "an exchange was left open"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a tenth of the time the Manager is asked whether it has the task; it has as long as ever to say so."""
    for name in ("QUIET", "HELD", "WITHOUT_MANAGER"):
        monkeypatch.setattr(watch, name, getattr(watch, name) / 10)


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Manager that is asked whether it has the task may take its time: it is not lost, only the machine is busy."""
    monkeypatch.setattr(watch, "REPLY_WITHIN", 30.0)


async def text_of(bp: Bullpen, **options: Unpack[Options]) -> str:
    return "".join([event.delta async for event in bp.stream("hi", **options) if isinstance(event, Chunk)])


async def cancelled(manager: FakeManager, bp: Bullpen) -> list[str]:
    """What was cancelled until now: a cancel of our own, sent last, shows that all others have arrived."""
    await bp.cancel("the last one")
    await eventually(lambda: "the last one" in manager.cancelled)
    return manager.cancelled[:-1]


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


# When the Manager goes


class Lossy:
    """Takes the first questions and forgets them; later ones are answered, and no Manager is lost any more."""

    def __init__(self, manager: FakeManager, patch: pytest.MonkeyPatch, forgets: int = 1, says: str = "Lon") -> None:
        self._manager = manager
        self._patch = patch
        self._forgets = forgets
        self._says = says
        manager.script = self

    async def __call__(self, message: Message, task_id: str) -> None:
        if len(self._manager.requests) > self._forgets:
            self._patch.setattr(watch, "REPLY_WITHIN", 30.0)
            await self._manager.answer(message, task_id)
        elif json.loads(message.data).get("stream") and self._says:
            await self._manager.chunks(message, task_id, self._says)


@pytest.mark.usefixtures("impatient")
async def test_a_question_whose_manager_is_lost_goes_out_again_as_it_was(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lossy(manager, monkeypatch, forgets=2)
    answer = await bp.ask("Where?", task_id="mine")
    assert (answer.output, answer.task_id) == ("Paris", "mine")
    first, *again = [message for message, _ in manager.requests]
    assert len(again) >= 2
    assert {message.data for message in again} == {first.data}
    assert json.loads(first.data)["idempotency_key"]
    assert await cancelled(manager, bp) == ["mine"], "one that was given up on may still be at it"


@pytest.mark.usefixtures("impatient", "trusting")
async def test_a_manager_that_has_the_task_is_waited_for(manager: FakeManager, bp: Bullpen) -> None:
    async def slowly(message: Message, task_id: str) -> None:
        await eventually(lambda: manager.asked_for.count(task_id) >= 3)
        await manager.answer(message, task_id)

    manager.script = slowly
    assert (await bp.ask("hi")).output == "Paris"
    assert await text_of(bp) == "Paris"
    assert len(manager.requests) == 2
    assert await cancelled(manager, bp) == []


async def test_an_answer_in_good_time_costs_no_question(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "QUIET", 30.0)
    await bp.ask("hi")
    await text_of(bp)
    assert manager.asked_for == []


@pytest.mark.usefixtures("impatient", "trusting")
async def test_an_error_is_final(manager: FakeManager, bp: Bullpen) -> None:
    manager.script = lambda message, task_id: manager.fail(
        message, task_id, BullpenError(ErrorCode.NO_WORKER, "nobody is able")
    )
    with pytest.raises(RequestFailed, match="nobody is able"):
        await bp.ask("hi")
    assert len(manager.requests) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_stream_starts_over_at_another_manager(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lossy(manager, monkeypatch)
    events = [event async for event in bp.stream("hi")]
    assert [type(event) for event in events] == [Chunk, Resumed, Chunk, Chunk, Chunk, FinalResponse]
    pieces = [event for event in events if not isinstance(event, FinalResponse)]
    assert [event.seq for event in pieces] == [0, 1, 2, 3, 4]
    assert isinstance(pieces[1], Resumed)
    assert pieces[1].mode == "restarted"
    assert "".join(event.delta for event in pieces[2:] if isinstance(event, Chunk)) == "Paris"


@pytest.mark.usefixtures("impatient")
async def test_a_seamless_stream_never_starts_over(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lossy(manager, monkeypatch)
    events = bp.stream("hi", continuation="seamless")
    assert isinstance(await anext(events), Chunk)
    with pytest.raises(RequestFailed, match="would join"):
        await anext(events)
    assert len(manager.requests) == 1
    Lossy(manager, monkeypatch, forgets=2, says="")
    assert await text_of(bp, continuation="seamless") == "Paris"


@pytest.mark.usefixtures("impatient")
async def test_a_stream_of_which_nothing_had_come_says_nothing_of_it(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lossy(manager, monkeypatch, says="")
    events = [event async for event in bp.stream("hi")]
    assert [type(event) for event in events] == [Chunk, Chunk, Chunk, FinalResponse]


@pytest.mark.usefixtures("impatient")
async def test_a_lost_manager_that_comes_back_may_answer_but_neither_fail_nor_mix(
    manager: FakeManager, bp: Bullpen
) -> None:
    async def back_from_the_dead(message: Message, task_id: str) -> None:
        if len(manager.requests) == 1:
            return
        first, request = manager.requests[0]
        if request.get("stream"):
            await manager.chunks(first, task_id, "mixed up")
            await manager.answer(message, task_id)
            return
        await manager.fail(first, task_id, BullpenError(ErrorCode.NO_WORKER, "I was away"))
        await manager.answer(first, task_id)
        await manager.silence(message, task_id)

    manager.script = back_from_the_dead
    assert (await bp.ask("hi", task_id="mine")).output == "Paris"
    await eventually(lambda: manager.cancelled == ["mine"])
    manager.requests.clear()
    assert await text_of(bp) == "Paris"


@pytest.mark.usefixtures("impatient")
async def test_a_question_that_loses_every_manager_is_given_up(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MOST_SENDS", 3)
    Lossy(manager, monkeypatch, forgets=100)
    with pytest.raises(RequestFailed, match="3 times a Manager took the request and fell silent"):
        await bp.ask("hi")
    assert len(manager.requests) == 3


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("forgets", [0, 1])
async def test_a_manager_that_is_just_being_restarted_is_waited_for(
    nats_server: str, bp: Bullpen, forgets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WITHOUT_MANAGER", 60.0)
    if forgets:
        dying = await FakeManager.start(nats_server)
        dying.script = dying.silence
    asking = asyncio.create_task(bp.ask("hi"))
    if forgets:
        await eventually(lambda: dying.requests)
        await dying.bus.close()
    await asyncio.sleep(0.3)
    assert not asking.done()
    manager = await FakeManager.start(nats_server)
    assert (await asking).output == "Paris"
    await manager.bus.close()


@pytest.mark.usefixtures("impatient")
async def test_a_manager_that_never_heard_of_this_question_is_waited_for(nats_server: str, bp: Bullpen) -> None:
    """One of an older version, which does not listen on `infer.status`: asked once more, then trusted."""
    heard: list[Message] = []
    old = await FakeManager.connect(nats_server)

    async def take(message: Message) -> None:
        heard.append(message)

    await old.bus.subscribe(s.INFER_AUTO, take, queue=s.INFER_QUEUE)
    await old.bus.flush(30)
    asking = asyncio.create_task(bp.ask("hi", task_id="mine"))
    await eventually(lambda: len(heard) == 2)
    await asyncio.sleep(0.5)
    await old.answer(heard[0], "mine")
    assert (await asking).output == "Paris"
    assert len(heard) == 2
    await old.bus.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lost", [False, True])
async def test_a_question_that_is_called_off_or_expired_asks_no_more(
    manager: FakeManager, bp: Bullpen, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.script = Lossy(manager, monkeypatch, forgets=100) if lost else manager.silence
    with pytest.raises(RequestFailed, match="no answer within"):
        await bp.ask("hi", task_id="expired", deadline_ms=300)
    asking = asyncio.create_task(bp.ask("hi", task_id="called off"))
    await eventually(lambda: len([r for _, r in manager.requests if r["task_id"] == "called off"]) > lost)
    asking.cancel()
    await asyncio.wait({asking})
    await eventually(lambda: manager.cancelled == ["expired", "called off"])
    await manager.bus.flush(30)
    asked, sent = len(manager.asked_for), len(manager.requests)
    await asyncio.sleep(0.5)  # several times as long as until it would ask again
    assert (len(manager.asked_for), len(manager.requests)) == (asked, sent)


# When the connection goes


@pytest.mark.usefixtures("trusting")
async def test_a_question_asked_while_nats_is_away_leaves_when_it_is_back(
    manager: FakeManager, bp: Bullpen, nats: NatsServer
) -> None:
    nats.kill()
    await eventually(lambda: not bp.bus.is_connected)
    asking = asyncio.create_task(bp.ask("hi", deadline_ms=60_000))
    called_off = asyncio.create_task(bp.ask("never mind"))
    await asyncio.sleep(0.5)
    called_off.cancel()
    await asyncio.wait({called_off})
    await nats.start()
    assert (await asking).output == "Paris"
    [(message, _)] = manager.requests
    assert int(message.headers["Bullpen-Deadline"]) / 1000 - time.time() < 59.6, "the deadline began to run when asked"


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_is_frozen_is_no_lost_manager(manager: FakeManager, bp: Bullpen, nats: NatsServer) -> None:
    async def slowly(message: Message, task_id: str) -> None:
        await asyncio.sleep(0.3)
        await manager.answer(message, task_id)

    manager.script = slowly
    asking = asyncio.create_task(bp.ask("hi"))
    await eventually(lambda: manager.requests)
    nats.send(signal.SIGSTOP)
    await asyncio.sleep(1.5)
    nats.send(signal.SIGCONT)
    assert (await asking).output == "Paris"
    assert len(manager.requests) == 1


async def test_pieces_lost_with_the_connection_come_again(manager: FakeManager, bp: Bullpen, nats: NatsServer) -> None:
    async def over_two_connections(message: Message, task_id: str) -> None:
        if len(manager.requests) > 1:
            await manager.answer(message, task_id)
            return
        await manager.chunks(message, task_id, "Pa")
        await eventually(lambda: bp.bus.reconnects and manager.bus.reconnects)
        await manager.chunks(message, task_id, "is", first=2)
        await manager.final(message, task_id)

    manager.script = over_two_connections
    events = bp.stream("hi")
    first = await anext(events)
    nats.kill()
    await nats.start()
    rest = [event async for event in events]
    assert [type(event) for event in (first, *rest)] == [Chunk, Resumed, Chunk, Chunk, Chunk, FinalResponse]
    assert "".join(event.delta for event in rest if isinstance(event, Chunk)) == "Paris"


async def test_an_answer_still_arrives_after_a_reconnect(manager: FakeManager, bp: Bullpen, nats: NatsServer) -> None:
    manager.script = manager.silence
    asking = asyncio.create_task(bp.ask("hi"))
    await eventually(lambda: manager.requests)
    nats.kill()
    await nats.start()
    await eventually(lambda: bp.bus.is_connected and bp.bus.reconnects and manager.bus.reconnects)
    message, request = manager.requests[0]
    await manager.answer(message, request["task_id"])
    assert (await asking).output == "Paris"


async def test_a_connection_lost_for_good_fails_the_question_at_once(manager: FakeManager, bp: Bullpen) -> None:
    manager.script = manager.silence
    asking = asyncio.create_task(bp.ask("hi"))
    await eventually(lambda: manager.requests)
    await bp.bus.nats.close()
    with pytest.raises(BusError, match="lost for good"):
        await asking


async def test_who_may_not_ask_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_USER", "u")
    monkeypatch.setenv("NATS_PASSWORD", "p")
    server = PlainNats(
        tmp_path, 'authorization {users: [{user: u, password: p, permissions: {publish: {deny: "infer.>"}}}]}'
    )
    await server.start()
    try:
        async with Bullpen.connect(server.url) as bp:
            with pytest.raises(BusError, match=r"may not publish on infer\.auto"):
                await bp.ask("hi")
            with pytest.raises(BusError, match=r"may not publish on infer\.auto"):
                [_ async for _ in bp.stream("hi")]
    finally:
        server.kill()


async def test_no_server_is_told_with_what_to_do() -> None:
    with pytest.raises(BusUnreachable, match="bullpen up"):
        async with Bullpen.connect("nats://127.0.0.1:1"):
            pass


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
