"""The mesh over real NATS: what a caller gets, from the Manager and from workers asked directly."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from pydantic_core import from_json

from bus import Message
from bus.jetstream import PullConsumer
from contracts import InferenceResponse, Terms
from contracts import subjects as s
from tests.fake_worker import Asked, FakeWorker, acting
from tests.mesh import Json, SmallMesh
from tests.support import eventually

SLOW: Json = {"latency_ms": {"fixed": 400}}
PACED: Json = {"tokens_per_second": 100, "output_tokens": 30}


@pytest.fixture
async def mesh(nats_server: str) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats_server) as mesh:
        yield mesh


async def test_a_question_gets_a_whole_answer(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    answer = await mesh.ask(task_id="mine", metadata={"tenant": "t"})
    response = InferenceResponse.model_validate(answer)
    assert (response.task_id, response.model_id, response.worker_id) == ("mine", "simulated", "w-1")
    assert response.simulated
    assert len(response.output.split()) == response.completion_tokens == 32
    assert response.prompt_tokens is not None
    assert response.tokens_used == response.prompt_tokens + response.completion_tokens
    assert response.cost_usd is None  # nobody told the price, and unknown is not zero
    assert [(a.worker_id, a.outcome) for a in response.attempts] == [("w-1", "ok")]


async def test_a_bare_prompt_is_a_question(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    answer = await mesh.ask_raw(b"What is the capital of France?")
    assert answer["output"]


async def test_a_worker_answers_without_any_manager(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    assert (await mesh.ask("infer.simulated"))["worker_id"] == "w-1"
    assert (await mesh.ask("infer.simulated.w.w-1"))["worker_id"] == "w-1"


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_a_stream_is_gapless_and_ends_with_the_whole_answer(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1", **PACED)
    await mesh.manager()
    heard = await mesh.stream(subject)
    *chunks, final, sentinel = heard
    assert sentinel is None
    assert final is not None
    assert final["type"] == "response"
    assert [c["seq"] for c in chunks if c] == list(range(len(chunks)))
    assert len(chunks) > 3
    assert "".join(c["delta"] for c in chunks if c) == final["output"]


async def test_without_a_reply_subject_the_answer_is_published(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    results: list[Message] = []
    await mesh.bus.subscribe_inline("result.>", results.append)
    await mesh.bus.publish(s.INFER_AUTO, b'{"prompt":"hi","task_id":"a b"}')
    await eventually(lambda: results)
    assert results[0].subject == "result.a%20b"
    assert from_json(results[0].data)["task_id"] == "a b"


async def test_a_request_without_workers_is_an_error(mesh: SmallMesh) -> None:
    await mesh.manager()
    answer = await mesh.ask()
    assert (answer["error"]["code"], answer["error"]["status"]) == ("no_worker", 503)
    assert answer["error"]["retryable"]


async def test_an_unknown_model_names_what_is_served(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    answer = await mesh.ask(model="gpt-99")
    assert answer["error"]["code"] == "no_such_model"
    assert "simulated" in answer["error"]["message"]


async def test_a_request_chooses_its_worker(mesh: SmallMesh) -> None:
    dear: Json = {"models": [{"name": "dear", "price": {"input_per_mtok": 10, "output_per_mtok": 30}}], "local": False}
    cheap: Json = {
        "models": [{"name": "cheap", "aliases": ["small"], "price": {"input_per_mtok": 0, "output_per_mtok": 0.1}}]
    }
    await mesh.worker("dear-1", **dear)
    await mesh.worker("cheap-1", **cheap)
    await mesh.manager()
    assert (await mesh.ask(model="dear"))["model_id"] == "dear"
    assert (await mesh.ask(model="small"))["model_id"] == "cheap"
    for _ in range(5):
        assert (await mesh.ask(policy="cheapest"))["model_id"] == "cheap"
        assert (await mesh.ask(policy="local_only"))["model_id"] == "cheap"
    answer = await mesh.ask(model="dear", max_cost_usd=0.000001)
    assert (answer["error"]["code"], answer["error"]["field"]) == ("budget_exceeded", "max_cost_usd")


async def test_the_cost_is_tokens_times_price(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", price={"input_per_mtok": 1, "output_per_mtok": 2})
    await mesh.manager()
    answer = await mesh.ask(prompt="one two three")
    assert answer["cost_usd"] == pytest.approx((3 * 1 + 32 * 2) / 1e6)


async def test_a_failure_goes_to_the_next_worker(mesh: SmallMesh) -> None:
    await mesh.worker("bad", error_rate=1.0, latency_ms={"fixed": 1})
    await mesh.worker("good", **SLOW)
    await mesh.manager()
    answers = await asyncio.gather(*(mesh.ask() for _ in range(10)))
    assert {answer["worker_id"] for answer in answers} == {"good"}
    tried = [a for answer in answers for a in answer["attempts"] if a["worker_id"] == "bad"]
    assert tried
    assert {a["outcome"] for a in tried} == {"failed"}


async def test_an_error_names_every_worker_that_failed(mesh: SmallMesh) -> None:
    for name in ("a", "b"):
        await mesh.worker(name, error_rate=1.0)
    await mesh.manager()
    answer = await mesh.ask()
    assert answer["error"]["code"] == "upstream_error"
    assert {a["worker_id"] for a in answer["attempts"]} == {"a", "b"}


async def test_a_worker_that_never_claims_loses_the_request(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **SLOW)
    asked: list[Message] = []
    await mesh.mute_worker("mute", asked.append)
    await mesh.manager(claim_timeout=1.0)
    answers = await asyncio.gather(*(mesh.ask() for _ in range(20)))  # equals are picked by lot
    assert {answer["worker_id"] for answer in answers} == {"w-1"}
    assert asked
    assert {"mute"} == {a["worker_id"] for x in answers for a in x["attempts"] if a["outcome"] == "refused"}


async def test_a_worker_that_leaves_the_server_loses_its_requests_at_once(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **SLOW)
    await mesh.ask("infer.simulated")
    await eventually(lambda: mesh.beats["w-1"].ewma_ms)  # known to be slower than the other one claims to be
    asked: list[Message] = []
    await mesh.mute_worker("mute", asked.append)
    await mesh.manager(claim_timeout=30)
    asking = asyncio.create_task(mesh.ask(policy="fastest"))
    await eventually(lambda: asked)
    gone = {"client": {"name": s.worker_connection_name("simulated", "mute")}}
    await mesh.bus.publish(s.SYS_DISCONNECT, json.dumps(gone).encode())
    answer = await asking
    assert [(a["worker_id"], a["outcome"]) for a in answer["attempts"]] == [("mute", "uncertain"), ("w-1", "ok")]


async def test_a_connection_that_a_worker_no_longer_has_may_end(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", latency_ms=500)
    await mesh.manager()
    connection = mesh.beats["w-1"].connection
    assert connection
    server, number = connection.split(":")
    asking = asyncio.create_task(mesh.ask())
    await eventually(lambda: mesh.beats["w-1"].inflight)
    name = s.worker_connection_name("simulated", "w-1")
    for older in ({"id": int(number) - 1, "name": name}, {"id": None, "name": name}):
        gone = {"server": {"id": server}, "client": older}
        await mesh.bus.publish(s.SYS_DISCONNECT, json.dumps(gone).encode())
    assert [a["outcome"] for a in (await asking)["attempts"]] == ["ok"]


async def test_more_requests_than_places_wait_their_turn(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", max_concurrency=2, latency_ms={"fixed": 20})
    await mesh.manager()
    answers = await asyncio.gather(*(mesh.ask() for _ in range(40)))
    assert all("output" in answer for answer in answers)


async def test_managers_that_fill_a_worker_together_wait_until_it_has_room(mesh: SmallMesh) -> None:
    """Each knows of the others' questions only from the last heartbeat; `overloaded` from a worker is no answer."""
    await mesh.worker("w-1", max_concurrency=2, max_queue=0, latency_ms={"fixed": 50})
    for name in ("m-1", "m-2", "m-3"):
        await mesh.manager(name)
    answers = await asyncio.gather(*(mesh.ask() for _ in range(30)))
    assert [answer["error"] for answer in answers if "error" in answer] == []
    assert any(len(answer["attempts"]) > 1 for answer in answers), "nobody sent too much"


async def test_who_finds_the_waiting_room_full_is_told_when_there_may_be_room(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", max_concurrency=1, latency_ms=600)
    await mesh.manager(max_waiting=5)
    await mesh.ask()  # it is known now how long one takes
    answers = await asyncio.gather(*(mesh.ask() for _ in range(8)))
    refused = [answer["error"] for answer in answers if "error" in answer]
    assert {error["code"] for error in refused} == {"overloaded"}
    assert all(2000 < error["retry_after_ms"] < 20_000 for error in refused), refused


async def test_a_full_waiting_room_says_overloaded_at_once(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", max_concurrency=1, **SLOW)
    await mesh.manager(max_waiting=1)
    answers = await asyncio.gather(*(mesh.ask() for _ in range(5)))
    refused = [a["error"] for a in answers if "error" in a]
    assert [e["code"] for e in refused] == ["overloaded"] * 3
    assert all(e["retry_after_ms"] for e in refused)


async def test_interactive_goes_before_batch(mesh: SmallMesh) -> None:
    """The worker has one place, and answers when told to; the others wait at the Manager, which says how many."""
    go_on = asyncio.Semaphore(0)
    order: list[str] = []

    async def answer(asked: Asked) -> None:
        await asked.claim()
        order.append(asked.body["prompt"])
        await go_on.acquire()
        await asked.answer("done")

    async with FakeWorker(mesh.bus, "f-1", acting(answer), capacity=1):
        await mesh.manager()
        asking = []
        for number, (prompt, priority) in enumerate(
            (("first", "batch"), ("second", "batch"), ("third", "batch"), ("urgent", "interactive"))
        ):
            asking.append(asyncio.create_task(mesh.ask(prompt=prompt, priority=priority)))
            await eventually(partial(_holds, mesh, number + 1))
        for _ in asking:
            go_on.release()
        await asyncio.gather(*asking)
    assert order == ["first", "urgent", "second", "third"]


async def _holds(mesh: SmallMesh, count: int) -> bool:
    """Whether the Manager has so many requests, all but one of which wait."""
    told = from_json((await mesh.bus.request(s.manager_control("m-1"), b'{"op": "status"}', timeout=2)).data)
    return (told["inflight"], told["waiting"]) == (count, count - 1)


async def test_a_deadline_is_kept_with_an_error(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", latency_ms={"fixed": 5000})
    await mesh.manager()
    answer = await mesh.ask(deadline_ms=150, timeout=1.2)
    assert (answer["error"]["code"], answer["error"]["status"]) == ("deadline_exceeded", 504)
    direct = await mesh.ask("infer.simulated", deadline_ms=150, timeout=1.2)
    assert direct["error"]["code"] == "deadline_exceeded"


async def test_expired_work_is_dropped_before_it_is_computed(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    answer = await mesh.ask("infer.simulated", headers={"Bullpen-Deadline": "1000000000000"})
    assert answer["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_cancel_ends_the_work_and_tells_the_caller(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1", latency_ms={"fixed": 10_000})
    await mesh.manager()
    asking = asyncio.create_task(mesh.ask(subject, task_id="stop-me"))
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    await mesh.bus.publish(s.INFER_CANCEL, b'{"task_id":"stop-me","reason":"changed my mind"}')
    assert (await asking)["error"]["code"] == "cancelled"
    await eventually(lambda: mesh.beats["w-1"].inflight == 0)


async def test_rubbish_on_the_side_subjects_is_survived(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    for subject in (s.INFER_CANCEL, s.WORKER_HEARTBEAT, s.SYS_DISCONNECT, s.worker_control("w-1")):
        for rubbish in (b"", b"null", b"[]", b"\xff", b'{"client":5}', b'{"op":"dance"}'):
            await mesh.bus.publish(subject, rubbish)
    assert (await mesh.ask())["output"]


async def test_replies_go_to_inboxes_only(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    heard: list[Message] = []
    await mesh.bus.subscribe_inline("somebody.else", heard.append)
    await mesh.bus.publish(s.INFER_AUTO, b"hi", reply="somebody.else")
    await mesh.bus.publish("infer.simulated", b"hi", reply="somebody.else")
    assert (await mesh.ask())["output"]
    assert not heard


async def test_a_message_that_went_round_is_refused(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    answer = await mesh.ask(headers={"Bullpen-Hops": "2"})
    assert answer["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_a_stream_that_cannot_be_answered_ends_as_every_stream(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    wrong: list[Json] = [{"typo": 1}, {"prompt": ""}, {"model": "nobody's"}, {"deadline_ms": 0}]
    for field in wrong:
        told, end = await mesh.stream(subject, **field)
        assert told is not None
        assert told["error"]["code"] in ("invalid_request", "no_such_model")
        assert end is None


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_no_header_makes_a_question_vanish(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    for text in ("\u00b2", "\u0663", "9" * 25, "9" * 400, "9" * 5000, "-1", ""):
        for name in ("Bullpen-Deadline", "Bullpen-Hops", "Bullpen-Attempt", "Bullpen-Continue-Tokens"):
            answer = await mesh.ask(subject, headers={name: text})
            assert answer.get("output") or answer["error"]["code"] == "invalid_request"


async def test_draining_finishes_what_runs_and_takes_nothing_new(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **SLOW)
    await mesh.worker("w-2", **SLOW)
    await mesh.manager()
    asking: list[asyncio.Task[Json]] = []

    def busy() -> bool:
        asking.append(asyncio.create_task(mesh.ask()))
        return mesh.beats["w-1"].inflight > 0

    await eventually(busy, every=0.05)
    stopping = asyncio.create_task(mesh.stop("w-1"))
    await mesh.state("w-1", "draining")
    later = [await mesh.ask() for _ in range(2)]
    answers = [*(await asyncio.gather(*asking)), *later]
    assert all("output" in answer for answer in answers)
    outcomes = {attempt["outcome"] for answer in answers for attempt in answer["attempts"]}
    assert outcomes <= {"ok", "refused"}, "what had begun was finished; what came after, refused before it began"
    assert {answer["worker_id"] for answer in later} == {"w-2"}
    await stopping
    await mesh.state("w-1", "stopped")


async def test_drain_and_resume_by_remote_control(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    reply = await mesh.bus.request(s.worker_control("w-1"), b'{"op":"drain"}', timeout=2)
    assert from_json(reply.data)["heartbeat"]["state"] == "draining"
    assert (await mesh.ask())["error"]["code"] == "no_worker"
    await mesh.bus.request(s.worker_control("w-1"), b'{"op":"resume"}', timeout=2)
    await eventually(lambda: mesh.beats["w-1"].state == "ready")
    assert (await mesh.ask())["output"]


async def test_a_worker_that_is_leaving_does_not_resume(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **SLOW)
    asking = asyncio.create_task(mesh.ask("infer.simulated"))
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    stopping = asyncio.create_task(mesh.stop("w-1"))
    await mesh.state("w-1", "draining")
    told = from_json((await mesh.bus.request(s.worker_control("w-1"), b'{"op":"resume"}', timeout=2)).data)
    assert (told["ok"], told["message"], told["heartbeat"]["state"]) == (False, "the worker is leaving", "draining")
    assert (await asking)["output"]
    await stopping


async def test_a_manager_that_is_leaving_does_not_resume(mesh: SmallMesh) -> None:
    """It would take questions that nobody answers any more."""
    await mesh.worker("w-1", **SLOW)
    await mesh.manager()
    asking = asyncio.create_task(mesh.ask())
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    stopping = asyncio.create_task(mesh.stop("m-1"))
    await eventually(lambda: _manager_says(mesh, "status", "state", "draining"))
    assert await _manager_says(mesh, "resume", "message", "the Manager is leaving")
    assert await _manager_says(mesh, "status", "state", "draining")
    assert (await asking)["output"]
    await stopping


async def _manager_says(mesh: SmallMesh, op: str, field: str, what: str) -> bool:
    reply = await mesh.bus.request(s.manager_control("m-1"), f'{{"op":"{op}"}}'.encode(), timeout=2)
    return bool(from_json(reply.data)[field] == what)


async def test_a_stopping_manager_answers_what_it_took(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **SLOW)
    await mesh.manager()
    asking = [asyncio.create_task(mesh.ask()) for _ in range(5)]
    await eventually(lambda: mesh.beats["w-1"].inflight == 5)
    await mesh.stop("m-1")
    assert all("output" in answer for answer in await asyncio.gather(*asking))


async def test_a_manager_that_just_started_listens_before_it_says_no_worker(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", heartbeat_interval=1.0)
    asking = asyncio.create_task(mesh.manager())
    await asking
    assert (await mesh.ask())["output"]


async def test_too_little_confidence_escalates_to_another_model(mesh: SmallMesh) -> None:
    sure: Json = {"models": [{"name": "sure"}], "confidence": {"mean": 0.99, "sd": 0}}
    unsure: Json = {"models": [{"name": "unsure"}], "confidence": {"mean": 0.2, "sd": 0}, "latency_ms": {"fixed": 1}}
    await mesh.worker("sure-1", **sure)
    await mesh.worker("unsure-1", **unsure)
    await mesh.manager()
    answers = [await mesh.ask(min_confidence=0.9, policy="fastest") for _ in range(4)]
    assert {answer["model_id"] for answer in answers} == {"sure"}
    impossible = await mesh.ask(min_confidence=1.0)
    assert impossible["model_id"] == "sure"  # the best there is, told as it is
    assert impossible["confidence"] < 1.0


CHEAP: Json = {"price": {"input_per_mtok": 0.01, "output_per_mtok": 0.01}}
DEAR: Json = {"price": {"input_per_mtok": 100, "output_per_mtok": 100}}


def unsure(model: str, confidence: float, **more: Any) -> Json:
    return {"models": [{"name": model}], "confidence": {"mean": confidence, "sd": 0}, **more}


async def test_a_model_that_was_not_sure_enough_is_not_asked_again_elsewhere(mesh: SmallMesh) -> None:
    for number in range(4):
        await mesh.worker(f"w-{number}", **unsure("same", 0.4))
    await mesh.manager()
    answer = await mesh.ask(min_confidence=0.9)
    assert (len(answer["attempts"]), round(answer["confidence"], 2)) == (1, 0.4)


async def test_who_is_known_to_be_less_sure_is_not_paid_for_another_try(mesh: SmallMesh) -> None:
    await mesh.worker("w-good", **unsure("good", 0.8))
    await mesh.worker("w-poor", **unsure("poor", 0.1))
    await mesh.manager()
    for _ in range(10):
        await mesh.ask(model="poor")
    answer = await mesh.ask(policy="best", min_confidence=0.9)
    assert [attempt["worker_id"] for attempt in answer["attempts"]] == ["w-good"]


async def test_when_the_time_is_over_the_less_sure_answer_counts(mesh: SmallMesh) -> None:
    await mesh.worker("w-poor", **unsure("poor", 0.2, latency_ms=1, **CHEAP))
    await mesh.worker("w-good", **unsure("good", 0.99, latency_ms=5000, **DEAR))
    await mesh.manager()
    answer = await mesh.ask(policy="cheapest", min_confidence=0.9, deadline_ms=1500)
    assert [attempt["worker_id"] for attempt in answer["attempts"]] == ["w-poor", "w-good"]
    assert answer["model_id"] == "poor"


async def test_a_better_model_that_is_full_is_waited_for(mesh: SmallMesh) -> None:
    await mesh.worker("w-poor", **unsure("poor", 0.2, latency_ms=1, **CHEAP))
    await mesh.worker("w-good", **unsure("good", 0.99, latency_ms=600, max_concurrency=1, max_queue=0, **DEAR))
    await mesh.manager()
    busy = asyncio.create_task(mesh.ask(model="good"))
    await eventually(lambda: mesh.beats["w-good"].inflight == 1)
    answer = await mesh.ask(policy="cheapest", min_confidence=0.9)
    assert answer["model_id"] == "good"
    await busy


async def test_who_reads_along_has_the_surest_answer_at_the_end(mesh: SmallMesh) -> None:
    await mesh.worker("w-first", **unsure("first", 0.5, latency_ms=1, seed=1, **CHEAP))
    await mesh.worker("w-second", **unsure("second", 0.3, latency_ms=400, seed=2, **DEAR))
    await mesh.manager()
    heard = await mesh.stream(policy="cheapest", min_confidence=0.9)
    final = heard[-2]
    assert final is not None and final["model_id"] == "first"
    assert [attempt["worker_id"] for attempt in final["attempts"]] == ["w-first", "w-second"]
    text = ""
    for piece in heard[:-2]:
        assert piece is not None
        text = text + piece["delta"] if piece["type"] == "chunk" else ""
    assert text == final["output"]


async def test_a_prompt_larger_than_every_context_window_is_not_tried_again(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    error = (await mesh.ask(prompt="word " * 20_000))["error"]
    assert (error["code"], error["field"], error["retryable"]) == ("context_length_exceeded", "prompt", False)


async def test_the_route_is_explained(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.worker("w-2")
    await mesh.manager()
    routes: list[Message] = []
    await mesh.bus.subscribe_inline(s.METRICS_ROUTE, routes.append)
    answer = await mesh.ask()
    await eventually(lambda: routes)
    decision = from_json(routes[0].data)
    assert decision["winner"] == answer["worker_id"]
    assert {c["worker_id"] for c in decision["candidates"]} == {"w-1", "w-2"}
    assert all(c["terms"].keys() == Terms.model_fields.keys() for c in decision["candidates"])


async def test_every_request_and_every_attempt_is_booked_once(mesh: SmallMesh) -> None:
    await mesh.worker("bad", error_rate=1.0, latency_ms={"fixed": 1})
    await mesh.worker("good", latency_ms={"fixed": 50})
    await mesh.manager()
    answers = [await mesh.ask(prompt="hi", policy="fastest") for _ in range(3)]
    answers += [
        await mesh.ask(model="none"),
        await mesh.ask("infer.simulated.w.good"),
        await mesh.ask("infer.simulated.w.bad"),
    ]
    books = await PullConsumer.open(mesh.bus, stream=s.TELEMETRY_STREAM, durable="test")
    rows: dict[str, list[Any]] = {s.TELEMETRY_RESPONSE: [], s.TELEMETRY_ATTEMPT: [], s.TELEMETRY_WORKER: []}

    tried = sum(len(a["attempts"]) for a in answers) + 2  # and one for each asked directly

    async def complete() -> bool:
        for stored in await books.fetch(100, timeout=0.2):
            rows[stored.subject].append(from_json(stored.data))
            await stored.ack()
        return len(rows[s.TELEMETRY_RESPONSE]) >= len(answers) and len(rows[s.TELEMETRY_ATTEMPT]) >= tried

    await eventually(complete)
    assert not await books.fetch(100, timeout=0.2)
    assert sorted(r["request_id"] for r in rows[s.TELEMETRY_RESPONSE]) == sorted(a["request_id"] for a in answers)
    assert len(rows[s.TELEMETRY_ATTEMPT]) == tried
    keys = [(r["request_id"], r["attempt"]) for r in rows[s.TELEMETRY_ATTEMPT]]
    assert len(set(keys)) == len(keys)
    by_id = {r["request_id"]: r for r in rows[s.TELEMETRY_RESPONSE]}
    for answer in answers:
        row = by_id[answer["request_id"]]
        assert row["status"] == ("ok" if "output" in answer else "error")
        assert row.get("output") == answer.get("output")


BAD = [
    b"",
    b"   ",
    b"[]",
    b"null",
    b"{",
    b'{"prompt":',
    b'{"prompt":""}',
    b'{"prompt":1}',
    b'{"promt":"x"}',
    b'{"prompt":"x","temperature":3}',
    b'{"prompt":"x","temperature":NaN}',
    b'{"prompt":"x","context":' + b"[" * 50 + b"]" * 50 + b"}",
    b"\xff\xfe\x00",
    b'{"messages":[{"role":"king","content":"x"}]}',
    b'{"prompt":"x","' + b"k" * 5_000_000 + b'":1}',
    b'{"prompt":"x","task_id":"' + b"k" * 5_000_000 + b'"}',
]


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_bad_input_gets_its_error_and_the_mesh_goes_on(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    for body in BAD:
        answer = await mesh.ask_raw(body, subject, timeout=2)
        assert (answer["error"]["code"], answer["error"]["status"]) == ("invalid_request", 400), body
        assert answer["error"]["message"]
    assert (await mesh.ask(subject))["output"]
